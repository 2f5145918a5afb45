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

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

GRAM = 16
LONG_GRAM = 8 * GRAM
"""Of the second look at text whose blocks are all common."""
SHORTEST = 2 * GRAM
"""Characters of a piece."""
FRESH = GRAM
SHORTEST_WHOLE = 8
"""Characters of a text that counts as a whole; what is shorter stands everywhere."""
MOST = 64
"""Places of a piece: what stands at more tells nothing, and is counted at none."""
MAX_KNOWN = 10_000
"""Blocks whose places are remembered: those of instructions come again with each prompt."""
SPACE = 4
"""Slots of an index for each block."""
MOST_SCANNED = 1 << 32
"""Characters that a matcher goes through for places that no index knows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reading that stands verbatim in the texts."""

    start: int
    """In the reading, in characters; half-open."""
    end: int
    places: tuple[tuple[int, int], ...]
    """(number of the text, offset in it), in order."""
    complete: bool = True
    """Whether it stands nowhere else."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a reading has of the texts."""

    pieces: tuple[Piece, ...]
    """In order of their start."""
    common: int = 0
    """Characters that may be of the texts, but stand at more places than are counted."""


@dataclass(slots=True)
class Work:
    """What was done, for tests of its growth."""

    probes: int = 0
    """Positions looked up."""
    candidates: int = 0
    """Places compared."""
    characters: int = 0
    """Compared, at least once each."""
    scanned: int = 0
    """Gone through, for places that no index knows."""


