"""Room in memory that no block can use up: who serves the host needs some when code has taken all.

The hard limit of address space lies `RESERVE` above what blocks are given. It holds between blocks; the
soft limit holds while one runs. A block that finds the memory full gets a part of the reserve, so that
it can free some; one that finds that used up, too, ends the process, with words on its stderr.
"""

from __future__ import annotations

import mmap
import os
import resource

RESERVE = 96 << 20
"""Bytes between the two limits."""
_LAST = 32 << 20
"""Bytes of it that no block gets."""
_ROOM = 8 << 20
"""Bytes that must be free when a block begins."""
_FULL = b"the memory was full, and full again after a block that could have freed some\n"

_get, _set, _map = resource.getrlimit, resource.setrlimit, mmap.mmap
_AS, _INFINITE = resource.RLIMIT_AS, resource.RLIM_INFINITY
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_write, _exit = os.write, os._exit


def begin_block() -> None:
    """Keep the reserve from the block that begins now."""
    hard = _get(_AS)[1]
    if hard == _INFINITE or hard < RESERVE:
        return
    for kept in (RESERVE, _LAST):
        _set(_AS, (hard - kept, hard))
        if _has_room():
            return
    _write(2, _FULL)
    _exit(1)


def end_block() -> None:
    """Let what serves the host have the reserve."""
    hard = _get(_AS)[1]
    if hard != _INFINITE:
        _set(_AS, (hard, hard))


def _has_room() -> bool:
    try:
        _map(-1, _ROOM, flags=_PRIVATE).close()
    except (OSError, MemoryError):
        return False
    return True
