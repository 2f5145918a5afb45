"""One at a time works on a run, and others may ask it to stop.

A byte of a file beside the store stands for a run: a lock that ends with the process that holds it,
whatever ends that. Linux only; elsewhere nothing is locked. Another file asks for the stop of a run.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from recursor.errors import RunStopped, TrajectoryError

LOOK_EVERY = 0.2
"""Seconds between looks for somebody who asks for a stop."""
T = TypeVar("T")


async def attended(store: Path, run_id: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work of a run while it is held, until it ends or somebody asks for its stop.

    Raises:
        TrajectoryError: another holds it.
        RunStopped: it was cancelled, since somebody asked for it.
    """
    with claim(store, run_id):
        _forget_wish(store, run_id)  # of an earlier attempt
        running = asyncio.ensure_future(work())
        asked = asyncio.ensure_future(_asked(store, run_id))
        try:
            await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not running.done():
                running.cancel("stopped")
                await asyncio.wait([running])
                if running.cancelled():
                    raise RunStopped(f"run {run_id} was stopped; what it did is recorded")
            return await running
        finally:
            asked.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
            _forget_wish(store, run_id)


def stop(store: Path, run_id: str) -> None:
    """Ask whoever works on a run to stop, in this process or in another. It does so within a second.

    Raises:
        TrajectoryError: nobody works on it, or nothing can be written beside the store.
    """
    if not claimed(store, run_id):
        raise TrajectoryError(f"run {run_id} is not at work")
    try:
        os.close(os.open(_wish(store, run_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise TrajectoryError(f"run {run_id} cannot be stopped: {error.strerror}") from error


async def _asked(store: Path, run_id: str) -> None:
    """Return when somebody asks for the stop of a run."""
    wish = os.fspath(_wish(store, run_id))
    while not os.access(wish, os.F_OK):  # noqa: ASYNC110 - another process makes it; a look takes microseconds
        await asyncio.sleep(LOOK_EVERY)


def _forget_wish(store: Path, run_id: str) -> None:
    with suppress(OSError):  # where nothing can be written, whoever records there says so
        _wish(store, run_id).unlink(missing_ok=True)


def _wish(store: Path, run_id: str) -> Path:
    return Path(f"{store}-stop-{run_id}")


@contextmanager
def claim(store: Path, run_id: str) -> Iterator[None]:
    """Hold a run of a store.

    Args:
        run_id: 32 hexadecimal digits.

    Raises:
        TrajectoryError: another holds it, in this process or in another.
    """
    descriptor = _opened(Path(f"{store}-lock"))
    try:
        if descriptor is not None and hasattr(fcntl, "F_OFD_SETLK"):
            # Of the open file, not of the process: two attempts in one process exclude each other too.
            wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, int(run_id[:15], 16), 1, 0)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
            except BlockingIOError:
                raise TrajectoryError(f"run {run_id} is at work: wait for its end, or stop it") from None
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def claimed(store: Path, run_id: str) -> bool:
    """Whether anybody holds a run of a store."""
    with suppress(OSError):
        descriptor = os.open(f"{store}-lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, int(run_id[:15], 16), 1, 0)
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
            return bool(struct.unpack("hhqqi", found)[0] != fcntl.F_UNLCK)
        finally:
            os.close(descriptor)
    return False


def _opened(path: Path) -> int | None:
    """None where nothing can be written: whoever records there says so."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
