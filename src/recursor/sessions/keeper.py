"""What stays between the questions of a session: its REPL, and what is known of the turns before.

One turn at a time. With a store each turn is recorded as one of the session, so that the REPL can be made again
from the record whenever it is not there: after a restart, when it was idle, when another process went on.
Turns run on the background loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

from recursor import assembly, background
from recursor.answers import answered
from recursor.asker import Asker
from recursor.context import Source
from recursor.errors import AtWork, ConfigError, RLMError, TrajectoryError
from recursor.governance import ask_about_hosts
from recursor.inputs import inputs
from recursor.ledger import Ledger
from recursor.limits import Limits
from recursor.protocols import Sink
from recursor.replay import Past
from recursor.run import Place
from recursor.schema import shape
from recursor.sessions import conversation
from recursor.sessions.conversation import Conversation, Exchange
from recursor.sessions.live import Live, Question, opened
from recursor.sessions.recall import STOPPED, Found, Recall, plain
from recursor.sessions.spent import Spent
from recursor.sinks import Digests, Fanout
from recursor.threads import in_thread
from recursor.tools import check_code
from recursor.trajectory.claim import claim
from recursor.trajectory.journal import StoreJournal
from recursor.trajectory.sessions import State, is_secret
from recursor.types import Completion

_inside: ContextVar[frozenset[str]] = ContextVar("sessions", default=frozenset())
"""The sessions of whose turns what runs here is a part."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks."""

    question: Any
    context: Any = None
    messages: Any = None
    schema: Any = None


