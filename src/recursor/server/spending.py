"""What clients have spent, and which runs are theirs, in a small SQLite file: it outlives the server."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from recursor.errors import ConfigError

SCHEMA = """
CREATE TABLE IF NOT EXISTS spending (
  name TEXT NOT NULL, day TEXT NOT NULL, cost REAL NOT NULL, PRIMARY KEY (name, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, name TEXT NOT NULL, day TEXT NOT NULL) WITHOUT ROWID
"""
KEPT = 30
"""Days for which it is known whose a run is."""
BUSY = 2.0
"""Seconds to wait for another server that writes."""


class Spending:
    """US dollars by client and day (UTC). Used from one thread.

    Args:
        path: the file, made when it is not there; None keeps it in memory.

    Raises:
        ConfigError: it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self._connection = sqlite3.connect(path or ":memory:", timeout=BUSY, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(SCHEMA)
            oldest = time.strftime("%Y-%m-%d", time.gmtime(time.time() - KEPT * 86_400))
            self._connection.execute("DELETE FROM run WHERE day < ?", (oldest,))
        except sqlite3.Error as error:
            raise ConfigError(f"cannot open what clients have spent, {path}: {error}") from error

    def of(self, name: str) -> tuple[float, float]:
        """What a client has spent today, and in all. Raises OSError."""
        try:
            row = self._connection.execute(
                "SELECT coalesce(sum(cost) FILTER (WHERE day = ?), 0), coalesce(sum(cost), 0) "
                "FROM spending WHERE name = ?",
                (today(), name),
            ).fetchone()
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        return float(row[0]), float(row[1])

    def add(self, name: str, cost: float) -> None:
        """Count what was spent now. Raises OSError."""
        try:
            self._connection.execute(
                "INSERT INTO spending VALUES (?, ?, ?) "
                "ON CONFLICT (name, day) DO UPDATE SET cost = cost + excluded.cost",
                (name, today(), cost),
            )
        except sqlite3.Error as error:
            raise OSError(str(error)) from error

    def began(self, run_id: str, name: str) -> None:
        """Note whose a run is. Raises OSError."""
        try:
            self._connection.execute("INSERT OR IGNORE INTO run VALUES (?, ?, ?)", (run_id, name, today()))
        except sqlite3.Error as error:
            raise OSError(str(error)) from error

    def owner(self, run_id: str) -> str | None:
        """Whose a run is; None when that is not known. Raises OSError."""
        try:
            row = self._connection.execute("SELECT name FROM run WHERE id = ?", (run_id,)).fetchone()
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        return None if row is None else str(row[0])

    def close(self) -> None:
        self._connection.close()


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def until_tomorrow() -> float:
    """Seconds until midnight UTC."""
    return 86_400 - time.time() % 86_400
