"""What a store recorded of a run and its children, as the `Journal` and the `Cache` that runs read."""

from __future__ import annotations

import json
import sqlite3
import weakref
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import msgspec

from recursor.errors import LimitExceeded, ModelError, RLMError, TrajectoryError
from recursor.trajectory.packing import unpack, unpack_value
from recursor.trajectory.view import RecordedRun, Trajectories
from recursor.trajectory.view import open as open_view
from recursor.types import Completion, Reply, StopReason, Usage

_TREE = """
WITH RECURSIVE tree (id) AS (
  SELECT ? UNION SELECT run.id FROM run JOIN tree ON run.parent_id = tree.id
) """
_COUNTS = tuple(each.name for each in fields(Usage))
_SPENT = f"""{_TREE}
SELECT {", ".join(f"sum(json_extract(call.usage, '$.{name}')) AS {name}" for name in _COUNTS)},
  total(call.cost) AS cost, count(*) FILTER (WHERE call.reply IS NULL AND call.purpose = 'sub') AS failed,
  count(*) FILTER (WHERE call.reply IS NOT NULL AND call.cost IS NULL) AS unpriced
FROM call JOIN tree ON call.run_id = tree.id WHERE NOT call.cut AND NOT call.cached
"""  # noqa: S608 - all ours
_AGAIN = f"""{_TREE}
SELECT count(*) AS attempts FROM event JOIN tree ON event.run_id = tree.id WHERE event.kind = 'CallRetried'
"""  # noqa: S608 - all ours
_REQUESTS = f"""{_TREE}
SELECT call.request AS request, count(*) AS count FROM call JOIN tree ON call.run_id = tree.id
WHERE call.reply IS NOT NULL GROUP BY call.request
"""  # noqa: S608 - all ours


class StoreJournal:
    """Implements `Journal` over a store's file. Rows are read when they are asked for; refusals alone are held.

    Args:
        path: the file.

    Raises:
        TrajectoryError: there is no such file, or it is no store.
    """

    def __init__(self, path: Path) -> None:
        self._view = open_view(path)
        self._refusals: dict[str, dict[str, LimitExceeded]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._view.close()

    def root(self, run_id: str) -> RecordedRun:
        """The run of this id, or the root of the tree that it is in.

        Raises:
            TrajectoryError: there is none.
        """
        run = self._view.run(run_id)
        seen = {run.id}
        while run.parent_id is not None:
            run = self._view.run(run.parent_id)
            if run.id in seen:
                raise TrajectoryError(f"run {run.id} is its own parent: the store is damaged")
            seen.add(run.id)
        return run

    def has(self, run_id: str) -> bool:
        """Whether anything is recorded of a run."""
        return self._view.row("SELECT 1 FROM run WHERE id = ?", run_id) is not None

    def context(self, run_id: str, name: str) -> str | None:
        """The digest of what a run was given by a name; None when there is none."""
        row = self._view.row("SELECT digest FROM context WHERE run_id = ? AND name = ?", run_id, name)
        return None if row is None else row["digest"]

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

    def refusal(self, run_id: str, call_id: str) -> LimitExceeded | None:
        if run_id not in self._refusals:  # at once, since there may be one for each call
            notes = self._view.notes(run_id, "CallRefused")
            self._refusals[run_id] = {
                note["call_id"]: LimitExceeded(note["error"], note["reason"]) for note in notes
            }
        return self._refusals[run_id].get(call_id)

    def ended(self, run_id: str) -> Completion | RLMError | None:
        row = self._view.row("SELECT * FROM run WHERE id = ?", run_id)
        if row is None or row["ended"] is None or row["answer_form"] == "repr":
            return None
        if row["error"] is not None:
            return RLMError(unpack(row["error"]).partition(": ")[2])
        return Completion(
            unpack_value(row["answer_form"], row["answer"]), StopReason(row["stop_reason"]), _usage(row), row["cost"],
            run_id, row["turns"], row["duration"], row["model"],
        )  # fmt: skip

    def requests(self, run_id: str) -> dict[str, int]:
        return {row["request"].hex(): row["count"] for row in self._view.rows(_REQUESTS, run_id)}

    def turns(self, run_id: str) -> int:
        row = self._view.row(
            "SELECT turn FROM call WHERE run_id = ? AND purpose = 'root' AND reply IS NOT NULL "
            "ORDER BY rowid DESC LIMIT 1",
            run_id,
        )
        return int(row["turn"]) if row is not None else 0

    def prompt_end(self, run_id: str, turn: int) -> str | None:
        row = self._view.row(
            "SELECT node.content AS content FROM call JOIN node ON node.hash = call.leaf "
            "WHERE call.run_id = ? AND call.purpose = 'root' AND call.turn = ? ORDER BY call.rowid DESC LIMIT 1",
            run_id, turn,
        )  # fmt: skip
        return None if row is None else unpack(row["content"])

    def readings(self, run_id: str, turn: int, block: int) -> tuple[float, ...]:
        row = self._view.row(
            "SELECT readings FROM execution WHERE run_id = ? AND turn = ? AND block = ?", run_id, turn, block
        )
        return tuple(json.loads(unpack(row["readings"]))) if row is not None else ()

    def spent(self, run_id: str) -> tuple[Usage, float | None]:
        row = self._view.row(_SPENT, run_id)
        assert row is not None, "a sum is one row"
        usage = Usage(*(row[name] or 0 for name in _COUNTS))
        again = self._view.row(_AGAIN, run_id)
        assert again is not None, "a count is one row"
        usage += Usage(calls=row["failed"] + again["attempts"])
        return usage, None if row["unpriced"] else row["cost"]


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
            weakref.finalize(self, self._view.close)
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
