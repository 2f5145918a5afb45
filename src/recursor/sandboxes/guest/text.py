"""A very long text that reads like a `str` and stays in the file it came from.

Offsets are characters, as in `str`. Slices, searches and lines are decoded when they are asked for.
"""

from __future__ import annotations

import bisect
import mmap
import re
from collections.abc import Callable, Iterator
from typing import Any

from .windows import WINDOW, Match, anchored, matches

BLOCK = 1 << 16
COUNTED = 1 << 20
"""Bytes that are counted in at once."""
_CONTINUATION = bytes(range(0x80, 0xC0))


class Text:
    """UTF-8 bytes in a map, addressed by character.

    `len`, indexing, slicing, `in`, `find`, `count`, `startswith`, iteration over lines (`lines()`)
    and chunks (`chunks(size)`) work as on a `str`, and so do `re.search`, `re.match`, `re.findall`,
    `re.finditer` and the same methods of a `Text`. Every other method of `str`, and `str(text)`,
    makes a real `str` and needs the memory for it.

    `re` takes it as `guest.windows` says. `split` and `splitlines` make a list, and nothing else as large.
    """

    def __init__(self, data: mmap.mmap, length: int) -> None:
        self._data = data
        self._size = len(data)
        self._length = length
        self._ascii = self._size == length
        self._starts = [0] if self._ascii else self._index()

    def _index(self) -> list[int]:
        """Characters before each block of BLOCK bytes."""
        starts, total = [], 0
        for offset in range(0, self._size, BLOCK):
            starts.append(total)
            total += len(self._data[offset : offset + BLOCK].translate(None, _CONTINUATION))
        return starts

    def _byte(self, position: int) -> int:
        """The byte offset of a character."""
        if self._ascii or position <= 0:
            return max(0, position)
        if position >= self._length:
            return self._size
        block = bisect.bisect_right(self._starts, position) - 1
        offset, left = block * BLOCK, position - self._starts[block]
        while offset < self._size and self._data[offset] & 0xC0 == 0x80:
            offset += 1
        stop = min(self._size, offset + 4 * left + 4)
        while stop < self._size and self._data[stop] & 0xC0 == 0x80:
            stop += 1
        piece = self._decode(offset, stop)
        return offset + len(piece[:left].encode("utf-8", "surrogatepass"))

    def _character(self, byte: int) -> int:
        """The character that starts at a byte offset."""
        if self._ascii:
            return byte
        block = min(byte // BLOCK, len(self._starts) - 1)
        return self._starts[block] + len(self._data[block * BLOCK : byte].translate(None, _CONTINUATION))

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def encoded(self, piece: int) -> Iterator[bytes]:
        """The bytes, in pieces."""
        for start in range(0, self._size, piece):
            yield self._data[start : start + piece]

    def _decode(self, start: int, stop: int) -> str:
        return self._data[start:stop].decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: int | slice) -> str:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._length)
            if step < 0:
                return self[stop + 1 : start + 1][::step] if start > stop else ""
            return self._decode(self._byte(start), self._byte(max(start, stop)))[::step]
        position = key + self._length if key < 0 else key
        if not 0 <= position < self._length:
            raise IndexError("string index out of range")
        start = self._byte(position)
        return (
            self._decode(start, min(self._size, start + 4))[:1]
            if self._ascii
            else self[position : position + 1]
        )

    def __str__(self) -> str:
        return self._decode(0, self._size)

    def __repr__(self) -> str:
        return f"<Text of {self._length:,} characters: {self[:60]!r}...>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Text):
            return self._length == other._length and self._data[:] == other._data[:]
        return isinstance(other, str) and len(other) == self._length and str(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, part: str) -> bool:
        return self._data.find(_encoded(part)) >= 0

    def __iter__(self) -> Iterator[str]:
        for piece in self.chunks(WINDOW):
            yield from piece

    def _span(self, start: int | None, end: int | None) -> tuple[int, int]:
        first, last, _ = slice(start, end).indices(self._length)
        return self._byte(first), self._byte(max(first, last))

    def _beyond(self, start: int | None, end: int | None) -> bool:
        """Whether a range is one in which `str` finds not even the empty text."""
        first, last, _ = slice(start, end).indices(self._length)
        return first > last or (start is not None and start > self._length)

    def find(self, part: str, start: int | None = None, end: int | None = None) -> int:
        if self._beyond(start, end):
            return -1
        found = self._data.find(_encoded(part), *self._span(start, end))
        return found if found < 0 else self._character(found)

    def rfind(self, part: str, start: int | None = None, end: int | None = None) -> int:
        if self._beyond(start, end):
            return -1
        found = self._data.rfind(_encoded(part), *self._span(start, end))
        return found if found < 0 else self._character(found)

    def index(self, part: str, start: int | None = None, end: int | None = None) -> int:
        found = self.find(part, start, end)
        if found < 0:
            raise ValueError("substring not found")
        return found

    def count(self, part: str, start: int | None = None, end: int | None = None) -> int:
        needle = _encoded(part)
        if self._beyond(start, end):
            return 0
        position, stop = self._span(start, end)
        if not needle:
            return len(self[start:end]) + 1
        total = 0
        if not any(needle.endswith(needle[:width]) for width in range(1, len(needle))):
            # It cannot overlap itself: what begins in one block of bytes does not depend on the others.
            for begin in range(position, stop, COUNTED):
                total += self._data[begin : min(stop, begin + COUNTED + len(needle) - 1)].count(needle)
            return total
        while (position := self._data.find(needle, position, stop)) >= 0:
            total += 1
            position += len(needle)
        return total

    def startswith(
        self, prefix: str | tuple[str, ...], start: int | None = None, end: int | None = None
    ) -> bool:
        options = prefix if isinstance(prefix, tuple) else (prefix,)
        if self._beyond(start, end):
            return False
        first, _, _ = slice(start, end).indices(self._length)
        return any(self[first:end][: len(option)] == option if end is not None
                   else self[first : first + len(option)] == option for option in options)  # fmt: skip

    def endswith(self, suffix: str | tuple[str, ...]) -> bool:
        options = suffix if isinstance(suffix, tuple) else (suffix,)
        return any(self[max(0, self._length - len(option)) :] == option for option in options)

    def chunks(self, size: int, overlap: int = 0) -> Iterator[str]:
        """Pieces of `size` characters, each sharing `overlap` characters with the one before."""
        if not 0 <= overlap < size:
            raise ValueError("size must be positive and larger than overlap")
        for start in range(0, self._length, size - overlap):
            yield self[start : start + size]

    def lines(self) -> Iterator[str]:
        """Lines without their ends, split at \\n only."""
        start = 0
        while (end := self._data.find(b"\n", start)) >= 0:
            yield self._decode(start, end)
            start = end + 1
        if start < self._size:
            yield self._decode(start, self._size)

    def __getattr__(self, name: str) -> Any:
        """Every other method of `str`, on a real `str` made for it."""
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(f"'Text' object has no attribute {name!r}")
        return getattr(str(self), name)

    def splitlines(self, keepends: bool = False) -> list[str]:
        def parts(text: str) -> tuple[list[str], str]:
            cut = text.rfind("\n") + 1  # where a line ends whatever comes next
            return text[:cut].splitlines(keepends), text[cut:]

        found, rest = self._parted(parts)
        return found + rest.splitlines(keepends)

    def split(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        if maxsplit >= 0:
            return str(self).split(sep, maxsplit)

        def parts(text: str) -> tuple[list[str], str]:
            found = text.split(sep)
            rest = found.pop() if sep is not None or not text[-1].isspace() else ""
            return found, rest

        found, rest = self._parted(parts)
        return found if sep is None and not rest else [*found, rest]

    def _parted(self, parts: Callable[[str], tuple[list[str], str]]) -> tuple[list[str], str]:
        """Cut up all, where `parts` cuts up a piece and says what is to be cut with the next."""
        found: list[str] = []
        start, rest = 0, ""
        while start < self._length:
            end = start + max(WINDOW, len(rest))  # as long as the rest, so that nothing is read often
            more, rest = parts(rest + self[start:end])
            found += more
            start = end
        return found, rest

    def finditer(
        self, pattern: Any, flags: int = 0, pos: int = 0, endpos: int | None = None
    ) -> Iterator[Match]:
        """Matches in order, as `re.finditer` on the whole `str` would give them."""
        return matches(self, re.compile(pattern, flags), pos, endpos)

    def findall(self, pattern: Any, flags: int = 0, pos: int = 0, endpos: int | None = None) -> list[Any]:
        found = []
        for match in self.finditer(pattern, flags, pos, endpos):
            groups = match.groups("")
            found.append(groups if len(groups) > 1 else groups[0] if groups else match.group())
        return found

    def search(self, pattern: Any, flags: int = 0, pos: int = 0, endpos: int | None = None) -> Match | None:
        return next(self.finditer(pattern, flags, pos, endpos), None)

    def match(self, pattern: Any, flags: int = 0, pos: int = 0, endpos: int | None = None) -> Match | None:
        return anchored(self, re.compile(pattern, flags), pos, endpos)


def _encoded(part: str) -> bytes:
    if not isinstance(part, str):
        raise TypeError(f"must be str, not {type(part).__name__}")
    return part.encode("utf-8", "surrogatepass")
