"""Which runs are the turns of a session, in a store, and what they were given: what it takes to go on with it.

The tables are there where there are sessions. Contexts that came as values are kept whole, unless a session
leaves that out; of files, folders and addresses only where they are, and nothing of addresses that may hold secrets.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from recursor.errors import ConfigError, TrajectoryError
from recursor.files import Content, Placed, Raw, Url
from recursor.sandboxes.guest import values
from recursor.trajectory.file import connect
from recursor.trajectory.packing import squeezed, stretched

State: TypeAlias = Literal["kept", "undone"]
"""Whether what a turn did to variables is there in the turns after it."""
TABLES = """
CREATE TABLE IF NOT EXISTS session_turn (
  session TEXT NOT NULL, number INTEGER NOT NULL, run_id TEXT NOT NULL, state TEXT, tools TEXT NOT NULL,
  PRIMARY KEY (session, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_run ON session_turn (run_id);
CREATE TABLE IF NOT EXISTS session_context (
  run_id TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, data BLOB, PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_message (hash BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID
"""
MOST = 900_000_000
"""Bytes of a context that SQLite takes."""


@dataclass(frozen=True, slots=True)
class SessionTurn:
    """One turn of a session."""

    number: int
    """From 1."""
    run_id: str
    state: State | None
    """None while it goes, and where the process ended in it."""
    tools: tuple[str, ...]
    """Names of the functions of the host that its code could call."""


class SessionRecord:
    """What a store has of one session. Blocks; call it in a thread.

    Args:
        path: of the store.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._path = path
        self._session = session

    def turns(self) -> list[SessionTurn]:
        """All turns, in order."""
        if not self._path.is_file():
            return []
        with self._opened() as connection:
            rows = connection.execute(
                "SELECT number, run_id, state, tools FROM session_turn WHERE session = ? AND number > 0 "
                "ORDER BY number",
                (self._session,),
            ).fetchall()
        return [SessionTurn(row[0], row[1], row[2], tuple(json.loads(row[3]))) for row in rows]

    def create(self) -> None:
        """Note that there is such a session, before it has a turn."""
        with self._opened() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO session_turn VALUES (?, 0, '', 'kept', '[]')", (self._session,)
            )

    def exists(self) -> bool:
        """Whether there is such a session."""
        if not self._path.is_file():
            return False
        with self._opened() as connection:
            query = "SELECT 1 FROM session_turn WHERE session = ?"
            return connection.execute(query, (self._session,)).fetchone() is not None

    def begin(self, number: int, run_id: str, tools: Sequence[str], given: Iterable[str] = ()) -> None:
        """Note that a turn begins, or begins again.

        Args:
            given: names of what it is given, and what `give` keeps meanwhile: until then it is missing.
        """
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR IGNORE INTO session_context VALUES (?, ?, 'value', NULL)",
                [(run_id, name) for name in given],
            )
            connection.execute(
                "INSERT OR REPLACE INTO session_turn VALUES (?, ?, ?, NULL, ?)",
                (self._session, number, run_id, json.dumps(list(tools))),
            )
            connection.execute("COMMIT")

    def end(self, number: int, state: State) -> None:
        """Note how a turn ended."""
        with self._opened() as connection:
            connection.execute(
                "UPDATE session_turn SET state = ? WHERE session = ? AND number = ?",
                (state, self._session, number),
            )

    def give(self, run_id: str, contexts: Mapping[str, Any], *, whole: bool) -> None:
        """Keep what a turn was given.

        Args:
            whole: False leaves values out.
        """
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for name, context in contexts.items():
                kind, data = ("paths", None) if is_secret(context) else packed(context)
                if name == "messages" and whole:
                    kind, data = "messages", _messages(connection, context)
                elif kind != "paths" and (not whole or data is None or len(data) > MOST):
                    data = None
                row = (run_id, name, kind, data)
                connection.execute("INSERT OR REPLACE INTO session_context VALUES (?, ?, ?, ?)", row)
            connection.execute("COMMIT")

    def given(self, run_id: str) -> dict[str, tuple[str, Any]]:
        """What a turn was given, by name: how, and the value; `MISSING` where it was not kept."""
        with self._opened() as connection:
            rows = connection.execute(
                "SELECT name, kind, data FROM session_context WHERE run_id = ?", (run_id,)
            ).fetchall()
            return {name: (kind, _unpacked(connection, kind, data)) for name, kind, data in rows}

    def branch(self, session: str, turns: int) -> None:
        """Begin another session with the first turns of this one. Raises ConfigError where there is that session."""
        with self._opened() as connection:
            try:
                connection.execute(
                    "INSERT INTO session_turn SELECT ?, number, run_id, state, tools FROM session_turn "
                    "WHERE session = ? AND number <= ?",
                    (session, self._session, turns),
                )
            except sqlite3.IntegrityError:
                raise ConfigError(f"there is a session {session!r} already") from None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with opened(self._path) as connection:
            yield connection


MISSING = object()
"""Stands for a value that was not kept."""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The store, with the tables of sessions. Raises TrajectoryError."""
    try:
        with closing(connect(path)) as connection:
            known = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'session_message'"
            ).fetchone()
            if known is None:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
            yield connection
    except (sqlite3.Error, UnicodeError, OSError) as error:
        raise TrajectoryError(f"{path}: sessions cannot be read or written: {error}") from error


def session_of(path: Path, run_id: str) -> list[tuple[str, int]]:
    """The sessions that a run is a turn of, and which: more than one where sessions branch."""
    if not path.is_file():
        return []
    with opened(path) as connection:
        found: list[tuple[str, int]] = connection.execute(
            "SELECT session, number FROM session_turn WHERE run_id = ? ORDER BY session", (run_id,)
        ).fetchall()
        return found


def kept_of(path: Path, run_id: str) -> dict[str, Any]:
    """What of the contexts of a turn is kept: its messages, and the newest `context` up to it."""
    query = """SELECT kept.name, kept.kind, kept.data FROM session_context AS kept
    JOIN session_turn AS given ON given.run_id = kept.run_id
    JOIN session_turn AS asked ON asked.session = given.session AND asked.number >= given.number
    WHERE asked.run_id = ?1 AND (kept.run_id = ?1 OR (kept.name = 'context' AND given.state = 'kept'))
    ORDER BY given.number"""
    with opened(path) as connection:
        found = {
            name: _unpacked(connection, kind, data)
            for name, kind, data in connection.execute(query, (run_id,)).fetchall()
        }
    return {name: value for name, value in found.items() if value is not MISSING}


def is_secret(context: Any) -> bool:
    """Whether it is not kept where it is: there is more in an address than may be told."""
    given = context if isinstance(context, list | tuple) else [context]
    return any(isinstance(each, Url) and each.shown != each.url.partition("#")[0] for each in given)


def packed(context: Any) -> tuple[str, bytes | None]:
    """How a context is kept, and its bytes; None where it cannot be."""
    raw = isinstance(context, Raw)
    given = context.paths if raw else context
    several = isinstance(given, list | tuple)
    paths = list(given) if several else [given]
    if raw or (paths and all(isinstance(path, os.PathLike | Url) for path in paths)):
        named = [asdict(path) if isinstance(path, Url) else os.fspath(path) for path in paths]
        if not several and not isinstance(given, Url):
            named = [os.fspath(Path(given).absolute())]
        told = {"paths": named, "several": several, "raw": raw}
        return "paths", json.dumps(told | {"folder": os.getcwd()} if several else told).encode()  # noqa: PTH109
    if isinstance(context, Content):
        return "content", squeezed(values.encode({"name": context.name, "data": bytes(context.data)})[1])
    if isinstance(context, str):
        return "text", squeezed(context.encode("utf-8", "surrogatepass"))
    if isinstance(context, bytes | bytearray | memoryview):
        return "bytes", squeezed(bytes(context))
    try:
        return "value", squeezed(_encoded(context))
    except values.NotPlain:
        return "value", None


def _unpacked(connection: sqlite3.Connection, kind: str, data: bytes | None) -> Any:
    if data is None:
        return MISSING
    try:
        match kind:
            case "paths":
                told = json.loads(data)
                paths: Any = [Path(path) if isinstance(path, str) else Url(**path) for path in told["paths"]]
                paths = paths if told["several"] else paths[0]
                paths = Raw(paths) if told["raw"] else paths
                return Placed(paths, told["folder"]) if told.get("folder") else paths
            case "text":
                return stretched(data).decode("utf-8", "surrogatepass")
            case "bytes":
                return stretched(data)
            case "messages":
                return [_message(connection, data[start : start + 20]) for start in range(0, len(data), 20)]
        value = values.decode("values", stretched(data), bounded=False)
        return Content(value["data"], value["name"]) if kind == "content" else value
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise TrajectoryError(f"a recorded context is damaged: {error}") from error


def _encoded(value: Any) -> bytes:
    """A plain value in the encoding that every kind of it has."""
    return b"".join(values.pieces(value))


def _messages(connection: sqlite3.Connection, messages: Sequence[Any]) -> bytes:
    """Keep each message once, however often a conversation is sent again; return what stands for the list."""
    found = []
    for message in messages:
        data = _encoded(dict(message))
        digest = hashlib.blake2b(data, digest_size=20).digest()
        connection.execute("INSERT OR IGNORE INTO session_message VALUES (?, ?)", (digest, squeezed(data)))
        found.append(digest)
    return b"".join(found)


def _message(connection: sqlite3.Connection, digest: bytes) -> Any:
    row = connection.execute("SELECT data FROM session_message WHERE hash = ?", (digest,)).fetchone()
    if row is None:
        raise ValueError("a message is missing")
    return values.decode("values", stretched(row[0]), bounded=False)
