"""Shows a batch on stderr while it goes: how far it is, and where the questions are that are at work.

Invariant: what is held grows with the questions that are at work, and not with those that wait or have ended.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Protocol, TextIO

from recursor.cli.frame import WIDEST, bar, rounded, whereabouts
from recursor.cli.lines import Row, fit, text_of
from recursor.cli.options import Display
from recursor.cli.progress import PLAIN, QUIET_SECONDS, Live, settled
from recursor.cli.text import cells, count, cut, money, preview
from recursor.cli.tree import Count, Tree
from recursor.limits import Limits
from recursor.questions import Outcome
from recursor.types import Event, RunEnded, RunStarted, StopReason, Usage

SHOWN = 8
"""Questions at work that are shown."""
TOLD = 20
"""Failures that are told one by one."""


class Many:
    """What the events and outcomes of a batch add up to. Pure: the clock is passed in.

    Args:
        total: questions.
        limits: of each question, and of all together.

    Attributes:
        answered, limited, failed, unasked: questions that ended so.
        recorded: of those that are answered, how many were so before.
    """

    def __init__(self, total: int, limits: Limits, together: Limits, now: float) -> None:
        self.total = total
        self.together = together
        self.began = now
        self.answered = self.limited = self.failed = self.unasked = self.recorded = 0
        self.usage = Usage()
        self.cost: float | None = 0.0
        self._limits = limits
        self._trees: dict[str, Tree] = {}
        self._roots: dict[str, str] = {}
        """Of child runs: the root of each."""

    def take(self, event: Event, now: float) -> None:
        """Count one event of any run."""
        if isinstance(event, RunStarted):
            root = self._roots.get(event.parent_id or "", event.parent_id or event.run_id)
            if event.parent_id is None:
                self._trees.setdefault(root, Tree(self._limits, now))
            else:
                self._roots[event.run_id] = root
        root = self._roots.get(event.run_id, event.run_id)
        if tree := self._trees.get(root):
            tree.take(event, now)
        if isinstance(event, RunEnded):
            self._roots.pop(event.run_id, None)
            self._trees.pop(event.run_id, None)

    def end(self, outcome: Outcome) -> None:
        """Count a question that has ended."""
        self.usage += outcome.usage
        self.cost = None if self.cost is None or outcome.cost is None else self.cost + outcome.cost
        self.recorded += outcome.recorded
        if outcome.completion is None:
            self.failed += outcome.asked
            self.unasked += not outcome.asked
        elif outcome.completion.stop_reason is StopReason.ANSWERED:
            self.answered += 1
        else:
            self.limited += 1

    def before(self, answered: int, usage: Usage, cost: float | None) -> None:
        """Count questions that were answered before, and that nobody tells of any more."""
        self.answered += answered
        self.recorded += answered
        self.usage += usage
        self.cost = None if self.cost is None or cost is None else self.cost + cost

    @property
    def ended(self) -> int:
        """Questions that were asked, and have ended."""
        return self.answered + self.limited + self.failed

    @property
    def at_work(self) -> list[Tree]:
        return list(self._trees.values())

    def counted(self) -> list[str]:
        """How many ended in which way, in words."""
        parts = [f"{self.answered:,} of {count(self.total, 'question')} answered"]
        parts += [f"{self.recorded:,} of them before"] if self.recorded else []
        parts += [f"{self.limited:,} ended by a limit"] if self.limited else []
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.unasked:,} not asked"] if self.unasked else []
        return parts

    def pace(self, now: float) -> list[str]:
        """How fast they end, and when all may have."""
        took, ended = now - self.began, self.ended - self.recorded
        if not ended or took < 1:
            return []
        rate, left = ended / took, self.total - self.ended - self.unasked
        speed = f"{rate:,.0f} a second" if rate >= 3 else f"{60 * rate:,.1f} a minute"
        return [speed, *([f"about {rounded(left / rate)} left"] if left > 0 else [])]

    def spent(self, now: float) -> list[str]:
        """Tokens, money and time, each against what there is for all."""
        usage, cost, bounds = self.usage, self.cost, self.together
        for tree in self._trees.values():
            usage += tree.usage
            cost = None if cost is None or tree.cost is None else cost + tree.cost
        tokens = f"{usage.total_tokens:,}" + (f" of {bounds.max_tokens:,}" if bounds.max_tokens else "")
        money_ = money(cost) + (f" of {money(bounds.max_cost)}" if bounds.max_cost else "")
        took = rounded(now - self.began) + (f" of {rounded(bounds.max_time)}" if bounds.max_time else "")
        calls = f"{usage.calls:,} of {bounds.max_calls:,} calls" if bounds.max_calls else ""
        return [part for part in (f"{tokens} tokens", money_, took, calls) if part]


def frame(many: Many, columns: int, now: float) -> list[Row]:
    """The lines below those that stay."""
    width = min(columns - 1, WIDEST)
    drawn = bar(Count(many.total, 0, many.answered, many.limited + many.failed)) if width >= 60 else []
    room = width - sum(cells(text) for _, text in drawn)
    rows: list[Row] = [[], [*drawn, ("bold", fit(many.counted(), room))]]
    trees = many.at_work
    for tree in trees[:SHOWN]:
        root = tree.root
        if root is None:
            continue
        where = whereabouts(root, now)
        question = preview(root.question, max(8, width - cells(where) - 5))
        rows.append([("dim", "├ "), ("", question), ("dim", cut(f" · {where}", width - 2 - cells(question)))])
    more = len(trees) - SHOWN
    rows += [[("dim", f"├ and {more:,} more at work")]] if more > 0 else []
    pace = many.pace(now)
    rows += [[("dim", f"├ {fit(pace, width - 2)}")]] if pace else []
    return [*rows, [("dim", f"└ {fit(many.spent(now), width - 2)}")]]


def status(many: Many, now: float) -> str:
    """The same in one line, for where nothing can be redrawn."""
    return " · ".join([*many.counted(), f"{len(many.at_work):,} at work", *many.pace(now), *many.spent(now)])


def said(many: Many, now: float) -> Row:
    """What is said at the end."""
    whole = many.answered == many.total
    return [
        ("bold green" if whole else "bold red", " · ".join(many.counted())),
        ("dim", " · " + " · ".join(many.spent(now))),
    ]


def told(outcome: Outcome, many: Many, width: int) -> list[Row]:
    """What is said of a question that failed; nothing of others, nor when many have."""
    if not outcome.asked or outcome.error is None or many.failed > TOLD:
        return []
    why = preview(f"{type(outcome.error).__name__}: {outcome.error}", 300)
    rows: list[Row] = [[("red", cut(f"line {outcome.question.id.line}: {why}", width))]]
    return [*rows, [("dim", "further failures are not shown")]] if many.failed == TOLD else rows


class Watch(Protocol):
    """Shows a batch; a sink of its events. `close` may be called at any time, and more than once."""

    many: Many

    def emit(self, event: Event) -> None: ...

    async def flush(self) -> None: ...

    def end(self, outcome: Outcome) -> None:
        """Show that a question has ended."""

    def tick(self) -> None:
        """To be called every second: show that it goes on."""

    def close(self) -> None: ...


class Quiet:
    """Shows nothing."""

    def __init__(self, many: Many) -> None:
        self.many = many
        self._counting = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._counting:
            self.many.take(event, time.monotonic())

    async def flush(self) -> None:
        """What is shown is not kept."""

    def end(self, outcome: Outcome) -> None:
        with self._counting:
            self.many.end(outcome)

    def tick(self) -> None:
        """There is nothing to show."""

    def close(self) -> None:
        """There is nothing to end."""


class Lines(Quiet):
    """Plain lines, for logs and pipes."""

    def __init__(self, many: Many, file: TextIO) -> None:
        super().__init__(many)
        self._file = file
        self._last = time.monotonic()

    def end(self, outcome: Outcome) -> None:
        super().end(outcome)
        for row in told(outcome, self.many, PLAIN):
            print(text_of(row), file=self._file, flush=True)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._last > QUIET_SECONDS:
            self._last = now
            with self._counting:
                line = status(self.many, now)
            print(line, file=self._file, flush=True)


class Screen(Live):
    """Failures that scroll up, and below them the batch."""

    def __init__(self, many: Many, file: TextIO) -> None:
        self.many = many
        super().__init__(file)

    def rows(self, columns: int, now: float) -> list[Row]:
        return frame(self.many, columns, now)

    def emit(self, event: Event) -> None:
        with self._lock:
            self.many.take(event, time.monotonic())

    async def flush(self) -> None:
        """What is shown is not kept."""

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            self.many.end(outcome)
            self._above += told(outcome, self.many, self.width)

    def tick(self) -> None:
        """A thread of its own draws."""


def watch(many: Many, display: Display) -> Watch:
    """Show a batch as was asked for."""
    display = settled(display)
    if display == "none":
        return Quiet(many)
    return Screen(many, sys.stderr) if display == "tree" else Lines(many, sys.stderr)
