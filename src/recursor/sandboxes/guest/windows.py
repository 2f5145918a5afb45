"""Regular expressions over a text that is decoded window by window.

What is found is what `re` finds in the whole text, with these bounds: a match of more than `LONGEST`
characters may be missed or cut, and so is what a lookahead sees beyond `MARGIN` characters, or a
lookbehind beyond `BEHIND`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _parser  # type: ignore[attr-defined]  # who else knows how long a match can be
from typing import Any, Protocol

WINDOW = 1 << 22
"""Characters that are searched at once, where no match can be long."""
LONGEST = 1 << 22
MARGIN = 1 << 16
BEHIND = 1 << 10


class Sliced(Protocol):
    """What is needed of a text."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice) -> str: ...


class Match:
    """A match whose positions are those in the whole text."""

    def __init__(self, match: re.Match[str], offset: int) -> None:
        self._match = match
        self._offset = offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._match, name)

    def __getitem__(self, group: int | str) -> str:
        return self._match[group]

    def start(self, group: int | str = 0) -> int:
        found = self._match.start(group)
        return found if found < 0 else found + self._offset

    def end(self, group: int | str = 0) -> int:
        found = self._match.end(group)
        return found if found < 0 else found + self._offset

    def span(self, group: int | str = 0) -> tuple[int, int]:
        return self.start(group), self.end(group)

    def __repr__(self) -> str:
        return f"<Match span={self.span()} match={self.group()!r}>"


def matches(text: Sliced, compiled: re.Pattern[str], pos: int, endpos: int | None) -> Iterator[Match]:
    """Yield matches in order. Positions are as in `compiled.finditer`."""
    start, end = _bounds(text, pos, endpos)
    if start > end:
        return
    margin = max(MARGIN, _reach(compiled))
    width = max(WINDOW, 2 * margin)
    while True:
        before = min(start, BEHIND)
        last = start + width >= end
        window = text[start - before : min(start + width, end)]
        safe = len(window) if last else len(window) - margin
        position, grow = before, False
        for match in compiled.finditer(window, before):
            if match.end() > safe or (match.start() == match.end() == len(window) and not last):
                grow = match.start() <= before
                position = match.start()
                break
            yield Match(match, start - before)
            position = match.end() + (match.start() == match.end())
        else:
            position = max(position, safe)
        if last:
            return
        start += position - before
        width = 2 * width if grow else min(2 * width, max(WINDOW, 8 * margin))


def anchored(text: Sliced, compiled: re.Pattern[str], pos: int, endpos: int | None) -> Match | None:
    """The match at a position, as `compiled.match` finds it."""
    start, end = _bounds(text, pos, endpos)
    before = min(start, BEHIND)
    found = (
        compiled.match(text[start - before : min(end, start + 2 * LONGEST)], before) if start <= end else None
    )
    return None if found is None else Match(found, start - before)


def _bounds(text: Sliced, pos: int, endpos: int | None) -> tuple[int, int]:
    length = len(text)
    return max(0, min(length, pos)), length if endpos is None else max(0, min(length, endpos))


def _reach(compiled: re.Pattern[str]) -> int:
    """How long a match can be."""
    widest: int = _parser.parse(compiled.pattern, compiled.flags).getwidth()[1]
    return min(widest, LONGEST)
