"""Room for child runs: how many of one tree are at work at once.

Each run has room for one child of its own, and all share the rest. So a run that holds a shared
place and waits for children of its own never waits for what only its own end would free.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

Waiter = asyncio.Future["Slots | Own"]


@dataclass(slots=True)
class Own:
    """The place that one run has for itself."""

    taken: bool = False
    waiting: deque[Waiter] = field(default_factory=deque)


@dataclass(slots=True)
class Slots:
    """The places that all runs of a tree share."""

    free: int
    waiting: deque[Waiter] = field(default_factory=deque)

    @contextlib.asynccontextmanager
    async def place(self, own: Own) -> AsyncIterator[None]:
        """Hold a place for a child: the run's own, or a shared one, whichever is free first."""
        held = await self._taken(own)
        try:
            yield
        finally:
            self._give(held)

    async def _taken(self, own: Own) -> Slots | Own:
        if not own.taken:
            own.taken = True
            return own
        if self.free:
            self.free -= 1
            return self
        waiter: Waiter = asyncio.get_running_loop().create_future()
        own.waiting.append(waiter)
        self.waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # a place came together with the cancellation
                self._give(waiter.result())
            raise

    def _give(self, held: Slots | Own) -> None:
        """Hand a place to who has waited longest for it, or put it back."""
        while held.waiting:
            waiter = held.waiting.popleft()
            if not waiter.done():  # else it was cancelled, or has a place of the other kind
                waiter.set_result(held)
                return
        if isinstance(held, Own):
            held.taken = False
        else:
            held.free += 1
