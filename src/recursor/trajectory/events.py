"""From what a store holds back to the events that it was told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from recursor.errors import TrajectoryError
from recursor.trajectory.recorded import RecordedCall, RecordedEvent, RecordedExecution, RecordedRun
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
    Message,
    ModelCalled,
    Reply,
    RunEnded,
    StopReason,
    Submission,
    Usage,
)

NOTES: Final[dict[str, Callable[..., Event]]] = {
    "CallRefused": CallRefused,
    "Decided": Decided,
    "CallRetried": CallRetried,
    "Compacted": Compacted,
    "Diverged": Diverged,
}
"""Events without a table of their own, by name."""


def noted(found: RecordedEvent) -> Event:
    """An event without a table of its own. Raises TrajectoryError when it is damaged."""
    try:
        return NOTES[found.kind](**dict(found.data or {}))
    except (KeyError, TypeError) as error:
        raise TrajectoryError(f"event {found.number} ({found.kind}) cannot be read: {error}") from error


def model_called(call: RecordedCall, messages: tuple[Message, ...]) -> ModelCalled:
    reply = None
    if call.reply is not None:
        usage = call.usage or Usage()
        reply = Reply(
            call.reply, usage, call.cost, call.reply_model, call.finish_reason, call.reasoning, call.raw, call.cached
        )  # fmt: skip
    purpose: Any = call.purpose
    return ModelCalled(
        call.run_id, call.id, call.turn, purpose, call.model, messages, reply, call.error,
        call.started, call.duration, call.cut, call.request, call.block,
    )  # fmt: skip


def block_executed(found: RecordedExecution) -> BlockExecuted:
    submission = Submission(None) if found.submitted else None  # its value is the run's answer
    return BlockExecuted(
        found.run_id, found.turn, found.block, replace(found.execution, submission=submission)
    )


def context_hashed(run_id: str, name: str, digest: str | None) -> ContextHashed:
    return ContextHashed(run_id, name, digest or "")


def run_ended(run: RecordedRun) -> RunEnded:
    completion = None
    if run.stop_reason is not None:
        completion = Completion(
            run.answer, StopReason(run.stop_reason), run.usage or Usage(), run.cost, run.id, run.turns or 0,
            run.duration or 0.0, run.model, run.isolation, run.replayed, run.diverged_at,
        )  # fmt: skip
    return RunEnded(run.id, completion, run.error, run.ended or 0.0)
