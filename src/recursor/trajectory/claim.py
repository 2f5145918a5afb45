"""One at a time works on a run: a lock that ends with the process that holds it, whatever ends that.

A byte of a file beside the store stands for a run. Linux only; elsewhere nothing is locked.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recursor.errors import TrajectoryError


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
