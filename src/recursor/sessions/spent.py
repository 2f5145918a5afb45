"""What the turns of a session took together, against its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from recursor.asker import Asker
from recursor.errors import ConfigError, LimitExceeded
from recursor.limits import SHARED, Limits
from recursor.types import Usage


@dataclass(frozen=True, slots=True)
class Spent:
    """What turns took."""

    usage: Usage = field(default_factory=Usage)
    cost: float | None = 0.0
    """US dollars; None when a price is unknown."""
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        unknown = self.cost is None or other.cost is None
        cost = None if unknown else (self.cost or 0.0) + (other.cost or 0.0)
        return Spent(self.usage + other.usage, cost, self.seconds + other.seconds)

    def bounded(self, asker: Asker, limits: Limits, session: str) -> Asker:
        """Who asks the next question with what is left of limits. Raises LimitExceeded when nothing is."""
        used = {
            "max_time": self.seconds, "max_tokens": self.usage.total_tokens, "max_cost": self.cost or 0.0,
            "max_calls": self.usage.calls,
        }  # fmt: skip
        left = {}
        for name in SHARED:
            bound = getattr(limits, name)
            if bound is None:
                continue
            if name == "max_cost" and self.cost is None:
                raise ConfigError(
                    f"what session {session!r} has cost is not known, since a call in it has no known price: "
                    "it cannot be bounded by max_cost"
                )
            if used[name] >= bound:
                raise LimitExceeded(f"the {name} of session {session!r}, {bound:g}, is used up", name)
            left[name] = bound - used[name]
        own = asker.engine.limits
        return asker.with_changes(own.with_changes(left).within(own), None, (), ()) if left else asker


@dataclass(slots=True)
class Account:
    """What a session took: its last turn apart, which may be gone on with."""

    earlier: Spent = field(default_factory=Spent)
    latest: Spent = field(default_factory=Spent)
    newest: int = 0
    """The number of the last turn that has begun."""

    @property
    def all(self) -> Spent:
        return self.earlier + self.latest

    def begin(self, number: int, spent: Spent | None = None) -> None:
        """Take up a turn, a new one or the last.

        Args:
            spent: what it took so far; None is nothing.
        """
        if number > self.newest:
            self.earlier, self.newest = self.all, number
        self.latest = spent or Spent()
