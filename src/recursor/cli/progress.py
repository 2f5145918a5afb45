# ruff: noqa: PLC0415 - rich is imported when there is a terminal
"""What a person sees of a run while it goes, on stderr. Reads events; decides nothing.

Lines are the same on a terminal and elsewhere; a terminal has a status at the bottom in addition,
which changes in place. Everything that came from a model or a context is cleaned and cut first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from recursor.cli.text import clean, count, first_lines, money, preview, seconds
from recursor.config import color_allowed
from recursor.limits import Limits
from recursor.types import (
    BlockExecuted,
    Completion,
    Event,
    Execution,
    ModelCalled,
    ReplyText,
    RunEnded,
    RunStarted,
    SubcallStarted,
    Usage,
)

if TYPE_CHECKING:
    from rich.live import Live

CODE_LINES = 10
OUTPUT_LINES = 4
QUIET_SECONDS = 10.0
"""Without a terminal, a line that says where the run is comes at least this often while things happen."""
Line = tuple[str, str]
"""A style of rich, and text."""


class Tally:
    """What the events so far add up to."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.run_id = ""
        self.model = ""
        self.turn = 0
        self.doing = "starting the sandbox"
        self.usage = Usage()
        self.cost: float | None = 0.0
        self.running = 0
        self.done = 0
        self.failed = 0
        self.children = 0
        self.children_done = 0
        self.reply = ""
        self._told = ""
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case SubcallStarted():
                self.running += 1
            case ModelCalled():
                self._call(event)
            case ReplyText() if event.run_id == self.run_id:
                self.turn, self.doing = event.turn, "replying"
                self.reply = (self.reply + event.text)[-2000:]
            case BlockExecuted() if event.run_id == self.run_id:
                self.doing = f"asking {self.model}"
            case RunEnded() if event.run_id != self.run_id:
                self.children -= 1
                self.children_done += 1
            case _:
                pass

    def _start(self, event: RunStarted) -> None:
        if self.run_id:
            self.children += 1
            return
        self.run_id, self.model = event.run_id, event.model
        self.doing = f"asking {event.model}"

    def _call(self, event: ModelCalled) -> None:
        cached = event.reply is not None and event.reply.cached
        if event.reply is not None and not cached:
            self.usage += event.reply.usage
            known = self.cost is not None and event.reply.cost is not None
            self.cost = (self.cost or 0.0) + (event.reply.cost or 0.0) if known else None
        if event.purpose == "sub":
            self.running -= not cached  # it was never sent
            self.done += event.error is None
            self.failed += event.error is not None
        elif event.run_id == self.run_id:
            self.turn, self.reply, self.doing = event.turn, "", "running code"

    def calls(self) -> str:
        """Sub-calls and children, "" when there were none."""
        plain, children = (
            ", ".join(f"{number:,} {word}" for number, word in pairs if number > 0)
            for pairs in (
                ((self.done, "done"), (self.running, "running"), (self.failed, "failed")),
                ((self.children_done, "done"), (self.children, "running")),
            )
        )
        named = (f"sub-calls: {plain}" if plain else "", f"child RLMs: {children}" if children else "")
        return " · ".join(filter(None, named))

    def news(self) -> str:
        """`calls`, when it is not what this said the last time."""
        calls = self.calls()
        told, self._told = self._told, calls
        return calls if calls != told else ""

    def spent(self) -> str:
        """Tokens, money and time against their limits."""
        limits = self.limits
        tokens = f"{self.usage.total_tokens:,}" + (f" of {limits.max_tokens:,}" if limits.max_tokens else "")
        cost = money(self.cost) + (f" of {money(limits.max_cost)}" if limits.max_cost else "")
        took = seconds(self.elapsed) + (f" of {seconds(limits.max_time)}" if limits.max_time else "")
        return f"{tokens} tokens · {cost} · {took}"

    def status(self) -> str:
        turn = f"turn {self.turn or 1} of {self.limits.max_turns}: {self.doing}"
        return " · ".join(filter(None, (turn, self.calls(), self.spent())))


