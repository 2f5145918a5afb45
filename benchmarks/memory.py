"""How much memory a process and all its descendants hold, by proportional share (PSS).

Anonymous files (memfd) count with all their pages, whether or not a process maps them. Other page
cache counts where it is mapped. A process that has no memory of its own, but its parent's (CLONE_VM),
counts as a thread of that would: not.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PERIOD = 0.005
"""Seconds between two samples."""
_KCMP, _KCMP_VM = 312, 1
"""Of x86-64."""
_libc = ctypes.CDLL(None, use_errno=True)


class Peak:
    """Samples a process tree while its `with` statement lasts.

    Attributes:
        before: bytes at its beginning.
        peak: the most bytes of any sample.
        samples: how many there were.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = self.peak = held(pid)
        self.samples = 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self.peak = max(self.peak, held(self._pid))
            self.samples += 1
            # Reading the tables of a big process takes its lock: leave it at least half of the time.
            self._over.wait(max(PERIOD, time.monotonic() - began))


def held(pid: int) -> int:
    """Return the bytes that a process and its descendants hold."""
    mapped = shared = 0
    anonymous: dict[int, int] = {}
    for each in tree(pid):
        with suppress(OSError):  # it ended meanwhile
            sizes = _rollup(each)
            shared += sizes["Pss_Shmem"]
            mapped += sizes["Pss"] - sizes["Pss_Shmem"]
            anonymous.update(_memfds(each))
    return mapped + max(shared, sum(anonymous.values()))


def tree(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, but for those that have no memory of their own."""
    yield pid
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                for child in map(int, children.read_text().split()):
                    if not _shares(pid, child):
                        yield from tree(child)


def _shares(parent: int, child: int) -> bool:
    """Whether two processes have the same memory: then each shows all of it as its own."""
    arguments = map(ctypes.c_long, (_KCMP, parent, child, _KCMP_VM, 0, 0))
    return bool(_libc.syscall(*arguments) == 0)


def _rollup(pid: int) -> dict[str, int]:
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows}


def _memfds(pid: int) -> dict[int, int]:
    """Inode -> bytes in memory of each anonymous file that is open there."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith("/memfd:"):
                status = descriptor.stat()
                found[status.st_ino] = status.st_blocks * 512
    return found
