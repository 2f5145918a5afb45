"""What a run and its children have used, against their limits. Pure: the clock is passed in.

A call is admitted before it is sent and settled after; in between it stands for its estimated
worst case, in the ledger of its run and in those of all runs above. So calls at once pass a bound
by no more than what estimates were wrong by, and close to a bound calls go one by one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from recursor.errors import LimitExceeded
from recursor.estimates import DOLLARS, TOKENS, Call, Kind, used_of
from recursor.limits import Limits
from recursor.types import Reply, StopReason, Usage

FINISH = 1.5
"""Root calls, as dear as the dearest so far, that sub-calls leave for the root LM to finish with."""
FINISH_TIME = 0.2
"""The largest share of `max_time` that code leaves for that."""
_UNITS = (
    (TOKENS, "{:,.0f} tokens", StopReason.MAX_TOKENS),
    (DOLLARS, "${:.4f}", StopReason.MAX_COST),
)


class Reservation:
    """A call that was admitted. Settled exactly once."""

    __slots__ = ("_call", "_weights")

    def __init__(self, call: Call, weights: list[tuple[Ledger, float]]) -> None:
        self._call = call
        self._weights = weights

    def settle(self, reply: Reply, seconds: float = 0.0) -> list[Ledger]:
        """Count what it used; never raises, since it is paid for.

        Args:
            reply: without text and usage for a call that failed or was cut off; its cost is then
                None when it may have been paid for.
            seconds: that it took.

        Returns:
            The ledgers in which a call that waits may be admitted now.
        """
        call = self._call
        for ledger, weight in self._weights:
            ledger._release(call, weight)
            ledger._count(call, reply)
        own = self._weights[0][0]
        if call.purpose == "root":
            own._slowest_root = max(own._slowest_root, seconds)
        return [ledger for ledger, _ in self._weights if ledger.waiting]


class Ledger:
    """Counts what a run and its children use against its limits.

    Args:
        limits: the bounds.
        clock: seconds, monotonic.
        parent: of the run that started this one; it also pays for what this one counts.
        pool: what several trees of runs share; it pays for a whole tree, as its parent pays for a child, but not for
            what `count` and `count_run` tell of: whoever shares it knows of calls that were made before.

    Attributes:
        depth: of the run; the root is depth 0.
        turns: begun so far.
        blocks: begun in this turn.
        calls: model calls made, those of children included.
        usage: what they used.
        waiting: who waits for a call to settle here; kept by who calls `admit`.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        parent: Ledger | None = None,
        *,
        pool: Ledger | None = None,
    ) -> None:
        self.limits = limits
        self.depth: int = parent.depth + 1 if parent else 0
        self.turns = 0
        self.blocks = 0
        self.calls = 0
        self.usage = Usage()
        self.waiting: deque[Any] = deque()
        self._pool: Ledger | None = parent._pool if parent else pool
        self._tree: tuple[Ledger, ...] = (self, *(parent._tree if parent else ()))
        self._chain: tuple[Ledger, ...] = self._tree if self._pool is None else (*self._tree, self._pool)
        self._clock = clock
        self._started = clock()
        self._kinds: dict[tuple[str, str, int], Kind] = {}
        self._priced = 0.0
        self._unpriced_calls = 0
        self._unpriceable = False
        """Whether a reply came without a price."""
        self._assumed = [0.0, 0.0]
        """Tokens and dollars that calls which were cut off may have used."""
        self._out = 0
        self._subcalls_out = 0
        self._slowest_root = 0.0
        self._last_root = [0.0, 0.0]
        self._growth = [0.0, 0.0]

    def child(self, limits: Limits) -> Ledger:
        """A ledger whose use counts here too."""
        return Ledger(limits, self._clock, self)

    @property
    def top(self) -> Ledger:
        """The ledger of the whole tree."""
        return self._tree[-1]

    @property
    def cost(self) -> float | None:
        """US dollars so far; None as soon as one call had no known price."""
        return None if self._unpriced_calls else self._priced

    @property
    def in_flight(self) -> int:
        """Calls that are out, those of children included."""
        return self._out

    @property
    def duration(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def time_left(self) -> float | None:
        """Seconds until the nearest deadline, here or above; None when there is none."""
        left = None
        for ledger in self._chain:
            if ledger.limits.max_time is not None:
                own = ledger.limits.max_time - ledger.duration
                left = own if left is None else min(left, own)
        return left

    def cell_time(self) -> float | None:
        """Seconds that a block may take in all, so that the root LM can still finish; None for any."""
        left, bound = self.time_left(), self.limits.max_time
        if left is None or bound is None:
            return left
        return max(0.0, left - min(FINISH_TIME * bound, FINISH * self._slowest_root))

    def calls_left(self) -> int | None:
        """Calls that may still be made, the root LM's last included; None for any number."""
        return None if self.limits.max_calls is None else max(0, self.limits.max_calls - self.calls)

    def left(self, unit: int, *, cautious: bool = True) -> float | None:
        """TOKENS or DOLLARS that are neither used nor reserved; None for any number.

        Args:
            cautious: whether calls that are out stand for more than any like them has used.
        """
        limits = self.limits
        bound = limits.max_tokens if unit == TOKENS else limits.max_cost
        if bound is None:
            return None
        used = (self.usage.total_tokens if unit == TOKENS else self._priced) + self._assumed[unit]
        out = (kind for kind in self._kinds.values() if kind.out)
        each = ((kind.margin if cautious else 1.0) * kind.out * (kind.each(unit) or 0.0) for kind in out)
        return bound - used - sum(each)

    @property
    def last_reply(self) -> StopReason | None:
        """The bound, here or above, that leaves the root LM one more reply and nothing else; None when none does."""
        if self.turns >= self.limits.max_turns:
            return StopReason.MAX_TURNS
        for ledger in self._chain:
            kept = 0 if ledger is self else 1
            calls = ledger.calls_left()
            if calls is not None and calls <= 1 + kept:
                return StopReason.MAX_CALLS
            for unit, _, reason in _UNITS:
                left, two = ledger.left(unit, cautious=ledger is not self._pool), self._next_roots(unit)
                if left is not None and two and left - kept * FINISH * ledger._dearest_root(unit) < two:
                    return reason
        return None

    def _next_roots(self, unit: int) -> float:
        """What two more replies of the root LM may take, each with a longer prompt than the one before."""
        return 2 * self._dearest_root(unit) + 3 * self._growth[unit]

    def begin_turn(self) -> None:
        """Count a turn. Raises LimitExceeded when a bound is reached."""
        self.check()
        self.turns += 1
        self.blocks = 0

    def check(self) -> None:
        """Raise LimitExceeded when money, tokens, calls or time are used up, here or above."""
        left = self.time_left()
        if left is not None and left <= 0:
            raise LimitExceeded("the time is up", StopReason.MAX_TIME)
        for ledger in self._chain:
            ledger._check()

    def admit(self, call: Call) -> Reservation | Ledger:
        """Reserve a call here and above; or return the ledger in which it must wait.

        No call waits in a ledger in which none is out.

        Raises:
            LimitExceeded: what is left does not pay for it.
        """
        self.check()
        for ledger in self._chain:
            if ledger._must_wait(call):
                return ledger
        return Reservation(call, [(ledger, ledger._reserve(call)) for ledger in self._chain])

    def count(self, call: Call, reply: Reply, *, in_root: bool = True) -> None:
        """Count a call that was made before: its reply was recorded.

        Args:
            in_root: False where the ledger of the whole tree has counted it already.
        """
        for ledger in self._counting(in_root) if not reply.cached else ():
            ledger.calls += 1
            ledger._count(call, reply)

    def count_run(self, usage: Usage, cost: float | None, *, in_root: bool = True) -> None:
        """Count all calls of a run that was made before; `in_root` as in `count`."""
        for ledger in self._counting(in_root):
            ledger.calls += usage.calls
            ledger.usage += usage
            ledger._priced += cost or 0.0
            ledger._unpriced_calls += usage.calls if cost is None else 0
            ledger._unpriceable = ledger._unpriceable or (cost is None and usage.total_tokens > 0)

    def count_attempt(self) -> None:
        """Count an attempt of a call that failed and is made again."""
        for ledger in self._chain:
            ledger.usage += Usage(calls=1)

    def refuse_batch(self, count: int, call: Call) -> None:
        """Raise LimitExceeded when so many calls cannot all be made, judged by what one costs on average."""
        self.check()
        for ledger in self._chain:
            left = ledger.calls_left()
            if left is not None and count > left - ledger._keeps_for_root(call):
                raise LimitExceeded(
                    f"{count:,} calls were asked for and {max(0, left - ledger._keeps_for_root(call)):,} are "
                    "left; none was sent",
                    StopReason.MAX_CALLS,
                )
            kind = ledger._kinds.get(call.kind)
            for unit, form, reason in _UNITS if kind and kind.answered else ():
                assert kind is not None
                each = kind.total[unit] / kind.answered
                rest = ledger._left_for(unit, call, cautious=ledger is not self._pool)
                if rest is not None and count * each > rest:
                    raise LimitExceeded(
                        f"{count:,} calls were asked for; at {form.format(each)} each, {form.format(max(0.0, rest))} "
                        f"pay for about {max(0, int(rest / each)):,}; none was sent",
                        reason,
                    )

    # Inside: of this ledger alone ------------------------------------------------------------------

    def _check(self) -> None:
        if self.calls_left() == 0:
            raise LimitExceeded(f"all {self.limits.max_calls:,} model calls are made", StopReason.MAX_CALLS)
        if self.limits.max_tokens is None and self.limits.max_cost is None:
            return
        if self.limits.max_cost is not None and self._unpriceable:
            reason = "the price of a call is not known, so max_cost cannot hold"
            raise LimitExceeded(reason, StopReason.MAX_COST)
        used = (self.usage.total_tokens, self._priced)
        bounds = (self.limits.max_tokens, self.limits.max_cost)
        for unit, form, reason in _UNITS:
            bound, gone = bounds[unit], used[unit] + self._assumed[unit]
            if bound is not None and gone >= bound:
                raise LimitExceeded(f"{form.format(gone)} of {form.format(bound)} are used", reason)

    def _must_wait(self, call: Call) -> bool:
        """Whether calls that are out may need what is left. Raises LimitExceeded when none is out."""
        limits, subcall = self.limits, self._keeps_for_root(call)
        if subcall and self.calls_left() == 1:
            raise LimitExceeded(
                "the last model call is kept for the root LM's last reply", StopReason.MAX_CALLS
            )
        if subcall and self._subcalls_out >= (limits.max_subcalls_in_flight or math.inf):
            return True
        if limits.max_tokens is None and limits.max_cost is None:
            return False
        kind = self._kind(call)
        for unit, form, reason in _UNITS:
            left, each = self._left_for(unit, call), kind.each(unit)
            if left is None:
                continue
            if each is None:  # nobody knows yet what it costs: one goes ahead
                return bool(self._out)
            if kind.weight(call) * each * (kind.margin if self._out else 1.0) <= left:
                continue
            if self._out:
                return True
            if kind.answered or left <= 0:  # a mere guess refuses nothing
                kept = " beside what the root LM's last reply needs" if subcall else ""
                raise LimitExceeded(
                    f"{form.format(max(0.0, left))} are left{kept}, and this call may take "
                    f"{form.format(kind.weight(call) * each)}",
                    reason,
                )
        return False

    def _reserve(self, call: Call) -> float:
        kind = self._kind(call)
        weight = kind.weight(call)
        kind.calls_out += 1
        kind.out += weight
        self.calls += 1
        self._out += 1
        self._subcalls_out += self._keeps_for_root(call)
        return weight

    def _release(self, call: Call, weight: float) -> None:
        kind = self._kind(call)
        kind.calls_out -= 1
        kind.out = kind.out - weight if kind.calls_out else 0.0  # a sum of fractions leaves dust
        self._out -= 1
        self._subcalls_out -= self._keeps_for_root(call)

    def _count(self, call: Call, reply: Reply) -> None:
        kind = self._kind(call)
        self.usage += reply.usage
        answered = bool(reply.usage.total_tokens or reply.text)
        if answered:
            kind.learn(call, reply)
            if not self._keeps_for_root(call):
                self._grow(reply)
        if reply.cost is not None:
            self._priced += reply.cost
            return
        self._unpriced_calls += reply.usage.calls
        self._unpriceable = self._unpriceable or answered
        if not answered:  # cut off: it may have been paid for
            for unit, _, _ in _UNITS:
                self._assumed[unit] += kind.each(unit) or 0.0

    def _grow(self, reply: Reply) -> None:
        """Note by how much replies of the root LM become dearer from turn to turn."""
        for unit, used in used_of(reply):
            if self._last_root[unit]:
                self._growth[unit] = max(self._growth[unit], used - self._last_root[unit])
            self._last_root[unit] = used

    def _counting(self, in_root: bool) -> tuple[Ledger, ...]:
        return self._tree if in_root else self._tree[:-1]

    def _kind(self, call: Call) -> Kind:
        kind = self._kinds.get(call.kind)
        if kind is None:
            kind = self._kinds[call.kind] = Kind(call.expected(), max(1, call.size))
        return kind

    def _keeps_for_root(self, call: Call) -> bool:
        """Whether a call is no reply of this run's own root LM, and so must leave something for one."""
        return call.depth != self.depth or call.purpose != "root"

    def _left_for(self, unit: int, call: Call, *, cautious: bool = True) -> float | None:
        left = self.left(unit, cautious=cautious)
        if left is None or not self._keeps_for_root(call):
            return left
        return left - FINISH * self._dearest_root(unit)

    def _dearest_root(self, unit: int) -> float:
        return max(
            (kind.most[unit] for (_, purpose, depth), kind in self._kinds.items()
             if purpose == "root" and depth == self.depth), default=0.0,
        )  # fmt: skip
