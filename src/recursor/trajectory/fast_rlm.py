"""Logs of `fast-rlm`: one line a step, those of runs at once between one another.

A line has `run_id`, `parent_run_id`, `depth`, `step`, `event_type` ("code_generated", "execution_result",
"final_result"), `code`, `output`, `hasError`, `reasoning`, `usage` and the `time` of its end. Prompts and
models are not in the log: a prompt is put together from the steps before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from recursor.errors import TrajectoryError
from recursor.trajectory import foreign
from recursor.types import (
    BlockExecuted,
    Completion,
    Event,
    Execution,
    Message,
    ModelCalled,
    Output,
    Reply,
    RunEnded,
    RunStarted,
    StopReason,
    Submission,
    Usage,
)

MODEL = "fast-rlm"
"""Stands for the model, whose name is not in the log."""
_TOKENS = {
    "input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "cached_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
}  # fmt: skip


@dataclass(slots=True)
class _Run:
    id: str
    parent: _Run | None
    depth: int
    began: float
    turn: int
    """The turn of the parent that was on when it began."""
    number: int
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    children: list[_Run] = field(default_factory=list)
    ended: float = 0.0
    result: Any = None
    finished: bool = False


def events(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """Yield the events of a log.

    Raises:
        TrajectoryError: a line is damaged.
    """
    runs: dict[str, _Run] = {}
    log = ""
    for number, row in foreign.rows(lines):
        log = log or foreign.identity(MODEL, row)
        try:
            _take(row, runs, log)
        except (KeyError, TypeError, ValueError) as error:
            raise TrajectoryError(f"line {number} is no step of fast-rlm: {error!r}") from None
    for run in runs.values():
        if run.parent is None:
            yield from _events(run)


def _take(row: dict[str, Any], runs: dict[str, _Run], log: str) -> None:
    name, at = str(row["run_id"]), foreign.seconds(row["time"])
    if name not in runs:
        parent = runs.get(str(row.get("parent_run_id")))
        if parent is None and row.get("parent_run_id") is not None:
            # A child is logged while a step of its parent is at work: it comes before the end of that.
            raise ValueError("its parent is not in the log")
        turn = max(parent.steps, default=0) + 1 if parent else 0
        run = runs[name] = _Run(
            foreign.identity(log, name), parent, parent.depth + 1 if parent else 0, at, turn,
            len(parent.children) + 1 if parent else 0,
        )  # fmt: skip
        if parent is not None:
            parent.children.append(run)
    run = runs[name]
    run.ended = at
    if row["event_type"] == "final_result":
        run.result, run.finished = row.get("result"), True
    elif "step" in row:
        step = row["step"]
        if type(step) is not int or not 0 <= step < 1 << 31:
            raise ValueError(f"step {step!r}")
        run.steps[step] = {**run.steps.get(step, {}), **row}


def _events(run: _Run) -> Iterator[Event]:
    first = run.steps.get(0, {})
    question = foreign.text(first.get("output"))
    parent = run.parent
    yield RunStarted(
        run.id, parent.id if parent else None, run.depth, question, (), MODEL, MODEL, foreign.isolation("Pyodide"),
        run.began, reason="imported from a log of fast-rlm", turn=run.turn, block=1 if parent else 0,
        number=run.number,
    )  # fmt: skip
    messages = [Message("user", question)]
    usage, cost, before = Usage(), 0.0, run.began
    last = max(run.steps, default=0)
    for number, step in sorted(run.steps.items()):
        if number == 0:
            continue
        at = foreign.seconds(step["time"])
        call = _called(run, number, step, tuple(messages), (before, max(0.0, at - before)))
        yield call
        for child in run.children:
            if child.turn == number:
                yield from _events(child)
        submits = run.finished and number == last
        if foreign.text(step.get("code")).strip():
            yield _executed(run, number, step, submits, at)
        assert call.reply is not None, "each step has one"
        messages += [Message("assistant", call.reply.text), Message("user", foreign.text(step.get("output")))]
        usage, cost, before = usage + call.reply.usage, cost + (call.reply.cost or 0.0), at
    for child in run.children:
        if child.turn > last:
            yield from _events(child)
    if run.finished:
        spent = cost if cost else None
        done = Completion(
            run.result, StopReason.ANSWERED, usage, spent, run.id, last, run.ended - run.began, MODEL
        )
        yield RunEnded(run.id, done, None, run.ended)


def _called(
    run: _Run, number: int, step: Mapping[str, Any], messages: tuple[Message, ...], when: tuple[float, float]
) -> ModelCalled:
    found = step.get("usage")
    cost = foreign.number(found.get("cost")) if isinstance(found, dict) else 0.0
    code = foreign.text(step.get("code"))
    reasoning = foreign.text(step.get("reasoning")) or None
    reply = Reply(
        f"```repl\n{code}\n```" if code else "",
        foreign.usage(found, **_TOKENS),
        cost or None,
        MODEL,
        None,
        reasoning,
    )
    return ModelCalled(
        run.id, foreign.identity(run.id, number), number, "root", MODEL, messages, reply, None, *when
    )


def _executed(run: _Run, number: int, step: Mapping[str, Any], submits: bool, at: float) -> BlockExecuted:
    output = foreign.text(step.get("output"))
    error = output.rstrip().rpartition("\n")[2] if step.get("hasError") is True else None
    submission = Submission(run.result) if submits else None
    execution = Execution(foreign.text(step["code"]), Output(output), error, (), submission, 0.0, started=at)
    return BlockExecuted(run.id, number, 1, execution)
