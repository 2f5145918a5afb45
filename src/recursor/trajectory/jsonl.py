"""Runs as lines of JSON: one object for each event, the format in `docs/trajectories.md`.

A line is ASCII, so any text survives; a log is linear in the size of the run, since a prompt is
written as what it adds to the prompt before.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import IO, Any

from recursor.errors import TrajectoryError
from recursor.sandboxes.guest import values
from recursor.trajectory.packing import dumps, picture_digest, pictured, represent
from recursor.trajectory.view import Trajectories
from recursor.types import (
    BatchAnnounced,
    BlockExecuted,
    Event,
    Message,
    ModelCalled,
    Reply,
    ReplyText,
    RunEnded,
    RunStarted,
    SubcallStarted,
    ToolCalled,
)

VERSION = 3


class JsonlSink:
    """A sink that writes each event as a line, at once.

    Args:
        file: a text file; left open.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._lines = _Lines()
        self._failure: Exception | None = None

    def emit(self, event: Event) -> None:
        """Write one event. A failure to write is raised by the next `flush`."""
        with self._lock:
            try:
                line = self._lines.line(event)
                if line is not None:
                    self._file.write(dumps(line) + "\n")
                    self._file.flush()
            except Exception as error:  # noqa: BLE001 - a sink must not raise into the engine
                self._failure = error

    async def flush(self) -> None:
        """Every line was flushed when it was written. Raises TrajectoryError when one could not be."""
        if self._failure is not None:
            raise TrajectoryError(f"the JSONL log cannot be written: {self._failure}") from self._failure


def export(trajectories: Trajectories, run_id: str, file: IO[str]) -> None:
    """Write a recorded run and its children as lines, in the order of their events.

    Raises:
        TrajectoryError: there is no such run.
    """
    lines = _Lines()
    with trajectories.snapshot():
        for event in trajectories.each_event(trajectories.run(run_id).id):
            file.write(dumps(lines.line(event)) + "\n")


def read(file: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a log.

    Raises:
        TrajectoryError: a line is damaged or of another version; named by its number.
    """
    for number, line in enumerate(_raw(file), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrajectoryError(f"line {number} is not JSON: {error}") from None
        if not isinstance(found, dict) or not isinstance(found.get("event"), str):
            raise TrajectoryError(f'line {number} is no event: an object with "v" and "event" is expected')
        version = found.get("v")
        if type(version) is not int or not 1 <= version <= VERSION:
            raise TrajectoryError(
                f"line {number} is of version {version!r}; this recursor knows 1 to {VERSION}"
            )
        yield found


def _raw(file: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """The lines of a file; a text file decodes ahead, so that its bad line is only known roughly."""
    number = 1
    try:
        for line in file:
            yield line
            number += 1
    except UnicodeDecodeError as error:
        raise TrajectoryError(f"line {number} or a later one is not text: {error}") from None


class _Lines:
    """Events -> objects. Remembers the last prompt of each run, to write only what is new."""

    def __init__(self) -> None:
        self._prompts: dict[str, tuple[Message, ...]] = {}

    def line(self, event: Event) -> dict[str, Any] | None:
        """Return the object for an event; None when it is not recorded."""
        fields: dict[str, Any]
        match event:
            case ReplyText() | SubcallStarted() | BatchAnnounced():
                return None
            case RunStarted():
                fields = {**asdict(event), "contexts": [asdict(info) for info in event.contexts]}
            case ModelCalled():
                fields = self._called(event)
            case BlockExecuted():
                fields = _executed(event)
            case ToolCalled():
                fields = json.loads(dumps(asdict(event)))
            case RunEnded():
                self._prompts.pop(event.run_id, None)
                fields = _ended(event)
            case _:
                fields = asdict(event)
        return {"v": VERSION, "event": _name(type(event)), **fields}

    def _called(self, event: ModelCalled) -> dict[str, Any]:
        same = 0
        if event.purpose == "root":
            before = self._prompts.get(event.run_id, ())
            same = len(before) if event.messages[: len(before)] == before else 0
            self._prompts[event.run_id] = event.messages
        new = [_message(each) for each in event.messages[same:]]
        return {
            "run_id": event.run_id, "call_id": event.call_id, "turn": event.turn, "purpose": event.purpose,
            "model": event.model, "messages_from": same, "new_messages": new,
            "reply": event.reply and _reply(event.reply), "error": event.error, "time": event.time,
            "duration": event.duration, "cut": event.cut, "request": event.request,
            "block": event.block,
        }  # fmt: skip


def _message(message: Message) -> dict[str, Any]:
    """A message; of its pictures what they are, and not their bytes."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        fields["pictures"] = [
            {**pictured(image), "digest": picture_digest(image).hex()} for image in message.images
        ]
    return fields


def _name(kind: type) -> str:
    """RunStarted -> run_started."""
    return re.sub(r"(?<=.)(?=[A-Z])", "_", kind.__name__).lower()


def _reply(reply: Reply) -> dict[str, Any]:
    raw = json.loads(dumps(reply.raw))
    return {
        "text": reply.text, "usage": asdict(reply.usage), "cost": reply.cost, "model": reply.model,
        "finish_reason": reply.finish_reason, "reasoning": reply.reasoning, "raw": raw, "cached": reply.cached,
    }  # fmt: skip


def _executed(event: BlockExecuted) -> dict[str, Any]:
    execution = event.execution
    return {
        "run_id": event.run_id, "turn": event.turn, "block": event.block, "code": execution.code,
        "output": asdict(execution.output), "error": execution.error, "notes": list(execution.notes),
        "submitted": execution.submission is not None, "duration": execution.duration,
        "readings": list(execution.readings), "variables": [asdict(each) for each in execution.variables],
        "more_variables": execution.more_variables, "started": execution.started,
    }  # fmt: skip


def _ended(event: RunEnded) -> dict[str, Any]:
    done = event.completion
    fields: dict[str, Any] = {
        "run_id": event.run_id,
        "time": event.time,
        "error": event.error,
        "completion": None,
    }
    if done is not None:
        fields["completion"] = {
            "answer": _answer(done.answer), "stop_reason": str(done.stop_reason), "usage": asdict(done.usage),
            "cost": done.cost, "turns": done.turns, "duration": done.duration, "model": done.model,
            "replayed": done.replayed, "diverged_at": done.diverged_at,
        }  # fmt: skip
    return fields


def _answer(answer: Any) -> Any:
    """JSON where the answer is that; else what `values` makes of it; else its repr."""
    if isinstance(answer, str):
        return answer
    try:
        form, data = values.encode(answer)
    except (values.NotPlain, ValueError, RecursionError):
        return {"$": ["repr", represent(answer)]}
    return {"$": ["bytes", data.hex()]} if form == "bytes" else json.loads(data)
