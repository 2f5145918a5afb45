"""Shows a run on stderr while it goes: picks how, keeps the clock, and owns the terminal.

Events only change the tree and leave lines behind; a thread of its own draws, five times a second at most,
so a run is never held up by a terminal, and 100,000 sub-calls cost no more drawing than one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TextIO, TypeAlias

from recursor.cli.frame import frame, status
from recursor.cli.lines import Row, describe, text_of
from recursor.cli.options import Display
from recursor.cli.region import Region
from recursor.cli.summary import table
from recursor.cli.tree import Tree
from recursor.config import color_allowed, redrawing_allowed
from recursor.limits import Limits
from recursor.types import Completion, Event, RunEnded

REFRESH = 0.2
"""Seconds from one frame to the next."""
STOPPED = 3.0
"""Seconds without a frame after which others may have written to the terminal: the process was stopped."""
QUIET_SECONDS = 10.0
"""Without a terminal, a line that says where the run is comes at least this often while things happen."""
PLAIN = 160
"""Columns of a plain line."""
View: TypeAlias = Callable[[str], str]
"""From a run's id to the command that shows the run."""


class Progress(Protocol):
    """Shows events. `close` may be called at any time, and more than once."""

    tree: Tree

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Quiet:
    """Shows nothing."""

    def __init__(self, limits: Limits) -> None:
        self.tree = Tree(limits, time.monotonic())

    def show(self, event: Event) -> None:
        self.tree.take(event, time.monotonic())

    def close(self) -> None:
        """There is nothing to end."""


class Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, limits: Limits, file: TextIO, view: View | None = None) -> None:
        self.tree = Tree(limits, time.monotonic())
        self._file = file
        self._view = view
        self._last = time.monotonic()

    def show(self, event: Event) -> None:
        now = time.monotonic()
        self.tree.take(event, now)
        rows = [*describe(event, self.tree, PLAIN, beside=False)]
        if isinstance(event, RunEnded) and event.run_id == self.tree.run_id and event.completion:
            rows += closing(self.tree, event.completion, PLAIN, self._view)
        lines = [text_of(row) for row in rows]
        if not lines and now - self._last > QUIET_SECONDS:
            lines = [status(self.tree, now)]
        if lines:
            self._last = now
            print("\n".join(lines), file=self._file, flush=True)

    def close(self) -> None:
        """Every line is out already."""


class Live(ABC):
    """Lines that scroll up, and below them some that change in place."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._region = Region(file, self._size, color=color_allowed())
        self._above: list[Row] = []
        self._measured = self._size()
        self._lock = threading.Lock()
        """Held by who changes what is shown."""
        self._ended = threading.Event()
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._refresh, name="recursor-progress", daemon=True)
        self._thread.start()

    @abstractmethod
    def rows(self, columns: int, now: float) -> list[Row]:
        """What is shown at the bottom."""

    @property
    def width(self) -> int:
        """Columns that a line above may take."""
        return self._size().columns - 1

    def close(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(timeout=1.0)  # it may be in a write that a terminal holds up
            self._draw(last=True)

    def _refresh(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(REFRESH):
            if time.monotonic() - before > STOPPED:
                self._region.forget()
            before = time.monotonic()
            self._draw()

    def _draw(self, *, last: bool = False) -> None:
        if not self._drawing.acquire(timeout=1.0):
            return
        try:
            size, self._measured = self._measured, self._size()
            if size != self._measured and not last:
                return  # a window that is being resized is drawn when it is as it will be
            with self._lock:
                above, self._above = self._above, []
                rows = [] if last else self.rows(self._measured.columns, time.monotonic())
            self._region.draw(above, rows)
        finally:
            self._drawing.release()

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._file.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((80, 24))
        return os.terminal_size((max(20, size.columns or 80), max(4, size.lines or 24)))


class Screen(Live):
    """A run: what it did scrolls up, and below that stands the tree."""

    def __init__(self, limits: Limits, file: TextIO, view: View | None = None) -> None:
        self.tree = Tree(limits, time.monotonic())
        self._view = view
        super().__init__(file)

    def rows(self, columns: int, now: float) -> list[Row]:
        return frame(self.tree, columns, now)

    def show(self, event: Event) -> None:
        now = time.monotonic()
        with self._lock:
            self.tree.take(event, now)
            if event.run_id != self.tree.run_id:
                return
            self._above += describe(event, self.tree, self.width)
            if isinstance(event, RunEnded) and event.completion:
                self._above += closing(self.tree, event.completion, self.width, self._view)


def choose(limits: Limits, display: Display, view: View | None = None) -> Progress:
    """Return what was asked for; "auto" is the tree on a terminal that takes it, else lines.

    Args:
        view: names the command that shows a run; None where it is not recorded.
    """
    display = settled(display)
    if display == "none":
        return Quiet(limits)
    return Screen(limits, sys.stderr, view) if display == "tree" else Lines(limits, sys.stderr, view)


def settled(display: Display) -> Display:
    """What "auto" is here."""
    if display != "auto":
        return display
    return "tree" if sys.stderr.isatty() and redrawing_allowed() else "plain"


def closing(tree: Tree, done: Completion, width: int, view: View | None) -> list[Row]:
    """What is said when a run has ended in a completion."""
    rows = [*table(tree, done, width)]
    if view is not None:
        rows += [[("dim", f"  {view(done.run_id)}")]]
    return [*rows, []]
