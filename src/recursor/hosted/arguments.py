"""What a host asks for: arguments of tools, checked before anything is paid, and what they are described as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import msgspec

from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.schema import Shape, shape

LIMITS = tuple(each.name for each in fields(Limits))
T = TypeVar("T", bound=msgspec.Struct)


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of `ask` and `start`."""

    question: str
    text: str | None = None
    paths: list[str] | None = None
    schema: dict[str, Any] | None = None
    limits: dict[str, float | None] | None = None


class OfRun(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of `status` and `cancel`."""

    run_id: str


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of `result`."""

    run_id: str
    wait_seconds: float = 0.0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question."""

    question: str
    context: Any
    expected: Shape
    limits: Limits


def converted(arguments: Mapping[str, Any], kind: type[T]) -> T:
    """Arguments as they must be. Raises ConfigError with what is wrong, and where."""
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the arguments are not as they must be: {error}") from None


def asked(form: Ask, context: Any, own: Limits) -> Asked:
    """The question, with limits that are never above the server's own.

    Raises:
        ConfigError: the question is empty, or the schema or the limits are none.
    """
    if not form.question.strip():
        raise ConfigError("the question is empty")
    changes = {name: _number(name, value) for name, value in (form.limits or {}).items()}
    limits = own.with_changes(changes).within(own)
    return Asked(form.question, context, shape(form.schema, trusted=False), limits)


def _number(name: str, value: float | None) -> float | None:
    """A bound; a whole number is one, however JSON has it."""
    if value is None:
        return None
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be a number")
    return int(value) if value == int(value) else value


def described(folders: list[str]) -> dict[str, Any]:
    """The JSON Schema of `Ask`.

    Args:
        folders: that may be read; where there are none, no paths are offered.
    """
    paths = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "Files and folders to answer over, absolute or relative to one of: "
        + ", ".join(folders)
        + ". Tables, PDFs, Office files, archives and repositories are read as what they are.",
    }
    return {
        "type": "object",
        "properties": {
            "question": {
                "type": "string",
                "description": "What to find out. It is read by a model that sees the input only through code.",
            },
            "text": {"type": "string", "description": "The input itself, of any length; in place of paths."},
            **({"paths": paths} if folders else {}),
            "schema": {
                "type": "object",
                "description": "A JSON Schema that the answer must follow; without one it is mostly text.",
            },
            "limits": {
                "type": "object",
                "properties": {name: {"type": "number"} for name in LIMITS},
                "additionalProperties": False,
                "description": "Tighter bounds than the server's own: max_cost in US dollars, max_time in seconds, "
                "max_turns, max_calls, max_tokens.",
            },
        },
        "required": ["question"],
        "additionalProperties": False,
    }


def of_run(**more: Any) -> dict[str, Any]:
    """The JSON Schema of `OfRun`, or of what has more beside."""
    run_id = {"type": "string", "description": "As `start` returned it."}
    return {
        "type": "object",
        "properties": {"run_id": run_id, **more},
        "required": ["run_id"],
        "additionalProperties": False,
    }


RESULT = of_run(
    wait_seconds={
        "type": "number",
        "minimum": 0,
        "description": "How long to wait for the end; 0 looks only.",
    },
    offset={
        "type": "integer",
        "minimum": 0,
        "description": "Where in a long answer to begin, in characters.",
    },
)
