"""What an answer must look like: a JSON Schema, or a Python type, as one check and one description."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgspec

from recursor import bounded
from recursor.errors import ConfigError
from recursor.threads import in_thread
from recursor.types import Schema


@dataclass(frozen=True, slots=True)
class Shape:
    """A schema, made ready.

    Attributes:
        json_schema: to show to a model or a provider; None when anything will do.
        accept: returns the value in its final type; raises ValueError with path and reason.
        slow: whether that is done in Python, item by item: what a JSON Schema asks for.
    """

    json_schema: Schema | None
    accept: Callable[[Any], Any]
    slow: bool = False

    @property
    def text(self) -> str:
        """For a prompt; empty when anything will do."""
        return "" if self.json_schema is None else json.dumps(self.json_schema, ensure_ascii=False)

    async def take(self, value: Any) -> Any:
        """`accept`, and the event loop goes on meanwhile where it may take long."""
        return await in_thread(self.accept, value) if self.slow else self.accept(value)


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
    try:
        return _of_type(schema)
    except (TypeError, NameError, RuntimeError, RecursionError) as error:
        raise ConfigError(
            f"schema: {schema!r} is neither a JSON Schema nor a type with one ({str(error).splitlines()[-1]})"
        ) from None


def _json_schema(schema: dict[str, Any], trusted: bool) -> Shape:
    import jsonschema  # noqa: PLC0415 - 60 ms, and most runs have no schema
    from referencing.jsonschema import EMPTY_REGISTRY  # noqa: PLC0415

    kind: Any = jsonschema.Draft202012Validator
    if trusted:
        kind = jsonschema.validators.validator_for(schema, kind)
        try:
            kind.check_schema(schema)
        except (jsonschema.SchemaError, RecursionError) as error:
            problem = str(error).splitlines()[0][:300]
            raise ConfigError(f"schema: not a valid JSON Schema: {problem}") from None
    else:
        bounded.check(schema)

    def accept(value: Any) -> Any:
        # A registry of our own: the library's default one fetches what a $ref names.
        checker = bounded.counted(kind)(schema, registry=EMPTY_REGISTRY)
        try:
            with bounded.bounds(trusted=trusted):
                problems = list(itertools.islice(checker.iter_errors(value), 5))
        except Exception as error:  # noqa: BLE001 - of a broken reference, an odd key, too many steps
            raise ValueError(f"cannot be checked: {type(error).__name__}: {error}"[:500]) from None
        if problems:
            raise ValueError("; ".join(f"{each.json_path[:200]}: {each.message[:300]}" for each in problems))
        return value

    return Shape(schema, accept, slow=True)


# Types ----------------------------------------------------------------------------------------

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")


def _of_type(kind: Any) -> Shape:
    """Raises TypeError for what is no type that values can be converted to."""
    if _is_pydantic(kind):
        return Shape(_closed(kind.model_json_schema()), functools.partial(_validated, kind))
    kind = _bounded(kind)
    try:
        return Shape(_described(kind), functools.partial(_converted, kind))
    except (TypeError, RuntimeError):
        parts = [_of_type(each) for each in get_args(kind) if each is not ...]
        match get_origin(kind):
            case types.UnionType | typing.Union:
                return _any_of(parts)
            case origin if origin is list:
                return _list_of(parts[0])
            case origin if origin is dict and get_args(kind)[0] is str:
                return _dict_of(parts[1])
        raise


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate") and hasattr(kind, "model_json_schema")


def _bounded(kind: Any) -> Any:
    """A type whose bounds, in the words of `annotated_types` or pydantic's `Field`, are such as msgspec checks."""
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Annotated:
            extras = [
                _meta(extra) for outer in arguments[1:] for extra in getattr(outer, "metadata", [outer])
            ]
            return functools.reduce(
                lambda inner, extra: Annotated[inner, extra], extras, _bounded(arguments[0])
            )
        case types.UnionType | typing.Union:
            return functools.reduce(operator.or_, map(_bounded, arguments))
        case origin if origin in (list, dict, set, frozenset, tuple):
            return origin[tuple(each if each is ... else _bounded(each) for each in arguments)]
    return kind


def _meta(extra: Any) -> Any:
    bounds = {name: value for name in _BOUNDS if (value := getattr(extra, name, None)) is not None}
    return extra if isinstance(extra, msgspec.Meta) or not bounds else msgspec.Meta(**bounds)


