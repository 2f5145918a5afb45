"""What happened in a run and its children, call by call: what the chart, the tree and the table are made of.

One damaged row does not hide the others here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from recursor.errors import TrajectoryError
from recursor.trajectory.packing import unpack
from recursor.trajectory.view import Trajectories
from recursor.types import Usage

TEXT = 200_000
"""Characters of one text that the page is given; it says how many there are."""
LINE = 160
"""Characters of a preview."""
TREE = "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT run.id FROM run JOIN tree ON run.parent_id = tree.id) "
_USAGE = msgspec.json.Decoder(Usage)


def spans(recorded: Trajectories, run_id: str, since: int = 0) -> dict[str, Any]:
    """Runs, calls, blocks and tools of a run and its children; with `since` only what was recorded after that.

    Runs are always all there, since their states change and calls name them by place.
    """
    with recorded.snapshot():
        rows = recorded.rows(
            TREE + "SELECT run.* FROM run JOIN tree ON run.id = tree.id ORDER BY run.id != ?, run.rowid",
            run_id,
            run_id,
        )
        if not rows:
            raise TrajectoryError(f"there is no run {run_id!r}")
        places = {row["id"]: place for place, row in enumerate(rows)}
        origin = rows[0]["started"]
        by_number = "NOT INDEXED" if since else ""  # a look at what is new must not go through all that was
        newest = recorded.row(
            f"{TREE}SELECT max(number) AS number FROM event {by_number} "
            "WHERE number > ? AND run_id IN (SELECT id FROM tree)",
            run_id, since,
        )  # fmt: skip
        new = TREE + (
            f"SELECT {{0}} FROM event {by_number} JOIN tree ON event.run_id = tree.id JOIN {{1}} "
            "WHERE event.number > ? AND event.kind = '{2}' ORDER BY event.number"
        )
        call_rows = recorded.rows(
            new.format("call.*", "call ON call.id = event.subject", "ModelCalled"), run_id, since
        )
        tool_rows = recorded.rows(
            new.format("tool.*", "tool ON tool.id = event.subject", "ToolCalled"), run_id, since
        )
        block_rows = recorded.rows(
            new.format(
                "execution.*",
                "execution ON execution.run_id = event.run_id AND event.subject = execution.turn || '.' || "
                "execution.block",
                "BlockExecuted",
            ),
            run_id,
            since,
        )
        replies = recorded.rows(
            TREE + "SELECT run_id, turn, started, duration FROM call JOIN tree ON call.run_id = tree.id "
            "WHERE purpose = 'root' ORDER BY turn, started",
            run_id,
        )
    turns = _turns(replies)
    return {
        "origin": origin,
        "next": newest["number"] if newest is not None and newest["number"] else since,
        "runs": [_run_row(row, places, origin, turns) for row in rows],
        "calls": _columns(call_rows, places, origin),
        "blocks": _blocks(block_rows, places, origin, turns),
        "tools": [
            {
                "id": row["id"], "run": places[row["run_id"]], "turn": row["turn"], "block": row["block"],
                "name": row["name"],
                "start": row["started"] - origin, "duration": row["duration"], "failed": row["error"] is not None,
            }
            for row in tool_rows
        ],
    }  # fmt: skip


Turns = dict[str, list[tuple[int, float, float]]]
"""By run: number of a turn, when its reply was asked for and when it had come."""


def _turns(replies: Sequence[sqlite3.Row]) -> Turns:
    turns: Turns = {}
    for row in replies:
        turns.setdefault(row["run_id"], []).append(
            (row["turn"], row["started"], row["started"] + row["duration"])
        )
    return turns


def _run_row(row: sqlite3.Row, places: Mapping[str, int], origin: float, turns: Turns) -> dict[str, Any]:
    place = places[row["id"]]
    parent = row["parent_id"] if places.get(row["parent_id"], place) < place else None
    began = [number for number, start, _ in turns.get(parent or "", ()) if start <= row["started"]]
    return {
        "id": row["id"], "parent": places[parent] if parent else -1 if place == 0 else 0,
        "turn": row["turn"] or max(began, default=0), "block": row["block"],
        "depth": row["depth"], "question": clip_line(legible(row["question"])), "model": row["model"],
        "start": row["started"] - origin,
        "duration": max(0.0, row["ended"] - row["started"]) if row["ended"] else None,
        "state": state_of(row["error"], row["stop_reason"]) or "open",
        "error": row["error"] and legible(row["error"])[:TEXT],
    }  # fmt: skip


def _columns(rows: Sequence[sqlite3.Row], places: Mapping[str, int], origin: float) -> dict[str, Any]:
    nothing = Usage()
    usages = [nothing if row["cached"] else usage_of(row) or nothing for row in rows]
    return {
        "id": [row["id"] for row in rows],
        "run": [places[row["run_id"]] for row in rows],
        "turn": [row["turn"] for row in rows],
        "block": [row["block"] for row in rows],
        "purpose": [row["purpose"] for row in rows],
        "model": [row["model"] for row in rows],
        "start": [round(row["started"] - origin, 6) for row in rows],
        "duration": [round(max(0.0, row["duration"]), 6) for row in rows],
        "input": [usage.input_tokens for usage in usages],
        "cached": [usage.cached_tokens for usage in usages],
        "output": [usage.output_tokens for usage in usages],
        "cost": [0.0 if row["cached"] else row["cost"] for row in rows],
        "failed": [row["reply"] is None for row in rows],
    }


def _blocks(
    rows: Sequence[sqlite3.Row], places: Mapping[str, int], origin: float, turns: Turns
) -> list[dict[str, Any]]:
    came = {(run_id, number): end for run_id, every in turns.items() for number, _, end in every}
    blocks = []
    for row in sorted(rows, key=lambda row: (places[row["run_id"]], row["turn"], row["block"])):
        key = row["run_id"], row["turn"]
        start = came.get(key)
        if start is not None:
            came[key] = start + row["duration"]
        printed = len(legible(row["head"])) + row["omitted"] + len(legible(row["tail"]))
        blocks.append({
            "run": places[row["run_id"]], "turn": row["turn"], "block": row["block"],
            "start": None if start is None else start - origin, "duration": row["duration"],
            "lines": legible(row["code"]).count("\n") + 1, "printed": printed,
            "failed": row["error"] is not None, "submitted": bool(row["submitted"]),
        })  # fmt: skip
    return blocks


def state_of(error: bytes | None, stop_reason: str | None) -> str:
    """How a run ended; "" when it did not."""
    if error is not None:
        return "stopped" if legible(error).startswith("CancelledError") else "failed"
    return stop_reason or ""


def usage_of(row: sqlite3.Row) -> Usage | None:
    """None for what used nothing, or is not known: one damaged line must not hide the others."""
    try:
        return _USAGE.decode(row["usage"]) if row["usage"] else None
    except (msgspec.MsgspecError, TypeError):
        return None


def legible(packed: bytes | None) -> str:
    """A text, or that it is damaged: that must not hide what stands around it."""
    try:
        return unpack(packed)
    except TrajectoryError:
        return "(a damaged text)"


def clip_line(text: str) -> str:
    return " ".join(text[: 2 * LINE].split())[:LINE]
