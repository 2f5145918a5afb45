"""Many questions, a few at a time, under bounds that hold for all of them together.

Invariants: each question ends in exactly one `Outcome`, in the order in which they end; of a question that waits or
has ended nothing is held but some bytes; calls of all runs draw from one ledger, so that runs at once do not overshoot.

A batch that was cut off goes on from its store alone: what has an answer there gives it again, what has a record goes
on, and the rest is asked.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

from recursor import answers, background
from recursor.asker import Asker
from recursor.context import Source
from recursor.context.kept import keep
from recursor.errors import (
    AuthenticationError,
    ConfigError,
    IsolationUnavailable,
    LimitExceeded,
    ModelError,
    RLMError,
    TrajectoryError,
)
from recursor.governance import ask_about_hosts, check_prices
from recursor.ledger import Ledger
from recursor.limits import Limits
from recursor.questions import Asked, Outcome, Question, Shapes, asked, check, pooled, settings_of
from recursor.run import Place
from recursor.threads import in_thread
from recursor.types import Completion, StopReason, Usage

if TYPE_CHECKING:
    from recursor.trajectory.journal import StoreJournal

UNREAD = 64
"""Outcomes that wait for their reader before more questions are asked."""
TOGETHER = 256
"""Questions that are looked up at once in what is recorded."""
DOWN = 3
"""A provider is down when so many questions in a row, times those at once, failed of it after all retries."""
_FUTILE = (AuthenticationError, IsolationUnavailable)
"""What every other question would fail of, too."""
_BOUNDS = {
    StopReason.MAX_TIME: "max_time",
    StopReason.MAX_TOKENS: "max_tokens",
    StopReason.MAX_COST: "max_cost",
    StopReason.MAX_CALLS: "max_calls",
}
_NEW, _BEGUN, _ANSWERED = range(3)


Tell: TypeAlias = Callable[[Outcome], Awaitable[None]]
Results: TypeAlias = list[Completion | RLMError]
_Recorded: TypeAlias = tuple[int, Outcome | None, Usage, float | None]
"""What is to be done about a question, how it ended where it has an answer, and what it took."""


class Batch:
    """Answers questions.

    Args:
        asker: who does.
        total: of all together: of these only max_time, max_tokens, max_cost and max_calls count.
        context: what all questions share.
        schema: of all answers.
        store: where runs of a batch of that name may be recorded; None where there are none.
        name: tells batches apart.
        max_concurrency: questions at once.

    Raises:
        ConfigError: a bound or a schema is wrong.
    """

    def __init__(
        self,
        asker: Asker,
        *,
        total: Limits | None,
        context: Source | None,
        schema: Any,
        store: Path | None,
        name: str,
        max_concurrency: int,
    ) -> None:
        if isinstance(max_concurrency, bool) or not isinstance(max_concurrency, int) or max_concurrency < 1:
            raise ConfigError(
                f"max_concurrency must be a whole number of at least 1, not {max_concurrency!r}"
            )
        self._asker = asker
        self._pool = Ledger(pooled(total), time.monotonic)
        self._context = context
        self._store = store if store is not None and store.is_file() else None
        self._name = name
        self._max_concurrency = max_concurrency
        self._shapes = Shapes(schema)
        self._sources: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._over: RLMError | None = None
        """Why nothing more is asked."""
        self._in_a_row = 0
        """Questions that failed of the provider, since one did not."""

    async def work(self, questions: Iterable[str | Question], tell: Tell) -> None:
        """Answer all questions, and tell how each ended.

        Raises:
            ConfigError: one of a list of questions is wrong, or the context is not what it was; nothing was asked.
        """
        if isinstance(questions, Sequence):
            await in_thread(check, questions, self._shapes)
        feed = _Feed(await self._pending(questions, tell))
        workers = [asyncio.ensure_future(self._worker(feed, tell)) for _ in range(self._max_concurrency)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
        for failed in [worker.exception() for worker in workers if not worker.cancelled()]:
            if failed is not None:
                raise failed

    async def _worker(self, feed: _Feed, tell: Tell) -> None:
        while (item := await feed.next()) is not None:
            await tell(await self._outcome(item))

    async def _outcome(self, item: Asked) -> Outcome:
        index, question, run_id = item.index, item.question, item.run_id
        self._look()
        if self._over is not None:
            return Outcome(index, question, "", None, self._over, Usage(), 0.0, asked=False)
        ledger = Ledger(self._asker.engine.limits, time.monotonic, pool=self._pool)
        done: Completion | None = None
        failed: RLMError | None = None
        try:
            context, expected = await self._context_of(question), self._shapes.of(question)
            if item.begun:
                done = await answers.resume(self._asker, run_id, context, None, expected, ledger=ledger)
            else:
                at = Place(run_id, ledger=ledger)
                done = await answers.complete(self._asker, question.text, context, None, expected, at=at)
            self._note(done)
            self._in_a_row = 0
        except RLMError as error:
            failed = _bare(error)
            if isinstance(error, TrajectoryError) and error.completion is not None:  # nothing can be recorded
                done, self._over = error.completion, failed
            down = isinstance(error, ModelError) and error.retryable
            self._in_a_row = self._in_a_row + 1 if down else 0
            if isinstance(error, _FUTILE) or self._in_a_row >= DOWN * self._max_concurrency:
                self._over = failed
        return Outcome(index, question, run_id, done, failed, ledger.usage, ledger.cost)

    def _look(self) -> None:
        """Ask nothing more once a bound of the batch is reached."""
        try:
            self._pool.check()
        except LimitExceeded as reached:
            self._over = self._over or _bare(
                LimitExceeded(f"not asked: for the whole batch, {reached}", reached.reason)
            )

    def _note(self, done: Completion) -> None:
        """The same when what is left does not pay for a first call."""
        bound = _BOUNDS.get(done.stop_reason)
        if bound is None or done.usage.calls or getattr(self._pool.limits, bound) is None:
            return
        if getattr(self._asker.engine.limits, bound) != 0:
            said = f"not asked: what is left of {bound} for the whole batch does not pay for a question"
            self._over = self._over or LimitExceeded(said, done.stop_reason)

    async def _context_of(self, question: Question) -> Any:
        """What a run is given. Questions over one file that are asked at once share it."""
        context = question.context
        if context is None:
            return self._context
        if not isinstance(context, os.PathLike):
            return context
        key = os.fspath(context)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = await in_thread(keep, context)
        return source

    # What was asked before ----------------------------------------------------------------------

    def _asked(self, questions: Iterable[str | Question]) -> Iterator[Asked]:
        return asked(questions, self._shapes, self._name)

    async def _pending(self, questions: Iterable[str | Question], tell: Tell) -> Iterator[Asked]:
        """What is to be asked; what has an answer is told, and counted, before."""
        if self._store is None:
            return self._asked(questions)
        from recursor.trajectory.journal import StoreJournal  # noqa: PLC0415 - imports sqlite3

        if isinstance(questions, Iterator):
            questions = await in_thread(list, questions)
        journal = await in_thread(StoreJournal, self._store, discard=StoreJournal.close)
        states = bytearray()
        try:
            items = self._asked(questions)
            while found := await in_thread(self._recorded, journal, items):
                for state, outcome, usage, cost in found:
                    states.append(state)
                    self._pool.count_run(usage, cost)
                    if outcome is not None:
                        await tell(outcome)
        finally:
            journal.close()
        begun = (replace(item, begun=True) for item in self._asked(questions) if states[item.index] == _BEGUN)
        return chain(begun, (item for item in self._asked(questions) if states[item.index] == _NEW))

    def _recorded(self, journal: StoreJournal, items: Iterator[Asked]) -> list[_Recorded]:
        """What the store has of some questions. Blocks; call it in a thread."""
        found: list[_Recorded] = []
        for item in islice(items, TOGETHER):
            index, question, run_id = item.index, item.question, item.run_id
            if not journal.has(run_id):
                found.append((_NEW, None, Usage(), 0.0))
                continue
            if question.context is None:
                self._check_context(journal, run_id)
            done = journal.ended(run_id)
            if not isinstance(done, Completion) or done.stop_reason is not StopReason.ANSWERED:
                found.append((_BEGUN, None, *journal.spent(run_id)))
                continue
            outcome = Outcome(index, question, run_id, done, None, done.usage, done.cost, recorded=True)
            found.append((_ANSWERED, outcome, done.usage, done.cost))
        return found

    def _check_context(self, journal: StoreJournal, run_id: str) -> None:
        was = journal.context(run_id, "context")
        now = None if self._context is None else self._context.digest()
        if was is not None and was != now:
            raise ConfigError(f"batch {self._name} was given another context; it was {was}")


class _Feed:
    """Gives out questions one by one. They are taken in a thread: whoever makes them may take time."""

    def __init__(self, items: Iterator[Asked]) -> None:
        self._items = items
        self._lock = asyncio.Lock()

    async def next(self) -> Asked | None:
        """None when there are no more."""
        async with self._lock:
            return await in_thread(next, self._items, None)


async def made(
    asker: Asker, context: Any, *, schema: Any, total: Limits | None, max_concurrency: int, name: str | None
) -> Batch:
    """What answers questions; see `RLM.map`. Raises ConfigError."""
    engine = asker.engine
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigError(f"the name of a batch must be a text that is not empty, not {name!r}")
    if name is not None and asker.store is None:
        raise ConfigError("a name is for the store to find the batch by: RLM(..., store=path)")
    if pooled(total).max_cost is not None and engine.limits.max_cost is None:
        check_prices(engine.routes.models, strict=engine.policy is not None and engine.policy.strict)
    known = name or new_name()
    ask_about_hosts(engine.policy)
    engine = replace(engine, settings={**engine.settings, "batch": settings_of(known, total)})
    values = {key: await in_thread(keep, value) for key, value in asker.values.items()}
    return Batch(
        replace(asker, engine=engine, values=values), total=total, schema=schema, name=known,
        store=None if name is None else asker.store, max_concurrency=max_concurrency,
        context=None if context is None else await in_thread(keep, context),
    )  # fmt: skip


async def collected(batch: Batch, questions: Iterable[str | Question], *, return_exceptions: bool) -> Results:
    """The result of each question, in their order.

    Raises:
        RLMError: a question failed, unless errors are to be returned.
    """
    found: list[tuple[int, Completion | RLMError]] = []

    async def tell(outcome: Outcome) -> None:
        if outcome.completion is None and outcome.error is not None and not return_exceptions:
            raise outcome.error
        found.append((outcome.index, outcome.result))

    await batch.work(questions, tell)
    return [result for _, result in sorted(found, key=lambda each: each[0])]


async def streamed(
    make: Callable[[], Awaitable[Batch]], questions: Iterable[str | Question]
) -> AsyncGenerator[Outcome, None]:
    """Yield outcomes on the caller's event loop. Closing the iterator stops all runs."""
    here = asyncio.get_running_loop()
    queue: asyncio.Queue[Outcome | None] = asyncio.Queue()
    room = asyncio.Semaphore(UNREAD)

    async def tell(outcome: Outcome) -> None:
        await room.acquire()
        here.call_soon_threadsafe(queue.put_nowait, outcome)

    async def work() -> None:
        await (await make()).work(questions, tell)

    run = asyncio.ensure_future(background.arun(work))
    run.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (outcome := await queue.get()) is not None:
            yield outcome
            background.loop().call_soon_threadsafe(room.release)
    finally:
        run.cancel()
        await asyncio.wait([run])
    await run


def new_name() -> str:
    """A name that no batch has."""
    return token_hex(6)


def _bare(error: RLMError) -> RLMError:
    """The error without the frames that it came through, and what they hold."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
