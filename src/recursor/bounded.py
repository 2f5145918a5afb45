"""JSON Schemas of whoever: which are refused where nobody is trusted, and how long checking a value may take.

A schema of a model's code, or of a client, is looked at in time that grows with its length alone, and holds no
keyword that hostile use makes slow. References lead to schemas within it, and nowhere else: not to what stands
in a default or an example, where nobody looks.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from recursor.errors import ConfigError

MAX_SCHEMA = 16_384
MAX_NESTING = 50
MAX_STEPS = 100_000
MAX_CHECK = 0.5
"""Seconds that checking a value by such a schema may take, beside its steps."""
MAX_TRUSTED_CHECK = 60.0
"""The same of a schema that is trusted: the value may still be one that takes for ever."""
COSTLY = frozenset(
    (
        "pattern", "patternProperties", "propertyNames", "uniqueItems", "$schema", "$id", "$anchor",
        "$dynamicRef", "$dynamicAnchor", "unevaluatedItems", "unevaluatedProperties",
    )
)  # fmt: skip
"""Keywords that hostile use makes arbitrarily slow."""

_SCHEMA = frozenset(("items", "additionalProperties", "contains", "not", "if", "then", "else"))
_SCHEMAS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


def check(schema: Any) -> None:
    """Raise ConfigError for what is no JSON Schema (draft 2020-12), or may keep the host busy."""
    if len(json.dumps(schema, default=repr)) > MAX_SCHEMA:
        raise ConfigError(f"schema: more than {MAX_SCHEMA:,} characters")
    places = dict(_schemas_of(schema))
    for each in places.values():
        if "$ref" in each and _place(each["$ref"]) not in places:
            raise ConfigError("schema: a $ref must lead into the schema itself, to a schema there (#/...)")


def _schemas_of(schema: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All schemas in a schema, itself included, by their places."""
    rest: list[tuple[tuple[str, ...], Any]] = [((), schema)]
    while rest:
        path, each = rest.pop()
        if len(path) > 2 * MAX_NESTING:
            raise ConfigError(f"schema: nested deeper than {MAX_NESTING} levels")
        if isinstance(each, bool):
            each = {}
        if not isinstance(each, Mapping):
            raise _wrong(path, "no schema")
        for key, value in each.items():
            if key in COSTLY:
                raise ConfigError(f"schema: {key!r} is not available in sub-calls; check that in code")
            rest += _inner((*path, key), key, value)
        yield path, each


def _place(reference: str) -> tuple[str, ...] | None:
    """What a $ref names, as a JSON pointer in a fragment; None for all that is none."""
    start, *steps = unquote(reference).split("/")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps) if start == "#" else None


def _inner(path: tuple[str, ...], key: str, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas below a keyword, with their places. Raises ConfigError where its value is none of its own."""
    if key in _SCHEMA:
        yield path, value
    elif key in _SCHEMAS:
        if not isinstance(value, list) or not value:
            raise _wrong(path, "no list of schemas")
        yield from (((*path, str(index)), each) for index, each in enumerate(value))
    elif key in _NAMED:
        if not isinstance(value, Mapping):
            raise _wrong(path, "no schemas by their names")
        yield from (((*path, name), each) for name, each in value.items())
    elif key in _RIGHT and not _RIGHT[key](value):
        raise _wrong(path, f"not what it may be: {json.dumps(value, default=repr)[:100]}")


def _wrong(path: tuple[str, ...], what: str) -> ConfigError:
    place = "/".join(map(str, ("#", *path)))[:200]
    return ConfigError(f"schema: not a valid JSON Schema: what stands at {place} is {what}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_types(value: Any) -> bool:
    return value in _TYPES if isinstance(value, str) else _are_names(value) and {*value} <= {*_TYPES}


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "type": _are_types,
    "required": _are_names,
    "dependentRequired": lambda value: isinstance(value, Mapping) and all(map(_are_names, value.values())),
    "enum": lambda value: isinstance(value, list),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(
        (
            "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
            "minContains", "maxContains",
        ),
        _is_count,
    ),
    **dict.fromkeys(
        ("$ref", "$comment", "title", "description", "format"), lambda value: isinstance(value, str)
    ),
}  # fmt: skip
"""What the value of a keyword has to be that holds no schemas."""

# Checking values -------------------------------------------------------------------------------

_spent = threading.local()
"""By the check that goes on in this thread: its steps, how many it may have, and when it has to end."""


@contextmanager
def bounds(*, trusted: bool) -> Iterator[None]:
    """Within this, checks by validators of `counted` raise ValueError when they have taken too long."""
    _spent.steps, _spent.most = 0, None if trusted else MAX_STEPS
    _spent.until = time.monotonic() + (MAX_TRUSTED_CHECK if trusted else MAX_CHECK)
    yield


@functools.cache
def counted(kind: Any) -> Any:
    """A class of validators that counts its steps, see `bounds`, and finds twins by putting items in order."""
    import jsonschema  # noqa: PLC0415 - 60 ms, and most runs have no schema

    def counting(check: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            _spent.steps += 1
            if _spent.steps == _spent.most or time.monotonic() > _spent.until:
                raise ValueError("it takes too many steps")
            return check(*arguments)

        return counted

    def unique(checker: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[Any]:
        if wanted and checker.is_type(value, "array"):
            texts = sorted(map(_canonical, value))
            if any(map(str.__eq__, texts, texts[1:])):
                yield jsonschema.ValidationError("it has an item twice")

    checks = {**kind.VALIDATORS, **({"uniqueItems": unique} if "uniqueItems" in kind.VALIDATORS else {})}
    extend: Any = jsonschema.validators.extend
    return extend(kind, {name: counting(check) for name, check in checks.items()})


def _canonical(value: Any) -> str:
    """A text that two values have in common where JSON Schema takes them for equal."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(sorted(f'{key!r}:{_canonical(each)}' for key, each in value.items()))}}}"
    return repr(value)
