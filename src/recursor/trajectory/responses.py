"""Responses that a server keeps in a store, for the clients that asked: as they were told, and what it takes to go on.

The table is there where there are responses. One that is at work has what it was asked; it is the next server's to go
on with when the one that works on it ends. One that was deleted leaves its name, so that nobody goes on from it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from recursor.errors import TrajectoryError
from recursor.trajectory.file import connect
from recursor.trajectory.packing import squeezed, stretched

State: TypeAlias = Literal["at work", "ended", "deleted"]
TABLES = """
CREATE TABLE IF NOT EXISTS response (
  client TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL, made REAL NOT NULL, state TEXT NOT NULL,
  begun INTEGER NOT NULL, request BLOB, document BLOB, events BLOB, PRIMARY KEY (client, id)
);
CREATE INDEX IF NOT EXISTS response_run ON response (run_id);
CREATE INDEX IF NOT EXISTS response_made ON response (made)
"""
FIELDS = "client, id, run_id, made, state, begun, request, document, events"
KEPT = 30
"""Days for which a response is there."""


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """One response.

    Attributes:
        made: when it was begun, or had ended, in seconds since 1970.
        begun: how many servers have worked on it.
        request: what it was asked, while it is at work, or where its run goes on when its client comes back; else None.
        document: as it was told last; empty where it was deleted.
        events: of a stream, where it has ended and may be followed; else empty.
    """

    client: str
    id: str
    run_id: str
    made: float
    state: State
    begun: int
    request: Any
    document: Mapping[str, Any]
    events: bytes


class ResponseRecord:
    """What a store has of responses. Blocks; call it in a thread.

    Args:
        path: of the store.

    All methods raise TrajectoryError when it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, client: str, name: str, run_id: str, request: Any, document: Mapping[str, Any]) -> None:
        """Note that a response is at work."""
        row = (client, name, run_id, time.time(), _packed(request), _packed(document))
        with self._opened() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO response VALUES (?, ?, ?, ?, 'at work', 1, ?, ?, NULL)", row
            )

    def again(self, client: str, name: str) -> bool:
        """Note that another server works on a response now; return whether it is still to be worked on."""
        with self._opened() as connection:
            changed = connection.execute(
                "UPDATE response SET begun = begun + 1 WHERE client = ? AND id = ? AND state = 'at work'",
                (client, name),
            )
            return changed.rowcount > 0

    def end(
        self,
        client: str,
        name: str,
        run_id: str,
        document: Mapping[str, Any],
        *,
        events: bytes = b"",
        request: Any = None,
    ) -> None:
        """Keep a response that has ended, in place of what there was; what was deleted stays that.

        Args:
            request: see `RecordedResponse`.
        """
        asked = None if request is None else _packed(request)
        row = (
            client,
            name,
            run_id,
            time.time(),
            asked,
            _packed(document),
            squeezed(events) if events else None,
        )
        with self._opened() as connection:
            connection.execute(
                "INSERT INTO response VALUES (?, ?, ?, ?, 'ended', 1, ?, ?, ?) ON CONFLICT (client, id) DO UPDATE "
                "SET state = 'ended', request = excluded.request, document = excluded.document, "
                "events = excluded.events WHERE state != 'deleted'",
                row,
            )

    def find(self, client: str, name: str) -> RecordedResponse | None:
        """A response; None where there is none."""
        found = self._all("client = ? AND id = ?", client, name)
        return found[0] if found else None

    def at_work(self) -> list[RecordedResponse]:
        """Those that have not ended, oldest first."""
        return self._all("state = 'at work' ORDER BY made")

    def delete(self, client: str, name: str) -> None:
        """Leave nothing of a response but its name."""
        with self._opened() as connection:
            connection.execute(
                "UPDATE response SET state = 'deleted', request = NULL, document = NULL, events = NULL "
                "WHERE client = ? AND id = ?",
                (client, name),
            )

    def expire(self) -> None:
        """Remove those that are older than `KEPT` days and not at work."""
        if self.path.is_file():
            with self._opened() as connection:
                connection.execute(
                    "DELETE FROM response WHERE made < ? AND state != 'at work'",
                    (time.time() - KEPT * 86_400,),
                )

    def _all(self, where: str, *values: str) -> list[RecordedResponse]:
        if not self.path.is_file():
            return []
        with self._opened() as connection:
            rows = connection.execute(f"SELECT {FIELDS} FROM response WHERE {where}", values).fetchall()  # noqa: S608 - ours
        try:
            return [_unpacked(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise TrajectoryError(f"{self.path}: a kept response is damaged: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(connect(self.path)) as connection:
                known = connection.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'response_made'"
                ).fetchone()
                for statement in () if known else TABLES.split(";"):
                    connection.execute(statement)
                yield connection
        except (sqlite3.Error, UnicodeError, OSError) as error:
            raise TrajectoryError(f"{self.path}: responses cannot be read or written: {error}") from error


def _packed(value: Any) -> bytes:
    return squeezed(json.dumps(value, separators=(",", ":")).encode("ascii"))


def _unpacked(row: tuple[Any, ...]) -> RecordedResponse:
    client, name, run_id, made, state, begun, request, document, events = row
    return RecordedResponse(
        client, name, run_id, made, state, begun,
        None if request is None else json.loads(stretched(request)),
        {} if document is None else json.loads(stretched(document)),
        b"" if events is None else stretched(events),
    )  # fmt: skip
