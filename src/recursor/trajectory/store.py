"""Runs in one SQLite file: every call is committed before its result is used.

Events go through a queue to one writer thread, which commits all that wait at once (group
commit). Messages are nodes linked to their parent by hash and stored once, so a history that is
sent again costs nothing and a run is linear in size. Contexts are kept by digest, never by text.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from recursor.errors import ConfigError, TrajectoryError
from recursor.protocols import Sink
from recursor.trajectory.file import check_store, connect
from recursor.trajectory.writer import Writer
from recursor.types import BatchAnnounced, Event, ReplyText, SubcallStarted

_STOP = object()


class Store:
    """A sink that records runs in a SQLite file. May be shared by many RLMs, threads and processes.

    Args:
        path: the file; it and its folders are made, for the user's eyes only, with the first event.
        durability: "normal" survives the end of the process at any moment; "full" also a power cut.

    Raises:
        ConfigError: the durability is neither.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Literal["normal", "full"] = "normal"
    ) -> None:
        if durability not in ("normal", "full"):
            raise ConfigError(f"durability must be 'normal' or 'full', not {durability!r}")
        self.path = Path(path)
        self._durability: Literal["normal", "full"] = durability
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._queue.put, _STOP).atexit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def emit(self, event: Event) -> None:
        """Queue one event. A failure to write is raised by the next `flush`."""
        if not isinstance(event, ReplyText | SubcallStarted | BatchAnnounced):
            self._start()
            self._queue.put(event)

    async def flush(self) -> None:
        """Return when all events emitted before are committed.

        Raises:
            TrajectoryError: some are not. What a full disk or a lock kept out is tried again by the
                next flush; an event that cannot be written at all is left out.
        """
        self._start()
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._queue.put((loop, committed))
        await committed

    def close(self) -> None:
        """Commit what waits and free the file. The store may be used again.

        What cannot be written now is lost: `flush` before, to know.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(_STOP)
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    own = (self.path, self._durability, self._queue)
                    self._thread = threading.Thread(
                        target=_write, args=own, daemon=True, name="recursor-store"
                    )
                    self._thread.start()


def resolve_store(store: Any) -> Sink:
    """Return the sink for a path, or the sink itself. Raises ConfigError for anything else."""
    found = Store(store) if isinstance(store, str | os.PathLike) else store
    if isinstance(found, Store):
        check_store(found.path)
    if isinstance(found, Sink):
        return found
    raise ConfigError(f"store must be a path, a Store or None, not {type(store).__name__}")


def _wake(waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]], failure: str | None) -> None:
    """Settle all futures of a loop with one call into it."""
    for loop in {id(loop): loop for loop, _ in waiting}.values():
        futures = [future for other, future in waiting if other is loop]
        try:
            loop.call_soon_threadsafe(_settle, futures, failure)
        except RuntimeError:
            continue  # the loop was closed: nobody waits there any more


def _settle(futures: list[asyncio.Future[None]], failure: str | None) -> None:
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(TrajectoryError(failure))


# The writer thread: it does not hold its store, and ends with it -------------------------------------


def _write(path: Path, durability: Literal["normal", "full"], things: queue.SimpleQueue[Any]) -> None:
    writer: Writer | None = None
    events: list[Event] = []
    lost: Exception | None = None
    stopping = False
    while not stopping:
        batch = _batch(things)
        stopping = batch[-1] is _STOP
        waiting = [item for item in batch if isinstance(item, tuple)]
        events += [item for item in batch if not isinstance(item, tuple) and item is not _STOP]
        failure: Exception | None = None
        try:
            if writer is None and events:
                writer = Writer(connect(path, durability))
            if writer is not None and events:
                lost = writer.write(events) or lost
                events = []
        except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
            failure = error
        failure = failure or lost
        if waiting:
            lost = None
        _wake(waiting, f"{path}: events cannot be recorded: {failure}" if failure else None)
    if writer is not None:
        writer.connection.close()


def _batch(things: queue.SimpleQueue[Any]) -> list[Any]:
    """All that waits, at least one; ends after a stop."""
    batch = [things.get()]
    try:
        while batch[-1] is not _STOP:
            batch.append(things.get_nowait())
    except queue.Empty:
        pass
    return batch
