"""What a run may use, and what it has used. Pure: the clock is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from recursor.errors import ConfigError, LimitExceeded
from recursor.types import Reply, StopReason, Usage


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run, children included. None is no bound.

    Attributes:
        max_turns: replies of the root LM; then it gets one more to answer from what it has.
        max_time: seconds for the whole run.
        max_cell_time: seconds that one code block may run by itself, waiting for sub-calls aside.
        max_tokens: input and output tokens of all calls together.
        max_cost: US dollars; needs models whose price is known.
        max_depth: levels of recursion; at this depth `rlm_query` is a plain call. 0 has no sub-RLMs
            and no sub-calls below the root but plain ones; 1 is the paper's setting.

    Raises:
        ConfigError: a bound that is no positive number.
    """

    max_turns: int = 30
    max_time: float | None = None
    max_cell_time: float | None = 120.0
    max_tokens: int | None = None
    max_cost: float | None = None
    max_depth: int | None = 1

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is None and name != "max_turns":
                continue
            whole = name in ("max_turns", "max_tokens", "max_depth")
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            least = 0 if name in ("max_cost", "max_depth") else 1 if whole else math.ulp(0.0)
            if not right or not math.isfinite(value) or value < least:
                expected = "a whole number" if whole else "a number"
                bound = "of at least 1" if whole and least else "of at least 0" if not least else "above 0"
                raise ConfigError(f"Limits.{name} must be {expected} {bound}, not {value!r}")


class Ledger:
    """Counts what a run and its children use against its limits.

    Args:
        limits: the bounds.
        clock: seconds, monotonic.
        parent: the ledger that also pays for what this one counts.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float], parent: Ledger | None = None) -> None:
        self.limits = limits
        self.turns = 0
        self.usage = Usage()
        self._priced = 0.0
        self._unpriced_calls = 0
        self._clock = clock
        self._started = clock()
        self._parent = parent

    def child(self, limits: Limits) -> Ledger:
        """A ledger whose use counts here too."""
        return Ledger(limits, self._clock, self)

    @property
    def cost(self) -> float | None:
        """US dollars so far; None as soon as one call had no known price."""
        return None if self._unpriced_calls else self._priced

    @property
    def duration(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def time_left(self) -> float | None:
        """Seconds until the nearest deadline, here or above; None when there is none."""
        own = None if self.limits.max_time is None else self.limits.max_time - self.duration
        above = self._parent.time_left() if self._parent else None
        return min((left for left in (own, above) if left is not None), default=None)

    def begin_turn(self) -> None:
        """Count a turn. Raises LimitExceeded when a bound is reached."""
        self.check()
        if self.turns >= self.limits.max_turns:
            raise LimitExceeded(f"all {self.limits.max_turns} turns are used", StopReason.MAX_TURNS)
        self.turns += 1

    def begin_last_turn(self) -> None:
        """Count the turn in which the root LM answers from what it has."""
        self.check()
        self.turns += 1

    def charge(self, reply: Reply) -> None:
        """Count a call that was made; never raises, since it is paid for."""
        self.usage += reply.usage
        if reply.cost is None:
            self._unpriced_calls += reply.usage.calls
        else:
            self._priced += reply.cost
        if self._parent:
            self._parent.charge(reply)

    def check(self) -> None:
        """Raise LimitExceeded when money, tokens or time are used up, here or above."""
        limits = self.limits
        left = self.time_left()
        if left is not None and left <= 0:
            raise LimitExceeded("the time is up", StopReason.MAX_TIME)
        if limits.max_tokens is not None and self.usage.total_tokens >= limits.max_tokens:
            used = self.usage.total_tokens
            raise LimitExceeded(f"{used:,} of {limits.max_tokens:,} tokens are used", StopReason.MAX_TOKENS)
        if limits.max_cost is not None and self._priced >= limits.max_cost:
            raise LimitExceeded(f"${self._priced:.4f} of ${limits.max_cost:g} are spent", StopReason.MAX_COST)
        if self._parent:
            self._parent.check()
