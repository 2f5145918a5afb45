"""Runs in one SQLite file: every call is committed before its result is used.

Events go through a queue to one writer thread, which commits all that wait at once (group
commit). Messages are nodes linked to their parent by hash and stored once, so a history that is
sent again costs nothing and a run is linear in size. Contexts are kept by digest, never by text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import queue
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from recursor.errors import ConfigError, TrajectoryError
from recursor.protocols import Sink
from recursor.trajectory.packing import dumps, pack, pack_value
from recursor.types import (
    BlockExecuted,
    CallRefused,
    CallRetried,
    Compacted,
    ContextHashed,
    Decided,
    Diverged,
    Event,
    Message,
    ModelCalled,
    ReplyText,
    RunEnded,
    RunStarted,
    SubcallStarted,
    ToolCalled,
)

VERSION = 3
SCHEMA = """
CREATE TABLE run (
  id TEXT PRIMARY KEY, parent_id TEXT, depth INTEGER NOT NULL, question BLOB NOT NULL, model TEXT NOT NULL,
  sub_model TEXT NOT NULL, isolation TEXT NOT NULL, started REAL NOT NULL, strategy TEXT NOT NULL, reason BLOB NOT NULL,
  settings BLOB NOT NULL, ended REAL, stop_reason TEXT, answer_form TEXT, answer BLOB, error BLOB, turns INTEGER,
  duration REAL, usage TEXT, cost REAL, replayed INTEGER, diverged_at INTEGER,
  limits TEXT NOT NULL, turn INTEGER NOT NULL, block INTEGER NOT NULL, number INTEGER NOT NULL
);
CREATE INDEX run_started ON run (started);
CREATE INDEX run_parent ON run (parent_id);
CREATE TABLE context (
  run_id TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, size TEXT NOT NULL, preview BLOB NOT NULL,
  source BLOB NOT NULL, digest TEXT, PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
CREATE TABLE node (
  hash BLOB PRIMARY KEY, parent BLOB, role TEXT NOT NULL, content BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE call (
  id TEXT PRIMARY KEY, run_id TEXT NOT NULL, turn INTEGER NOT NULL, purpose TEXT NOT NULL, model TEXT NOT NULL,
  leaf BLOB NOT NULL, reply BLOB, reasoning BLOB, raw BLOB, reply_model TEXT, finish_reason TEXT, usage TEXT,
  cost REAL, error BLOB, started REAL NOT NULL, duration REAL NOT NULL, cut INTEGER NOT NULL, request BLOB NOT NULL,
  cached INTEGER NOT NULL, block INTEGER NOT NULL
);
CREATE INDEX call_run ON call (run_id, purpose, turn);
CREATE INDEX call_request ON call (request) WHERE reply IS NOT NULL AND NOT cached;
CREATE TABLE tool (
  id TEXT PRIMARY KEY, run_id TEXT NOT NULL, turn INTEGER NOT NULL, name TEXT NOT NULL, arguments_form TEXT NOT NULL,
  arguments BLOB NOT NULL, result_form TEXT NOT NULL, result BLOB NOT NULL, error BLOB, started REAL NOT NULL,
  duration REAL NOT NULL, cut INTEGER NOT NULL, block INTEGER NOT NULL
);
CREATE INDEX tool_run ON tool (run_id);
CREATE TABLE execution (
  run_id TEXT NOT NULL, turn INTEGER NOT NULL, block INTEGER NOT NULL, code BLOB NOT NULL, head BLOB NOT NULL,
  omitted INTEGER NOT NULL, tail BLOB NOT NULL, error BLOB, notes TEXT NOT NULL, submitted INTEGER NOT NULL,
  duration REAL NOT NULL, readings BLOB NOT NULL, variables BLOB NOT NULL, more_variables INTEGER NOT NULL,
  started REAL NOT NULL, PRIMARY KEY (run_id, turn, block)
) WITHOUT ROWID;
CREATE TABLE event (
  number INTEGER PRIMARY KEY, run_id TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT, data BLOB
);
CREATE INDEX event_run ON event (run_id, kind, subject);
"""
CHECKPOINT = 8192
"""Pages of the write-ahead log before it is carried over: keys are digests, and touch pages everywhere."""
MAX_CACHED_NODES = 4096
BUSY = 30.0
"""Seconds to wait for another process that writes."""
_STOP = object()


class Store:
    """A sink that records runs in a SQLite file. May be shared by many RLMs, threads and processes.

    Args:
        path: the file; it and its folders are made, for the user's eyes only, with the first event.
        durability: "normal" survives the end of the process at any moment; "full" also a power cut.

    Raises:
        ConfigError: the durability is neither.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Literal["normal", "full"] = "normal"
    ) -> None:
        if durability not in ("normal", "full"):
            raise ConfigError(f"durability must be 'normal' or 'full', not {durability!r}")
        self.path = Path(path)
        self._durability = durability
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def emit(self, event: Event) -> None:
        """Queue one event. A failure to write is raised by the next `flush`."""
        if not isinstance(event, ReplyText | SubcallStarted):
            self._start()
            self._queue.put(event)

    async def flush(self) -> None:
        """Return when all events emitted before are committed.

        Raises:
            TrajectoryError: some are not. What a full disk or a lock kept out is tried again by the
                next flush; an event that cannot be written at all is left out.
        """
        self._start()
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._queue.put((loop, committed))
        await committed

    def close(self) -> None:
        """Commit what waits and free the file. The store may be used again.

        What cannot be written now is lost: `flush` before, to know.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(_STOP)
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._write, daemon=True, name="recursor-store")
                    self._thread.start()

    # The writer thread --------------------------------------------------------------------------

    def _write(self) -> None:
        writer: _Writer | None = None
        events: list[Event] = []
        lost: Exception | None = None
        stopping = False
        while not stopping:
            batch = self._batch()
            stopping = batch[-1] is _STOP
            waiting = [item for item in batch if isinstance(item, tuple)]
            events += [item for item in batch if not isinstance(item, tuple) and item is not _STOP]
            failure: Exception | None = None
            try:
                if writer is None and events:
                    writer = _Writer(connect(self.path, self._durability))
                if writer is not None and events:
                    lost = writer.write(events) or lost
                    events = []
            except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
                failure = error
            failure = failure or lost
            if waiting:
                lost = None
            _wake(waiting, f"{self.path}: events cannot be recorded: {failure}" if failure else None)
        if writer is not None:
            writer.connection.close()

    def _batch(self) -> list[Any]:
        """All that waits, at least one; ends after a stop."""
        batch = [self._queue.get()]
        try:
            while batch[-1] is not _STOP:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return batch


def resolve_store(store: Any) -> Sink:
    """Return the sink for a path, or the sink itself. Raises ConfigError for anything else."""
    if isinstance(store, str | os.PathLike):
        return Store(store)
    if isinstance(store, Sink):
        return store
    raise ConfigError(f"store must be a path, a Store or None, not {type(store).__name__}")


def connect(path: Path, durability: str = "normal") -> sqlite3.Connection:
    """Open a store for writing, making it where there is none.

    Raises:
        TrajectoryError: it is no store, or of a version that this recursor does not know.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # mknod, since closing any descriptor of the file would drop the locks of this process on it.
        os.mknod(path, stat.S_IFREG | 0o600)
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        _use_wal(connection)
        connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
        connection.execute("BEGIN IMMEDIATE")
        if check_version(connection, path) == 0:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite's own waiting does not cover that switch."""
    deadline = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store; 0 when it is empty."""
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise TrajectoryError(f"{path} is not a store of runs: {error}") from error
    if version > VERSION:
        raise TrajectoryError(
            f"{path} was written by a newer recursor (format {version}, this one knows {VERSION})"
        )
    if 0 < version < VERSION:
        raise TrajectoryError(
            f"{path} was written by an older recursor (format {version}, this one knows {VERSION}): "
            "move it away, and a new one is made"
        )
    if version == 0 and tables:
        raise TrajectoryError(f"{path} is a SQLite file, but not a store of runs")
    return version


class _Writer:
    """Events -> rows, in one transaction for each batch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._nodes: dict[tuple[bytes, Message], bytes] = {}
        self._resumed: set[str] = set()

    def write(self, events: Sequence[Event]) -> Exception | None:
        """Commit the events; return the error of the last that had to be left out.

        Raises:
            sqlite3.OperationalError: none is committed, and all may be tried again.
        """
        try:
            self._commit(events)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad event must not take the others along
            if len(events) == 1:
                return error
            errors = [self.write([event]) for event in events]
            return next((each for each in reversed(errors) if each), None)
        return None

    def _commit(self, events: Iterable[Event]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for event in events:
                self._one(event)
            self.connection.execute("COMMIT")
        except BaseException:
            self._nodes.clear()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _one(self, event: Event) -> None:
        subject, data = None, None
        match event:
            case RunStarted():
                self._started(event)
            case ModelCalled():
                subject = event.call_id
                self._called(event)
            case ToolCalled():
                subject = event.call_id
                self._used(event)
            case BlockExecuted():
                subject = f"{event.turn}.{event.block}"
                self._executed(event)
            case ContextHashed():
                subject = _label(event.name)
                self.connection.execute(
                    "UPDATE context SET digest = ? WHERE run_id = ? AND name = ?",
                    (event.digest, event.run_id, subject),
                )
            case CallRetried() | CallRefused() | Compacted() | Decided() | Diverged():
                data = pack(dumps(asdict(event)))
            case RunEnded():
                self._ended(event)
        row = (event.run_id, type(event).__name__, subject, data)
        if event.run_id in self._resumed:  # what is recorded again stays where it was
            where = "run_id = ? AND kind = ? AND subject IS ? AND data IS ?"
            if self.connection.execute(f"SELECT 1 FROM event WHERE {where}", row).fetchone():  # noqa: S608 - ours
                return
        self.connection.execute("INSERT INTO event (run_id, kind, subject, data) VALUES (?, ?, ?, ?)", row)

    def _insert(self, table: str, *row: Any) -> None:
        places = ", ".join("?" * len(row))
        self.connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES ({places})",  # noqa: S608 - our own table names
            row,
        )

    def _started(self, event: RunStarted) -> None:
        self.connection.execute(
            "INSERT INTO run (id, parent_id, depth, question, model, sub_model, isolation, started, strategy, reason, "
            "settings, limits, turn, block, number) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET ended = NULL, error = NULL, stop_reason = NULL, answer_form = NULL, "
            "answer = NULL, settings = excluded.settings, limits = excluded.limits",
            (
                event.run_id, event.parent_id, event.depth, pack(event.question), _label(event.model),
                _label(event.sub_model), _json(event.isolation), event.time, event.strategy,
                pack(event.reason), pack(dumps(event.settings)), dumps(event.limits), event.turn, event.block,
                event.number,
            ),
        )  # fmt: skip
        if event.resumed:
            self._resumed.add(event.run_id)
            self.connection.execute(
                "DELETE FROM event WHERE run_id = ? AND kind = 'RunEnded'", (event.run_id,)
            )
        for info in event.contexts:
            labels = map(_label, (info.name, info.type, info.size))
            self.connection.execute(
                "INSERT OR IGNORE INTO context VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event.run_id, *labels, pack(info.preview), pack(info.source), None),
            )

    def _called(self, event: ModelCalled) -> None:
        reply = event.reply
        self._insert(
            "call", event.call_id, event.run_id, event.turn, event.purpose, _label(event.model),
            self._leaf(event.messages),
            reply and pack(reply.text), reply and reply.reasoning and pack(reply.reasoning),
            reply and reply.raw and pack(dumps(reply.raw)), reply and _label(reply.model),
            reply and _label(reply.finish_reason), reply and _json(reply.usage), reply and reply.cost,
            event.error and pack(event.error), event.time, event.duration, event.cut, bytes.fromhex(event.request),
            reply is not None and reply.cached, event.block,
        )  # fmt: skip

    def _used(self, event: ToolCalled) -> None:
        self._insert(
            "tool", event.call_id, event.run_id, event.turn, _label(event.name),
            *pack_value((event.args, dict(event.kwargs))), *pack_value(event.result),
            event.error and pack(event.error), event.time, event.duration, event.cut, event.block,
        )  # fmt: skip

    def _leaf(self, messages: tuple[Message, ...]) -> bytes:
        """Store the messages that are new, and return the hash of the last."""
        parent = b""
        for message in messages:
            known = self._nodes.get((parent, message))
            if known is None:
                known = self._node(parent, message)
                if len(messages) > 1:
                    self._remember(parent, message, known)
            parent = known
        return parent

    def _node(self, parent: bytes, message: Message) -> bytes:
        content = message.content.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(parent + message.role.encode() + b"\0" + content, digest_size=20).digest()
        known = self.connection.execute("SELECT 1 FROM node WHERE hash = ?", (digest,)).fetchone()
        if known is None:
            self._insert("node", digest, parent or None, message.role, pack(message.content))
        return digest

    def _remember(self, parent: bytes, message: Message, digest: bytes) -> None:
        if len(self._nodes) >= MAX_CACHED_NODES:
            self._nodes.clear()
        self._nodes[parent, message] = digest

    def _executed(self, event: BlockExecuted) -> None:
        execution = event.execution
        output = execution.output
        self._insert(
            "execution", event.run_id, event.turn, event.block, pack(execution.code), pack(output.head),
            output.omitted, pack(output.tail), None if execution.error is None else pack(execution.error),
            json.dumps(execution.notes), execution.submission is not None, execution.duration,
            pack(json.dumps(execution.readings)), pack(_json(execution.variables)), execution.more_variables,
            execution.started,
        )  # fmt: skip

    def _ended(self, event: RunEnded) -> None:
        done = event.completion
        form, answer = pack_value(done.answer) if done is not None else (None, None)
        self.connection.execute(
            "UPDATE run SET ended = ?, error = ?, stop_reason = ?, answer_form = ?, answer = ?, turns = ?, "
            "duration = ?, usage = ?, cost = ?, replayed = ?, diverged_at = ? WHERE id = ?",
            (
                event.time, event.error and pack(event.error), done and str(done.stop_reason), form, answer,
                done and done.turns, done and done.duration, done and _json(done.usage), done and done.cost,
                done and done.replayed, done and done.diverged_at, event.run_id,
            ),
        )  # fmt: skip


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _label(text: str | None) -> str | None:
    """A name for a column of text, which takes no lone surrogates: they are spelt out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _wake(waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]], failure: str | None) -> None:
    """Settle all futures of a loop with one call into it."""
    for loop in {id(loop): loop for loop, _ in waiting}.values():
        futures = [future for other, future in waiting if other is loop]
        try:
            loop.call_soon_threadsafe(_settle, futures, failure)
        except RuntimeError:
            continue  # the loop was closed: nobody waits there any more


def _settle(futures: list[asyncio.Future[None]], failure: str | None) -> None:
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(TrajectoryError(failure))
