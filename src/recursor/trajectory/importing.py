"""Runs from a log into a store: JSONL of this or an older version, and the logs of other implementations.

A log is data of unknown origin: each line is checked against the type that it stands for, and what it
says never replaces what the store holds.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from recursor.errors import TrajectoryError
from recursor.sandboxes.guest import values
from recursor.trajectory import fast_rlm, jsonl, rlms
from recursor.trajectory.file import connect
from recursor.trajectory.writer import Writer
from recursor.types import (
    BlockExecuted,
    CallRefused,
    CallRetried,
    Compacted,
    Completion,
    ContextHashed,
    Decided,
    Diverged,
    Event,
    Execution,
    Message,
    ModelCalled,
    RunEnded,
    RunStarted,
    StopReason,
    Submission,
    ToolCalled,
    Usage,
)

_ID = re.compile(r"[0-9a-f]{32}")
_PLAIN: Final[Mapping[str, type]] = {
    "run_started": RunStarted,
    "call_retried": CallRetried,
    "call_refused": CallRefused,
    "tool_called": ToolCalled,
    "compacted": Compacted,
    "decided": Decided,
    "diverged": Diverged,
    "context_hashed": ContextHashed,
}
"""Events whose lines have their fields."""


def load(lines: Iterable[str | bytes], store: Path) -> list[str]:
    """Put the runs of a log into a store: all of them, or none. Return the ids of those without a parent.

    Raises:
        TrajectoryError: a line is damaged, of an unknown form or version, or of a run that the store holds.
    """
    roots: list[str] = []
    with closing(connect(store)) as connection:
        try:
            Writer(connection).commit(_new(parse(lines), connection, roots))
        except (ValueError, TypeError, OverflowError, sqlite3.Error) as error:
            raise TrajectoryError(f"the log cannot be imported: {error}") from error
    return roots


def parse(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """Yield the events of a log; its first line says which form it has.

    Raises:
        TrajectoryError: a line is damaged, or of an unknown form or version.
    """
    rest = iter(lines)
    first = next(rest, None)
    if first is None:
        raise TrajectoryError("the log is empty")
    lines = itertools.chain([first], rest)
    head: Any = None
    with suppress(ValueError, RecursionError):
        head = json.loads(first)
    if isinstance(head, dict) and head.get("type") == "metadata":
        return rlms.events(lines)
    if isinstance(head, dict) and isinstance(head.get("event_type"), str):
        return fast_rlm.events(lines)
    return _events(lines)


def _new(events: Iterable[Event], connection: sqlite3.Connection, roots: list[str]) -> Iterator[Event]:
    """Let events pass that say nothing of what is in the store."""
    begun: set[str] = set()
    for event in events:
        if isinstance(event, RunStarted) and event.run_id not in begun:
            if _ID.fullmatch(event.run_id) is None:
                raise TrajectoryError(f"{event.run_id[:40]!r} is no id of a run")
            if connection.execute("SELECT 1 FROM run WHERE id = ?", (event.run_id,)).fetchone():
                raise TrajectoryError(f"run {event.run_id} is in the store already")
            begun.add(event.run_id)
            if event.parent_id is None:
                roots.append(event.run_id)
        if event.run_id not in begun:
            raise TrajectoryError(f"the log does not hold the start of run {event.run_id[:40]!r}")
        table = {ModelCalled: "call", ToolCalled: "tool"}.get(type(event))
        if table is not None and isinstance(event, ModelCalled | ToolCalled):
            query = f"SELECT run_id FROM {table} WHERE id = ?"  # noqa: S608 - ours
            row = connection.execute(query, (event.call_id,)).fetchone()
            if row is not None and row[0] not in begun:
                raise TrajectoryError(f"call {event.call_id[:40]!r} is in the store already")
        yield event


def _events(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """The events of JSONL as `recursor.trajectory.jsonl` writes it."""
    prompts: dict[str, tuple[Message, ...]] = {}
    special: dict[str, Callable[[dict[str, Any]], Event]] = {
        "model_called": lambda line: _model_called(line, prompts),
        "block_executed": _block_executed,
        "run_ended": _run_ended,
    }
    for number, line in enumerate(jsonl.read(lines), 1):
        name = line["event"]
        try:
            if name in special:
                yield special[name](line)
            elif name in _PLAIN:
                yield msgspec.convert(line, _PLAIN[name])
            else:
                raise ValueError(f"there is no event {name[:40]!r}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TrajectoryError(f"line {number} cannot be read: {error}") from None


def _model_called(line: dict[str, Any], prompts: dict[str, tuple[Message, ...]]) -> ModelCalled:
    new = msgspec.convert(line["new_messages"], tuple[Message, ...])
    run_id, same = line["run_id"], line["messages_from"]
    before = prompts.get(run_id, ()) if same else ()
    if not isinstance(same, int) or not 0 <= same <= len(before):
        raise ValueError("its prompt goes on from one that is not there")
    called = msgspec.convert({**line, "messages": []}, ModelCalled)
    bytes.fromhex(called.request)
    messages = (*before[:same], *new)
    if called.purpose == "root":
        prompts[run_id] = messages
    return replace(called, messages=messages)


def _block_executed(line: dict[str, Any]) -> BlockExecuted:
    submission = Submission(None) if line["submitted"] else None  # its value is the run's answer
    execution = msgspec.convert({**line, "submission": None}, Execution)
    place = msgspec.convert({**line, "execution": {"code": ""}}, BlockExecuted)
    return replace(place, execution=replace(execution, submission=submission))


def _run_ended(line: dict[str, Any]) -> RunEnded:
    found = line["completion"]
    error = msgspec.convert(line["error"], str | None)
    ended = RunEnded(msgspec.convert(line["run_id"], str), None, error, msgspec.convert(line["time"], float))
    if found is None:
        return ended
    done = Completion(
        _answer(found["answer"]),
        StopReason(found["stop_reason"]),
        msgspec.convert(found["usage"], Usage),
        msgspec.convert(found["cost"], float | None),
        ended.run_id,
        msgspec.convert(found["turns"], int),
        msgspec.convert(found["duration"], float),
        msgspec.convert(found["model"], str),
        replayed=msgspec.convert(found.get("replayed", 0), int),
        diverged_at=msgspec.convert(found.get("diverged_at"), int | None),
    )
    return replace(ended, completion=done)


def _answer(found: Any) -> Any:
    """What `jsonl` made JSON of."""
    if isinstance(found, str):
        return found
    match found:
        case {"$": ["repr", str(text)]}:
            return text
        case {"$": ["bytes", str(data)]}:
            return bytes.fromhex(data)
    return values.decode("values", json.dumps(found).encode())
