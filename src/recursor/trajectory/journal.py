"""What a store recorded of a run and its children, as the `Journal` and the `Cache` that runs read."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from recursor.errors import ModelError
from recursor.trajectory.packing import unpack, unpack_value
from recursor.trajectory.view import RecordedRun, Trajectories
from recursor.trajectory.view import open as open_view
from recursor.types import Completion, Reply, StopReason, Usage

_SPENT = """
WITH RECURSIVE tree (id) AS (
  SELECT ? UNION ALL SELECT run.id FROM run JOIN tree ON run.parent_id = tree.id
)
SELECT call.usage, call.cost FROM call JOIN tree ON call.run_id = tree.id
WHERE call.reply IS NOT NULL AND NOT call.cached
"""


class StoreJournal:
    """Implements `Journal` over a store's file. One row is read when it is asked for; nothing is held.

    Args:
        path: the file.

    Raises:
        TrajectoryError: there is no such file, or it is no store.
    """

    def __init__(self, path: Path) -> None:
        self._view = open_view(path)

    def close(self) -> None:
        """Free the file."""
        self._view.close()

    def root(self, run_id: str) -> RecordedRun:
        """The run of this id, or the root of the tree that it is in.

        Raises:
            TrajectoryError: there is none.
        """
        run = self._view.run(run_id)
        while run.parent_id is not None:
            run = self._view.run(run.parent_id)
        return run

    def reply(self, call_id: str) -> Reply | ModelError | None:
        row = self._view.row("SELECT * FROM call WHERE id = ?", call_id)
        if row is None:
            return None
        if row["reply"] is None:
            return None if row["cut"] else ModelError(unpack(row["error"]))
        return _reply(row)

    def result(self, call_id: str) -> tuple[Any, str | None] | None:
        row = self._view.row("SELECT * FROM tool WHERE id = ? AND NOT cut", call_id)
        if row is None or row["result_form"] == "repr":
            return None
        error = None if row["error"] is None else unpack(row["error"])
        return unpack_value(row["result_form"], row["result"]), error

    def child(self, run_id: str) -> Completion | None:
        row = self._view.row("SELECT * FROM run WHERE id = ? AND stop_reason = 'answered'", run_id)
        if row is None or row["answer_form"] == "repr":
            return None
        return Completion(
            unpack_value(row["answer_form"], row["answer"]), StopReason.ANSWERED, _usage(row), row["cost"], run_id,
            row["turns"], row["duration"], row["model"],
        )  # fmt: skip

    def turns(self, run_id: str) -> int:
        row = self._view.row(
            "SELECT max(turn) AS turns FROM call WHERE run_id = ? AND purpose = 'root' AND reply IS NOT NULL",
            run_id,
        )
        return int(row["turns"] or 0) if row is not None else 0

    def prompt_end(self, run_id: str, turn: int) -> str | None:
        row = self._view.row(
            "SELECT node.content AS content FROM call JOIN node ON node.hash = call.leaf "
            "WHERE call.run_id = ? AND call.purpose = 'root' AND call.turn = ?",
            run_id, turn,
        )  # fmt: skip
        return None if row is None else unpack(row["content"])

    def readings(self, run_id: str, turn: int, block: int) -> tuple[float, ...]:
        row = self._view.row(
            "SELECT readings FROM execution WHERE run_id = ? AND turn = ? AND block = ?", run_id, turn, block
        )
        return tuple(json.loads(unpack(row["readings"]))) if row is not None else ()

    def spent(self, run_id: str) -> tuple[Usage, float | None]:
        usage, cost = Usage(), 0.0
        known = True
        for row in self._view.rows(_SPENT, run_id):
            usage += _usage(row)
            cost += row["cost"] or 0.0
            known = known and row["cost"] is not None
        return usage, cost if known else None


class StoreCache:
    """Implements `Cache` over a store's file, which may not be there yet.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._view: Trajectories | None = None

    def reply(self, request: str, number: int) -> Reply | None:
        if self._view is None:
            if not self._path.is_file():
                return None
            self._view = open_view(self._path)
        row = self._view.row(
            "SELECT * FROM call WHERE request = ? AND reply IS NOT NULL AND NOT cached ORDER BY started, id "
            "LIMIT 1 OFFSET ?",
            bytes.fromhex(request), number,
        )  # fmt: skip
        return None if row is None else replace(_reply(row), cached=True)


def _reply(row: sqlite3.Row) -> Reply:
    return Reply(
        unpack(row["reply"]), _usage(row), row["cost"], row["reply_model"] or "", row["finish_reason"],
        unpack(row["reasoning"]) if row["reasoning"] else None, json.loads(unpack(row["raw"])) if row["raw"] else None,
        bool(row["cached"]),
    )  # fmt: skip


def _usage(row: sqlite3.Row) -> Usage:
    return msgspec.json.decode(row["usage"], type=Usage) if row["usage"] else Usage()
