"""Sinks that pass events on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from recursor.protocols import Sink
from recursor.types import ContextHashed, Event


class Fanout:
    """One sink out of many, in order."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks

    def emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink.emit(event)

    async def flush(self) -> None:
        for sink in self._sinks:
            await sink.flush()


class QueueSink:
    """Hands events to a reader on another event loop.

    Args:
        loop: the reader's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def emit(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def flush(self) -> None:
        """Events wait in memory; there is nothing to make durable."""

    def end(self) -> None:
        """Let the reader come to its end, from the reader's loop."""
        self._loop.call_soon(self._queue.put_nowait, None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event


class Digests:
    """A sink that keeps the digests of a run's contexts."""

    def __init__(self, run_id: str) -> None:
        self.found: dict[str, str] = {}
        self._run_id = run_id

    def emit(self, event: Event) -> None:
        if isinstance(event, ContextHashed) and event.run_id == self._run_id:
            self.found[event.name] = event.digest

    async def flush(self) -> None:
        """They wait in memory."""
