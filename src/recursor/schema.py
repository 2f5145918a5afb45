"""What an answer must look like: a JSON Schema, or a Python type, as one check and one description."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from recursor.errors import ConfigError
from recursor.types import Schema


@dataclass(frozen=True, slots=True)
class Shape:
    """A schema, made ready.

    Attributes:
        json_schema: to show to a model or a provider; None when anything will do.
        accept: returns the value in its final type; raises ValueError with path and reason.
    """

    json_schema: Schema | None
    accept: Callable[[Any], Any]

    @property
    def text(self) -> str:
        """For a prompt; empty when anything will do."""
        return "" if self.json_schema is None else json.dumps(self.json_schema, ensure_ascii=False)


ANYTHING = Shape(None, lambda value: value)


def shape(schema: Any) -> Shape:
    """Return the shape of a schema.

    Args:
        schema: None, a JSON Schema (a mapping), a pydantic model, or any type that msgspec knows:
            builtin and generic types, dataclasses, TypedDicts, msgspec Structs.

    Raises:
        ConfigError: it is none of these, or no valid schema.
    """
    if schema is None:
        return ANYTHING
    if isinstance(schema, Mapping):
        return _json_schema(dict(schema))
    if isinstance(schema, type) and hasattr(schema, "model_validate"):
        return _pydantic(schema)
    try:
        described = msgspec.json.schema(schema)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"schema: {schema!r} is neither a JSON Schema nor a type with one ({error})"
        ) from None
    return Shape(described, lambda value: _converted(value, schema))


def _json_schema(schema: dict[str, Any]) -> Shape:
    import jsonschema  # noqa: PLC0415 - 60 ms, and most runs have no schema

    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"schema: not a valid JSON Schema: {error.message} at {error.json_path}") from None
    checker = validator(schema)

    def accept(value: Any) -> Any:
        problems = sorted(checker.iter_errors(value), key=lambda error: list(map(str, error.path)))
        if problems:
            shown = [f"{problem.json_path}: {problem.message[:300]}" for problem in problems[:5]]
            raise ValueError("; ".join(shown))
        return value

    return Shape(schema, accept)


def _pydantic(model: Any) -> Shape:
    return Shape(model.model_json_schema(), model.model_validate)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
