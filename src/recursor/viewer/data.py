"""What a store holds, in the shapes that the page reads: plain values with the fields of `viewer/src/api.ts`.

Texts are clipped here, so that one giant message does not stop a browser; the numbers are never.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recursor.errors import TrajectoryError
from recursor.trajectory.claim import claimed
from recursor.trajectory.packing import unpack_json
from recursor.trajectory.view import RecordedRun, Trajectories
from recursor.viewer.spans import TEXT, TREE, clip_line, legible, state_of, usage_of

NOTED = ("CallRetried", "CallRefused", "Decided", "Diverged", "Compacted")


def to_json(value: Any) -> bytes:
    """Strict JSON in ASCII: lone surrogates are spelt, as a browser reads them; NaN and infinities are null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":")).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def runs(
    recorded: Trajectories,
    store: Path,
    *,
    search: str = "",
    model: str = "",
    state: str = "",
    limit: int = 100,
    offset: int = 0,
) -> dict[str, Any]:
    """Runs that no other run started, newest first.

    Args:
        search: words that are all in the question, in any case; or the beginning of an id.
        model: the root LM's name; "" is any.
        state: a stop reason, "failed", "stopped", "live" or "cut off"; "" is any.
    """
    words = search.lower().split()
    every = recorded.rows(
        "SELECT id, parent_id, depth, question, model, sub_model, started, ended, stop_reason, error, turns, duration, "
        "usage, cost FROM run WHERE parent_id IS NULL ORDER BY started DESC, rowid DESC"
    )
    found: list[tuple[sqlite3.Row, str]] = []
    for row in every:
        question = legible(row["question"]).lower() if words else ""
        wanted = all(word in question for word in words) or row["id"].startswith(search.strip() or "-")
        if wanted and model in ("", row["model"]):
            here = _state(row, store) if state or offset <= len(found) < offset + limit else ""
            if state in ("", here):
                found.append((row, here))
    page = [_summary(row, here) for row, here in found[offset : offset + limit]]
    _count_calls(recorded, page)
    return {
        "runs": page,
        "total": len(found),
        "models": sorted({row["model"] for row in every}),
        "store": str(store),
    }


def run(recorded: Trajectories, store: Path, run_id: str) -> dict[str, Any]:
    """One run, without what happened in it."""
    found = recorded.run(run_id)
    row = recorded.row("SELECT * FROM run WHERE id = ?", found.id)
    assert row is not None, "it was there"
    summary = _summary(row, _state(row, store))
    _count_calls(recorded, [summary])
    return summary | {
        "strategy": found.strategy,
        "reason": found.reason,
        "isolation": found.isolation and asdict(found.isolation),
        "contexts": [{**asdict(each.info), "digest": each.digest} for each in found.contexts],
        "settings": found.settings,
        "limits": {name: value for name, value in found.limits.items() if value is not None},
        "answer": answer(found),
        "usage": found.usage and asdict(found.usage),
        "shares": _shares(recorded, found.id),
        "events": _noted(recorded, found.id),
        "replayed": found.replayed,
        "diverged_at": found.diverged_at,
    }


def answer(found: RecordedRun, most: int = TEXT) -> dict[str, Any] | None:
    """The answer of a run; None while there is none."""
    if found.ended is None or found.error is not None:
        return None
    is_text = isinstance(found.answer, str)
    text = found.answer if is_text else _json(found.answer)
    return {"form": "text" if is_text else "json", "text": text[:most], "size": len(text)}


def turn(recorded: Trajectories, run_id: str, number: int) -> dict[str, Any]:
    """One turn: the reply, and each block with what came of it."""
    rows = recorded.rows(
        "SELECT * FROM call WHERE run_id = ? AND purpose = 'root' AND turn = ? ORDER BY rowid DESC",
        run_id,
        number,
    )
    executions = recorded.executions(run_id, number)
    if not rows and not executions:
        raise TrajectoryError(f"run {run_id} has no turn {number}")
    call = next((row for row in rows if row["reply"] is not None), rows[0] if rows else None)
    return {
        "run_id": run_id,
        "number": number,
        "call_id": call and call["id"],
        "reply": call and _text(call["reply"]),
        "reasoning": call and _text(call["reasoning"]),
        "error": call and _text(call["error"]),
        "executions": [
            {
                "block": each.block,
                "code": each.execution.code[:TEXT],
                "output": asdict(each.execution.output),
                "error": each.execution.error,
                "notes": each.execution.notes,
                "duration": each.execution.duration,
                "submitted": each.submitted,
                "variables": [asdict(variable) for variable in each.execution.variables],
                "more_variables": each.execution.more_variables,
            }
            for each in executions
        ],
    }


