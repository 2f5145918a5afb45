"""Many calls at once: read from an iterator as they go out, answered in any order, returned in theirs.

However long a batch is, `WINDOW` of its calls are held at a time, and beside them the results alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from .channel import OnDone, SubcallError

WINDOW = 2048
"""Calls of one batch in flight at once, as far as this side is concerned."""
Start: TypeAlias = Callable[[Any, OnDone], None]
"""Sends one call; says what came of it when that is known, from any thread."""


def gather(items: Iterable[Any], start: Start, *, dedupe: bool, return_exceptions: bool) -> list[Any]:
    """Start a call for each item and wait for all."""
    results, slots = _Results(dedupe), threading.Semaphore(WINDOW)
    for index, item in results.new(items):
        slots.acquire()
        start(item, results.taking(index, slots.release))
    for _ in range(WINDOW):
        slots.acquire()
    return results.finished(return_exceptions)


async def agather(items: Iterable[Any], start: Start, *, dedupe: bool, return_exceptions: bool) -> list[Any]:
    """`gather` for `await`."""
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(WINDOW)
    results = _Results(dedupe)
    for index, item in results.new(items):
        await slots.acquire()
        start(item, results.taking(index, lambda: loop.call_soon_threadsafe(slots.release)))
    for _ in range(WINDOW):
        await slots.acquire()
    return results.finished(return_exceptions)


def check(items: Iterable[Any], what: str) -> None:
    """Refuse a batch whose items are wrong as a whole, before anything is sent, where it can be seen whole."""
    if isinstance(items, str):
        raise TypeError(f"a batch takes a list of {what}s, not one str")
    if isinstance(items, list | tuple):
        for item in items:
            check_text(what, item[0] if isinstance(item, tuple) else item)


def check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f"the {name} must be a str, not {type(text).__name__}")


class _Results:
    """A slot for each item, in order; equal items share one call where that is asked for."""

    def __init__(self, dedupe: bool) -> None:
        self._slots: list[Any] = []
        self._first: dict[Any, int] | None = {} if dedupe else None
        self._same: list[tuple[int, int]] = []

    def new(self, items: Iterable[Any]) -> Iterable[tuple[int, Any]]:
        """Make a slot for each item; yield those that need a call."""
        for index, item in enumerate(items):
            self._slots.append(None)
            if self._first is not None:
                before = self._first.setdefault(item, index)
                if before != index:
                    self._same.append((index, before))
                    continue
            yield index, item

    def taking(self, index: int, then: Callable[[], Any]) -> OnDone:
        def done(outcome: Any) -> None:
            self._slots[index] = outcome
            then()

        return done

    def finished(self, return_exceptions: bool) -> list[Any]:
        for index, before in self._same:
            self._slots[index] = self._slots[before]
        results = self._slots
        if not return_exceptions:
            failures = [result for result in results if isinstance(result, SubcallError)]
            if failures:
                error = SubcallError(
                    f"{len(failures)} of {len(results)} sub-calls failed; the first: {failures[0]} "
                    "(catch SubcallError and read its .results for all slots, or pass return_exceptions=True)"
                )
                error.results = results
                raise error
        return results
