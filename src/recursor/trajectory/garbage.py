"""Old runs out of a store, and the messages that nothing refers to any more."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from recursor.errors import TrajectoryError
from recursor.trajectory.claim import claimed
from recursor.trajectory.file import connect
from recursor.trajectory.packing import unpack_message

_TREE = """CREATE TEMP TABLE old AS WITH RECURSIVE tree (id) AS (
  SELECT id FROM root UNION SELECT run.id FROM run JOIN tree ON run.parent_id = tree.id
) SELECT id FROM tree"""
_LIVE = """WITH RECURSIVE live (hash) AS (
  SELECT leaf FROM call UNION SELECT node.parent FROM node JOIN live USING (hash) WHERE node.parent IS NOT NULL
) SELECT hash FROM live"""


_LIVING = """SELECT run_id FROM session_turn WHERE session IN (
  SELECT session FROM session_turn JOIN run ON run.id = session_turn.run_id WHERE run.started >= ?
)"""
"""The turns of sessions that went on since a time: what a REPL is made again from."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed from a store."""

    runs: int
    """Those without a parent."""
    calls: int
    """Model calls, those of child runs included."""
    messages: int
    bytes: int
    """By which the file became smaller; 0 for a dry run."""


def collect(store: Path, older_than: float, *, dry_run: bool = False) -> Freed:
    """Remove the runs that ended, or were cut off, and began before a time, with their children.

    A run that somebody works on stays, as do the turns of a session that went on since. Others may write
    meanwhile; they wait while it is at work.

    Args:
        older_than: seconds.
        dry_run: say what would be removed, and remove nothing.

    Raises:
        TrajectoryError: there is no store, it cannot be read, or others keep it locked.
    """
    if not store.is_file():
        raise TrajectoryError(f"there is no store at {store}")
    with closing(connect(store)) as connection:
        size = store.stat().st_size
        try:
            connection.execute("BEGIN IMMEDIATE")
            freed = _remove(connection, store, time.time() - older_than)
            connection.execute("ROLLBACK" if dry_run else "COMMIT")
            if not dry_run and freed.calls + freed.runs + freed.messages:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise TrajectoryError(f"{store} cannot be cleaned: {error}") from error
    left = size if dry_run else store.stat().st_size
    return Freed(freed.runs, freed.calls, freed.messages, max(0, size - left))


def _remove(connection: sqlite3.Connection, store: Path, before: float) -> Freed:
    found = connection.execute("SELECT id FROM run WHERE parent_id IS NULL AND started < ?", (before,))
    sessions = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'session_turn'").fetchone()
    living = {row[0] for row in connection.execute(_LIVING, (before,))} if sessions else set()
    roots = [row for row in found.fetchall() if row[0] not in living and not claimed(store, row[0])]
    connection.execute("CREATE TEMP TABLE root (id TEXT PRIMARY KEY)")
    connection.executemany("INSERT INTO root VALUES (?)", roots)
    connection.execute(_TREE)
    calls = 0
    for table in ("context", "call", "tool", "execution", "event"):
        removed = connection.execute(
            f"DELETE FROM {table} WHERE run_id IN (SELECT id FROM old)"  # noqa: S608 - our own table names
        ).rowcount
        calls = removed if table == "call" else calls
    connection.execute("DELETE FROM run WHERE id IN (SELECT id FROM old)")
    if sessions:
        _remove_sessions(connection)
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'response'").fetchone():
        connection.execute("DELETE FROM response WHERE run_id IN (SELECT id FROM old)")
    messages = connection.execute(f"DELETE FROM node WHERE hash NOT IN ({_LIVE})").rowcount  # noqa: S608 - ours
    _remove_pictures(connection)
    return Freed(len(roots), calls, messages, 0)


def _remove_pictures(connection: sqlite3.Connection) -> None:
    """Remove those that no message has."""
    if connection.execute("SELECT 1 FROM image LIMIT 1").fetchone() is None:
        return
    connection.execute("CREATE TEMP TABLE shown (digest BLOB PRIMARY KEY)")
    for (content,) in connection.execute("SELECT content FROM node WHERE substr(content, 1, 1) = x'69'"):
        rows = [(digest,) for digest in unpack_message(content)[1]]
        connection.executemany("INSERT OR IGNORE INTO shown VALUES (?)", rows)
    connection.execute("DELETE FROM image WHERE digest NOT IN (SELECT digest FROM shown)")


def _remove_sessions(connection: sqlite3.Connection) -> None:
    """Remove what is kept for the turns that are gone."""
    connection.execute("DELETE FROM session_turn WHERE run_id IN (SELECT id FROM old)")
    connection.execute("DELETE FROM session_context WHERE run_id NOT IN (SELECT run_id FROM session_turn)")
    kept: set[bytes] = set()
    for (data,) in connection.execute("SELECT data FROM session_context WHERE kind = 'messages'"):
        kept |= {data[start : start + 20] for start in range(0, len(data or b""), 20)}
    hashes = [row for row in connection.execute("SELECT hash FROM session_message") if row[0] not in kept]
    connection.executemany("DELETE FROM session_message WHERE hash = ?", hashes)
