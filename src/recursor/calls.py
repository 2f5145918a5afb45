"""One run's model calls: replayed, admitted, retried, counted and recorded around a `Model`.

Invariants: a reply is recorded and flushed before it is used; what was sent is settled in the ledger
exactly once; a call whose reply a journal holds is not made again.

A call's id is a digest of the run's id, the turn, the model's name and what it is asked, and how many
the same were made in that turn before. Children's ids are made alike, so an id stands for a place in the
tree of runs, and the order in which calls at once happen to be answered does not matter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from recursor.errors import LimitExceeded, ModelError, RLMError
from recursor.estimates import Call
from recursor.ledger import Ledger, Reservation
from recursor.models.retry import Retries, RetryBudget, Retrying
from recursor.protocols import Cache, Model, Sink
from recursor.replay import Replay
from recursor.threads import in_thread
from recursor.types import (
    IMAGE_SIZE,
    CallRefused,
    CallRetried,
    Message,
    ModelCalled,
    Purpose,
    Reply,
    ReplyText,
    Schema,
    StopReason,
    SubcallStarted,
    Usage,
)

ASIDE = 1 << 18
"""Bytes of pictures from which their digests are made in a thread."""
MOST_TOKENS = 1 << 53
"""No reply is counted with more of any kind."""
_COUNTS = attrgetter(*(each.name for each in fields(Usage)))
"""All counts of a usage: `asdict` copies them one by one, which takes as long as all the rest of a call."""


class Occurrences:
    """Numbers equal requests of one turn: the first is 0."""

    def __init__(self) -> None:
        self._turn = -1
        self._seen: dict[int, int] = {}

    def next(self, turn: int, digest: bytes) -> int:
        if turn != self._turn:
            self._turn, self._seen = turn, {}
        key = int.from_bytes(digest[:8])
        number = self._seen.get(key, 0)
        self._seen[key] = number + 1
        return number


class Memory:
    """Takes replies from a cache, for one tree of runs.

    The n-th time that the tree asks the same, it gets the n-th reply that was ever recorded for
    that, and asks when there are fewer: several samples of one prompt stay several samples.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._asked: dict[str, int] = {}

    def reply(self, request: str) -> Reply | None:
        number = self._asked.get(request, 0)
        self.skip(request)
        return self._cache.reply(request, number)

    def skip(self, request: str, count: int = 1) -> None:
        """Note replies that the tree got from elsewhere: by its own record."""
        self._asked[request] = self._asked.get(request, 0) + count