def _described(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type, as providers like it: its objects closed, and no reference at its top."""
    named: dict[str, Any] = {}

    def of_others(other: Any) -> dict[str, Any]:
        if not _is_pydantic(other):
            raise NotImplementedError
        name = re.sub(r"\W", "_", other.__name__)
        schema: dict[str, Any] = other.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        named.update({f"{name}.{inner}": each for inner, each in schema.pop("$defs", {}).items()})
        return schema

    schema = msgspec.json.schema(kind, schema_hook=of_others)
    names = {**schema.pop("$defs", {}), **named}
    top = schema.get("$ref", "").removeprefix("#/$defs/")
    if top in names:
        recursive = json.dumps(f"#/$defs/{top}") in json.dumps(names, default=repr)
        schema, names = names[top], names if recursive else {key: names[key] for key in names if key != top}
    described: dict[str, Any] = _closed({**schema, "$defs": names} if names else schema)
    return described


def _closed(schema: Any) -> Any:
    """The schema with objects that have no properties but those that are named: others would be left out."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in schema.keys() & {"properties", "$defs"}:
        closed[key] = {name: _closed(each) for name, each in schema[key].items()}
    for key in schema.keys() & {"items", "prefixItems", "anyOf", "oneOf", "additionalProperties"}:
        closed[key] = _closed(schema[key])
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _converted(kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, str_keys=True, dec_hook=_hook)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _hook(kind: Any, value: Any) -> Any:
    if not _is_pydantic(kind):
        raise NotImplementedError
    return _validated(kind, value)


def _validated(model: Any, value: Any) -> Any:
    try:
        return model.model_validate(value)
    except Exception as error:  # noqa: BLE001 - validators of users raise what they like
        raise ValueError(_said(error)) from None


def _said(error: Exception) -> str:
    """What pydantic found, with a path for each."""
    problems = error.errors() if hasattr(error, "errors") else []
    if not problems:
        return f"{type(error).__name__}: {error}"
    return "; ".join(f"{_path(each['loc'])}: {each['msg']}" for each in problems[:5])


def _path(keys: Any) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


# Types that are made of others, where msgspec does not take the whole -------------------------


def _any_of(parts: list[Shape]) -> Shape:
    def accept(value: Any) -> Any:
        problems = []
        # Types leave out what they have no place for: the one that has a place for all is meant.
        for part in sorted(parts, key=lambda part: not _names_all(part, value)):
            try:
                return part.accept(value)
            except ValueError as problem:
                problems.append(f"{(part.json_schema or {}).get('title', 'another form')}: {problem}")
        raise ValueError("it has none of the forms: " + "; or ".join(problems))

    return Shape(_either(parts), accept)


def _names_all(part: Shape, value: Any) -> bool:
    known = (part.json_schema or {}).get("properties")
    return known is None or not isinstance(value, Mapping) or value.keys() <= known.keys()


def _list_of(part: Shape) -> Shape:
    def accept(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"Expected `array`, got `{type(value).__name__}`")
        return [_at(f"[{index}]", part, item) for index, item in enumerate(value)]

    return Shape(_holding("array", "items", part), accept)


def _dict_of(part: Shape) -> Shape:
    def accept(value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError("Expected an `object` with names")
        return {key: _at(f".{key}", part, item) for key, item in value.items()}

    return Shape(_holding("object", "additionalProperties", part), accept)


def _at(place: str, part: Shape, value: Any) -> Any:
    try:
        return part.accept(value)
    except ValueError as problem:
        raise ValueError(f"{problem} - in `${place}`") from None


def _holding(kind: str, keyword: str, part: Shape) -> dict[str, Any]:
    """The schema of what holds such parts."""
    inner = dict(part.json_schema or {})
    names = inner.pop("$defs", None)
    return {"type": kind, keyword: inner, **({"$defs": names} if names else {})}


def _either(parts: list[Shape]) -> dict[str, Any]:
    """One schema of several, whose names are told apart by a number."""
    schemas: list[Any] = []
    names: dict[str, Any] = {}
    for number, part in enumerate(parts):
        text = json.dumps(part.json_schema or {}).replace('"#/$defs/', f'"#/$defs/{number}.')
        schema = json.loads(text)
        names.update({f"{number}.{name}": each for name, each in schema.pop("$defs", {}).items()})
        schemas.append(schema)
    return {"anyOf": schemas, **({"$defs": names} if names else {})}
