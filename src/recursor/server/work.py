"""A run for a client: it goes while somebody follows it, and waits where code calls a function of the client.

Closing it stops the run. What was admitted for it is given back when it has ended, however it does.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeAlias

from recursor.errors import AtWork, ConfigError, RLMError, RunStopped, TrajectoryError
from recursor.rlm import RLM
from recursor.server.accounts import Place
from recursor.server.asked import Asked
from recursor.server.failures import of_error
from recursor.server.functions import Call, Function, tools_of
from recursor.server.metrics import Metrics
from recursor.sessions.session import Session
from recursor.types import Completion, Event, ModelCalled, RunEnded, RunStarted, StopReason, Usage

SILENCE = 15.0
"""Seconds without a word after which a stream says that it is alive."""
GATHER = 0.1
"""Seconds in which calls that code makes at once come together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reply to the client says: the answer, or what the client has to do first."""

    id: str
    usage: Usage
    """Of the whole tree of runs, since the reply before."""
    completion: Completion | None = None
    """None while the run waits for what `calls` return."""
    calls: tuple[Call, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether the run goes on when the client has done its calls."""
        return self.completion is None and bool(self.calls)

    @property
    def answered(self) -> bool:
        return self.completion is not None and self.completion.stop_reason is StopReason.ANSWERED


