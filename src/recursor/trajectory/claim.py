"""One at a time works on a run, and others may ask it to stop.

A byte of a file beside the store stands for a run: a lock that ends with the process that holds it,
whatever ends that. Linux only; elsewhere nothing is locked. Another file asks for the stop of a run.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from recursor.errors import AtWork, RunStopped, TrajectoryError

_ID = re.compile("[0-9a-f]{32}")
LOOK_EVERY = 0.2
"""Seconds between looks for somebody who asks for a stop."""
T = TypeVar("T")


async def attended(store: Path, run_id: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work of a run while it is held, until it ends or somebody asks for its stop.

    Raises:
        AtWork: another holds it.
        RunStopped: it was cancelled, since somebody asked for it.
    """
    with claim(store, run_id):
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
    if not claimed(store, run_id):  # it ended meanwhile: nobody takes the wish away
        _forget_wish(store, run_id)


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
    """Hold a run of a store. No wish for its stop is older than that, or stays when that ends.

    Raises:
        AtWork: another holds it, in this process or in another.
        TrajectoryError: it is no id of a run, or cannot be locked.
    """
    wanted = _lock(fcntl.F_WRLCK, run_id)
    if wanted is None:
        raise TrajectoryError(f"{run_id!r} is no id of a run")
    descriptor = _opened(Path(f"{store}-lock"))
    if descriptor is not None and hasattr(fcntl, "F_OFD_SETLK"):
        # Of the open file, not of the process: two attempts in one process exclude each other too.
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise AtWork(f"run {run_id} is at work: wait for its end, or stop it") from None
            raise TrajectoryError(f"run {run_id} cannot be locked: {error.strerror}") from error
    try:
        _forget_wish(store, run_id)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        _forget_wish(store, run_id)  # only now: as long as it is held, somebody may ask


def claimed(store: Path, run_id: str) -> bool:
    """Whether anybody holds a run of a store."""
    wanted = _lock(fcntl.F_RDLCK, run_id)
    if wanted is None:
        return False
    with suppress(OSError):
        descriptor = os.open(f"{store}-lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted)
            return bool(struct.unpack("hhqqi", found)[0] != fcntl.F_UNLCK)
        finally:
            os.close(descriptor)
    return False


def _lock(kind: int, run_id: str) -> bytes | None:
    """The `struct flock` of a run; None for what is no id, as a damaged store or an address may hold."""
    if not _ID.fullmatch(run_id):
        return None
    return struct.pack("hhqqi", kind, os.SEEK_SET, int(run_id[:15], 16), 1, 0)


def _opened(path: Path) -> int | None:
    """None where nothing can be written: whoever records there says so."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
