"""Where the blocks of some texts are, by hash; and how far what surrounds a block goes on alike."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recursor.coverage.ranges import Range

GRAM = 16
SHORTEST = 2 * GRAM
"""Characters of a piece."""
MOST = 64
"""Places of a piece: what stands at more tells nothing, and is counted at none."""
MAX_KNOWN = 10_000
"""Blocks whose places are remembered: those of instructions come again with each prompt."""
SPACE = 4
"""Slots of an index for each block."""

Place = tuple[int, int]
"""Text, offset."""
Match = tuple[int, int, int, int]
"""Start and end in the reading, text, offset."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reading that stands verbatim in the texts."""

    start: int
    """In the reading, in characters; half-open."""
    end: int
    places: tuple[Place, ...]
    """(number of the text, offset in it), in order."""
    complete: bool = True
    """Whether it stands nowhere else."""


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


class Index:
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
        self._known: dict[str, list[Place]] = {}
        block = 0
        for number in self._numbers:
            text = texts[number]
            for start in range(0, len(text) - gram + 1, gram):
                block += 1
                slot = hash(text[start : start + gram]) & mask
                before[block] = slots[slot]
                slots[slot] = block

    def matches(self, reading: str, ranges: Iterable[Range]) -> tuple[list[Match], list[Range]]:
        """Return maximal matches of SHORTEST or more, and the ranges of positions whose blocks are common.

        Every super-maximal match is among them, at one of its places at least, unless its blocks are common.
        """
        found: list[Match] = []
        common: list[Range] = []
        seen: dict[Place, int] = {}
        gram = self._gram
        for first, end in ranges if len(self._numbers) else ():
            position, stop = first, end - gram + 1
            until, best = stop, (first, first, 0, 0)
            while position < stop:
                position = self._hit(reading, position, until)
                if position >= until:
                    # What goes on beyond the end of a match has a block that begins this much before it.
                    position, until = max(until, best[1] - 2 * gram + 2), stop
                    continue
                block = reading[position : position + gram]
                places = self._places(block)
                if places is None:
                    after = _run(reading, position, until, block)
                    common.append((position, after))
                    position = after
                    continue
                for number, offset in places:
                    if seen.get((number, offset - position), 0) > position or not self._matters(
                        reading, position, self._texts[number], offset, best
                    ):
                        continue
                    match = self._extended(reading, position, number, offset)
                    seen[number, offset - position] = match[1]
                    if match[1] - match[0] >= SHORTEST:
                        found.append(match)
                        best = max(best, match, key=lambda each: (each[1], -each[0]))
                        until = min(position + gram, stop)  # a longer one has a block up to there
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

    def places(self, piece: str) -> tuple[set[Place], bool]:
        """Where a piece stands, and whether these are all places: not where its blocks are common."""
        gram, found, complete = self._gram, set[Place](), True
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

    def _places(self, block: str) -> list[Place] | None:
        """Where a block stands; None when that is at more than MOST places."""
        candidate = self._slots[hash(block) & self._mask]
        if not candidate:
            return []
        if block in self._common:
            return None
        known = self._known.get(block)
        if known is not None:
            return known
        places: list[Place] = []
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

    def _matters(self, reading: str, position: int, text: str, offset: int, best: Match) -> bool:
        """Whether the match around a block may be long enough, and go beyond one that is known."""
        start, end = best[:2]
        if start <= position and position + self._gram <= end:
            after, before = offset + end - position, offset + start - position - 1
            return (end < len(reading) and text.startswith(reading[end], after)) or (
                start > 0 and before >= 0 and text.startswith(reading[start - 1], before)
            )
        half = (SHORTEST - self._gram) // 2
        if half <= 0:
            return True
        after, before = position + self._gram, position - half
        return (
            after + half <= len(reading)
            and text.startswith(reading[after : after + half], offset + self._gram)
        ) or (before >= 0 and offset >= half and text.startswith(reading[before:position], offset - half))

    def _extended(self, reading: str, start: int, number: int, offset: int) -> Match:
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


def _run(reading: str, position: int, stop: int, block: str) -> int:
    """The first position after one whose block is another: beyond a row of one character."""
    if not reading.startswith(block, position + 1):
        return position + 1
    same = _alike(
        stop - position - 1,
        lambda one, two: (
            reading.count(block[0], position + len(block) + one, position + len(block) + two) == two - one
        ),
    )
    return position + 1 + same


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
