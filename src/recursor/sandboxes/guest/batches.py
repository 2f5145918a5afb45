"""Many calls at once: a window of them in flight, results in order, memory for the results alone."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import Any, TypeAlias

from .arguments import check_text, pictures_of
from .channel import Channel, SubcallError, post
from .frames import header_start

WINDOW = 2048
"""Calls of one batch in flight at once, as far as this side is concerned."""
FORKS = 16
"""The same where each is a fork of the REPL: a process that is there as long as its call."""
REFILL = 256
"""Calls of a full window that end before more are sent: those then go out together."""
TOGETHER = 1 << 16
"""Bytes of frames that are sent at once, where the prompts are all there already."""
_LONG = 64
"""Characters from which a prompt is remembered by its digest."""

Make: TypeAlias = Callable[[Any], tuple[bytes, bytes, int | None]]
"""From an item of a batch to the start of its header, its body, and its number where it has one.
What it raises is the outcome of that item alone."""


class _Same:
    """Stands for the result of an earlier, identical item."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Batch:
    """The calls of one batch. `gather` and `gather_async` run it, once.

    Args:
        make: turns an item into a call.
        recursive: whether the items are child runs.
        dedupe: whether identical items share one call; they must be texts.
        window: calls in flight at once.
    """

    def __init__(
        self,
        channel: Channel,
        items: Iterable[Any],
        make: Make,
        *,
        model: str | None,
        recursive: bool = False,
        dedupe: bool = False,
        window: int = WINDOW,
    ) -> None:
        _check(items)
        self._window = window
        self._refill = min(REFILL, window // 4)
        self._channel = channel
        self._make = make
        self._announced = {"op": "batch", "recursive": recursive, "model": model}
        if dedupe and isinstance(items, Sized):
            items = list(items)
        # Not where the next item may be long in coming: an iterator, or room for a child's context,
        # which there may not be before the calls that would be held back have ended.
        self._together = isinstance(items, list | tuple) and not recursive
        self._items = items
        self._distinct: dict[Any, _Same] | None = {} if dedupe else None
        self._results: list[Any] = []
        self._live: dict[int, int] = {}
        """Numbers of calls in flight by their slots."""
        self._sent = 0
        self._settled = 0
        """Counted by the thread that reads, and by nothing else."""
        self._target = 0
        self._wake: Callable[[], object] = lambda: None
        self._ready: list[bytes] = []
        self._ready_size = 0

    def gather(self, return_exceptions: bool) -> list[Any]:
        """Make the calls and wait for all of them.

        Raises:
            SubcallError: the batch was refused as a whole, or some calls failed.
        """
        woken = self._channel.inbox()
        self._wake = partial(woken.put, None)
        announcement = self._announcement()
        if announcement is not None:
            self._channel.ask(announcement)
        try:
            for item in self._items:
                self._add(item)
                if self._full:
                    self._aim(self._sent - self._window + self._refill)
                    while self._settled < self._target:
                        woken.get()
            self._aim(self._sent)
            while self._settled < self._target:
                woken.get()
        except BaseException:
            self._abandon()
            raise
        return self._outcome(return_exceptions)

    async def gather_async(self, return_exceptions: bool) -> list[Any]:
        """`gather` for `await`. Cancelling it cancels what is in flight."""
        woken = asyncio.Event()
        self._wake = partial(post, asyncio.get_running_loop(), woken.set)
        announcement = self._announcement()
        if announcement is not None:
            await self._channel.ask_async(announcement)
        try:
            for item in self._items:
                self._add(item)
                if self._full:
                    await self._reach(woken, self._sent - self._window + self._refill)
                elif self._sent % REFILL == 0:
                    await asyncio.sleep(0)  # others of this event loop may go on
            await self._reach(woken, self._sent)
        except BaseException:
            self._abandon()
            raise
        return self._outcome(return_exceptions)

    async def _reach(self, woken: asyncio.Event, target: int) -> None:
        self._aim(target)
        self._channel.summon()
        while self._settled < target:
            woken.clear()
            if self._settled < target:
                await woken.wait()

    @property
    def _full(self) -> bool:
        return self._sent - self._settled >= self._window

    def _announcement(self) -> bytes | None:
        """Says how many calls will follow, where that is known and more than one."""
        items = self._items
        if not isinstance(items, Sized):
            return None
        count = len(items) if self._distinct is None else len({_key(item) for item in items})
        return header_start({**self._announced, "count": count}) if count > 1 else None

    def _add(self, item: Any) -> None:
        """Send the call of the next item, or put it with those that will be sent together."""
        index = len(self._results)
        try:
            if self._distinct is not None:
                earlier = self._distinct.setdefault(_key(item), _Same(index))
                if earlier.index != index:
                    self._results.append(earlier)
                    return
            start, body, number = self._make(item)
        except (SubcallError, TypeError, ValueError) as error:  # a slot that cannot be sent fails alone
            self._results.append(error if isinstance(error, SubcallError) else SubcallError(str(error)))
            return
        self._results.append(None)
        self._sent += 1
        number, frame = self._channel.prepare(start, body, partial(self._settle, index), number)
        self._live[index] = number
        self._ready.append(frame)
        self._ready_size += len(frame)
        if not self._together or self._ready_size >= TOGETHER:
            self._flush()

    def _flush(self) -> None:
        ready, self._ready, self._ready_size = self._ready, [], 0
        if ready:
            self._channel.transmit(b"".join(ready))

    def _aim(self, target: int) -> None:
        """Ask to be woken when so many calls have settled; they may have by now."""
        self._flush()
        self._target = target

    def _settle(self, index: int, outcome: Any) -> None:
        self._results[index] = outcome
        self._live.pop(index, None)
        self._settled += 1
        if self._settled == self._target:
            self._wake()

    def _abandon(self) -> None:
        self._channel.cancel(list(self._live.values()))

    def _outcome(self, return_exceptions: bool) -> list[Any]:
        results = self._results
        if self._distinct is not None:
            for index, found in enumerate(results):
                if isinstance(found, _Same):
                    shared = results[found.index]
                    results[index] = shared if isinstance(shared, SubcallError) else copy.deepcopy(shared)
        failures = [found for found in results if isinstance(found, SubcallError)]
        if failures and not return_exceptions:
            error = SubcallError(
                f"{len(failures)} of {len(results)} sub-calls failed; the first: {failures[0]} "
                "(catch SubcallError and read its .results for all slots, or pass return_exceptions=True)"
            )
            error.results = results
            raise error
        return results


def _check(items: Iterable[Any]) -> None:
    """Refuse a batch as a whole, before anything is sent, where it can be seen whole."""
    if isinstance(items, str):
        raise TypeError("a batch takes a list of prompts, not one str")
    if isinstance(items, list | tuple):
        for item in items:
            check_text("prompt", item[0] if isinstance(item, tuple) else item)


def _key(prompt: Any) -> Any:
    """What identical prompts have in common, and no others: short, whatever the prompt and its pictures."""
    if isinstance(prompt, tuple):
        pictures = [hashlib.sha256(image).digest() for image in pictures_of(prompt[1])]
        return _key(prompt[0]), *pictures
    check_text("prompt", prompt)
    if len(prompt) < _LONG:
        return prompt
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
