"""What a store holds, as plain values; and how they are read off its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from recursor import display
from recursor.errors import TrajectoryError
from recursor.trajectory.packing import unpack, unpack_json, unpack_value
from recursor.types import (
    ContextInfo,
    Execution,
    Isolation,
    Output,
    RunStarted,
    StopReason,
    ToolCalled,
    Usage,
    Variable,
)


@dataclass(frozen=True, slots=True)
class RecordedContext:
    """What is kept of a context: not its text."""

    info: ContextInfo
    digest: str | None
    """None when the run ended before it was known."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run. `ended` is None while it goes, and when it was cut off."""

    id: str
    parent_id: str | None
    depth: int
    question: str
    model: str
    sub_model: str
    isolation: Isolation | None
    """None when it was answered without a REPL."""
    strategy: Literal["rlm", "direct"]
    reason: str
    settings: Mapping[str, Any]
    contexts: tuple[RecordedContext, ...]
    started: float
    """Seconds since the epoch."""
    ended: float | None
    stop_reason: StopReason | None
    answer: Any
    error: str | None
    turns: int | None
    duration: float | None
    usage: Usage | None
    cost: float | None
    """None when the price of any call is unknown, or the run has not ended."""
    replayed: int
    """Model calls whose replies were recorded before it was resumed."""
    diverged_at: int | None
    limits: Mapping[str, Any]
    turn: int
    """The turn of its parent that asked for it; 0 where it has none."""
    block: int
    """The block of that turn."""
    number: int
    """Its place among the children that its parent asked for, from 1."""

    def start(self) -> RunStarted:
        """The event that it began with."""
        infos = tuple(context.info for context in self.contexts)
        return RunStarted(
            self.id, self.parent_id, self.depth, self.question, infos, self.model, self.sub_model, self.isolation,
            self.started, self.strategy, self.reason, self.settings, limits=self.limits, turn=self.turn,
            block=self.block, number=self.number,
        )  # fmt: skip

    @property
    def session(self) -> tuple[str, int] | None:
        """The session that it is a turn of, and which, from 1."""
        told = self.settings.get("session")
        match told:
            case {"id": str(session), "turn": int(turn)}:
                return session, turn
        return None

    @property
    def outcome(self) -> str:
        """Its stop reason; "failed"; "not ended" while it goes, and when it was cut off."""
        return "failed" if self.error is not None else str(self.stop_reason or "not ended")

    def _repr_html_(self) -> str:
        rows = [("question", self.question), ("model", self.model), ("ended", self.error or self.outcome)]
        if self.usage is not None:
            rows += display.counts(
                self.turns, self.usage.calls, self.usage.total_tokens, self.cost, self.duration
            )
        return display.table(f"run {self.id}", [*rows, ("answer", display.text(self.answer))])


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One model call. `reply` is None when it failed."""

    id: str
    run_id: str
    turn: int
    purpose: str
    model: str
    leaf: bytes
    """The node of its last message; see `Trajectories.messages`."""
    reply: str | None
    reasoning: str | None
    raw: Any
    finish_reason: str | None
    usage: Usage | None
    cost: float | None
    error: str | None
    started: float
    duration: float
    reply_model: str
    cut: bool
    cached: bool
    request: str
    block: int
    """The block that made it, counted from 1 within the turn; 0 for what no code asked for."""


@dataclass(frozen=True, slots=True)
class RecordedExecution:
    """One code block. The value that it may have submitted is the run's answer."""

    run_id: str
    turn: int
    block: int
    execution: Execution
    submitted: bool


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A reply of the root LM, and the blocks that ran."""

    number: int
    call: RecordedCall | None
    """The call that was answered, else the last that failed; None while there is none."""
    executions: tuple[RecordedExecution, ...]


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """That something happened; `Trajectories.event` says what."""

    number: int
    """Its place among all events of the store. Numbers grow, with gaps."""
    run_id: str
    kind: str
    """The name of the type in `recursor.types`: "ModelCalled", for one."""
    subject: str | None
    """Id of a call or a tool call, "turn.block" of a block, name of a context; else None."""
    data: Mapping[str, Any] | None
    """The fields of an event that has no table of its own."""


def run_of(row: sqlite3.Row, contexts: Sequence[sqlite3.Row]) -> RecordedRun:
    return RecordedRun(
        id=row["id"], parent_id=row["parent_id"], depth=row["depth"], question=unpack(row["question"]),
        model=row["model"], sub_model=row["sub_model"], isolation=_typed(row["isolation"], Isolation | None),
        strategy=row["strategy"], reason=unpack(row["reason"]), settings=unpack_json(row["settings"]),
        contexts=tuple(map(context_of, contexts)), started=row["started"], ended=row["ended"],
        stop_reason=_stop_reason(row["stop_reason"]),
        answer=unpack_value(row["answer_form"], row["answer"]) if row["answer_form"] else None,
        error=unpack(row["error"]) if row["error"] else None, turns=row["turns"], duration=row["duration"],
        usage=_typed(row["usage"], Usage) if row["usage"] else None, cost=row["cost"],
        replayed=row["replayed"] or 0, diverged_at=row["diverged_at"],
        limits=unpack_json(row["limits"]), turn=row["turn"], block=row["block"], number=row["number"],
    )  # fmt: skip


def context_of(row: sqlite3.Row) -> RecordedContext:
    info = ContextInfo(row["name"], row["type"], row["size"], unpack(row["preview"]), unpack(row["source"]))
    return RecordedContext(info, row["digest"])


def call_of(row: sqlite3.Row) -> RecordedCall:
    return RecordedCall(
        id=row["id"], run_id=row["run_id"], turn=row["turn"], purpose=row["purpose"], model=row["model"],
        leaf=row["leaf"], reply=None if row["reply"] is None else unpack(row["reply"]),
        reasoning=unpack(row["reasoning"]) if row["reasoning"] else None,
        raw=unpack_json(row["raw"]) if row["raw"] else None, finish_reason=row["finish_reason"],
        usage=_typed(row["usage"], Usage) if row["usage"] else None, cost=row["cost"],
        error=unpack(row["error"]) if row["error"] else None, started=row["started"], duration=row["duration"],
        reply_model=row["reply_model"] or "", cut=bool(row["cut"]), cached=bool(row["cached"]),
        request=row["request"].hex(), block=row["block"],
    )  # fmt: skip


def tool_of(row: sqlite3.Row) -> ToolCalled:
    args, kwargs = unpack_value(row["arguments_form"], row["arguments"])
    return ToolCalled(
        row["run_id"], row["id"], row["turn"], row["name"], args, kwargs,
        unpack_value(row["result_form"], row["result"]), unpack(row["error"]) if row["error"] else None,
        row["started"], row["duration"], bool(row["cut"]), row["block"],
    )  # fmt: skip


def execution_of(row: sqlite3.Row) -> RecordedExecution:
    error = None if row["error"] is None else unpack(row["error"])
    output = Output(unpack(row["head"]), row["omitted"], unpack(row["tail"]))
    execution = Execution(
        unpack(row["code"]),
        output,
        error,
        tuple(unpack_json(row["notes"])),
        None,
        row["duration"],
        tuple(unpack_json(row["readings"])),
        _typed(unpack(row["variables"]), tuple[Variable, ...]),
        row["more_variables"],
        row["started"],
    )
    return RecordedExecution(row["run_id"], row["turn"], row["block"], execution, bool(row["submitted"]))


def _stop_reason(text: str | None) -> StopReason | None:
    try:
        return StopReason(text) if text else None
    except ValueError as error:
        raise TrajectoryError(f"a recorded stop reason is damaged: {error}") from error


def _typed(text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise TrajectoryError(f"a recorded {kind} is damaged: {error}") from error
