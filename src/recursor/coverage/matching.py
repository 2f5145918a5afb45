"""Which pieces of some texts stand verbatim in a reading, and where: exact, in time linear in both.

A piece counts when it has SHORTEST characters and is part of no longer piece (a "super-maximal exact
match"). Pieces are taken longest first, each only where FRESH of its characters are in none that was
taken before, so that two characters which happen to go on alike elsewhere are no piece. A text of fewer
characters counts as a whole, where the reading has it outside of all pieces and not within a word.

The index knows the hash of every block of GRAM characters of the texts, one after another. A piece of
2 * GRAM - 1 characters holds such a block wherever it begins, so a reading is looked up character by
character until a block hits, and what surrounds the hit is compared at the speed of `memcmp`. A block
that the texts hold more than MOST times is looked up no further: what consists of such blocks alone
is looked for once more by longer blocks, and is "common" where that does not help.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recursor.coverage.index import GRAM, MOST, Index, Match, Piece, Place, Work
from recursor.coverage.ranges import Range, gaps
from recursor.coverage.short import SHORTEST_WHOLE, Whole, is_apart

LONG_GRAM = 8 * GRAM
"""Of the second look at text whose blocks are all common."""
FRESH = GRAM
MOST_SCANNED = 1 << 32
"""Characters that a matcher goes through for places that no index knows."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a reading has of the texts."""

    pieces: tuple[Piece, ...]
    """In order of their start."""
    common: int = 0
    """Characters that may be of the texts, but stand at more places than are counted."""


class Matcher:
    """Finds the pieces of readings in a fixed number of texts.

    Args:
        texts: they are not copied.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.work = Work()
        self._texts = texts
        self._index = Index(texts, GRAM, self.work)
        self._long: Index | None = None
        self._whole = Whole(texts)

    def pieces(self, reading: str) -> Pieces:
        """Return what a reading has of the texts."""
        found, common = self._index.matches(reading, [(0, len(reading))])
        unsure = _not_within(common, found)
        long = [gap for gap in unsure if gap[1] - gap[0] >= 2 * LONG_GRAM - 1]
        if long:
            if self._long is None:
                self._long = Index(self._texts, LONG_GRAM, self.work)
            found += self._long.matches(reading, long)[0]
            unsure = _not_within(common, found)
        taken = [self._located(reading, start, end) for start, end in _longest_first(_super_maximal(found))]
        pieces = [piece for piece in taken if len(piece.places) <= MOST]
        many = sum(end - start for start, end in unsure)
        many += sum(piece.end - piece.start for piece in taken if len(piece.places) > MOST)
        if self._whole:
            free = gaps([(0, len(reading))], [(piece.start, piece.end) for piece in taken])
            whole, more = self._whole.pieces(reading, free)
            pieces, many = sorted([*pieces, *whole], key=lambda piece: piece.start), many + more
        return Pieces(tuple(pieces), many)

    def places_of(self, words: str) -> tuple[Place, ...] | None:
        """Where a short text stands in the texts and not within a word; None when that cannot be told.

        It cannot for fewer than SHORTEST_WHOLE characters, and for more than MOST places.
        """
        if len(words) < SHORTEST_WHOLE or self.work.scanned >= MOST_SCANNED:
            return None
        places: list[Place] = []
        for number, text in enumerate(self._texts):
            offset = text.find(words)
            while offset >= 0 and len(places) <= MOST:
                if is_apart(text, offset, offset + len(words)):
                    places.append((number, offset))
                offset = text.find(words, offset + 1)
            self.work.scanned += len(text)
        return tuple(places) if len(places) <= MOST else None

    def _located(self, reading: str, start: int, end: int) -> Piece:
        """The piece with all of its places, or with more than MOST."""
        text = reading[start:end]
        places, complete = self._index.places(text)
        if not complete and self._long is not None and len(text) >= 2 * LONG_GRAM - 1:
            more, complete = self._long.places(text)
            places |= more
        if not complete and self.work.scanned < MOST_SCANNED:
            places, complete = self._scanned(text), True
        return Piece(start, end, tuple(sorted(places)), complete)

    def _scanned(self, piece: str) -> set[Place]:
        """The places of a piece, found by going through all texts until there are more than MOST."""
        places: set[Place] = set()
        for number, text in enumerate(self._texts):
            offset = text.find(piece)
            while offset >= 0 and len(places) <= MOST:
                places.add((number, offset))
                offset = text.find(piece, offset + 1)
            self.work.scanned += len(text)
        return places


def _not_within(positions: Iterable[Range], matches: Iterable[Match]) -> list[Range]:
    """What the blocks at some positions hold, but for blocks that a match holds whole."""
    held = [(start, end) for start, end, _, _ in matches]
    left = gaps(positions, ((start, end - GRAM + 1) for start, end in held))
    return gaps(((start, end + GRAM - 1) for start, end in left), held)


def _super_maximal(matches: Iterable[Match]) -> list[Range]:
    """What matches hold of the reading, without those that lie in a longer one; in order."""
    kept: list[Range] = []
    for start, end in sorted({(start, end) for start, end, _, _ in matches}, key=lambda at: (at[0], -at[1])):
        if not kept or end > kept[-1][1]:
            kept.append((start, end))
    return kept


def _longest_first(pieces: Sequence[Range]) -> list[Range]:
    """Those that have FRESH characters in no longer one that is taken. Starts and ends both rise."""
    taken: list[int] = []
    for index in sorted(range(len(pieces)), key=lambda each: (pieces[each][0] - pieces[each][1], each)):
        at = bisect_right(taken, index)
        start, end = pieces[index]
        if at:
            start = max(start, pieces[taken[at - 1]][1])
        if at < len(taken):
            end = min(end, pieces[taken[at]][0])
        if end - start >= FRESH:
            taken.insert(at, index)
    return [pieces[index] for index in taken]
