"""The read side of a store: runs, calls, executions and messages as plain values."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from recursor.errors import TrajectoryError
from recursor.trajectory.packing import unpack, unpack_value
from recursor.trajectory.store import check_version
from recursor.types import (
    ContextInfo,
    Execution,
    Isolation,
    Message,
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


class Trajectories:
    """What a store holds, read while it may be written."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that is read meanwhile be as of one moment, while others write."""
        with _readable(self._path):
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def runs(self, limit: int | None = None, *, children: bool = False) -> list[RecordedRun]:
        """Return runs, newest first; those that no other run started, unless children are asked for."""
        where = "" if children else "WHERE parent_id IS NULL "
        rows = self.rows(
            f"SELECT * FROM run {where}ORDER BY started DESC LIMIT ?",  # noqa: S608 - `where` is ours
            -1 if limit is None else limit,
        )
        return [self._run(row) for row in rows]

    def run(self, run_id: str) -> RecordedRun:
        """Return a run by its id, or by a prefix that only one has.

        Raises:
            TrajectoryError: no run, or more than one, begins like that.
        """
        rows = self.rows("SELECT * FROM run WHERE substr(id, 1, ?) = ? LIMIT 6", len(run_id), run_id)
        if len(rows) == 1 and run_id:
            return self._run(rows[0])
        if not rows or not run_id:
            latest = ", ".join(
                row["id"][:8] for row in self.rows("SELECT id FROM run ORDER BY started DESC LIMIT 5")
            )
            raise TrajectoryError(
                f"there is no run {run_id!r} in {self._path}; the latest: {latest or 'none'}"
            )
        ids = ", ".join(row["id"][:12] for row in rows)
        raise TrajectoryError(f"more than one run begins with {run_id!r}: {ids}")

    def children(self, run_id: str) -> list[RecordedRun]:
        """Return the runs that a run started, in the order in which its code asked for them."""
        return [
            self._run(row)
            for row in self.rows("SELECT * FROM run WHERE parent_id = ? ORDER BY number, started", run_id)
        ]

    def calls(self, run_id: str) -> list[RecordedCall]:
        """Return the calls of a run in the order in which they ended."""
        return [_call(row) for row in self.rows("SELECT * FROM call WHERE run_id = ? ORDER BY rowid", run_id)]

    def tools(self, run_id: str) -> list[ToolCalled]:
        """Return the tool calls of a run in the order in which they ended."""
        return [_tool(row) for row in self.rows("SELECT * FROM tool WHERE run_id = ? ORDER BY rowid", run_id)]

    def executions(self, run_id: str) -> list[RecordedExecution]:
        """Return the code blocks of a run in order."""
        rows = self.rows("SELECT * FROM execution WHERE run_id = ? ORDER BY turn, block", run_id)
        return [_execution(row) for row in rows]

    def events(self, run_id: str) -> list[tuple[str, str | None]]:
        """Return (event name, call id | "turn.block" | context name | None) in the order of emission."""
        rows = self.rows("SELECT kind, subject FROM event WHERE run_id = ? ORDER BY number", run_id)
        return [(row["kind"], row["subject"]) for row in rows]

    def notes(self, run_id: str, kind: str) -> list[dict[str, Any]]:
        """Return the fields of all events of a kind that has no table: "Compacted", for one."""
        rows = self.rows("SELECT data FROM event WHERE run_id = ? AND kind = ? ORDER BY number", run_id, kind)
        return [json.loads(unpack(row["data"])) for row in rows]

    def messages(self, call: RecordedCall) -> tuple[Message, ...]:
        """Return the prompt of a call."""
        found: list[Message] = []
        node: bytes | None = call.leaf
        seen: set[bytes] = set()
        while node:
            if node in seen:
                raise TrajectoryError(f"{self._path}: the messages of call {call.id} go round in a circle")
            seen.add(node)
            rows = self.rows("SELECT * FROM node WHERE hash = ?", node)
            if not rows:
                raise TrajectoryError(f"{self._path}: a message of call {call.id} is missing")
            found.append(Message(rows[0]["role"], unpack(rows[0]["content"])))
            node = rows[0]["parent"]
        return tuple(reversed(found))

    def _run(self, row: sqlite3.Row) -> RecordedRun:
        contexts = self.rows("SELECT * FROM context WHERE run_id = ? ORDER BY name", row["id"])
        return RecordedRun(
            id=row["id"], parent_id=row["parent_id"], depth=row["depth"], question=unpack(row["question"]),
            model=row["model"], sub_model=row["sub_model"], isolation=_typed(row["isolation"], Isolation | None),
            strategy=row["strategy"], reason=unpack(row["reason"]), settings=json.loads(unpack(row["settings"])),
            contexts=tuple(map(_context, contexts)), started=row["started"], ended=row["ended"],
            stop_reason=StopReason(row["stop_reason"]) if row["stop_reason"] else None,
            answer=unpack_value(row["answer_form"], row["answer"]) if row["answer_form"] else None,
            error=unpack(row["error"]) if row["error"] else None, turns=row["turns"], duration=row["duration"],
            usage=_typed(row["usage"], Usage) if row["usage"] else None, cost=row["cost"],
            replayed=row["replayed"] or 0, diverged_at=row["diverged_at"],
            limits=json.loads(row["limits"]), turn=row["turn"], block=row["block"], number=row["number"],
        )  # fmt: skip

    def row(self, query: str, *arguments: Any) -> sqlite3.Row | None:
        """Return the first row of a query; None when there is none."""
        with _readable(self._path):
            found: sqlite3.Row | None = self._connection.execute(query, arguments).fetchone()
            return found

    def rows(self, query: str, *arguments: Any) -> list[sqlite3.Row]:
        """Return the rows of a query; the tables are described in docs/trajectories.md."""
        with _readable(self._path):
            return self._connection.execute(query, arguments).fetchall()