class Matcher:
    """Finds the pieces of readings in a fixed number of texts.

    Args:
        texts: they are not copied.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.work = Work()
        self._texts = texts
        self._index = _Index(texts, GRAM, self.work)
        self._long: _Index | None = None
        self._whole = _Whole(texts)

    def pieces(self, reading: str) -> Pieces:
        """Return what a reading has of the texts."""
        found, common = self._index.matches(reading, [(0, len(reading))])
        unsure = _not_within(common, found)
        long = [gap for gap in unsure if gap[1] - gap[0] >= 2 * LONG_GRAM - 1]
        if long:
            if self._long is None:
                self._long = _Index(self._texts, LONG_GRAM, self.work)
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

    def places_of(self, words: str) -> tuple[_Place, ...] | None:
        """Where a short text stands in the texts and not within a word; None when that cannot be told.

        It cannot for fewer than SHORTEST_WHOLE characters, and for more than MOST places.
        """
        if len(words) < SHORTEST_WHOLE or self.work.scanned >= MOST_SCANNED:
            return None
        places: list[_Place] = []
        for number, text in enumerate(self._texts):
            offset = text.find(words)
            while offset >= 0 and len(places) <= MOST:
                if _is_apart(text, offset, offset + len(words)):
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

    def _scanned(self, piece: str) -> set[_Place]:
        """The places of a piece, found by going through all texts until there are more than MOST."""
        places: set[_Place] = set()
        for number, text in enumerate(self._texts):
            offset = text.find(piece)
            while offset >= 0 and len(places) <= MOST:
                places.add((number, offset))
                offset = text.find(piece, offset + 1)
            self.work.scanned += len(text)
        return places


_Range = tuple[int, int]
_Place = tuple[int, int]
"""Text, offset."""
_Match = tuple[int, int, int, int]
"""Start and end in the reading, text, offset."""


class _Index:
    """The blocks of texts by hash: of each slot the last block, of each block the one before it there."""

    def __init__(self, texts: Sequence[str], gram: int, work: Work) -> None:
        self._texts, self._gram, self._work = texts, gram, work
        self._numbers, self._firsts = array("q"), array("q")
        blocks = 0
        for number, text in enumerate(texts):
            if len(text) >= 2 * gram - 1:
                self._numbers.append(number)
                self._firsts.append(blocks + 1)
                blocks += len(text) // gram
        size = 1 << (SPACE * blocks).bit_length()
        self._mask = mask = size - 1
        self._slots = slots = array("I", [0]) * size
        self._before = before = array("I", [0]) * (blocks + 1)
        self._common: set[str] = set()
        self._known: dict[str, list[_Place]] = {}
        block = 0
        for number in self._numbers:
            text = texts[number]
            for start in range(0, len(text) - gram + 1, gram):
                block += 1
                slot = hash(text[start : start + gram]) & mask
                before[block] = slots[slot]
                slots[slot] = block

    def matches(self, reading: str, ranges: Iterable[_Range]) -> tuple[list[_Match], list[_Range]]:
        """Return maximal matches of SHORTEST or more, and the ranges of positions whose blocks are common.

        Every super-maximal match is among them, with all of its places, unless its blocks are common.
        """
        found: list[_Match] = []
        common: list[_Range] = []
        seen: dict[_Place, int] = {}
        gram = self._gram
        for first, end in ranges if len(self._numbers) else ():
            position, stop = first, end - gram + 1
            until, reached = stop, first
            while position < stop:
                position = self._hit(reading, position, until)
                if position >= until:
                    # What goes on beyond the end of a match has a block that begins this much before it.
                    position, until = max(until, reached - 2 * gram + 2), stop
                    continue
                places = self._places(reading[position : position + gram])
                if places is None:
                    if common and common[-1][1] == position:
                        common[-1] = common[-1][0], position + 1
                    else:
                        common.append((position, position + 1))
                for number, offset in self._worth(reading, position, places) if places else ():
                    if seen.get((number, offset - position), 0) > position:
                        continue
                    match = self._extended(reading, position, number, offset)
                    seen[number, offset - position] = match[1]
                    if match[1] - match[0] >= SHORTEST:
                        found.append(match)
                        reached = max(reached, match[1])
                        until = min(position + gram, stop)  # its other places have a block up to there
                position += 1
        return found, common

    def _hit(self, reading: str, position: int, stop: int) -> int:
        """The first position from there on whose block may be known; `stop` when there is none."""
        gram, slots, mask = self._gram, self._slots, self._mask
        hit = stop
        for at in range(position, stop):
            if slots[hash(reading[at : at + gram]) & mask]:
                hit = at
                break
        self._work.probes += hit + 1 - position
        return hit

    def places(self, piece: str) -> tuple[set[_Place], bool]:
        """Where a piece stands, and whether these are all places: not where its blocks are common."""
        gram, found, complete = self._gram, set[_Place](), True
        for first in range(gram):
            for start in range(first, len(piece) - gram + 1, gram):
                places = self._places(piece[start : start + gram])
                if places is not None:
                    begins = ((number, offset - start) for number, offset in places if offset >= start)
                    found.update(at for at in begins if self._texts[at[0]].startswith(piece, at[1]))
                    break
            else:
                complete = False
        return found, complete

    def _places(self, block: str) -> list[_Place] | None:
        """Where a block stands; None when that is at more than MOST places."""
        candidate = self._slots[hash(block) & self._mask]
        if not candidate:
            return []
        if block in self._common:
            return None
        known = self._known.get(block)
        if known is not None:
            return known
        places: list[_Place] = []
        steps = 0
        while candidate:
            steps += 1
            index = bisect_right(self._firsts, candidate) - 1
            number = self._numbers[index]
            offset = (candidate - self._firsts[index]) * self._gram
            if self._texts[number].startswith(block, offset):
                places.append((number, offset))
                if len(places) > MOST:
                    self._common.add(block)
                    break
            candidate = self._before[candidate]
        self._work.candidates += steps
        if len(places) > MOST:
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[block] = places
        return places

    def _worth(self, reading: str, position: int, places: Iterable[_Place]) -> Iterator[_Place]:
        """The places of a block where enough goes on alike, on one side at least, for SHORTEST."""
        half = (SHORTEST - self._gram) // 2
        ends = position + self._gram
        after, before = reading[ends : ends + half], reading[max(0, position - half) : position]
        for number, offset in places:
            text = self._texts[number]
            if (len(after) >= half and text.startswith(after, offset + self._gram)) or (
                len(before) >= half and offset >= half and text.startswith(before, offset - half)
            ):
                yield number, offset

    def _extended(self, reading: str, start: int, number: int, offset: int) -> _Match:
        """The maximal match around a block."""
        text = self._texts[number]
        ends, stops = start + self._gram, offset + self._gram
        after = _alike(
            min(len(reading) - ends, len(text) - stops),
            lambda one, two: reading[ends + one : ends + two] == text[stops + one : stops + two],
        )
        before = _alike(
            min(start, offset),
            lambda one, two: reading[start - two : start - one] == text[offset - two : offset - one],
        )
        self._work.characters += before + self._gram + after
        return start - before, ends + after, number, offset - before


class _Whole:
    """Texts too short for an index, looked for as a whole."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._places: dict[str, list[_Place]] = {}
        for number, text in enumerate(texts):
            if SHORTEST_WHOLE <= len(text) < SHORTEST:
                self._places.setdefault(text, []).append((number, 0))
        begins: dict[str, set[int]] = {}
        for text in self._places:
            begins.setdefault(text[:SHORTEST_WHOLE], set()).add(len(text))
        self._begins = {begin: sorted(lengths, reverse=True) for begin, lengths in begins.items()}

    def __bool__(self) -> bool:
        return bool(self._places)

    def pieces(self, reading: str, ranges: Iterable[_Range]) -> tuple[list[Piece], int]:
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
                    if places and start + length <= end and _is_apart(reading, start, start + length):
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


