"""The file of a store: its tables, their version, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path

from recursor.errors import ConfigError, TrajectoryError

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
IMAGES = "CREATE TABLE IF NOT EXISTS image (digest BLOB PRIMARY KEY, data BLOB NOT NULL)"
"""Pictures that went with messages, once each."""
CHECKPOINT = 8192
"""Pages of the write-ahead log before it is carried over: keys are digests, and touch pages everywhere."""
BUSY = 30.0
"""Seconds to wait for another process that writes."""


def connect(path: Path, durability: str = "normal") -> sqlite3.Connection:
    """Open a store for writing, making it where there is none.

    Raises:
        TrajectoryError: it is no store, or of a version that this recursor does not know, or cannot be opened.
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
        connection.execute(IMAGES)
        connection.execute("COMMIT")
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise TrajectoryError(f"{path} cannot be opened: {error}") from error
        if isinstance(error, sqlite3.Error):
            raise TrajectoryError(f"{path} is not a store of runs: {error}") from error
        raise
    return connection


def check_store(path: Path) -> None:
    """Raise ConfigError for a path at which no run can be recorded, since there is something else. Makes nothing."""
    if path.is_dir():
        raise ConfigError(f"the store is a file, and {path} is a folder")
    if not path.exists():
        return
    try:
        # SQLite itself looks: closing any other descriptor of the file would drop the locks of this process on it.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            check_version(connection, path)
    except (TrajectoryError, sqlite3.Error) as error:
        if isinstance(error.__cause__ or error, sqlite3.OperationalError):
            return  # locked, or not to be read now: what is so when a run is recorded counts
        raise ConfigError(str(error)) from error


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
