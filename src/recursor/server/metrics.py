"""What an operator's Prometheus reads (text format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from recursor.types import Usage

BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds."""
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts since the start of the server, by the names of clients."""

    def __init__(self) -> None:
        self._runs: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._cost: dict[str, float] = {}
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._refused: Counter[int] = Counter()

    def ran(self, name: str, outcome: str, seconds: float, usage: Usage, cost: float) -> None:
        """Count a run that is over.

        Args:
            outcome: a stop reason, "failed" or "stopped".
        """
        self._runs[name, outcome] += 1
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self._tokens[name, kind] += tokens
        self._cost[name] = self._cost.get(name, 0.0) + cost
        counts = self._durations.setdefault(name, [0] * len(BUCKETS))
        for index, most in enumerate(BUCKETS):
            counts[index] += seconds <= most
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def refused(self, status: int) -> None:
        """Count a request that was answered by an error."""
        self._refused[status] += 1

    def text(self, working: int, held: int, sessions: int) -> str:
        """All of them.

        Args:
            working: runs at work now. held: runs that wait for their clients.
            sessions: REPLs of conversations.
        """
        return "\n".join(self._lines(working, held, sessions)) + "\n"

    def _lines(self, working: int, held: int, sessions: int) -> Iterator[str]:
        yield from _head("recursor_runs_in_flight", "gauge", "Runs at work.")
        yield f"recursor_runs_in_flight {working}"
        yield from _head("recursor_runs_held", "gauge", "Runs that wait for their clients.")
        yield f"recursor_runs_held {held}"
        yield from _head("recursor_sessions", "gauge", "REPLs of conversations, at work or waiting.")
        yield f"recursor_sessions {sessions}"
        yield from _head("recursor_runs_total", "counter", "Runs that are over, by key and outcome.")
        for (name, outcome), count in sorted(self._runs.items()):
            yield _line("recursor_runs_total", {"key": name, "outcome": outcome}, count)
        yield from _head("recursor_tokens_total", "counter", "Tokens of models, by key and kind.")
        for (name, kind), count in sorted(self._tokens.items()):
            yield _line("recursor_tokens_total", {"key": name, "kind": kind}, count)
        yield from _head("recursor_cost_dollars_total", "counter", "US dollars whose price is known, by key.")
        for name, cost in sorted(self._cost.items()):
            yield _line("recursor_cost_dollars_total", {"key": name}, cost)
        yield from _head(
            "recursor_requests_refused_total", "counter", "Requests answered by an error, by status."
        )
        for status, count in sorted(self._refused.items()):
            yield _line("recursor_requests_refused_total", {"status": str(status)}, count)
        yield from _head("recursor_run_duration_seconds", "histogram", "How long runs took, by key.")
        for name, counts in sorted(self._durations.items()):
            total = sum(count for (key, _), count in self._runs.items() if key == name)
            for most, count in zip(BUCKETS, counts, strict=True):
                yield _line("recursor_run_duration_seconds_bucket", {"key": name, "le": f"{most:g}"}, count)
            yield _line("recursor_run_duration_seconds_bucket", {"key": name, "le": "+Inf"}, total)
            yield _line("recursor_run_duration_seconds_sum", {"key": name}, self._seconds[name])
            yield _line("recursor_run_duration_seconds_count", {"key": name}, total)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{said}}} {value}"