class Progress(Protocol):
    """Shows events. `close` may be called at any time, and more than once."""

    tally: Tally

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """Shows nothing."""

    def __init__(self, limits: Limits) -> None:
        self.tally = Tally(limits)

    def show(self, event: Event) -> None:
        self.tally.take(event)

    def close(self) -> None:
        """There is nothing to end."""


class Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, limits: Limits, file: TextIO) -> None:
        self.tally = Tally(limits)
        self._file = file
        self._last = time.monotonic()

    def show(self, event: Event) -> None:
        self.tally.take(event)
        lines = [text for _, text in describe(event, self.tally)]
        if not lines and time.monotonic() - self._last > QUIET_SECONDS:
            lines = [self.tally.status()]
        if lines:
            self._last = time.monotonic()
            print("\n".join(lines), file=self._file, flush=True)

    def close(self) -> None:
        """Every line is out already."""


class Screen:
    """Lines, and below them a status that is redrawn four times a second."""

    def __init__(self, limits: Limits) -> None:
        from rich.console import Console
        from rich.live import Live

        self.tally = Tally(limits)
        self._console = Console(file=sys.stderr, no_color=not color_allowed(), highlight=False)
        self._live: Live = Live(
            console=self._console, get_renderable=self._status, refresh_per_second=4, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start()

    def show(self, event: Event) -> None:
        from rich.text import Text

        self.tally.take(event)
        for style, text in describe(event, self.tally):
            self._console.print(Text(text, style=style), soft_wrap=False, overflow="ellipsis", no_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _status(self) -> Any:
        from rich.text import Text

        tally, width = self.tally, max(20, self._console.width - 1)
        lines = [preview(tally.reply[-width:], width)] if tally.reply.strip() else []
        text = "\n".join([*lines, preview(tally.status(), width)])
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def choose(limits: Limits, *, quiet: bool) -> Progress:
    """Return what suits stderr: nothing, a screen, or lines."""
    if quiet:
        return Quiet(limits)
    return Screen(limits) if sys.stderr.isatty() else Lines(limits, sys.stderr)


def describe(event: Event, tally: Tally) -> Iterator[Line]:
    """The lines that an event of the root run is worth; none for a child's."""
    if event.run_id != tally.run_id:
        return
    match event:
        case RunStarted():
            where = f"sandbox {event.isolation.sandbox}" if event.isolation else "answered directly"
            yield "dim", f"run {event.run_id} · {clean(event.model)} · {where}"
            for info in event.contexts:
                source = f", from {info.source}" if info.source else ""
                yield "dim", preview(f"{info.name}: {info.type}, {info.size}{source}", 200)
        case ModelCalled(purpose="root"):
            yield "bold", _asked(event)
        case BlockExecuted():
            yield from _block(event.execution, tally)
        case RunEnded():
            if event.completion is not None:
                yield "bold", _ended(event.completion, tally)
        case _:
            pass


def _asked(event: ModelCalled) -> str:
    if event.reply is None:
        return preview(f"turn {event.turn} · {event.model} failed: {event.error}", 300)
    usage = event.reply.usage
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    return f"turn {event.turn} · {clean(event.model)} replied in {seconds(event.duration)} · {tokens}"


def _block(execution: Execution, tally: Tally) -> Iterator[Line]:
    for line in first_lines(execution.code, CODE_LINES, 160):
        yield "cyan", f"  │ {line}"
    if execution.output.total:
        for line in first_lines(execution.output.head, OUTPUT_LINES, 160):
            yield "", f"  → {line}"
    if execution.error:
        yield "yellow", f"  ! {preview(execution.error.strip().splitlines()[-1], 160)}"
    ran = f"ran {seconds(execution.duration)}"
    yield "dim", "    " + " · ".join(filter(None, (ran, tally.news())))


def _ended(done: Completion, tally: Tally) -> str:
    reason = "answered" if done.stop_reason == "answered" else f"stopped by {done.stop_reason}"
    calls = f"{tally.calls()} · " if tally.calls() else ""
    return (
        f"{reason} · {count(done.turns, 'turn')} · {calls}{done.usage.total_tokens:,} tokens · "
        f"{money(done.cost)} · {seconds(done.duration)}"
    )
