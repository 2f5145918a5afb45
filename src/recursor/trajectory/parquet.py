"""Runs as Parquet: the tables `runs`, `calls` and `executions`, one file each. Needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from recursor.errors import ConfigError
from recursor.trajectory.packing import dumps
from recursor.trajectory.recorded import RecordedCall, RecordedExecution, RecordedRun
from recursor.trajectory.view import Trajectories
from recursor.types import Usage

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as error:  # pragma: no cover - with the extra it is there
    raise ConfigError(f"Parquet is not installed: pip install 'recursor[parquet]' ({error})") from error

GROUP = 2_000
"""Rows that are held and written at once."""
_TEXT, _WHOLE, _NUMBER, _FLAG = pyarrow.string(), pyarrow.int64(), pyarrow.float64(), pyarrow.bool_()
_TIME = pyarrow.timestamp("us", tz="UTC")
_MESSAGES = pyarrow.list_(pyarrow.struct([("role", _TEXT), ("content", _TEXT)]))
_VARIABLES = pyarrow.list_(
    pyarrow.struct([(name, _TEXT) for name in ("name", "type", "size", "preview", "change")])
)
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
RUNS = pyarrow.schema([
    ("id", _TEXT), ("parent_id", _TEXT), ("depth", _WHOLE), ("turn", _WHOLE), ("block", _WHOLE), ("number", _WHOLE),
    ("question", _TEXT), ("model", _TEXT), ("sub_model", _TEXT), ("strategy", _TEXT), ("started", _TIME),
    ("ended", _TIME), ("duration", _NUMBER), ("stop_reason", _TEXT), ("error", _TEXT), ("answer", _TEXT),
    ("turns", _WHOLE), ("calls", _WHOLE), *((name, _WHOLE) for name in _TOKENS), ("cost", _NUMBER),
])  # fmt: skip
CALLS = pyarrow.schema([
    ("id", _TEXT), ("run_id", _TEXT), ("turn", _WHOLE), ("block", _WHOLE), ("purpose", _TEXT), ("model", _TEXT),
    ("reply_model", _TEXT), ("messages", _MESSAGES), ("reply", _TEXT), ("reasoning", _TEXT), ("finish_reason", _TEXT),
    ("error", _TEXT), ("cut", _FLAG), ("cached", _FLAG), ("started", _TIME), ("duration", _NUMBER),
    *((name, _WHOLE) for name in _TOKENS), ("cost", _NUMBER),
])  # fmt: skip
EXECUTIONS = pyarrow.schema([
    ("run_id", _TEXT), ("turn", _WHOLE), ("block", _WHOLE), ("code", _TEXT), ("output", _TEXT), ("omitted", _WHOLE),
    ("error", _TEXT), ("notes", pyarrow.list_(_TEXT)), ("submitted", _FLAG), ("started", _TIME), ("duration", _NUMBER),
    ("variables", _VARIABLES), ("more_variables", _WHOLE),
])  # fmt: skip


def export(trajectories: Trajectories, run_id: str, folder: Path) -> list[Path]:
    """Write a run and its children as three files into a folder, which is made. Return their paths.

    Raises:
        TrajectoryError: there is no such run.
        OSError: the folder cannot be written.
    """
    with trajectories.snapshot():
        tree = trajectories.tree(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        calls = (_call(call, trajectories) for call in trajectories.each_call(tree[0].id, tree=True))
        executions = (_execution(each) for run in tree for each in trajectories.executions(run.id))
        return [
            _write(folder / "runs.parquet", RUNS, map(_run, tree)),
            _write(folder / "calls.parquet", CALLS, calls),
            _write(folder / "executions.parquet", EXECUTIONS, executions),
        ]


def _write(path: Path, schema: Any, rows: Iterable[dict[str, Any]]) -> Path:
    rest = iter(rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rest, GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
    return path


def _run(run: RecordedRun) -> dict[str, Any]:
    usage = run.usage
    answered = run.answer is not None or run.stop_reason is not None
    answer = (run.answer if isinstance(run.answer, str) else dumps(run.answer)) if answered else None
    return {
        "id": run.id, "parent_id": run.parent_id, "depth": run.depth, "turn": run.turn, "block": run.block,
        "number": run.number, "question": _clean(run.question), "model": run.model, "sub_model": run.sub_model,
        "strategy": run.strategy, "started": _micros(run.started), "ended": _micros(run.ended),
        "duration": run.duration, "stop_reason": run.stop_reason and str(run.stop_reason), "error": _clean(run.error),
        "answer": _clean(answer), "turns": run.turns, "calls": usage and usage.calls, **_tokens(usage),
        "cost": run.cost,
    }  # fmt: skip


def _call(call: RecordedCall, trajectories: Trajectories) -> dict[str, Any]:
    messages = trajectories.messages(call)
    return {
        "id": call.id, "run_id": call.run_id, "turn": call.turn, "block": call.block, "purpose": call.purpose,
        "model": call.model, "reply_model": call.reply_model,
        "messages": [{"role": each.role, "content": _clean(each.content)} for each in messages],
        "reply": _clean(call.reply), "reasoning": _clean(call.reasoning), "finish_reason": call.finish_reason,
        "error": _clean(call.error), "cut": call.cut, "cached": call.cached, "started": _micros(call.started),
        "duration": call.duration, **_tokens(call.usage), "cost": call.cost,
    }  # fmt: skip


def _execution(found: RecordedExecution) -> dict[str, Any]:
    execution = found.execution
    output = execution.output
    return {
        "run_id": found.run_id, "turn": found.turn, "block": found.block, "code": _clean(execution.code),
        "output": _clean(output.head + output.tail), "omitted": output.omitted, "error": _clean(execution.error),
        "notes": [_clean(note) for note in execution.notes], "submitted": found.submitted,
        "started": _micros(execution.started or None), "duration": execution.duration,
        "variables": list(_variables(found)), "more_variables": execution.more_variables,
    }  # fmt: skip


def _variables(found: RecordedExecution) -> Iterator[dict[str, str]]:
    for each in found.execution.variables:
        yield {name: getattr(each, name) for name in ("name", "type", "size", "preview", "change")}


def _tokens(usage: Usage | None) -> dict[str, int | None]:
    return {name: None if usage is None else getattr(usage, name) for name in _TOKENS}


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _clean(text: str | None) -> str | None:
    """A text as UTF-8 takes it: lone surrogates are spelt out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
