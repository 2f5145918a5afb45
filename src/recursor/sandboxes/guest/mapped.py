"""A `str` whose characters stay in a mapped file: no copy, shared by all processes that map it.

An object of a subclass of `str` keeps its characters outside of itself, behind a pointer. Here the
pointer leads into the map. The rest is CPython's own: whatever takes a `str` takes it, at the same
speed. That this holds for the interpreter at hand is tried once, before the first is made.

The file must hold one, two or four bytes a character, as wide as the widest needs. What is done to
it later is seen in the text; a page that it no longer has ends the process (SIGBUS).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from typing import Any, Final

WIDTHS: Final = {0x7F: 1, 0xFF: 1, 0xFFFF: 2, 0x10FFFF: 4}
"""Bytes a character, by a bound on the largest."""
CODECS: Final = {0x7F: "ascii", 0xFF: "latin-1", 0xFFFF: "utf-16-le", 0x10FFFF: "utf-32-le"}
"""What writes characters in that width; the last two let lone surrogates pass with `surrogatepass`."""
_SAMPLES = {0x7F: "a", 0xFF: "\xe9", 0xFFFF: "\u0101", 0x10FFFF: "\U00010000"}
_MARK = 1009
"""A length that no other word of an object has by chance."""
_PROT_READ, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x1, 0x02, 0x10, 0x20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class MappedStr(str):
    """A `str` that is not in this process's own memory. Slices and the like are ordinary ones."""

    _saved: list[tuple[int, int]]
    """Words of the object that were changed, by their index, as they were."""
    _map: tuple[int, int]
    """Address and length."""

    def __del__(self) -> None:
        words = _words(self)
        for index, word in getattr(self, "_saved", ()):
            words[index] = word
        if hasattr(self, "_map"):
            _libc.munmap(*self._map)

    def __copy__(self) -> MappedStr:
        return self

    def __deepcopy__(self, _memo: Any) -> MappedStr:
        return self


_allowed = False


def allow() -> None:
    """Let texts in any file be mapped here: in a process that may end with the file."""
    global _allowed  # noqa: PLW0603 - what a process is, it is once
    _allowed = True


def can_map(descriptor: int) -> bool:
    """Whether the text in a file may be mapped here, and a `str` is kept as this module takes for granted."""
    return (_allowed or _stays(descriptor)) and _can()


def _stays(descriptor: int) -> bool:
    """Whether nobody can write to a file or cut it off any more."""
    try:
        import fcntl  # noqa: PLC0415 - not everywhere where a REPL may run

        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & seals == seals
    except (ImportError, AttributeError, OSError):
        return False


def mapped(descriptor: int, length: int, largest: int) -> MappedStr:
    """Return the text in a file for which `can_map` holds.

    Args:
        length: in characters, one at least.
        largest: the bound on its largest character, one of `WIDTHS`, and the smallest that holds.

    Raises:
        OSError: the file cannot be mapped.
    """
    address, reserved = _map(descriptor, length * WIDTHS[largest])
    text = MappedStr(_SAMPLES[largest] * _MARK)
    text._map = address, reserved
    words = _words(text)
    data = words[len(words) - 1]
    places = {_MARK: length, data: address}
    text._saved = [(index, word) for index, word in enumerate(words) if word in places]
    for index, word in text._saved:
        words[index] = places[word]
    return text


def _words(text: str) -> Any:
    return (ctypes.c_size_t * (str.__basicsize__ // 8)).from_address(id(text))


def _map(descriptor: int, size: int) -> tuple[int, int]:
    """Map a file, with at least one zero behind its end."""
    reserved = size // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE
    address = _libc.mmap(None, reserved, _PROT_READ, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    if address != _FAILED:
        fixed = _libc.mmap(address, size, _PROT_READ, _MAP_PRIVATE | _MAP_FIXED, descriptor, 0)
        if fixed == address:
            return address, reserved
        _libc.munmap(address, reserved)
    raise OSError(ctypes.get_errno(), "the file cannot be mapped")


@functools.cache
def _can() -> bool:
    """Whether an object is laid out as this module takes for granted."""
    if sys.implementation.name != "cpython" or str.__basicsize__ % 8 or ctypes.sizeof(ctypes.c_size_t) != 8:
        return False
    for largest, sample in _SAMPLES.items():
        text = MappedStr(sample * _MARK)
        words = _words(text)
        data = words[len(words) - 1]
        # The last word points to the characters, and the length stands in the object once at least.
        if _MARK not in list(words) or data < mmap.PAGESIZE or data % WIDTHS[largest]:
            return False
        if abs(data - id(text)) < str.__basicsize__:
            return False
        expected = text.encode(CODECS[largest])
        if ctypes.string_at(data, len(expected)) != expected:
            return False
    return True