def call(recorded: Trajectories, call_id: str) -> dict[str, Any]:
    """One model call with its prompt, and how much of that the one before it had."""
    row = recorded.row("SELECT rowid AS place, * FROM call WHERE id = ?", call_id)
    if row is None:
        raise TrajectoryError(f"there is no call {call_id!r}")
    before = _before(recorded, row)
    nodes = _chain(recorded, row["leaf"])
    usage = usage_of(row)
    known = {hash_ for hash_, _, _ in _chain(recorded, before["leaf"])} if before else set()
    return {
        "id": row["id"], "run_id": row["run_id"], "turn": row["turn"], "purpose": row["purpose"],
        "model": row["model"], "reply_model": row["reply_model"] or "",
        "messages": [
            {"role": role, "content": content[:TEXT], "size": len(content)} for _, role, content in nodes
        ],
        "reply": _text(row["reply"]), "reasoning": _text(row["reasoning"]), "error": _text(row["error"]),
        "finish_reason": row["finish_reason"], "usage": usage and asdict(usage),
        "cost": row["cost"], "started": row["started"], "duration": row["duration"], "cut": bool(row["cut"]),
        "cached": bool(row["cached"]), "previous": before and before["id"],
        "shared": sum(hash_ in known for hash_, _, _ in nodes),
    }  # fmt: skip


def _before(recorded: Trajectories, call: sqlite3.Row) -> sqlite3.Row | None:
    """The call of the same purpose before one. Each query is one step in an index: a turn may hold 100,000."""
    same = "SELECT id, leaf FROM call WHERE run_id = ? AND purpose = ? AND "
    of = call["run_id"], call["purpose"], call["turn"]
    in_turn = recorded.row(f"{same}turn = ? AND rowid < ? ORDER BY rowid DESC LIMIT 1", *of, call["place"])
    return in_turn or recorded.row(f"{same}turn < ? ORDER BY turn DESC, rowid DESC LIMIT 1", *of)


def prompts(recorded: Trajectories, run_id: str) -> dict[str, Any]:
    """Of every sub-call of a run and its children: the beginnings of prompt and reply, and a template.

    Calls have the same template when the beginnings of their prompts differ in digits, quoted
    strings and what follows the first lines alone.
    """
    rows = recorded.rows(
        TREE
        + "SELECT call.id, call.reply, call.error, node.content FROM call JOIN tree ON call.run_id = tree.id "
        "JOIN node ON node.hash = call.leaf WHERE call.purpose = 'sub' ORDER BY call.rowid",
        run_id,
    )
    templates: dict[str, int] = {}
    ids: list[str] = []
    asked: list[str] = []
    told: list[str] = []
    kinds: list[int] = []
    for row in rows:
        text = legible(row["content"])
        ids.append(row["id"])
        asked.append(clip_line(text))
        told.append(clip_line(legible(row["reply"] if row["reply"] is not None else row["error"])))
        kinds.append(templates.setdefault(template(text), len(templates)))
    return {"id": ids, "prompt": asked, "reply": told, "template": kinds, "templates": list(templates)}


_VARYING = re.compile(r"\d[\d.,:]*|\"[^\"\n]{0,200}\"|'[^'\n]{0,200}'|`[^`\n]{0,200}`")


def template(prompt: str) -> str:
    """The beginning of a prompt, with marks where texts of one kind differ."""
    lines = [line for line in prompt[:2000].splitlines() if line.strip()]
    # Pictures are named before the text, which says what is asked of them.
    first = next((line for line in lines if not line.startswith("[picture: ")), lines[0] if lines else "")
    return _VARYING.sub("…", first[:120]).strip()[:80]


# Shapes ---------------------------------------------------------------------------------------


def _summary(row: sqlite3.Row, state: str) -> dict[str, Any]:
    usage = usage_of(row)
    return {
        "id": row["id"], "parent_id": row["parent_id"], "depth": row["depth"],
        "question": legible(row["question"])[:TEXT],
        "model": row["model"], "sub_model": row["sub_model"], "started": row["started"], "ended": row["ended"],
        "stop_reason": row["stop_reason"], "error": row["error"] and legible(row["error"])[:TEXT],
        "turns": row["turns"], "duration": row["duration"],
        "tokens": usage.total_tokens if usage else None, "calls": usage.calls if usage else None,
        "cost": row["cost"], "state": state,
    }  # fmt: skip


def _state(row: sqlite3.Row, store: Path) -> str:
    """How a run ended, or that it goes, or that whatever worked on it ended before it did."""
    if row["ended"] is None and row["parent_id"] is None and claimed(store, row["id"]):
        return "live"
    return state_of(row["error"], row["stop_reason"]) or "cut off"


