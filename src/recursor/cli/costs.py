"""What calls took, by model and depth. Pure, and bounded in size."""

from __future__ import annotations

from dataclasses import dataclass

from recursor.types import Completion, ModelCalled, Usage

MOST = 40
"""Rows; a call that would need one more is counted under `OTHERS`."""
OTHERS = "other models"
EARLIER = "recorded earlier"


@dataclass(slots=True)
class Cost:
    """One row. Tokens include cached and reasoning ones, as in `Usage`."""

    depth: int
    model: str
    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """US dollars; None when the price of any of the calls is not known."""

    def add(self, usage: Usage, cost: float | None) -> None:
        self.calls += usage.calls
        self.input_tokens += usage.input_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.cost = None if self.cost is None or cost is None else self.cost + cost


class Costs:
    """Rows by depth and model."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], Cost] = {}

    def add(self, event: ModelCalled, depth: int) -> None:
        """Count a call. One whose reply another run paid for costs nothing; one that was cut off, nobody knows."""
        row = self._row(depth, event.model)
        reply = event.reply
        if reply is None:
            row.failed += 1
            row.add(Usage(calls=1), None if event.cut else 0.0)
        elif not reply.cached:
            row.add(reply.usage, reply.cost)

    def retried(self, model: str, depth: int) -> None:
        """Count an attempt that is made again."""
        self._row(depth, model).calls += 1

    def rows(self, done: Completion | None = None) -> list[Cost]:
        """The rows, by depth. What a completion counts beside them was recorded by an earlier attempt."""
        rows = [row for _, row in sorted(self._rows.items())]
        calls = sum(row.calls for row in rows)
        if done is not None and done.replayed and done.usage.calls > calls:
            usage = done.usage
            cost = None if done.cost is None else done.cost - sum(row.cost or 0.0 for row in rows)
            rows.append(
                Cost(
                    0, EARLIER, usage.calls - calls, 0,
                    max(0, usage.input_tokens - sum(row.input_tokens for row in rows)),
                    max(0, usage.cached_tokens - sum(row.cached_tokens for row in rows)),
                    max(0, usage.output_tokens - sum(row.output_tokens for row in rows)), cost,
                )
            )  # fmt: skip
        return rows

    def _row(self, depth: int, model: str) -> Cost:
        key = (depth, model)
        if key not in self._rows:
            if len(self._rows) >= MOST:
                key = (depth, OTHERS) if (depth, OTHERS) in self._rows else (-1, OTHERS)
            self._rows.setdefault(key, Cost(max(0, key[0]), key[1]))
        return self._rows[key]