class Keeper:
    """Keeps one session.

    Args:
        session: its id.
        recall: of what is recorded; None keeps it in this process alone.
        limits: of all turns together.
        idle: seconds after which a REPL that nobody asks is ended; None never ends it.

    Attributes:
        known: of the conversation, as of the last turn.
        last: the run of the last turn that began; empty before the first.
    """

    def __init__(self, session: str, recall: Recall | None, limits: Limits, idle: float | None) -> None:
        found = Found() if recall is None else recall.look()
        self.id = session
        self.limits = limits
        self.known = found.known
        self.last = found.last
        self._account = found.account
        self._recall = recall
        self._idle = idle
        self._timer: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._given: list[Source] = []
        """The contexts of all turns, where nothing is recorded."""
        self._held = _Held()
        weakref.finalize(self, _free, self._held).atexit = False

    def again(self, session: str) -> Keeper:
        """One for another session that is recorded, with the same settings. Blocks."""
        recall = None if self._recall is None else replace(self._recall, session=session)
        return Keeper(session, recall, self.limits, self._idle)

    @property
    def spent(self) -> Spent:
        """By all turns, those that were undone included."""
        return self._account.all

    @property
    def open(self) -> bool:
        """Whether there is a REPL now."""
        return self._held.live is not None

    # Turns --------------------------------------------------------------------------------------

    async def ask(self, asker: Asker, wanted: Wanted, watcher: Sink | None = None) -> Completion:
        """Answer the next question."""
        expected = shape(wanted.schema)
        ask_about_hosts(asker.engine.policy)
        text, sources = await in_thread(inputs, wanted.question, wanted.context, wanted.messages)
        async with self._turn():
            recall = self._recall
            asker = replace(asker, engine=await asker.engine.ready([*sources, *asker.values]))
            await self._catch_up()
            asker = self.spent.bounded(asker, self.limits, self.id)
            live = await self._ready(asker, sum(source.size for source in sources.values()))
            self.last = token_hex(16)
            self._account.begin(self._account.newest + 1)
            asked = Question(self._account.newest, self.last, text, sources, expected)
            if recall is None:
                return await self._run(asker, live, asked, Past(), watcher)
            given = {"context": wanted.context, "messages": wanted.messages}
            given = {name: value for name, value in given.items() if value is not None}
            if is_secret(wanted.context):
                self._recall = recall = recall.handing(asked.number, wanted.context)
            await in_thread(recall.record.begin, asked.number, asked.run_id, list(asker.engine.tools), given)
            keeping = asyncio.ensure_future(in_thread(recall.give, asked.run_id, given)) if given else None
            try:
                return await self._run(asker, live, asked, Past(), watcher)
            finally:
                if keeping is not None:
                    await asyncio.wait([keeping])

    async def resume(self, asker: Asker, schema: Any, watcher: Sink | None = None) -> Completion:
        """Go on with the last turn, which did not answer."""
        recall = self._recall
        if recall is None:
            raise ConfigError("resume needs the store that recorded the session: RLM(..., store=path)")
        async with self._turn():
            turns = await in_thread(recall.record.turns)
            if not turns:
                raise ConfigError(f"session {self.id!r} has no turn to go on with")
            turn = turns[-1]
            asker = replace(asker, engine=await asker.engine.ready(asker.values))
            await self._catch_up()
            asker = self._account.earlier.bounded(asker, self.limits, self.id)  # its own counts in its run
            journal = await in_thread(StoreJournal, recall.store, discard=StoreJournal.close)
            with journal:
                run = await in_thread(journal.root, turn.run_id)
                assembly.check_models(asker.engine.routes, run.model, run.sub_model)
                check_code(run.settings.get("code_tools", {}), asker.engine.tools)
                expected = shape(run.settings.get("schema") if schema is None else schema)
                if (done := answered(journal, run, expected, watcher)) is not None:
                    return done
                if self._held.live is not None and self._held.live.applied >= turn.number:
                    await self._drop()
                sources = await recall.sources(asker, turn, run)
                live = await self._ready(asker, 0, before=turn.number)
                told = run.settings.get("session", {}).get("told")
                asked = Question(turn.number, run.id, run.question, sources, expected, told)
                raised = asker.engine.limits.raised(run.settings.get("limits", {}))
                past = await in_thread(Past, journal, run.id, raised)
                await in_thread(recall.record.begin, turn.number, run.id, list(asker.engine.tools))
                return await self._run(asker, live, asked, past, watcher)

    async def branch(self, session: str, turns: int) -> None:
        """Begin another session with the first turns of this one."""
        if self._recall is None:
            raise ConfigError("a branch needs the store that recorded the session: RLM(..., store=path)")
        async with self._turn():
            await in_thread(self._recall.record.branch, session, turns)

    async def close(self) -> None:
        """End the REPL, when the turn that goes has ended."""
        self._closed = True
        async with self._lock:
            await self._drop()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Have the session to oneself."""
        if self.id in _inside.get():
            raise ConfigError(f"a turn of session {self.id!r} cannot wait for another turn of it")
        async with self._lock:
            if self._closed:
                raise ConfigError(f"session {self.id!r} is closed; with a store, session(id) goes on with it")
            with ExitStack() as stack:
                if self._recall is not None:
                    key = hashlib.blake2b(self.id.encode(), digest_size=16).hexdigest()
                    try:
                        stack.enter_context(claim(self._recall.store, key))
                    except AtWork:
                        raise AtWork(
                            f"session {self.id!r} is at work elsewhere: wait for the end of its turn"
                        ) from None
                token = _inside.set(_inside.get() | {self.id})
                try:
                    yield
                finally:
                    _inside.reset(token)
                    self._rest()

    async def _run(
        self, asker: Asker, live: Live, asked: Question, past: Past, watcher: Sink | None
    ) -> Completion:
        """Do a turn; leave the REPL as it left it, or as it was where the turn was stopped."""
        before = await live.copy()
        seen = Digests(asked.run_id)
        outcome: BaseException | Completion | None = None
        ledger, began = Ledger(asker.engine.limits, time.monotonic), False
        try:
            task, told = await live.task(asker, asked)
            began = True
            told |= {"id": self.id, "turn": asked.number}
            engine = asker.watched(watcher)
            settings = {**engine.settings, "session": told}
            engine = replace(engine, sink=Fanout([engine.sink, seen]), settings=settings)
            place = Place(asked.run_id, past=past, ledger=ledger)
            outcome = done = await asker.attended(asked.run_id, lambda: engine.complete(task, place))
            return await asker.covered(done, task.contexts)
        except BaseException as error:
            outcome = outcome or error
            raise
        finally:
            live.digests.update(seen.found)
            if began:
                self._account.begin(asked.number, Spent(ledger.usage, ledger.cost, ledger.duration))
            await background.to_the_end(self._end(live, before, asked, outcome if began else None))

    async def _end(self, live: Live, before: Live | None, asked: Question, outcome: Any) -> None:
        """Take up what came of a turn; None of one that did not begin, since it could not be given its context."""
        done = outcome if isinstance(outcome, Completion) else getattr(outcome, "completion", None)
        if isinstance(done, Completion):
            answer, ended = await in_thread(plain, done.answer), str(done.stop_reason)
        else:
            answer, ended = None, f"{type(outcome).__name__}: {outcome}"
        known = isinstance(done, Completion) or isinstance(outcome, RLMError)
        state: State = "kept" if known and ended.partition(":")[0] not in STOPPED else "undone"
        if self._recall is not None:
            with suppress(TrajectoryError):  # the answer is not lost with its record
                await in_thread(self._recall.record.end, asked.number, state)
        left: Live | None
        stays: Live | None
        if state == "kept":
            live.grow(Exchange(asked.number, asked.run_id, asked.text, answer, ended))
            if self._recall is None and "context" in asked.sources:
                self._given.append(asked.sources["context"])
            left, stays = before, live
        elif outcome is None:
            left, stays = (live, before) if before is not None else (None, live)
        else:
            left, stays = live, before
            if stays is not None:
                stays.conversation = stays.conversation.noted(conversation.UNDONE)
        if stays is not None:
            stays.applied = asked.number
            self.known = stays.conversation
        self._held.live = stays
        if left is not None:
            await left.repl.close()

    # The REPL -----------------------------------------------------------------------------------

    async def _ready(self, asker: Asker, size: int, before: int | None = None) -> Live:
        """The REPL, with all turns that are recorded in it.

        Args:
            size: bytes of contexts that are to come.
            before: the first turn that is to be left out.
        """
        recall, live = self._recall, self._held.live
        turns = [] if recall is None else await in_thread(recall.record.turns)
        if live is not None and (died := await live.died()):
            if recall is None:
                live.conversation = live.conversation.noted(f"Since the question before: {died}.")
            else:
                await self._drop()
        elif live is not None and recall is not None and not live.holds(size):
            await self._drop()
        live = self._held.live
        if live is None:
            past = self.known if recall is None else Conversation()
            live = await opened(asker, size, self._given, past)
        self._held.live = None  # until it is whole
        try:
            for turn in turns:
                self.last = turn.run_id
                if (
                    recall is not None
                    and live.applied < turn.number
                    and (before is None or turn.number < before)
                ):
                    live = await recall.apply(asker, live, turn)
        except BaseException:
            await live.repl.close()
            raise
        self._held.live, self.known = live, live.conversation
        return live

    async def _catch_up(self) -> None:
        """Count what other processes have had this session do."""
        if self._recall is not None:
            bounded = self.limits != Limits()  # else it can wait what another has made of the last turn
            first = self._account.newest + (not bounded)
            for number, spent in await in_thread(self._recall.since, first):
                self._account.begin(number, spent)

    async def _drop(self) -> None:
        """End the REPL; what it held is made again when it is needed."""
        live, self._held.live = self._held.live, None
        if live is not None:
            await live.repl.close()

    def _rest(self) -> None:
        """Have the REPL ended when nobody asks for a time."""
        if self._timer is not None:
            self._timer.cancel()
        if self._idle is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._idle, _expire, weakref.ref(self))

    async def expire(self) -> None:
        """End the REPL, unless a turn goes."""
        if not self._lock.locked():
            async with self._lock:
                await self._drop()


class _Held:
    """What is freed with a session that nobody closes."""

    live: Live | None = None


def _expire(keeper: weakref.ref[Keeper]) -> None:
    found = keeper()
    if found is not None:
        _tasks.add(task := asyncio.ensure_future(found.expire()))
        task.add_done_callback(_tasks.discard)


def _free(held: _Held) -> None:
    live = held.live
    if live is not None:
        asyncio.run_coroutine_threadsafe(live.repl.close(), background.loop())


_tasks: set[asyncio.Future[None]] = set()
"""What would be forgotten while it goes, were nobody to hold it."""