def _count_calls(recorded: Trajectories, summaries: Iterable[dict[str, Any]]) -> None:
    """Fill in what is known of runs that have not ended, or failed: no sums are recorded of those."""
    for summary in summaries:
        if summary["calls"] is None:
            shares = _shares(recorded, summary["id"])
            summary["calls"] = sum(share["calls"] for share in shares)
            summary["tokens"] = sum(share["input_tokens"] + share["output_tokens"] for share in shares)
            row = recorded.row("SELECT max(turn) AS turn FROM call WHERE run_id = ?", summary["id"])
            summary["turns"] = row["turn"] if row else None
            if summary["ended"] is not None:
                costs = [share["cost"] for share in shares]
                summary["cost"] = None if None in costs else math.fsum(costs)
                summary["duration"] = max(0.0, summary["ended"] - summary["started"])


def _shares(recorded: Trajectories, run_id: str) -> list[dict[str, Any]]:
    """Calls, tokens and money of a run and its children by depth, purpose and model.

    What came from the cache was paid for by another run: its calls count, and its tokens do not.
    """
    part = (
        "sum(CASE WHEN call.cached OR NOT json_valid(call.usage) THEN 0 "
        "ELSE coalesce(json_extract(call.usage, '$.{0}'), 0) END) AS {0}"
    )
    rows = recorded.rows(
        TREE + "SELECT run.depth, call.purpose, call.model, count(*) AS calls, sum(call.error IS NOT NULL) AS failed, "
        + ", ".join(part.format(name) for name in ("input_tokens", "cached_tokens", "output_tokens"))
        + ", CASE WHEN sum(call.cost IS NULL AND call.reply IS NOT NULL AND NOT call.cached) THEN NULL "
        "ELSE sum(CASE WHEN call.cached THEN 0 ELSE coalesce(call.cost, 0) END) END AS cost "
        "FROM call JOIN tree ON call.run_id = tree.id "
        "JOIN run ON run.id = tree.id "
        "GROUP BY run.depth, call.purpose, call.model ORDER BY run.depth, call.purpose, call.model",
        run_id,
    )  # fmt: skip
    return [dict(row) for row in rows]


def _noted(recorded: Trajectories, run_id: str) -> list[dict[str, Any]]:
    kinds = ", ".join(f"'{kind}'" for kind in NOTED)
    rows = recorded.rows(
        TREE + "SELECT event.* FROM event JOIN tree ON event.run_id = tree.id "
        f"WHERE kind IN ({kinds}) ORDER BY number LIMIT 2000",
        run_id,
    )
    return [_event(row) for row in rows]


def _event(row: sqlite3.Row) -> dict[str, Any]:
    told = {"kind": row["kind"], "run_id": row["run_id"]}
    try:
        data = unpack_json(row["data"])
        return told | {"turn": data.get("turn"), "text": _sentence(row["kind"], data)[:2000]}
    except (TrajectoryError, AttributeError, LookupError):
        return told | {"turn": None, "text": "(damaged)"}


def _sentence(kind: str, data: dict[str, Any]) -> str:
    match kind:
        case "CallRetried":
            return f"attempt {data['attempt']} of a call of {data['model']} failed: {data['error']}"
        case "CallRefused":
            return f"not sent: {data['error']}"
        case "Decided":
            said = "allowed" if data["allowed"] else "refused"
            return f"{data['kind']} {data['name']} {said} by {data['rule']}"
        case "Compacted":
            return f"turns up to {data['turn']} gave way to a summary"
        case _:
            return str(data.get("reason", ""))


def _chain(recorded: Trajectories, leaf: bytes) -> list[tuple[bytes, str, str]]:
    """The messages of a prompt with their hashes, first to last; what is missing is said to be."""
    rows = recorded.rows(
        "WITH RECURSIVE chain (hash, parent, role, content, place) AS (SELECT hash, parent, role, content, 0 FROM node "
        "WHERE hash = ? UNION ALL SELECT node.hash, node.parent, node.role, node.content, place + 1 FROM node "
        "JOIN chain ON node.hash = chain.parent WHERE place < 10000) SELECT * FROM chain ORDER BY place DESC",
        leaf,
    )
    found = {row["hash"]: (row["hash"], row["role"], legible(row["content"])) for row in rows}
    whole = bool(rows) and rows[0]["parent"] is None and len(found) == len(rows)
    lost = [] if whole or not leaf else [(b"", "missing", "What stood here is not in the store any more.")]
    return [*lost, *found.values()]


def _text(packed: bytes | None) -> str | None:
    return None if packed is None else legible(packed)[:TEXT]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
