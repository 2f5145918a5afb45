"""How many calls are out at once at one endpoint, and how many go to it in a minute.

A `Gate` stands before an endpoint. Its width is found as TCP finds its window (RFC 5681), with calls
for packets: it doubles per round trip until the endpoint refuses for the first time, then grows by
about one per round trip, and shrinks at most once per round trip when a call is refused. What was
sent before the width last shrank says nothing of the new width, and is not heard. A refused call's
place stays shut for about as long as an answer takes, so that an endpoint that is down is not
hammered; `Retry-After` shuts the whole gate.

Invariants: calls go in the order in which they came; a place is held only while its request is out,
never while a call waits to be made again; however a call ends, it gives its place back once.

A gate lives in one event loop and is not thread-safe. What a whole process may have out is
`recursor.models.bound`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from recursor.errors import ConfigError, ModelError
from recursor.models.around import Around
from recursor.models.bound import IN_FLIGHT, Bound
from recursor.protocols import Model
from recursor.types import Message, Reply, Schema

FIRST_WIDTH = 64
"""Calls that go to an endpoint at once before the first one was answered."""
LONGEST_PAUSE = 60.0
"""Seconds. Who asks for more is not waited for: calls fail with what it says."""

_CROWDED = frozenset({429, 503, 529})
_CUT, _HALF = 0.8, 0.5
_GATES = 1_000
_FIRST_REST, _LONGEST_REST = 0.1, 2.0
"""Seconds that a refused call's place stays shut: before any answer came, and at most."""

_Ticket: TypeAlias = tuple[int, float]
"""The gate's epoch and time when a call went out."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What may be sent to an endpoint. None is no bound.

    Attributes:
        max_concurrency: calls that are out at once.
        requests_per_minute: evenly spread; a second's worth may go at once.
        tokens_per_minute: of input and output, estimated before a call and put right after it.

    Raises:
        ConfigError: a bound that is no positive number.
    """

    max_concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            whole = name == "max_concurrency"
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if value is not None and not (right and (1 if whole else 0) <= value < math.inf and value):
                expected = "a whole number of at least 1" if whole else "a number above 0"
                raise ConfigError(f"{name} must be {expected}, not {value!r}")


class Bucket:
    """A token bucket: so much per minute, of which a second's worth may be saved up.

    In any time, what is taken is at most what flows in meanwhile, and a second's worth or the
    largest single amount, whichever is more.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60
        self._most = max(1.0, self._rate)
        self._level = self._most
        self._filled = now

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until an amount may be taken. One above what is ever saved runs into debt."""
        self._level = min(self._most, self._level + (now - self._filled) * self._rate)
        self._filled = now
        missing = min(amount, self._most) - self._level
        return missing / self._rate if missing > 1e-6 * self._most else 0.0

    def take(self, amount: float) -> None:
        """Take an amount, or with a negative one give it back."""
        self._level -= amount


