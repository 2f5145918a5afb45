"""Half-open ranges of whole numbers: joined, and taken out of each other."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def union(ranges: Iterable[Range]) -> list[Range]:
    """The same characters in ranges that do not touch, in order."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        elif end > start:
            joined.append((start, end))
    return joined


def gaps(ranges: Iterable[Range], without: Iterable[Range]) -> list[Range]:
    """What ranges hold and others do not."""
    left: list[Range] = []
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
