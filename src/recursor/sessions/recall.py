"""What a store has of a session, and how its REPL is made again from that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recursor.asker import Asker
from recursor.context import Source, prepare
from recursor.errors import ConfigError, TrajectoryError
from recursor.governance import ask_about_hosts
from recursor.inputs import inputs
from recursor.sessions import conversation, rebuilding
from recursor.sessions.conversation import Conversation, Exchange
from recursor.sessions.live import Live, Question
from recursor.sessions.spent import Account, Spent
from recursor.threads import in_thread
from recursor.trajectory.journal import StoreJournal
from recursor.trajectory.packing import pack_value, unpack_value
from recursor.trajectory.recorded import RecordedRun
from recursor.trajectory.sessions import MISSING, SessionRecord, SessionTurn, State
from recursor.trajectory.view import Trajectories
from recursor.trajectory.view import open as open_view

STOPPED = ("CancelledError", "RunStopped", "SandboxError")
"""Errors of a turn after which the REPL is what it was before it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a session has been through."""

    known: Conversation = field(default_factory=Conversation)
    last: str = ""
    """The run of the last turn that has begun."""
    account: Account = field(default_factory=Account)


@dataclass(frozen=True, slots=True)
class Recall:
    """Takes up a session that is recorded.

    Args:
        whole: whether contexts that come as values are recorded, to go on without their being passed again.
        handed: contexts of earlier turns that are not recorded, by the number of the turn.
    """

    session: str
    store: Path
    whole: bool
    handed: Mapping[int, Any]

    @property
    def record(self) -> SessionRecord:
        return SessionRecord(self.store, self.session)

    def handing(self, number: int, context: Any) -> Recall:
        """The same, with the context of another turn at hand."""
        return replace(self, handed={**self.handed, number: context})

    def look(self) -> Found:
        """Read what there is. Blocks."""
        turns = self.record.turns()
        if not turns:
            return Found()
        account, known = Account(), Conversation()
        with open_view(self.store) as view, StoreJournal(self.store) as journal:
            for turn in turns:
                run = _run_of(view, turn)
                account.begin(turn.number, _spent(journal, turn.run_id, run))
                if run is not None and _state(turn, run) == "kept":
                    known = known.grown(_exchange(turn.number, run))
        return Found(known, turns[-1].run_id, account)

    def since(self, number: int) -> list[tuple[int, Spent]]:
        """What turns took from one on, by their numbers: others may have asked, or gone on with the last. Blocks."""
        turns = [turn for turn in self.record.turns() if turn.number >= number]
        if not turns:
            return []
        with open_view(self.store) as view, StoreJournal(self.store) as journal:
            return [(turn.number, _spent(journal, turn.run_id, _run_of(view, turn))) for turn in turns]

    def give(self, run_id: str, given: Mapping[str, Any]) -> None:
        """Keep what a turn is given. Blocks."""
        with suppress(TrajectoryError):  # it has to be handed in again, should it come to that
            self.record.give(run_id, given, whole=self.whole)

    async def apply(self, asker: Asker, live: Live, turn: SessionTurn) -> Live:
        """Make in a REPL what a recorded turn made; return the REPL, which may be another."""
        with StoreJournal(self.store) as journal, open_view(self.store) as view:
            run = await in_thread(_run_of, view, turn)
            live.applied = turn.number
            if run is None:  # it could not be given its context
                return live
            if _state(turn, run) == "undone":
                live.conversation = live.conversation.noted(conversation.UNDONE)
                return live
            sources = await self.sources(asker, turn, run)
            executions = await in_thread(view.executions, run.id)
            if rebuilding.begins_anew(executions):
                live = await live.anew(asker)
            task, _ = await live.task(asker, Question(turn.number, run.id, run.question, sources))
            engine = rebuilding.silent(asker.engine, run, turn.tools)
            alike = await rebuilding.rebuild(engine, task, run.id, executions, journal)
        live.grow(_exchange(turn.number, run))
        live.digests.update({each.info.name: each.digest for each in run.contexts if each.digest is not None})
        if not alike:
            live.altered = live.altered or turn.number
        return live

    async def sources(self, asker: Asker, turn: SessionTurn, run: RecordedRun) -> dict[str, Source]:
        """What a turn was given. Raises ConfigError where that is not at hand, or not what it was."""
        given = await in_thread(self.record.given, turn.run_id)
        values: dict[str, Any] = {}
        for name, (_, value) in given.items():
            found = self.handed.get(turn.number, value) if name == "context" else value
            if found is MISSING:
                raise ConfigError(
                    f"turn {turn.number} of session {self.session!r} was given a value as `{name}`, which is not kept: "
                    f"pass it again, session({self.session!r}, contexts={{{turn.number}: ...}})"
                )
            values[name] = found
        recorded = {each.info.name: each.digest for each in run.contexts}

        def prepared() -> dict[str, Source]:
            messages = values.get("messages")
            question = run.question if messages is None else None
            _, sources = inputs(question, values.get("context"), messages)
            for name, source in [
                *sources.items(),
                *((name, prepare(value)) for name, value in asker.values.items()),
            ]:
                digest = recorded.get(name)
                if digest is not None and source.digest() != digest:
                    where = f" ({source.origin})" if source.origin else ""
                    raise ConfigError(
                        f"`{name}`{where} is not what turn {turn.number} of session {self.session!r} was given"
                    )
            return sources

        ask_about_hosts(asker.engine.policy)
        try:
            return await in_thread(prepared)
        except ConfigError as error:
            if f"session {self.session!r}" in str(error):
                raise
            raise ConfigError(
                f"turn {turn.number} of session {self.session!r} was given more: {error}"
            ) from error


def _spent(journal: StoreJournal, run_id: str, run: RecordedRun | None) -> Spent:
    return Spent(*journal.spent(run_id), (run.duration or 0.0) if run is not None else 0.0)


def _run_of(view: Trajectories, turn: SessionTurn) -> RecordedRun | None:
    """The run of a turn; None where the process ended before it began."""
    try:
        return view.run(turn.run_id)
    except TrajectoryError:
        return None


def _state(turn: SessionTurn, run: RecordedRun) -> State:
    if turn.state is not None:
        return turn.state
    stopped = run.ended is None or (run.error or "").partition(":")[0] in STOPPED
    return "undone" if stopped else "kept"


def _exchange(number: int, run: RecordedRun) -> Exchange:
    ended = run.error if run.error is not None else str(run.stop_reason)
    return Exchange(number, run.id, run.question, run.answer, ended)


def plain(answer: Any) -> Any:
    """An answer as it is recorded: plain, and nobody else's to change."""
    if answer is None or isinstance(answer, str | int | float | bool | bytes):
        return answer
    try:
        return unpack_value(*pack_value(answer))
    except TrajectoryError:
        return answer
