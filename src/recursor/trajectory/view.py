"""The read side of a store: runs, turns, calls, executions, messages and events as plain values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from recursor import display
from recursor.errors import TrajectoryError
from recursor.trajectory import events
from recursor.trajectory.file import check_version
from recursor.trajectory.packing import unpack_json, unpack_message
from recursor.trajectory.recorded import (
    RecordedCall,
    RecordedContext,
    RecordedEvent,
    RecordedExecution,
    RecordedRun,
    RecordedTurn,
    call_of,
    execution_of,
    run_of,
    tool_of,
)
from recursor.types import Event, Message, ToolCalled

__all__ = [
    "RecordedCall", "RecordedContext", "RecordedEvent", "RecordedExecution", "RecordedRun", "RecordedTurn",
    "Trajectories", "open",
]  # fmt: skip

TREE = "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT run.id FROM run JOIN tree ON run.parent_id = tree.id) "
"""The ids of a run and its children, for a query."""
TOGETHER = 500
"""Rows that are read at once."""


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

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def _repr_html_(self) -> str:
        found = self.runs(20)
        return display.table(
            str(self._path), [(run.id[:12], f"{run.outcome}: {run.question}") for run in found]
        )

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

    def session(self, session: str) -> list[RecordedRun]:
        """Return the runs that are turns of a session, in order; none where there is no such session."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'session_turn'"):
            return []
        rows = self.rows(
            "SELECT run.* FROM session_turn JOIN run ON run.id = session_turn.run_id WHERE session = ? "
            "ORDER BY session_turn.number",
            session,
        )
        return [self._run(row) for row in rows]

    def children(self, run_id: str) -> list[RecordedRun]:
        """Return the runs that a run started, in the order in which its code asked for them."""
        return [
            self._run(row)
            for row in self.rows("SELECT * FROM run WHERE parent_id = ? ORDER BY number, started", run_id)
        ]

    def calls(self, run_id: str) -> list[RecordedCall]:
        """Return the calls of a run in the order in which they ended."""
        return [
            call_of(row) for row in self.rows("SELECT * FROM call WHERE run_id = ? ORDER BY rowid", run_id)
        ]

    def tools(self, run_id: str) -> list[ToolCalled]:
        """Return the tool calls of a run in the order in which they ended."""
        return [
            tool_of(row) for row in self.rows("SELECT * FROM tool WHERE run_id = ? ORDER BY rowid", run_id)
        ]

    def executions(self, run_id: str, turn: int | None = None) -> list[RecordedExecution]:
        """Return the code blocks of a run, or of one turn of it, in order."""
        rows = self.rows(
            "SELECT * FROM execution WHERE run_id = ?1 AND (?2 IS NULL OR turn = ?2) ORDER BY turn, block",
            run_id, turn,
        )  # fmt: skip
        return [execution_of(row) for row in rows]

    def tree(self, run_id: str) -> list[RecordedRun]:
        """Return a run and all below it: parents before their children, and those in the order of `children`."""
        found = [self.run(run_id)]
        for run in found:  # which grows
            found += self.children(run.id)
        return found

    def turns(self, run_id: str) -> list[RecordedTurn]:
        """Return the turns of a run in order."""
        asked = self.rows("SELECT * FROM call WHERE run_id = ? AND purpose = 'root' ORDER BY rowid", run_id)
        calls: dict[int, RecordedCall] = {}
        for call in map(call_of, asked):
            if call.reply is not None or call.turn not in calls:
                calls[call.turn] = call
        blocks: dict[int, list[RecordedExecution]] = {}
        for execution in self.executions(run_id):
            blocks.setdefault(execution.turn, []).append(execution)
        numbers = sorted(calls.keys() | blocks.keys())
        return [RecordedTurn(each, calls.get(each), tuple(blocks.get(each, ()))) for each in numbers]

    def call(self, call_id: str) -> RecordedCall:
        """Return a call by its id. Raises TrajectoryError when there is none."""
        row = self.row("SELECT * FROM call WHERE id = ?", call_id)
        if row is None:
            raise TrajectoryError(f"there is no call {call_id!r} in {self._path}")
        return call_of(row)

    def each_call(self, run_id: str, *, tree: bool = False, skip: int = 0) -> Iterator[RecordedCall]:
        """Yield the calls of a run in the order in which they ended, a few held at a time.

        Args:
            tree: those of its children too.
            skip: how many to leave out at the beginning: those of earlier pages.
        """
        among = f"{TREE}SELECT call.rowid AS place FROM call JOIN tree ON call.run_id = tree.id "  # noqa: S608 - ours
        alone = "SELECT rowid AS place FROM call WHERE run_id = ? "
        query = f"{among if tree else alone}ORDER BY place LIMIT -1 OFFSET ?"
        places = [row["place"] for row in self.rows(query, run_id, skip)]
        for start in range(0, len(places), TOGETHER):
            part = places[start : start + TOGETHER]
            marks = ", ".join("?" * len(part))
            for row in self.rows(f"SELECT * FROM call WHERE rowid IN ({marks}) ORDER BY rowid", *part):  # noqa: S608 - ours
                yield call_of(row)

    def events(self, run_id: str) -> list[RecordedEvent]:
        """Return the events of a run in the order of emission."""
        rows = self.rows("SELECT * FROM event WHERE run_id = ? ORDER BY number", run_id)
        return [_recorded_event(row) for row in rows]

    def since(
        self, number: int = 0, run_id: str | None = None, limit: int | None = None
    ) -> list[RecordedEvent]:
        """Return events after one of a number, in order: to follow what is being recorded.

        Args:
            number: of the last event that is known; 0 for the beginning.
            run_id: only those of this run and its children.
            limit: how many at most.
        """
        most = -1 if limit is None else limit
        if run_id is None:
            rows = self.rows("SELECT * FROM event WHERE number > ? ORDER BY number LIMIT ?", number, most)
        else:  # the plus keeps SQLite from going by run, which would sort all events of it each time
            query = "SELECT * FROM event WHERE number > ? AND +run_id IN (SELECT id FROM tree) ORDER BY number LIMIT ?"
            rows = self.rows(TREE + query, run_id, number, most)
        return [_recorded_event(row) for row in rows]

    def event(self, found: RecordedEvent) -> Event:
        """Return what happened. Raises TrajectoryError when the record of it is missing."""
        run_id, subject = found.run_id, found.subject or ""
        match found.kind:
            case "RunStarted" | "RunEnded":
                run = self.run(run_id)
                return run.start() if found.kind == "RunStarted" else events.run_ended(run)
            case "ModelCalled":
                call = self.call(subject)
                return events.model_called(call, self.messages(call))
            case "ToolCalled":
                return tool_of(self._one(found, "SELECT * FROM tool WHERE id = ?", subject))
            case "BlockExecuted":
                place = subject.split(".")
                query = "SELECT * FROM execution WHERE run_id = ? AND turn = ? AND block = ?"
                return events.block_executed(execution_of(self._one(found, query, run_id, *map(int, place))))
            case "ContextHashed":
                row = self._one(found, "SELECT * FROM context WHERE run_id = ? AND name = ?", run_id, subject)
                return events.context_hashed(run_id, subject, row["digest"])
            case _:
                return events.noted(found)

    def each_event(self, run_id: str) -> Iterator[Event]:
        """Yield what happened in a run, in order; that of its children follows its start."""
        for found in self.events(run_id):
            yield self.event(found)
            if found.kind == "RunStarted":
                for child in self.children(run_id):
                    yield from self.each_event(child.id)

    def _one(self, found: RecordedEvent, query: str, *arguments: Any) -> sqlite3.Row:
        row = self.row(query, *arguments)
        if row is None:
            raise TrajectoryError(f"{self._path}: what event {found.number} ({found.kind}) is of is missing")
        return row

    def notes(self, run_id: str, kind: str) -> list[dict[str, Any]]:
        """Return the fields of all events of a kind that has no table: "Compacted", for one."""
        rows = self.rows("SELECT data FROM event WHERE run_id = ? AND kind = ? ORDER BY number", run_id, kind)
        return [unpack_json(row["data"]) for row in rows]

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
            text, pictures = unpack_message(rows[0]["content"])
            found.append(Message(rows[0]["role"], text, tuple(map(self._picture, pictures))))
            node = rows[0]["parent"]
        return tuple(reversed(found))

    def _picture(self, digest: bytes) -> bytes:
        row = self.row("SELECT data FROM image WHERE digest = ?", digest)
        if row is None:
            raise TrajectoryError(f"{self._path}: a picture of a message is missing")
        return bytes(row["data"])

    def _run(self, row: sqlite3.Row) -> RecordedRun:
        return run_of(row, self.rows("SELECT * FROM context WHERE run_id = ? ORDER BY name", row["id"]))

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


def _recorded_event(row: sqlite3.Row) -> RecordedEvent:
    data = None if row["data"] is None else unpack_json(row["data"])
    return RecordedEvent(row["number"], row["run_id"], row["kind"], row["subject"], data)