def _is_apart(reading: str, start: int, end: int) -> bool:
    """Whether neither end is within a word."""
    return not (
        (start > 0 and _in_word(reading[start - 1]) and _in_word(reading[start]))
        or (end < len(reading) and _in_word(reading[end - 1]) and _in_word(reading[end]))
    )


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _not_within(positions: Iterable[_Range], matches: Iterable[_Match]) -> list[_Range]:
    """What the blocks at some positions hold, but for blocks that a match holds whole."""
    held = [(start, end) for start, end, _, _ in matches]
    left = gaps(positions, ((start, end - GRAM + 1) for start, end in held))
    return gaps(((start, end + GRAM - 1) for start, end in left), held)


def _super_maximal(matches: Iterable[_Match]) -> list[_Range]:
    """What matches hold of the reading, without those that lie in a longer one; in order."""
    kept: list[_Range] = []
    for start, end in sorted({(start, end) for start, end, _, _ in matches}, key=lambda at: (at[0], -at[1])):
        if not kept or end > kept[-1][1]:
            kept.append((start, end))
    return kept


def _longest_first(pieces: Sequence[_Range]) -> list[_Range]:
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


def union(ranges: Iterable[_Range]) -> list[_Range]:
    """The same characters in ranges that do not touch, in order."""
    joined: list[_Range] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        elif end > start:
            joined.append((start, end))
    return joined


def gaps(ranges: Iterable[_Range], without: Iterable[_Range]) -> list[_Range]:
    """What ranges hold and others do not."""
    left: list[_Range] = []
    holes = union(without)
    index = 0
    for start, end in union(ranges):
        at = start
        while index < len(holes) and holes[index][1] <= at:
            index += 1
        for hole in range(index, len(holes)):
            if holes[hole][0] >= end:
                break
            if holes[hole][0] > at:
                left.append((at, holes[hole][0]))
            at = max(at, holes[hole][1])
        if at < end:
            left.append((at, end))
    return left


def _alike(most: int, same: Callable[[int, int], bool]) -> int:
    """How many of `most` characters are the same, where `same(start, end)` compares some that follow."""
    known, size, growing = 0, SHORTEST, True
    while known < most:
        size = min(size, most - known)
        if same(known, known + size):
            known += size
            size = 2 * size if growing else (most - known + 1) // 2
        else:
            growing = False
            most = known + size - 1
            size = max(1, size // 2)
    return known