class Gate:
    """What stands before one endpoint, in one event loop."""

    def __init__(self, rates: Rates, loop: asyncio.AbstractEventLoop, bound: Bound = IN_FLIGHT) -> None:
        self.loop = loop
        self.out = 0
        """Calls that are out, or wait for a place in the process only."""
        self.width: float = rates.max_concurrency or min(FIRST_WIDTH, bound.limit)
        self._explicit = rates.max_concurrency
        self._bound = bound
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._called = 0
        """Calls that may come in and have not yet: nobody overtakes them."""
        self._calm = math.inf
        """Width below which it doubles per round trip."""
        self._epoch = 0
        """How often the width shrank."""
        self._proven = False
        """Whether a call of this epoch was answered."""
        self._round: float | None = None
        """Seconds that an answer takes, on average."""
        self._shut = 0
        """Places that rest."""
        self._opens = -math.inf
        """When a pause ends that the endpoint asked for."""
        now = loop.time()
        per_minute = rates.requests_per_minute, rates.tokens_per_minute
        self._requests, self._tokens = (None if each is None else Bucket(each, now) for each in per_minute)
        self._timed = self._requests is not None or self._tokens is not None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody is inside, nor before it."""
        return not self.out and not self._waiting

    async def enter(self, tokens: float = 0.0) -> _Ticket:
        """Wait until a call may go out. Then `answered`, `refused` or `leave` has to follow."""
        if self._waiting or self._called or not self._admit(tokens):
            await self._queue(tokens)
        if not self._bound.take():
            try:
                await self._bound.wait()
            except BaseException:
                self._release()
                raise
        return self._epoch, self.loop.time()

    def answered(self, ticket: _Ticket) -> None:
        """Leave after an answer."""
        epoch, began = ticket
        took = self.loop.time() - began
        self._round = took if self._round is None else self._round + (took - self._round) / 8
        if epoch == self._epoch:
            self._proven = True
            most = self._explicit or self._bound.limit
            if self.width < most and 2 * self.out > self.width:  # a width that is not used proves nothing
                # A hundredth where one per round trip would take hours; less than one where one is much.
                step = 1.0 if self.width < self._calm else min(0.03, max(1 / self.width, 0.01))
                self.width = min(self.width + step, most)
        self.leave()

    def refused(self, ticket: _Ticket, retry_after: float | None) -> None:
        """Leave after the endpoint said that it has too much to do."""
        if ticket[0] == self._epoch:
            # Without an answer it is much too wide, or the endpoint is down: then it doubles again, later,
            # up to where it was crowded while there were answers.
            self.width = max(1.0, self.width * (_CUT if self._proven else _HALF))
            if self._proven:
                self._calm = self.width
            self._epoch += 1
            self._proven = False
        if not (retry_after and retry_after > 0):
            self._shut += 1
            self.loop.call_later(min(self._round or _FIRST_REST, _LONGEST_REST), self._reopen)
        elif retry_after <= LONGEST_PAUSE:
            self._opens = max(self._opens, self.loop.time() + retry_after)
            self._timed = True
        self.leave()

    def leave(self) -> None:
        """Leave after anything else, which says nothing of the width."""
        self._bound.leave()
        self._release()

    def correct(self, tokens: float) -> None:
        """Take what a call used beyond its estimate, or give back what it did not use."""
        if self._tokens is not None:
            self._tokens.take(tokens)
            self._pump()

    async def _queue(self, tokens: float) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append((future, tokens))
        self._pump()
        try:
            if future.done():  # behind those who were called before
                await asyncio.sleep(0)
            await future
        except BaseException:
            if not self.loop.is_closed():
                if future.cancel() or future.cancelled():
                    self._pump()  # it may have stood before others
                else:
                    self._called -= 1
                    self._release()
            raise
        self._called -= 1

    def _release(self) -> None:
        self.out -= 1
        if self._waiting:
            self._pump()

    def _reopen(self) -> None:
        self._shut -= 1
        self._pump()

    def _pump(self) -> None:
        """Let in who may come in. Nobody may when the loop is closed: those who wait are being thrown away."""
        waiting = self._waiting
        if self.loop.is_closed():
            return
        while waiting:
            future, tokens = waiting[0]
            if not future.done():
                if not self._admit(tokens):
                    return
                future.set_result(None)
                self._called += 1
            waiting.popleft()

    def _admit(self, tokens: float) -> bool:
        if self.out + self._shut + 1 > self.width:
            return False
        if self._timed and not self._pay(tokens):
            return False
        self.out += 1
        return True

    def _pay(self, tokens: float) -> bool:
        """Take a call from the buckets; if it has to wait for that, come back when it is time."""
        now = self.loop.time()
        wait = self._opens - now
        if self._requests is not None:
            wait = max(wait, self._requests.wait(1.0, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(tokens, now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait > 0.0:
            self._timer = self.loop.call_later(wait, self._pump)
            return False
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(tokens)
        self._timed = self._requests is not None or self._tokens is not None
        return True


_gates: dict[asyncio.AbstractEventLoop, dict[Hashable, Gate]] = {}


def gate_of(endpoint: Hashable, rates: Rates) -> Gate:
    """Return the running loop's gate of an endpoint."""
    loop = asyncio.get_running_loop()
    gates = _gates.get(loop)
    if gates is None:
        for old in [known for known in list(_gates) if known.is_closed()]:
            _gates.pop(old, None)
        gates = _gates[loop] = {}
    gate = gates.get((endpoint, rates))
    if gate is None:
        if len(gates) >= _GATES:
            for key in [key for key, old in gates.items() if old.idle]:
                del gates[key]
        gate = gates[endpoint, rates] = Gate(rates, loop)
    return gate


class Gated(Around):
    """A model whose calls pass a gate."""

    def __init__(
        self,
        model: Model,
        rates: Rates = Rates(),
        *,
        endpoint: Hashable = None,
    ) -> None:
        """Put a gate before a model.

        Args:
            endpoint: models with the same one, and the same rates, share a gate. None shares with nobody.
        """
        super().__init__(model)
        self._rates = rates
        self._endpoint = object() if endpoint is None else endpoint
        self._gate: Gate | None = None
        self._size = _Size() if rates.tokens_per_minute is not None else None

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt; see `recursor.protocols.Model`."""
        gate = self._gate
        if gate is None or gate.loop is not asyncio.get_running_loop():
            gate = self._gate = gate_of(self._endpoint, self._rates)
        size = self._size
        characters = sum(each.size for each in messages) if size is not None else 0
        tokens = size.estimate(characters) if size is not None else 0.0
        ticket = await gate.enter(tokens)
        try:
            reply = await self.model.query(messages, schema=schema, on_text=on_text)
        except ModelError as error:
            if error.retryable and error.status in _CROWDED:
                gate.refused(ticket, error.retry_after)
            else:
                gate.leave()
            raise
        except BaseException:
            gate.leave()
            raise
        gate.answered(ticket)
        if size is not None and reply.usage.total_tokens > 0:
            gate.correct(reply.usage.total_tokens - tokens)
            size.learn(characters, reply)
        return reply


class _Size:
    """How many tokens a call will use: learned from those that were answered."""

    def __init__(self) -> None:
        self._per_character = 0.25
        self._output = 256.0

    def estimate(self, characters: int) -> float:
        return characters * self._per_character + self._output

    def learn(self, characters: int, reply: Reply) -> None:
        usage = reply.usage
        if characters:
            self._per_character += (usage.input_tokens / characters - self._per_character) / 8
        self._output += (usage.output_tokens - self._output) / 8
