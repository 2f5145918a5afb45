"""What requests of both APIs have in common: a body as JSON, and what is asked beside its messages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn, Protocol, TypeVar

import msgspec

from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.plugins import nearest
from recursor.schema import ANYTHING, Shape, shape
from recursor.server import instructions
from recursor.server.asked import Asked, Terms, check_messages
from recursor.server.attached import taken_out
from recursor.server.choice import chosen
from recursor.server.failures import ApiError
from recursor.server.functions import functions_of
from recursor.server.sessions import Going

MAX_NESTING = 100
"""Levels of a body."""
HEADER = "x-recursor-"
LIMITS = tuple(each.name for each in fields(Limits))
T = TypeVar("T", bound=msgspec.Struct)


class Headers(Protocol):
    """Headers of a request; names in any case."""

    def get(self, name: str, /) -> str | None: ...
    def __iter__(self) -> Iterator[str]: ...


class Request(msgspec.Struct, kw_only=True):
    """What of any request matters here; other fields are taken and have no effect."""

    model: str
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


def refuse(request: Request, refused: Mapping[str, Sequence[Any]]) -> None:
    """Raise ApiError for a field that asks for what is not served.

    Args:
        refused: fields, and the values with which they ask for nothing; None is one anyway.
    """
    for name, harmless in refused.items():
        value = getattr(request, name)
        if value is not None and value not in harmless:
            only = f", but for {json.dumps(harmless[0])}" if harmless else ""
            raise ApiError(400, f"{name} is not served here{only}", "unsupported_parameter", name)


def terms_of(request: Request, headers: Headers, form: Any, *, chat: bool) -> Terms:
    """What a request asks beside its messages. Raises ApiError."""
    return Terms(
        model=request.model,
        chat=chat,
        form=form,
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel=request.parallel_tool_calls is not False,
        limits=limits_of(request.metadata, headers),
    )


def asked_of(terms: Terms, said: Sequence[Mapping[str, Any]], headers: Headers, going: Going | None) -> Asked:
    """The question of a request, checked. Raises ApiError.

    Args:
        said: its messages, as chat completions have them.
    """
    param = "messages" if terms.chat else "input"
    messages, context = taken_out(said, param)
    goes_on = going is not None and going.kind in ("response", "conversation")
    check_messages(messages, param, goes_on=goes_on)
    return on_terms(terms, messages, context=context, going=going, resume=resumed(headers))


def on_terms(
    terms: Terms, messages: Sequence[Mapping[str, Any]], instruction: str | None = None, **more: Any
) -> Asked:
    """The question that messages ask on some terms. Raises ApiError.

    Args:
        instruction: None takes what the system messages come to.
        more: other fields of `Asked`.
    """
    expected = expected_of(terms.form, "response_format" if terms.chat else "text.format")
    choice = chosen(functions_of(terms.tools, nested=terms.chat), terms.tool_choice)
    if instruction is None:
        instruction = "\n\n".join(filter(None, (instructions.told(messages), choice.told)))
    return Asked(terms, messages, choice.expected if choice.forced else expected, choice, instruction, **more)


def decoded(body: bytes, kind: type[T]) -> T:
    """A body as JSON. Raises ApiError with what is wrong, and where."""
    try:  # the standard library takes lone surrogates, which are text here
        value = msgspec.convert(json.loads(body.decode("utf-8"), parse_constant=_no_number), kind)
    except msgspec.ValidationError as error:
        where = re.search(r"`\$\.?(.*)`$", str(error))
        raise ApiError(
            400, f"the body is not as it must be: {error}", param=where[1] if where else None
        ) from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: {error.reason} at byte {error.start:,}") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deep") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    _check_nesting([getattr(value, name) for name in value.__struct_fields__])
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is none of its numbers")


def _check_nesting(value: Any) -> None:
    """Raise ApiError for a value that is deeper than anybody needs."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, Mapping) else each)
            if isinstance(item, list | Mapping)
        ]
        if not level:
            return
    raise ApiError(400, "the body is nested too deep")


def expected_of(form: Any, param: str) -> Shape:
    """What the answer must be by a `response_format`, or by a `text.format`. Raises ApiError."""
    kind = form.get("type") if isinstance(form, Mapping) else None
    if form is None or kind == "text":
        return ANYTHING
    schema: Any = {"type": "object"} if kind == "json_object" else None
    if kind == "json_schema":
        named = form.get("json_schema", form)
        schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping):
        raise ApiError(
            400,
            f"{param} must have the type text, json_object or json_schema, the last of them with a schema",
            param=param,
        )
    try:
        return shape(schema, trusted=False)
    except ConfigError as error:
        raise ApiError(400, str(error), param=param) from None


def resumed(headers: Headers) -> str:
    """The run to go on with: `X-Recursor-Resume`. Raises ApiError."""
    run_id = headers.get("X-Recursor-Resume") or ""
    if run_id and not re.fullmatch("[0-9a-f]{32}", run_id):
        raise ApiError(400, "X-Recursor-Resume takes the whole id of a run, as X-Recursor-Run told it")
    return run_id


def limits_of(metadata: Any, headers: Headers) -> dict[str, Any]:
    """Bounds that a request sets: `metadata: {"max_cost": "0.50"}` or `X-Recursor-Max-Cost: 0.50`."""
    given = dict(metadata) if isinstance(metadata, Mapping) else {}
    ours = (name.lower() for name in headers if name.lower().startswith(HEADER))
    for name in (*given, *(name.removeprefix(HEADER).replace("-", "_") for name in ours)):
        if name.startswith("max_") and name not in LIMITS:  # one that nobody heeds would bound nothing
            raise ApiError(
                400, f"there is no limit {name[:40]!r}{nearest(name[:40], LIMITS)}", param="metadata"
            )
    found: dict[str, Any] = {}
    for name in LIMITS:
        text = headers.get("X-Recursor-" + name.replace("_", "-"))
        text = given.get(name) if text is None else text
        if text is not None:
            found[name] = _number(name, text)
    return found


def _number(name: str, text: Any) -> float:
    try:
        plain = not isinstance(text, str) or (text.isascii() and "_" not in text)
        value = float(text) if isinstance(text, str | int | float) and plain else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ApiError(400, f"{name} must be a number, not {str(text)[:40]!r}", param="metadata")
    return int(value) if value == int(value) else value
