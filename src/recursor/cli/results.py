"""What a batch writes: a line of JSON for each question, as it ends.

A line is written in one piece. A file that was cut off in the middle of one, by `kill -9` or a full disk, is read
without it. Whoever goes on with a file keeps its answers, and takes out the rest: those questions are asked again.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

from recursor.cli import standard
from recursor.cli.questions import Questions
from recursor.cli.text import clean, to_json
from recursor.errors import ConfigError, ModelError, RLMError, TrajectoryError
from recursor.questions import Outcome
from recursor.types import StopReason, Usage

_COUNTS = tuple(each.name for each in fields(Usage))


def row_of(outcome: Outcome) -> dict[str, Any]:
    """What is said of one question."""
    question, done = outcome.question, outcome.completion
    row: dict[str, Any] = {"line": question.id.line}
    if question.id.id is not None:
        row["id"] = question.id.id
    row["question"] = question.text
    if done is None:
        assert outcome.error is not None, "one that has no completion failed"
        row["error"] = error_of(outcome.error)
    else:
        row |= {"answer": done.answer, "stop_reason": str(done.stop_reason)}
    row |= {"usage": asdict(outcome.usage), "cost": outcome.cost, "run_id": outcome.run_id}
    if done is not None:
        row |= {"turns": done.turns, "duration": round(done.duration, 3), "model": done.model}
    return row


def error_of(error: RLMError) -> dict[str, Any]:
    """An error as JSON."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ModelError):
        found |= {"status": error.status, "retryable": error.retryable}
    return found


class Results:
    """Where the lines go.

    Args:
        path: of the file; None is stdout.
        again: whether it may hold results of this batch, which is gone on with.

    Attributes:
        answered: lines of questions whose answers the file has.
        usage, cost: what those took.

    Raises:
        ConfigError: it cannot be written, has results of something else, or another batch writes it.
    """

    def __init__(self, path: str | None, questions: Questions, *, again: bool) -> None:
        self.answered: set[int] = set()
        self.usage = Usage()
        self.cost: float | None = 0.0
        self.run_id = ""
        """Of an answer that it has."""
        self._path = path
        if path is None:
            self._file: IO[bytes] = sys.stdout.buffer
            return
        try:
            self._file = Path(path).open("ab+", buffering=0)  # noqa: SIM115 - it is written for as long as this lives
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_size:
                self._take_up(Path(path).resolve(), questions, again=again)
        except BaseException as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise ConfigError(f"{path} is being written by another batch") from None
            if isinstance(error, OSError):
                raise ConfigError(f"cannot write {path}: {error.strerror}") from error
            raise

    def write(self, outcome: Outcome) -> None:
        """Write a line. Raises TrajectoryError when nothing takes it."""
        text = to_json(row_of(outcome))
        if self._path is None and sys.stdout.isatty():
            text = clean(text)
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        try:
            _put(self._file, data)
            self._file.flush()
        except OSError as error:
            if self._path is None:
                standard.forget_output()
            raise TrajectoryError(f"cannot write {self._path or 'to stdout'}: {error.strerror}") from error

    def close(self) -> None:
        """Free the file."""
        if self._path is not None and hasattr(self, "_file"):
            self._file.close()

    def _take_up(self, path: Path, questions: Questions, *, again: bool) -> None:
        """Keep the lines with answers: a file with these alone takes the place of the one that there is."""
        if Path(questions.name).exists() and path.samefile(questions.name):
            raise ConfigError(f"{path} has the questions: name another file for the results")
        if not again:
            raise ConfigError(
                f"{path} holds results already: --resume goes on with them; or name another file"
            )
        texts = {question.id.line: hash(question.text) for question in questions}
        part = path.with_name(f"{path.name}.part")
        before, self._file = self._file, part.open("wb+", buffering=0)
        with before, path.open("rb") as file:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    break  # it was cut off in the middle
                row = _row(data)
                if row is None:
                    raise ConfigError(
                        f"{path}, line {number}: this is no result of a batch; name another file"
                    )
                if texts.get(row["line"]) != hash(row["question"]):
                    raise ConfigError(
                        f"{path}, line {number}: this answers another question than line {row['line']} of "
                        f"{questions.name} asks; name another file"
                    )
                if row.get("stop_reason") == StopReason.ANSWERED and row["line"] not in self.answered:
                    self._count(row)
                    _put(self._file, data)
            os.fsync(self._file.fileno())
            part.replace(path)

    def _count(self, row: dict[str, Any]) -> None:
        self.answered.add(row["line"])
        self.run_id = row["run_id"]
        self.usage += Usage(**{name: row["usage"].get(name, 0) for name in _COUNTS})
        self.cost = None if self.cost is None or row.get("cost") is None else self.cost + row["cost"]


def _put(file: IO[bytes], data: bytes) -> None:
    """Write all of it: a file without a buffer may take a part."""
    while data:
        data = data[file.write(data) :]


def _row(data: bytes) -> dict[str, Any] | None:
    """A line as it was written; None where it is none of ours."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return None
    kinds = {"line": int, "question": str, "run_id": str, "usage": dict}
    right = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())
    return row if right else None
