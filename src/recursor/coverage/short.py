"""Texts too short for an index, looked for as a whole and not within words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from recursor.coverage.index import MOST, SHORTEST, Piece, Place
from recursor.coverage.ranges import Range

SHORTEST_WHOLE = 8
"""Characters of a text that counts as a whole; what is shorter stands everywhere."""


class Whole:
    """Texts too short for an index, looked for as a whole."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._places: dict[str, list[Place]] = {}
        for number, text in enumerate(texts):
            if SHORTEST_WHOLE <= len(text) < SHORTEST:
                self._places.setdefault(text, []).append((number, 0))
        begins: dict[str, set[int]] = {}
        for text in self._places:
            begins.setdefault(text[:SHORTEST_WHOLE], set()).add(len(text))
        self._begins = {begin: sorted(lengths, reverse=True) for begin, lengths in begins.items()}

    def __bool__(self) -> bool:
        return bool(self._places)

    def pieces(self, reading: str, ranges: Iterable[Range]) -> tuple[list[Piece], int]:
        """Return the texts that stand in ranges of a reading, and the characters of common ones."""
        found: list[Piece] = []
        common = 0
        for first, end in ranges:
            taken = first
            for start in _beginnings(reading, first, end):
                if start < taken:
                    continue
                for length in self._begins.get(reading[start : start + SHORTEST_WHOLE], ()):
                    places = self._places.get(reading[start : start + length], ())
                    if places and start + length <= end and is_apart(reading, start, start + length):
                        taken = start + length
                        if len(places) > MOST:
                            common += length
                        else:
                            found.append(Piece(start, taken, tuple(places)))
                        break
        return found, common


_BEGINNING = re.compile(r"\b\w|\W")


def _beginnings(reading: str, start: int, end: int) -> Iterator[int]:
    return (match.start() for match in _BEGINNING.finditer(reading, start, end))


def is_apart(reading: str, start: int, end: int) -> bool:
    """Whether neither end is within a word."""
    return not (
        (start > 0 and _in_word(reading[start - 1]) and _in_word(reading[start]))
        or (end < len(reading) and _in_word(reading[end - 1]) and _in_word(reading[end]))
    )


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