def digest(*parts: str | bytes) -> bytes:
    """A digest of parts, in order."""
    pieces: list[bytes] = []
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        pieces += (b"%d:" % len(data), data)
    return hashlib.blake2b(b"".join(pieces), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """A run, as far as its model calls are concerned."""

    run_id: str
    ledger: Ledger
    replay: Replay
    sink: Sink
    stream: bool = False
    """Whether the root LM's replies are asked for and emitted piece by piece."""
    memory: Memory | None = None
    """Replies of other runs that may be taken; None asks for each."""
    retries: Retries = field(default_factory=Retries)
    budget: RetryBudget | None = None
    """Retries of the whole tree; None is no bound."""
    _occurrences: Occurrences = field(default_factory=Occurrences)

    def refused(self, call_id: str, refusal: LimitExceeded) -> None:
        """Record that a limit did not allow a call."""
        event = CallRefused(
            self.run_id, call_id, self.ledger.turns, str(refusal), str(refusal.reason), time.time()
        )
        self.sink.emit(event)

    def place(self, request: bytes) -> str:
        """The id of a call or child that makes a request now: a place in the tree of runs."""
        turn = self.ledger.turns
        number = self._occurrences.next(turn, request)
        return digest(self.run_id, b"%d %d" % (turn, number), request).hex()


@dataclass(frozen=True, slots=True)
class Metered:
    """A `Model` whose calls are replayed, admitted, retried, counted and recorded, for one run and purpose."""

    model: Model
    caller: Caller
    purpose: Purpose

    @property
    def name(self) -> str:
        return self.model.name

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        caller, turn = self.caller, self.caller.ledger.turns
        images = [image for message in messages for image in message.images]
        large = images and sum(map(len, images)) > ASIDE
        content = await in_thread(_content, messages, schema) if large else _content(messages, schema)
        named = digest(self.name, content)
        identity = getattr(self.model, "identity", None) or self.name
        request = named if identity == self.name else digest(identity, content)
        size = sum(len(message.content) for message in messages) + IMAGE_SIZE * len(images)
        call = Call(self.name, self.purpose, caller.ledger.depth, size, getattr(self.model, "price", None))
        block = caller.ledger.blocks if self.purpose == "sub" else 0
        place = caller.place(named)
        asked = _Asked(call, caller.run_id, place, turn, block, request.hex())
        if on_text is None and self.purpose == "root" and caller.stream:
            on_text = lambda text: caller.sink.emit(ReplyText(caller.run_id, turn, text))  # noqa: E731
        recorded = caller.replay.reply(asked.call_id, call, turn)
        if isinstance(recorded, RLMError):
            raise recorded
        if recorded is None:
            recorded = await self._cached(messages, asked)
        elif caller.memory:
            caller.memory.skip(asked.request)
        if recorded is None:
            return await self._ask(messages, schema, on_text, asked)
        if on_text is not None:
            on_text(recorded.text)
        return recorded

    async def _cached(self, messages: Sequence[Message], asked: _Asked) -> Reply | None:
        """A reply that another run paid for."""
        found = self.caller.memory.reply(asked.request) if self.caller.memory else None
        if found is None:
            return None
        asked.begin()
        self.caller.sink.emit(asked.called(self, messages, found, None))
        await self.caller.sink.flush()
        return found

    async def _ask(
        self,
        messages: Sequence[Message],
        schema: Schema | None,
        on_text: Callable[[str], None] | None,
        asked: _Asked,
    ) -> Reply:
        ledger, sink = self.caller.ledger, self.caller.sink
        try:
            reservation = await admitted(ledger, asked.call)
        except LimitExceeded as refusal:
            if self.purpose == "sub":
                self.caller.refused(asked.call_id, refusal)
            raise
        asked.begin()
        reply: Reply | None = None
        error, cut = "cancelled", True  # it may have been paid for
        try:
            if self.purpose == "sub":
                sink.emit(SubcallStarted(asked.run_id, asked.call_id, asked.turn, self.name))
            left = ledger.time_left()
            async with nullcontext() if left is None else asyncio.timeout(left) as bound:
                reply = _sound(await self._retrying(asked).query(messages, schema=schema, on_text=on_text))
        except TimeoutError as failure:
            if bound is not None and bound.expired():
                error = "the time of the run was up"
                raise LimitExceeded("the time is up", StopReason.MAX_TIME) from None
            error = str(failure) or "timed out"
            raise ModelError(f"{self.name}: {error}", retryable=True) from failure
        except ModelError as failure:
            error, cut = str(failure), False
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as failure:  # from a model's own code
            error = f"{type(failure).__name__}: {failure}"
            raise ModelError(f"{self.name}: {error}") from failure
        finally:
            unanswered = Reply("", Usage(calls=1), cost=None if cut else 0.0)
            settle(reservation, unanswered if reply is None else reply, asked.seconds)
            error_text = None if reply is not None else error
            sink.emit(asked.called(self, messages, reply, error_text, cut=cut and reply is None))
        await sink.flush()
        return reply

    def _retrying(self, asked: _Asked) -> Model:
        caller = self.caller

        def on_retry(attempt: int, error: ModelError, wait: float) -> None:
            caller.ledger.count_attempt()
            caller.sink.emit(
                CallRetried(
                    asked.run_id, asked.call_id, asked.turn, self.name, attempt, str(error), wait, time.time()
                )
            )

        return Retrying(
            self.model,
            caller.retries,
            budget=caller.budget,
            on_retry=on_retry,
            time_left=caller.ledger.time_left,
        )


def _content(messages: Sequence[Message], schema: Schema | None) -> bytes:
    """A digest of all that a model is asked: what a reply depends on beside the model."""
    wanted = "" if schema is None else json.dumps(schema, sort_keys=True, default=repr)
    parts: list[str | bytes] = [wanted]
    for message in messages:
        parts += (message.role, message.content)
        for image in message.images:  # what begins so is no role: no other prompt has the same parts
            parts += (b"image", digest(image))
    return digest(*parts)


def _sound(reply: Reply) -> Reply:
    """The reply, without figures that would make a sum worthless: they come from whatever a provider sends."""
    counts = _COUNTS(reply.usage)
    if {*map(type, counts)} != {int} or min(counts) < 0 or max(counts) > MOST_TOKENS:
        known = {name: count for name, count in asdict(reply.usage).items() if isinstance(count, int)}
        usage = Usage(**{name: min(max(0, int(count)), MOST_TOKENS) for name, count in known.items()})
        reply = replace(reply, usage=usage)
    if reply.cost is not None and not 0 <= reply.cost < math.inf:  # NaN is neither
        reply = replace(reply, cost=None)
    return reply


@dataclass(slots=True)
class _Asked:
    """A call on its way."""

    call: Call
    run_id: str
    call_id: str
    turn: int
    block: int
    request: str
    began: float = 0.0
    _started: float = 0.0

    def called(
        self,
        by: Metered,
        messages: Sequence[Message],
        reply: Reply | None,
        error: str | None,
        cut: bool = False,
    ) -> ModelCalled:
        return ModelCalled(
            self.run_id, self.call_id, self.turn, by.purpose, by.name, tuple(messages), reply, error, self.began,
            self.seconds, cut, self.request, self.block,
        )  # fmt: skip

    def begin(self) -> None:
        self.began, self._started = time.time(), time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


async def admitted(ledger: Ledger, call: Call) -> Reservation:
    """Wait until a call is admitted. Raises LimitExceeded when it cannot be, or the time is up."""
    found = ledger.admit(call)
    first = True
    while not isinstance(found, Reservation):
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = found.waiting
        queue.append(waiter) if first else queue.appendleft(waiter)
        try:
            async with asyncio.timeout(ledger.time_left()):
                await waiter
            before, found = found, ledger.admit(call)
        except TimeoutError:
            _forget(queue, waiter)
            raise LimitExceeded("the time is up", StopReason.MAX_TIME) from None
        except BaseException:
            _forget(queue, waiter)
            raise
        first = found is not before
        if first:
            _wake(before.waiting)  # this one leaves it, and the next may fit too
    return found


def settle(reservation: Reservation, reply: Reply, seconds: float) -> None:
    """Count a call, and wake who waited for it."""
    for ledger in reservation.settle(reply, seconds):
        _wake(ledger.waiting)


def _wake(queue: deque[Any]) -> None:
    while queue:
        waiter: asyncio.Future[None] = queue.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _forget(queue: deque[Any], waiter: asyncio.Future[None]) -> None:
    """Take a waiter out; one that was woken and does not go on wakes the next."""
    if waiter in queue:
        queue.remove(waiter)
    else:
        _wake(queue)
