"""The questions of a batch, and how each ended.

The id of a question's run is a digest of the batch's name and of what is asked, and how many the same came before it.
So a batch finds its runs again, also when questions were added, taken out or put into another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from recursor.calls import Occurrences, digest
from recursor.errors import ConfigError, RLMError
from recursor.limits import SHARED, Limits
from recursor.schema import Shape, shape
from recursor.task import ordered
from recursor.types import Completion, Usage

SHAPES = 256
"""Schemas that are kept ready."""


@dataclass(frozen=True, slots=True)
class Question:
    """One of many.

    Attributes:
        text: what is asked.
        context: in place of the one that all questions share; as `RLM.completion` takes it.
        schema: in place of the one that all answers share.
        id: whatever names it for you.
    """

    text: str
    context: Any = None
    schema: Any = None
    id: Any = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one question of many ended: in a completion, or in an error.

    Attributes:
        index: of the question, from 0.
        run_id: empty where it was not asked.
        usage, cost: of its run, also where that failed.
        asked: False where nothing was done for it: a bound of the batch was reached before, or what ended
            another question would have ended it.
        recorded: whether the completion was there before: a batch of that name got it.
    """

    index: int
    question: Question
    run_id: str
    completion: Completion | None
    error: RLMError | None
    usage: Usage
    cost: float | None
    asked: bool = True
    recorded: bool = False

    @property
    def result(self) -> Completion | RLMError:
        """The completion; the error where there is none."""
        found = self.error if self.completion is None else self.completion
        assert found is not None, "it is one of them"
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way."""

    index: int
    question: Question
    run_id: str
    begun: bool = False
    """Whether its run is recorded, and has no answer."""


class Shapes:
    """Schemas, each made ready once for all questions that have the same.

    Args:
        shared: of the questions that have none of their own.

    Raises:
        ConfigError: it is no schema.
    """

    def __init__(self, shared: Any) -> None:
        self._shared = shape(shared)
        self._own: dict[str, Shape] = {}

    def of(self, question: Question) -> Shape:
        """Raises ConfigError when it has none that is one."""
        schema = question.schema
        if schema is None:
            return self._shared
        key = ordered(schema) if isinstance(schema, Mapping) else repr(schema)
        found = self._own.get(key)
        if found is None:
            if len(self._own) >= SHAPES:
                self._own.clear()
            found = self._own[key] = shape(schema)
        return found


def check(questions: Sequence[str | Question], shapes: Shapes) -> None:
    """Raise ConfigError for the first that is none."""
    if isinstance(questions, str):
        raise ConfigError("questions must be a list of questions, not one")
    for index, given in enumerate(questions):
        try:
            shapes.of(question_of(given))
        except ConfigError as error:
            raise ConfigError(f"questions[{index}]: {error}") from None


def asked(questions: Iterable[str | Question], shapes: Shapes, name: str) -> Iterator[Asked]:
    """Yield questions with the ids of their runs, which they have in a batch of that name."""
    seen = Occurrences()
    for index, given in enumerate(questions):
        question = question_of(given)
        what = digest("question", name, question.text, shapes.of(question).text, _mark(question.context))
        yield Asked(index, question, digest(what, b"%d" % seen.next(0, what)).hex())


def question_of(given: str | Question) -> Question:
    """Raises ConfigError for what is none."""
    question = Question(given) if isinstance(given, str) else given
    if not isinstance(question, Question):
        raise ConfigError(f"a question is a text or a recursor.Question, not {type(given).__name__}")
    if not isinstance(question.text, str) or not question.text.strip():
        raise ConfigError("the question must be a text that is not empty")
    return question


def _mark(context: Any) -> bytes:
    """Tells contexts of questions apart; files go by their names."""
    if context is None:
        return b""
    if isinstance(context, str | bytes):
        return digest(type(context).__name__, context)
    return digest(type(context).__name__, ordered(context))


def pooled(total: Limits | None) -> Limits:
    """The bounds of a whole batch. Raises ConfigError."""
    if total is not None and not isinstance(total, Limits):
        raise ConfigError(f"total must be a recursor.Limits, not {type(total).__name__}")
    default = Limits()
    for name in (each.name for each in fields(Limits) if each.name not in SHARED):
        if total is not None and getattr(total, name) != getattr(default, name):
            raise ConfigError(
                f"total bounds {', '.join(SHARED)}; {name} is a bound of each run: RLM(limits=...)"
            )
    return Limits(**{name: getattr(total, name) for name in SHARED}) if total is not None else Limits()


def settings_of(name: str, total: Limits | None) -> dict[str, Any]:
    """What is recorded of a batch with each of its runs."""
    bounds = pooled(total)
    return {"name": name, "total": {each: getattr(bounds, each) for each in SHARED}}