class Tally:
    """A sink that sums up what model calls used and cost. It sees those, too, that end after nobody reads any more."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.cost = 0.0

    def emit(self, event: Event) -> None:
        if isinstance(event, ModelCalled) and event.reply is not None and not event.reply.cached:
            self.usage += event.reply.usage
            self.cost += event.reply.cost or 0.0

    async def flush(self) -> None:
        """Sums wait in memory."""


class _Ended:
    """The last that a run says."""


_Item: TypeAlias = Event | Call | _Ended


class Work:
    """One run.

    Args:
        place: what it may use; closed with the run.

    Attributes:
        run_id: empty until it has begun.
        asked: there until it has ended.
        replies: that have told of it.
    """

    def __init__(self, rlm: RLM | Session, asked: Asked, place: Place, metrics: Metrics) -> None:
        self.run_id = ""
        self.model = asked.model
        self.place = place
        self.choice = asked.choice
        self._parallel = asked.terms.parallel
        self._resumes = bool(asked.resume)
        self.replies = asked.replies or 0
        self.asked = asked
        self._brought = list(asked.brought)
        self._whole = not asked.resume or asked.replies == 0
        self._metrics = metrics
        self._here = asyncio.get_running_loop()
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._tally = Tally()
        self._told = Usage()
        self._completion: Completion | None = None
        self._error: RLMError | None = None
        self._calls: tuple[Call, ...] = ()
        tools = tools_of(asked.choice.functions, rlm.tools, self._ask)
        self._rlm = rlm.with_changes(
            limits=place.limits, instruction=asked.instruction, tools=tools, sinks=[self._tally]
        )
        self._task = asyncio.ensure_future(self._go())

    async def told(self) -> AsyncGenerator[Event | None, None]:
        """What happens until the client has something to do, or the run has ended; None when nothing did for a time.

        Raises:
            ApiError: the run failed.
        """
        calls: list[Call] = []
        until = SILENCE
        while True:
            try:
                async with asyncio.timeout(until):  # wait_for may swallow a cancellation (Python 3.11)
                    item = await self._queue.get()
            except TimeoutError:
                if calls:
                    self._calls = tuple(calls)
                    return
                yield None
                continue
            match item:
                case Call():
                    calls.append(item)
                    if not self._parallel:
                        self._calls = (item,)
                        return
                    until = GATHER
                case _Ended():
                    if self._completion is None and self._error is not None:
                        raise of_error(self._error, self.run_id) from self._error
                    return
                case event:
                    yield event

    def outcome(self) -> Outcome:
        """What to reply, when nothing more is told."""
        reply_id = self.reply_id
        self.replies += 1
        done, calls = self._completion, self._calls
        used = done.usage if done is not None and self._whole else self._tally.usage
        since = less(used, self._told)
        self._told, self._calls = used, ()
        if done is not None:
            forced = self.choice.forced and done.stop_reason is StopReason.ANSWERED
            calls = (self.choice.call(done.answer),) if forced else ()
        return Outcome(reply_id, since, done, calls)

    @property
    def reply_id(self) -> str:
        """Names the next reply."""
        return f"{self.run_id}-{self.replies + 1}" if self.replies else self.run_id

    def bring(self, results: Mapping[str, str]) -> None:
        """Have code go on with what its calls returned, by their ids."""
        for call_id, text in results.items():
            future = self._waiting.get(call_id)
            if future is not None:
                future.get_loop().call_soon_threadsafe(_settle, future, text)

    def ended(self, tell: Callable[[Work], object]) -> None:
        """Have it told when it has ended."""
        self._task.add_done_callback(lambda _: tell(self))

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.wait([self._task])

    async def close(self) -> None:
        """Stop it, where it goes on; return when nothing is left of it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _go(self) -> None:
        began = time.monotonic()
        outcome = "stopped"
        try:
            events = self._events()
            async with aclosing(events):
                async for event in events:
                    self._follow(event)
            outcome = "failed" if self._completion is None else str(self._completion.stop_reason)
        except TrajectoryError as error:  # the answer is not lost with its record
            asked_for = self._resumes and not self.run_id and not isinstance(error, AtWork)
            self._error, outcome = ConfigError(str(error)) if asked_for else error, "failed"
            self._completion = error.completion
        except RLMError as error:
            self._error, outcome = error, "failed"
        except RecursionError:
            self._error, outcome = ConfigError("the messages are nested too deep"), "failed"
        except asyncio.CancelledError:
            self._error = RunStopped(f"the run was stopped; what it did is recorded as {self.run_id}")
            raise
        finally:
            self.place.spent(self._cost())
            self.place.close()
            self._metrics.ran(
                self.place.name, outcome, time.monotonic() - began, self._tally.usage, self._cost()
            )
            self._queue.put_nowait(_Ended())
            del self._rlm, self.asked  # messages may be large, and tools refer back to here

    def _events(self) -> AsyncGenerator[Event, None]:
        asked, rlm = self.asked, self._rlm
        messages, expected = asked.messages, asked.expected
        if not asked.resume:
            return rlm.stream(None, asked.context, messages=messages, schema=expected)
        if isinstance(rlm, Session):  # which has what it was given, too
            return rlm.stream(resume=True, schema=expected)
        return rlm.stream(None, asked.context, messages=messages, schema=expected, resume=asked.resume)

    def _follow(self, event: Event) -> None:
        if isinstance(event, RunStarted) and not self.run_id:
            self.run_id = event.run_id
            self.place.began(event.run_id)
        if isinstance(event, RunEnded) and event.run_id == self.run_id:
            self._completion = event.completion
        if isinstance(event, ModelCalled):
            self.place.spent(self._tally.cost)
        self._queue.put_nowait(event)

    def _cost(self) -> float:
        """US dollars; not those that a run had cost before it was resumed."""
        done = None if self._resumes else self._completion
        return max(self._tally.cost, (done.cost if done is not None else None) or 0.0)

    async def _ask(self, function: Function, arguments: str) -> str:
        """Called by code, on the loop of the runs."""
        for each in self._brought:
            if (each.namespace, each.name, each.arguments) == (function.namespace, function.name, arguments):
                self._brought.remove(each)
                return each.result
        call = Call(f"call_{uuid.uuid4().hex}", function, arguments)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[call.id] = future
        try:
            self._here.call_soon_threadsafe(self._queue.put_nowait, call)
            return await future
        finally:
            del self._waiting[call.id]


def less(one: Usage, two: Usage) -> Usage:
    """What the first has beyond the second."""
    names = Usage.__dataclass_fields__
    return replace(one, **{name: max(0, getattr(one, name) - getattr(two, name)) for name in names})


def _settle(future: asyncio.Future[str], text: str) -> None:
    if not future.done():
        future.set_result(text)
