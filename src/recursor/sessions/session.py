"""`Session`: a conversation whose REPL lives on from question to question."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

from recursor import background, streaming
from recursor.asker import Asker
from recursor.errors import ConfigError
from recursor.limits import SHARED, Limits
from recursor.offered import ToolSource
from recursor.protocols import Sink
from recursor.sessions.keeper import Keeper, Wanted
from recursor.sessions.recall import Recall
from recursor.threads import in_thread
from recursor.tools import AnyTool
from recursor.types import Completion, Event, Usage

MAX_ID = 200


class Session:
    """Questions that share a REPL: made by `RLM.session`.

    Each is a run of its own, with limits of its own. In the REPL are the variables of the turns before;
    `history`, a list of the questions and answers before; `context`, the newest that was given, and `context_0`,
    `context_1`, ..., all that were, oldest first; `answer` begins anew.

    Questions that are asked at once are answered one after the other. A turn that fails, or that a limit
    ends, leaves what it has done to variables; one that is cancelled, or whose sandbox fails, is undone.
    May be used from any thread and any event loop, and as a context manager, sync and async.
    """

    def __init__(self, asker: Asker, keeper: Keeper) -> None:
        self._asker = asker
        self._keeper = keeper

    @property
    def id(self) -> str:
        """What `RLM.session(id)` goes on with, in this process or another."""
        return self._keeper.id

    @property
    def history(self) -> list[dict[str, Any]]:
        """Questions and answers so far, oldest first, as the REPL has them."""
        return self._keeper.known.history()

    @property
    def run_ids(self) -> list[str]:
        """The runs of these, in the same order."""
        return [exchange.run_id for exchange in self._keeper.known.exchanges]

    @property
    def last_run_id(self) -> str:
        """The run of the last turn that began, which `resume` goes on with; empty before the first."""
        return self._keeper.last

    @property
    def usage(self) -> Usage:
        """Of all turns, those that were undone included."""
        return self._keeper.spent.usage

    @property
    def cost(self) -> float | None:
        """US dollars, of all turns; None when the price of a call is unknown."""
        return self._keeper.spent.cost

    @property
    def open(self) -> bool:
        """Whether there is a REPL now; where there is none, the next question has it made again."""
        return self._keeper.open

    @property
    def limits(self) -> Limits:
        """Bounds of each turn."""
        return self._asker.engine.limits

    @property
    def tools(self) -> Mapping[str, AnyTool]:
        """Functions that code may call beside its own, by their names."""
        return self._asker.engine.tools

    def with_changes(
        self,
        *,
        limits: Limits | None = None,
        instruction: str | None = None,
        tools: Iterable[Callable[..., Any] | AnyTool | ToolSource] = (),
        sinks: Sequence[Sink] = (),
    ) -> Session:
        """The same session, to be asked with other limits and the like; see `RLM.with_changes`."""
        return Session(self._asker.with_changes(limits, instruction, tools, sinks), self._keeper)

    def completion(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> Completion:
        """Answer the next question; the arguments are those of `RLM.completion`.

        Args:
            context: the newest from now on; None keeps the one that an earlier question came with.

        Raises:
            ConfigError: as `RLM.completion`; or a context of an earlier turn is needed again and is not at hand.
            LimitExceeded: the limits of the whole session are used up.
            AtWork: another process is at work on this session.
        """
        wanted = Wanted(question, context, messages, schema)
        return background.run(lambda: self._keeper.ask(self._asker, wanted))

    async def acompletion(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> Completion:
        """`completion` for `await`. Cancelling it undoes the turn."""
        wanted = Wanted(question, context, messages, schema)
        return await background.arun(lambda: self._keeper.ask(self._asker, wanted))

    async def stream(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
        resume: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Yield events while the turn goes, as `RLM.stream`; closing the iterator undoes the turn.

        Args:
            resume: go on with the last question, in place of a new one; see `resume`.
        """
        if resume == (question is not None or messages is not None):
            raise ConfigError("pass a question, messages, or resume=True")
        if resume:
            work = partial(self._keeper.resume, self._asker, schema)
        else:
            work = partial(self._keeper.ask, self._asker, Wanted(question, context, messages, schema))
        async with aclosing(streaming.events(work)) as events:
            async for event in events:
                yield event

    def resume(self, *, schema: Any = None) -> Completion:
        """Go on with the last question, where it was cut off, failed, or was ended by a limit; see `RLM.resume`.

        Args:
            schema: None takes the JSON Schema that was recorded.

        Raises:
            ConfigError: no store, no turn, or another context than recorded.
        """
        return background.run(lambda: self._keeper.resume(self._asker, schema))

    async def aresume(self, *, schema: Any = None) -> Completion:
        """`resume` for `await`."""
        return await background.arun(lambda: self._keeper.resume(self._asker, schema))

    def branch(self, turns: int | None = None, *, id: str | None = None) -> Session:  # noqa: A002 - what it is
        """Another session that begins with the turns of this one; what is asked there is not asked here.

        Args:
            turns: how many of them, the first; None takes all.
            id: of the new one; None makes one up.

        Raises:
            ConfigError: no store, no such turn, or an id that is taken.
        """
        return background.run(lambda: self._branch(turns, id))

    async def abranch(self, turns: int | None = None, *, id: str | None = None) -> Session:  # noqa: A002 - as above
        """`branch` for `await`."""
        return await background.arun(lambda: self._branch(turns, id))

    def close(self) -> None:
        """End the REPL; nothing is left behind but what is recorded. May be called twice."""
        background.run(self._keeper.close)

    async def aclose(self) -> None:
        """`close` for `await`."""
        await background.arun(self._keeper.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Session({self.id!r}, {len(self._keeper.known.exchanges)} turns)"

    async def _branch(self, turns: int | None, session: str | None) -> Session:
        exchanges = self._keeper.known.exchanges
        count = len(exchanges) if turns is None else turns
        if not 0 <= count <= len(exchanges):
            raise ConfigError(f"session {self.id!r} has {len(exchanges)} turns, not {count}")
        named = checked_id(session)
        await self._keeper.branch(named, exchanges[count - 1].number if count else 0)
        return Session(self._asker, await in_thread(self._keeper.again, named))


def made(
    asker: Asker,
    session: str | None,
    *,
    limits: Limits | None,
    idle: float | None,
    keep_contexts: bool,
    contexts: Mapping[int, Any] | None,
) -> Session:
    """Begin a session, or go on with one; see `RLM.session`."""
    bounds = Limits() if limits is None else limits
    if not isinstance(bounds, Limits):
        raise ConfigError(f"limits must be a recursor.Limits, not {type(limits).__name__}")
    if contexts is not None and not isinstance(contexts, Mapping):
        raise ConfigError(
            f"contexts must be a dict of numbers of turns and data, not {type(contexts).__name__}"
        )
    if any(
        getattr(bounds, name) != getattr(Limits(), name) for name in Limits.__slots__ if name not in SHARED
    ):
        raise ConfigError(f"limits of a session: only {', '.join(SHARED)} count over several turns")
    if idle is not None and (not isinstance(idle, int | float) or isinstance(idle, bool) or idle <= 0):
        raise ConfigError(f"idle must be a number of seconds above 0, or None, not {idle!r}")
    if idle is not None and asker.store is None:
        raise ConfigError("idle needs a store, from which the REPL is made again: RLM(..., store=path)")
    if asker.engine.strategy == "direct":
        raise ConfigError('strategy="direct" has no REPL that a session could keep: take "rlm" or "auto"')
    if bounds.max_cost is not None:
        asker.with_changes(asker.engine.limits.with_changes({"max_cost": bounds.max_cost}), None, (), ())
    named, store = checked_id(session), asker.store
    recall = None if store is None else Recall(named, store, keep_contexts, contexts or {})
    return Session(asker, Keeper(named, recall, bounds, idle))


def checked_id(session: str | None) -> str:
    """The id of a session; a new one for None. Raises ConfigError."""
    if session is None:
        return token_hex(16)
    if not isinstance(session, str) or not 0 < len(session) <= MAX_ID or not session.isprintable():
        raise ConfigError(
            f"the id of a session is a text of {MAX_ID} printable characters at most, not {session!r}"
        )
    return session