def open(path: str | Path) -> Trajectories:  # noqa: A001 - `trajectory.view.open(path)`, as `gzip.open`
    """Open a store for reading.

    Raises:
        TrajectoryError: there is no such file, or it is no store that this recursor can read.
    """
    path = Path(path)
    if not path.is_file():
        raise TrajectoryError(f"there is no store at {path}")
    with _readable(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0, check_same_thread=False
        )
    connection.row_factory = sqlite3.Row
    try:
        if check_version(connection, path) == 0:
            raise TrajectoryError(f"{path} is empty: nothing was recorded in it")
    except BaseException:
        connection.close()
        raise
    return Trajectories(connection, path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise TrajectoryError(f"{path} cannot be read: {error}") from error


def _context(row: sqlite3.Row) -> RecordedContext:
    info = ContextInfo(row["name"], row["type"], row["size"], unpack(row["preview"]), unpack(row["source"]))
    return RecordedContext(info, row["digest"])


def _call(row: sqlite3.Row) -> RecordedCall:
    return RecordedCall(
        id=row["id"], run_id=row["run_id"], turn=row["turn"], purpose=row["purpose"], model=row["model"],
        leaf=row["leaf"], reply=None if row["reply"] is None else unpack(row["reply"]),
        reasoning=unpack(row["reasoning"]) if row["reasoning"] else None,
        raw=json.loads(unpack(row["raw"])) if row["raw"] else None, finish_reason=row["finish_reason"],
        usage=_typed(row["usage"], Usage) if row["usage"] else None, cost=row["cost"],
        error=unpack(row["error"]) if row["error"] else None, started=row["started"], duration=row["duration"],
        reply_model=row["reply_model"] or "", cut=bool(row["cut"]), cached=bool(row["cached"]),
        request=row["request"].hex(), block=row["block"],
    )  # fmt: skip


def _tool(row: sqlite3.Row) -> ToolCalled:
    args, kwargs = unpack_value(row["arguments_form"], row["arguments"])
    return ToolCalled(
        row["run_id"], row["id"], row["turn"], row["name"], args, kwargs,
        unpack_value(row["result_form"], row["result"]), unpack(row["error"]) if row["error"] else None,
        row["started"], row["duration"], bool(row["cut"]), row["block"],
    )  # fmt: skip


def _execution(row: sqlite3.Row) -> RecordedExecution:
    error = None if row["error"] is None else unpack(row["error"])
    output = Output(unpack(row["head"]), row["omitted"], unpack(row["tail"]))
    execution = Execution(
        unpack(row["code"]),
        output,
        error,
        tuple(json.loads(row["notes"])),
        None,
        row["duration"],
        tuple(json.loads(unpack(row["readings"]))),
        _typed(unpack(row["variables"]), tuple[Variable, ...]),
        row["more_variables"],
        row["started"],
    )
    return RecordedExecution(row["run_id"], row["turn"], row["block"], execution, bool(row["submitted"]))


def _typed(text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise TrajectoryError(f"a recorded {kind} is damaged: {error}") from error
