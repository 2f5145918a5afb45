"""What a run may use, and what it has used. Pure: the clock is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from recursor.errors import ConfigError, LimitExceeded
from recursor.types import Reply, StopReason, Usage

FIRST_CALLS = 4
"""Calls of a model that may be out before one of them has shown what a call costs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run, children included. None is no bound.

    Attributes:
        max_turns: replies of the root LM; then it gets one more to answer from what it has.
        max_time: seconds for the whole run.
        max_cell_time: seconds that one code block may run by itself, waiting for sub-calls aside.
        max_tokens: input and output tokens of all calls together.
        max_cost: US dollars; needs models whose price is known.
        max_depth: depth at which `rlm_query` is a plain call; the root is depth 0. With 1, the paper's
            setting, all sub-calls are plain; with 2 the root may start child RLMs, and so on.

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

    A call is admitted before it is sent and settled after. While it is out, it stands for the most
    that a call of its model has used so far, so that many calls at once pass a bound by the error
    of that estimate only; until the first call of a model has settled, `FIRST_CALLS` may be out.

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
        self._unpriceable = False
        """Whether a reply came without a price."""
        self._assumed = 0.0
        """Dollars that calls which were cut off may have cost."""
        self._clock = clock
        self._started = clock()
        self._parent = parent
        self._out: dict[str, int] = {}
        """Calls in flight, by model."""
        self._most: dict[str, tuple[int, float]] = {}
        """The most tokens and dollars that one call has used, by model."""

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
        self.turns += 1

    def admit(self, model: str) -> bool:
        """Reserve one call of a model; False asks to wait until another has settled.

        Raises:
            LimitExceeded: what is used leaves nothing for it.
        """
        self.check()
        chain = list(self._chain())
        if any(ledger._must_wait(model) for ledger in chain):
            return False
        for ledger in chain:
            ledger._out[model] = ledger._out.get(model, 0) + 1
        return True

    def settle(self, model: str, reply: Reply) -> None:
        """Count a call that was admitted; never raises, since it is paid for."""
        for ledger in self._chain():
            ledger._out[model] -= 1
            answered = bool(reply.usage.total_tokens or reply.text)
            if answered:
                tokens, dollars = ledger._most.get(model, (0, 0.0))
                ledger._most[model] = max(tokens, reply.usage.total_tokens), max(dollars, reply.cost or 0.0)
            ledger.usage += reply.usage
            if reply.cost is not None:
                ledger._priced += reply.cost
                continue
            ledger._unpriced_calls += reply.usage.calls
            ledger._unpriceable = ledger._unpriceable or answered
            if not answered:  # cut off: it may have been paid for
                ledger._assumed += ledger._most.get(model, (0, 0.0))[1]

    def check(self) -> None:
        """Raise LimitExceeded when money, tokens or time are used up, here or above."""
        left = self.time_left()
        if left is not None and left <= 0:
            raise LimitExceeded("the time is up", StopReason.MAX_TIME)
        for ledger in self._chain():
            ledger._check_tokens()
            ledger._check_cost()

    def _chain(self) -> Iterator[Ledger]:
        ledger: Ledger | None = self
        while ledger is not None:
            yield ledger
            ledger = ledger._parent

    def _check_tokens(self) -> None:
        bound, used = self.limits.max_tokens, self.usage.total_tokens
        if bound is not None and used >= bound:
            raise LimitExceeded(f"{used:,} of {bound:,} tokens are used", StopReason.MAX_TOKENS)

    def _check_cost(self) -> None:
        bound = self.limits.max_cost
        if bound is None:
            return
        if self._unpriceable:
            reason = "the price of a call is not known, so max_cost cannot hold"
            raise LimitExceeded(reason, StopReason.MAX_COST)
        if self._spent >= bound:
            raise LimitExceeded(f"${self._spent:.4f} of ${bound:g} are spent", StopReason.MAX_COST)

    @property
    def _spent(self) -> float:
        return self._priced + self._assumed

    def _must_wait(self, model: str) -> bool:
        """Whether calls in flight may need what is left; never without any in flight."""
        tokens, dollars = self.limits.max_tokens, self.limits.max_cost
        if (tokens is None and dollars is None) or not any(self._out.values()):
            return False
        if model not in self._most:
            return self._out.get(model, 0) >= FIRST_CALLS
        return (tokens is not None and self.usage.total_tokens + self._reserved(0) >= tokens) or (
            dollars is not None and self._spent + self._reserved(1) >= dollars
        )

    def _reserved(self, which: int) -> float:
        """What the calls in flight stand for: tokens (0) or dollars (1)."""
        return sum(count * self._most.get(model, (0, 0.0))[which] for model, count in self._out.items())
