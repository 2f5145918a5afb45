"""Python types -> JSON Schema, for `schema=` of sub-calls: what code in a REPL says of the value that it wants."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import enum
import types
import typing
from typing import Any

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"}, int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"},
    None: {"type": "null"}, type(None): {"type": "null"}, list: {"type": "array"}, dict: {"type": "object"},
    tuple: {"type": "array"}, set: {"type": "array"}, Any: {}, object: {},
    datetime.date: {"type": "string", "format": "date"}, datetime.datetime: {"type": "string", "format": "date-time"},
}  # fmt: skip
_LISTS = (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set)
_DICTS = (dict, collections.abc.Mapping)
_Alias: Any = getattr(typing, "TypeAliasType", ())
"""What `type Name = ...` makes, from Python 3.12 on."""


def json_schema(kind: Any, within: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a type: builtin and generic types, unions, Literal, enums, dataclasses, TypedDicts,
    names that the `type` statement gives to these, and what has a `model_json_schema` of its own.

    Args:
        within: the types that it is part of.

    Raises:
        TypeError: there is none for it.
    """
    if isinstance(kind, collections.abc.Hashable) and kind in _PLAIN:
        return dict(_PLAIN[kind])
    alias = typing.get_origin(kind) or kind
    if isinstance(alias, _Alias):
        if kind in within:
            raise _part_of_itself(kind)
        arguments = typing.get_args(kind)
        meant = alias.__value__[arguments] if arguments else alias.__value__
        return json_schema(meant, (*within, kind))
    found = _of_class(kind, (*within, kind)) if isinstance(kind, type) else None
    found = found or _of_generic(typing.get_origin(kind), typing.get_args(kind), (*within, kind))
    if found is None:
        raise TypeError(f"schema: {kind!r} is neither a JSON Schema (a dict) nor a type that has one"[:500])
    return found


def _of_generic(origin: Any, arguments: tuple[Any, ...], within: tuple[Any, ...]) -> dict[str, Any] | None:
    first = arguments[0] if arguments else None
    found: dict[str, Any] | None = None
    if origin is typing.Annotated:
        found = json_schema(first, within)
    elif origin is typing.Literal:
        found = {"enum": list(arguments)}
    elif origin in (typing.Union, types.UnionType):
        found = {"anyOf": [json_schema(each, within) for each in arguments]}
    elif origin in _LISTS or (origin is tuple and arguments[1:] == (...,)):
        found = {"type": "array", "items": json_schema(first, within)}
    elif origin is tuple:
        items = [json_schema(each, within) for each in arguments]
        found = {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    elif origin in _DICTS:
        found = {"type": "object", "additionalProperties": json_schema(arguments[1], within)}
    return found


def _of_class(kind: type, within: tuple[Any, ...]) -> dict[str, Any] | None:
    own: Any = getattr(kind, "model_json_schema", None)
    if own is not None:
        return dict(own())
    if issubclass(kind, enum.Enum):
        return {"enum": [each.value for each in kind]}
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        required = [
            each.name
            for each in dataclasses.fields(kind)
            if each.default is missing and each.default_factory is missing
        ]
    elif typing.is_typeddict(kind):
        required = sorted(kind.__required_keys__)  # type: ignore[attr-defined]
    else:
        return None
    if kind in within[:-1]:
        raise _part_of_itself(kind)
    hints = typing.get_type_hints(kind)
    return {
        "title": kind.__name__,
        "type": "object",
        "properties": {name: json_schema(hint, within) for name, hint in hints.items()},
        "required": required,
        "additionalProperties": False,
    }


def _part_of_itself(kind: Any) -> TypeError:
    return TypeError(f"schema: {kind.__name__} is part of itself; say that as a JSON Schema with $ref")
