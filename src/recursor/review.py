"""What a recorded run read of its context, and where its answer came from: the store's side of `recursor.coverage`.

Blocks, and reads the context whole: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from recursor import background, config
from recursor.context import Source
from recursor.coverage import Coverage, Document, Evidence, Reading, cover, matcher_of, texts, trace
from recursor.coverage import Source as Said
from recursor.errors import ConfigError, RLMError, SandboxError, SubcallError
from recursor.inputs import recorded_inputs
from recursor.sandboxes.folders import FolderSource
from recursor.sandboxes.guest.text import Text
from recursor.trajectory import view
from recursor.trajectory.packing import unpack
from recursor.trajectory.sessions import kept_of
from recursor.trajectory.view import RecordedRun, Trajectories
from recursor.types import Execution, Subcall

READING = 300.0
"""Seconds that reading all texts of files in a sandbox may take."""
_TEXTS = """
def texts(value, depth=0):
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict) and depth < 20:
        return {key: texts(each, depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and depth < 20:
        return [texts(each, depth + 1) for each in value]
    return None

FINAL(texts(context))
"""
"""Leaves strings, and None for all else, where they are."""


def coverage(
    store: str | Path | Trajectories, run_id: str, context: Any = None, *, messages: Any = None
) -> Coverage:
    """Say which parts of its context a run and its children read.

    Args:
        store: where it is recorded.
        run_id: as in `Completion.run_id`, or the beginning of it.
        context: what the run was given, unless that was a file or folder that is still where it was.
        messages: what the run was given, if it was.

    Raises:
        ConfigError: the context is not at hand, or is not what it was.
        TrajectoryError: there is no such run.
    """
    with _opened(store) as recorded:
        run = recorded.run(run_id)
        return cover(given(recorded, run, context, messages=messages), readings(recorded, run.id))


def coverage_of(store: str | Path | Trajectories, run_id: str, sources: Mapping[str, Source]) -> Coverage:
    """The same over sources that are at hand, by the names of their variables."""
    with _opened(store) as recorded:
        return cover(documents(sources), readings(recorded, run_id))


def evidence(
    store: str | Path | Trajectories, run_id: str, context: Any = None, *, messages: Any = None
) -> Evidence:
    """Say in which replies, outputs and parts of the context the answer of a run stands.

    The arguments are those of `coverage`. Without the context, `unknown` says why, and the rest is there.

    Raises:
        ConfigError: a context was passed that is not what it was.
        TrajectoryError: there is no such run.
    """
    with _opened(store) as recorded:
        run = recorded.run(run_id)
        try:
            found = given(recorded, run, context, messages=messages)
        except ConfigError as missing:
            if context is not None or messages is not None:
                raise
            return trace(run.answer, said(recorded, run.id), unknown=str(missing))
        matcher = matcher_of(found)
        covered = cover(found, readings(recorded, run.id), matcher)
        return trace(run.answer, said(recorded, run.id), documents=found, matcher=matcher, coverage=covered)


@contextmanager
def _opened(store: str | Path | Trajectories) -> Iterator[Trajectories]:
    """As of one moment, while others write."""
    if isinstance(store, Trajectories):
        yield store
        return
    with view.open(store) as recorded, recorded.snapshot():
        yield recorded


def given(
    recorded: Trajectories, run: RecordedRun, context: Any = None, *, messages: Any = None
) -> list[Document]:
    """The texts that a run was given, if they are at hand and what they were. Raises ConfigError if not.

    What a session has kept for its turns is at hand.
    """
    if run.session is not None and context is None and messages is None:
        kept = kept_of(recorded.path, run.id)
        context, messages = kept.get("context"), kept.get("messages")
    return documents(recorded_inputs(run, context, messages)[1])


def documents(sources: Mapping[str, Source]) -> list[Document]:
    """The texts of a run's variables. Reads them all; files that only a sandbox reads in one of its own."""
    found: list[Document] = []
    for name, source in sources.items():
        opaque = getattr(source, "opaque", False)
        try:
            value = background.run(partial(_read_inside, source)) if opaque else source.value()
        except (OSError, RLMError) as error:
            raise ConfigError(f"`{name}` cannot be read: {error}") from error
        found += texts(name, value[:] if isinstance(value, Text) else value)
    return found


async def _read_inside(source: Source) -> Any:
    """The texts of files that no parser of the host's looks at. Raises SandboxError where they cannot be had."""
    if isinstance(source, FolderSource):
        source = source.with_texts_as_they_stand()
    repl = await config.sandbox("process").open(context_size=source.size)
    try:
        await repl.load("context", source)
        done: Execution = await repl.execute(_TEXTS, _Alone(), max_time=READING)
    finally:
        await repl.close()
    if done.submission is None:
        raise SandboxError(f"its texts cannot be had from the sandbox: {(done.error or '')[-300:]}")
    return done.submission.value


class _Alone:
    """Answers no sub-call."""

    async def answer(self, _subcall: Subcall) -> Any:
        raise SubcallError("there are no sub-calls here")


def readings(recorded: Trajectories, run_id: str) -> Iterator[Reading]:
    """What models read in a run and its children, as it was recorded; calls that failed read nothing."""
    for each in _tree(recorded, run_id):
        yield from _shown(recorded, each)
        for row in recorded.rows(
            "SELECT id, turn, leaf FROM call WHERE run_id = ? AND purpose = 'sub' AND reply IS NOT NULL ORDER BY rowid",
            each,
        ):
            for _, text in _messages(recorded, row["leaf"], set()):
                yield Reading(row["id"], "sub-call", text, each, row["turn"])


def said(recorded: Trajectories, run_id: str) -> Iterator[Said]:
    """What the answer of a run may have come from, beside the context."""
    for row in recorded.rows(
        "SELECT id, reply FROM call WHERE run_id = ? AND purpose = 'sub' AND reply IS NOT NULL ORDER BY rowid",
        run_id,
    ):
        yield Said("reply", row["id"], unpack(row["reply"]))
    for child in recorded.children(run_id):
        yield from (Said("child", child.id, each.text or "") for each in texts("", child.answer))
    for call in recorded.tools(run_id):
        yield from (Said("tool", call.call_id, each.text or "") for each in texts("", call.result))
    for executed in recorded.executions(run_id):
        where, output = f"{executed.turn}.{executed.block}", executed.execution.output
        yield Said("code", where, executed.execution.code)
        yield Said("output", where, output.head if output.omitted else output.head + output.tail)
        if output.omitted:
            yield Said("output", where, output.tail)
        for variable in executed.execution.variables:
            yield Said("variable", f"{where} {variable.name}", variable.preview)


def _tree(recorded: Trajectories, run_id: str) -> Iterator[str]:
    waiting, seen = [run_id], {run_id}
    while waiting:
        run = waiting.pop()
        yield run
        rows = recorded.rows("SELECT id FROM run WHERE parent_id = ? ORDER BY started DESC", run)
        waiting += [row["id"] for row in rows if row["id"] not in seen]
        seen.update(waiting)


def _shown(recorded: Trajectories, run_id: str) -> Iterator[Reading]:
    """What a root LM was shown: each message once, with the call in whose prompt it was first."""
    seen: set[bytes] = set()
    kind: Any = "opening"
    for row in recorded.rows(
        "SELECT id, turn, leaf FROM call WHERE run_id = ? AND purpose = 'root' AND reply IS NOT NULL ORDER BY rowid",
        run_id,
    ):
        for role, text in _messages(recorded, row["leaf"], seen):
            if role == "user":
                yield Reading(row["id"], kind, text, run_id, row["turn"])
        kind = "output"


def _messages(recorded: Trajectories, leaf: bytes, seen: set[bytes]) -> Iterator[tuple[str, str]]:
    """(role, content) of the messages up to a node that were not seen before, first ones first."""
    found: list[tuple[str, str]] = []
    node: bytes | None = leaf
    while node and node not in seen:
        seen.add(node)
        row = recorded.row("SELECT parent, role, content FROM node WHERE hash = ?", node)
        if row is None:
            break
        found.append((row["role"], unpack(row["content"])))
        node = row["parent"]
    return reversed(found)
