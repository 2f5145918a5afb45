"""A REPL of a session, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recursor import governance
from recursor.asker import Asker
from recursor.context import AliasSource, Source, prepare
from recursor.errors import SandboxError, SubcallError
from recursor.loop import LOOK
from recursor.protocols import CopyableRepl
from recursor.sandboxes.repl import DIED_SINCE
from recursor.schema import ANYTHING, Shape
from recursor.sessions import conversation
from recursor.sessions.conversation import Conversation, Exchange
from recursor.task import Start, Task
from recursor.threads import in_thread
from recursor.types import ContextInfo, Output, Subcall

ROOM = 1 << 26
"""Bytes of contexts that the memory of a REPL leaves room for, at least."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one turn is asked."""

    number: int
    run_id: str
    text: str
    sources: Mapping[str, Source]
    """What comes with it, by name."""
    expected: Shape = ANYTHING
    told: str | None = None
    """What was said of the REPL when it was asked before; None says it anew."""


@dataclass(slots=True)
class Live:
    """A REPL, and what is in it."""

    repl: CopyableRepl
    room: int
    conversation: Conversation
    infos: dict[str, ContextInfo]
    """Of what the next question finds: the newest `context`, and the values of the RLM."""
    sources: dict[str, Source]
    digests: dict[str, str] = field(default_factory=dict)
    applied: int = 0
    """The number of the last turn that is in it."""
    altered: int = 0
    """The first turn that went otherwise when it was made again."""
    given: list[Source] = field(default_factory=list)
    """All that was loaded as `context`, oldest first."""
    _history: int = -1
    """How many turns `history` has."""
    _long: bool = False
    """Whether a question was loaded, being long."""

    def holds(self, size: int) -> bool:
        """Whether there is room for more bytes of contexts."""
        return size + sum(source.size for source in self.given) <= self.room

    def grow(self, exchange: Exchange) -> None:
        self.conversation = self.conversation.grown(exchange)
        self.altered = 0

    async def died(self) -> str:
        """How it has died since the last turn, and what of it is left; empty while it lives."""
        seen = await self.repl.execute("pass", _Nobody(), max_time=LOOK)
        notes = seen.notes if seen.notes and seen.notes[0].startswith(DIED_SINCE) else ()
        return "; ".join(notes) or seen.error or ""

    async def copy(self) -> Live | None:
        """A copy as it is now, to go back to; None where there is none, or nothing to lose."""
        if not self.repl.copyable or not (self.conversation.exchanges or self.given):
            return None
        try:
            repl = await self.repl.fork()
        except SandboxError:  # threads that code has left behind
            return None
        return replace(
            self, repl=repl, infos=dict(self.infos), sources=dict(self.sources), digests=dict(self.digests),
            given=list(self.given),
        )  # fmt: skip

    async def anew(self, asker: Asker) -> Live:
        """Another REPL with the contexts of this one, whose variables are lost."""
        await self.repl.close()
        made = await opened(asker, self.room, self.given, self.conversation)
        made.applied, made.digests, made.altered = self.applied, self.digests, self.altered
        return made

    async def give(self, source: Source) -> ContextInfo:
        """Load the next context."""
        name = self.conversation.next_context
        info = await self.repl.load(name, source)
        await self.repl.load("context", await in_thread(AliasSource, name, source))
        self.conversation = self.conversation.given(info)
        self.given.append(source)
        return replace(info, name="context")

    async def task(self, asker: Asker, asked: Question) -> tuple[Task, dict[str, Any]]:
        """Load what comes with a question; return the task, and what becomes known of it for the record."""
        own: dict[str, ContextInfo] = {}
        for name, source in asked.sources.items():
            if name == "context":
                self.infos["context"], self.sources["context"] = await self.give(source), source
                self.digests.pop("context", None)
            else:
                own[name] = await self.repl.load(name, source)
        if self._long and "question" not in own:
            await self.repl.load("question", await in_thread(prepare, asked.text))
        self._long = self._long or "question" in own
        if self._history != len(self.conversation.exchanges):
            await self.repl.load("history", await in_thread(prepare, self.conversation.history()))
            self._history = len(self.conversation.exchanges)
        fresh, record = "context" in asked.sources, dict[str, Any]()
        past = (
            self.conversation.noted(conversation.REBUILT.format(turn=self.altered))
            if self.altered
            else self.conversation
        )

        def told(variables: Output) -> str:
            record["told"] = past.told(variables, fresh=fresh) if asked.told is None else asked.told
            return str(record["told"])

        digests = {name: found for name, found in self.digests.items() if name in self.sources}
        start = Start(self.repl, {**own, **self.infos}, told, stays=True, digests=digests)
        contexts = {**{name: asked.sources[name] for name in own}, **self.sources}
        return replace(asker.task(asked.text, contexts, asked.expected), start=start), record


class _Nobody:
    """Answers no sub-call: of a look at a REPL."""

    async def answer(self, subcall: Subcall) -> Any:
        raise SubcallError(f"nothing is to be asked now, not even {type(subcall).__name__}")


async def opened(asker: Asker, size: int, given: Sequence[Source], known: Conversation) -> Live:
    """Open a REPL for a session.

    Args:
        size: bytes of contexts that are to come.
        given: contexts of earlier turns, to be loaded again.
        known: the conversation that they are of; its variables are lost.

    Raises:
        SandboxError: there is none, or none that can stay.
    """
    engine = asker.engine
    room = max(ROOM, 2 * (size + sum(source.size for source in given)))
    governance.ask_about_hosts(engine.policy)
    values = await in_thread(lambda: {name: prepare(value) for name, value in asker.values.items()})
    repl = await engine.sandbox.open(tools=list(engine.tools), context_size=room, calls=engine.dialect.calls)
    try:
        if not isinstance(repl, CopyableRepl):
            raise SandboxError(
                "the REPLs of this sandbox serve one run: a session needs one that can serve several"
            )
        governance.demand(engine.policy, repl.isolation)
        infos = {name: await repl.load(name, source) for name, source in values.items()}
        empty = Conversation(known.exchanges, (), known.notes)
        live = Live(repl, room, empty, infos, dict(values))
        for source in given:
            live.infos["context"], live.sources["context"] = await live.give(source), source
        if known.exchanges:
            live.conversation = live.conversation.noted(conversation.LOST)
        return live
    except BaseException:
        await repl.close()
        raise
