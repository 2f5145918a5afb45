"""What an answer must look like: a JSON Schema, or a Python type, as one check and one description."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from recursor.errors import ConfigError
from recursor.types import Schema

MAX_SCHEMA = 16_384
MAX_NESTING = 50
MAX_STEPS = 100_000
MAX_CHECK = 0.5
"""Seconds."""
_COSTLY = frozenset(
    (
        "pattern", "patternProperties", "propertyNames", "uniqueItems", "$schema", "$id", "$anchor",
        "$dynamicRef", "$dynamicAnchor", "unevaluatedItems", "unevaluatedProperties",
    )
)  # fmt: skip


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


def shape(schema: Any, *, trusted: bool = True) -> Shape:
    """Return the shape of a schema.

    Args:
        trusted: False for a schema that code of a model wrote: what could keep the host busy is
            refused, and checking is bounded. References lead nowhere but into the schema in any case.
        schema: None, a shape, a JSON Schema (a mapping), a pydantic model, or any type that msgspec knows:
            builtin and generic types, dataclasses, TypedDicts, msgspec Structs.

    Raises:
        ConfigError: it is none of these, or no valid schema.
    """
    if schema is None:
        return ANYTHING
    if isinstance(schema, Shape):
        return schema
    if isinstance(schema, Mapping):
        return _json_schema(dict(schema), trusted)
    if isinstance(schema, type) and hasattr(schema, "model_validate"):
        return _pydantic(schema)
    try:
        described = msgspec.json.schema(schema)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"schema: {schema!r} is neither a JSON Schema nor a type with one ({error})"
        ) from None
    return Shape(described, lambda value: _converted(value, schema))


def _json_schema(schema: dict[str, Any], trusted: bool) -> Shape:
    import jsonschema  # noqa: PLC0415 - 60 ms, and most runs have no schema
    from referencing.jsonschema import EMPTY_REGISTRY  # noqa: PLC0415

    if not trusted:
        _refuse_costly(schema)
    kind: Any = jsonschema.Draft202012Validator
    if trusted:
        kind = jsonschema.validators.validator_for(schema, kind)
    try:
        kind.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        raise ConfigError(f"schema: not a valid JSON Schema: {str(error).splitlines()[0][:300]}") from None

    def accept(value: Any) -> Any:
        # A registry of our own: the library's default one fetches what a $ref names.
        checker = (kind if trusted else _counted(kind))(schema, registry=EMPTY_REGISTRY)
        try:
            problems = list(itertools.islice(checker.iter_errors(value), 5))
        except Exception as error:  # noqa: BLE001 - of a broken reference, an odd key, too many steps
            raise ValueError(f"cannot be checked: {type(error).__name__}: {error}"[:500]) from None
        if problems:
            raise ValueError("; ".join(f"{each.json_path[:200]}: {each.message[:300]}" for each in problems))
        return value

    return Shape(schema, accept)


def _refuse_costly(schema: Any, depth: int = 0) -> None:
    """Raise ConfigError for keywords that hostile use makes arbitrarily slow."""
    if depth == 0 and len(json.dumps(schema, default=repr)) > MAX_SCHEMA:
        raise ConfigError(f"schema: more than {MAX_SCHEMA:,} characters")
    if depth > MAX_NESTING:
        raise ConfigError(f"schema: nested deeper than {MAX_NESTING} levels")
    if isinstance(schema, list):
        for item in schema:
            _refuse_costly(item, depth + 1)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _COSTLY:
            raise ConfigError(f"schema: {key!r} is not available in sub-calls; check that in code")
        if key == "$ref" and not str(value).startswith("#"):
            raise ConfigError("schema: a $ref must lead into the schema itself (#/...)")
        named = key in ("properties", "$defs", "definitions", "dependentSchemas") and isinstance(value, dict)
        for inner in (
            value.values() if named else () if key in ("enum", "const", "default", "examples") else (value,)
        ):
            _refuse_costly(inner, depth + 1)


def _counted(kind: Any) -> Any:
    """A validator class that gives up after MAX_STEPS keywords."""
    import jsonschema  # noqa: PLC0415

    steps, deadline = itertools.count(), time.monotonic() + MAX_CHECK

    def counting(check: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            if next(steps) > MAX_STEPS or time.monotonic() > deadline:
                raise ValueError("it takes too many steps")
            return check(*arguments)

        return counted

    extend: Any = jsonschema.validators.extend
    return extend(kind, {name: counting(check) for name, check in kind.VALIDATORS.items()})


def _pydantic(model: Any) -> Shape:
    def accept(value: Any) -> Any:
        try:
            return model.model_validate(value)
        except ValueError:
            raise
        except Exception as error:  # noqa: BLE001 - validators of users raise what they like
            raise ValueError(f"{type(error).__name__}: {error}") from None

    return Shape(model.model_json_schema(), accept)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
