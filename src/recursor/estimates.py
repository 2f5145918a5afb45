"""What model calls are expected to take, judged by those of their kind. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from recursor.types import Purpose, Reply, Usage

MARGIN = 2.0
"""A call that is out beside others stands for this many times the most that one like it has used..."""
CAUTION = 50.0
"""... and for that many times more, divided by how many have answered: what one has used says little of the rest."""
FIRST_INPUT = 0.5
"""Tokens a character that the first prompt of a model is expected to have: rather too many."""
FIRST_OUTPUT = 2_000
"""Tokens that the first reply of a model is expected to have."""
TOKENS, DOLLARS = 0, 1


class Call(NamedTuple):
    """A model call, as far as its cost is concerned. Calls of one kind are taken to cost alike."""

    model: str
    purpose: Purpose
    depth: int
    """Of the run that makes it; the root is depth 0."""
    size: int = 0
    """Characters of the prompt."""
    price: Callable[[Usage], float | None] | None = None
    """What usage of the model costs, where that is known ahead."""

    @property
    def kind(self) -> tuple[str, str, int]:
        return self.model, self.purpose, self.depth

    def expected(self) -> tuple[float, float | None]:
        """Tokens and dollars, from the size alone; None dollars when no price is known ahead."""
        usage = Usage(math.ceil(self.size * FIRST_INPUT), FIRST_OUTPUT, calls=1)
        return float(usage.total_tokens), self.price(usage) if self.price else None


@dataclass(slots=True)
class Kind:
    """What calls of one kind have used, in tokens and dollars, and which are out."""

    first: tuple[float, float | None]
    longest: int
    """Characters of the longest prompt."""
    answered: int = 0
    total: list[float] = field(default_factory=lambda: [0.0, 0.0])
    most: list[float] = field(default_factory=lambda: [0.0, 0.0])
    calls_out: int = 0
    out: float = 0.0
    """Weights of the calls that are out."""

    def weight(self, call: Call) -> float:
        """1, or more for a prompt that is longer than any before."""
        return max(1.0, call.size / self.longest)

    @property
    def margin(self) -> float:
        """What estimates may be wrong by, as a factor."""
        return MARGIN * (1 + CAUTION / self.answered) if self.answered else MARGIN

    def each(self, unit: int) -> float | None:
        """The most that one call has used; before any has, what the first was expected to."""
        return self.most[unit] if self.answered else self.first[unit]

    def learn(self, call: Call, reply: Reply) -> None:
        self.answered += 1
        self.longest = max(self.longest, call.size)
        for unit, used in used_of(reply):
            self.total[unit] += used
            self.most[unit] = max(self.most[unit], used)


def used_of(reply: Reply) -> tuple[tuple[int, float], ...]:
    """What a reply took of each unit."""
    return (TOKENS, float(reply.usage.total_tokens)), (DOLLARS, reply.cost or 0.0)
