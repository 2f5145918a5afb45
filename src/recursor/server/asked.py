"""What both APIs ask for: checked before anything is paid."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, Protocol, TypeVar

import msgspec

from recursor.context.pictures import is_picture, of_part
from recursor.errors import ConfigError
from recursor.files import Content
from recursor.limits import Limits
from recursor.schema import ANYTHING, Shape, shape
from recursor.server.choice import Choice
from recursor.server.failures import ApiError
from recursor.server.sessions import Going

MAX_INSTRUCTION = 8_000
"""Characters of system messages that the root LM reads as they are; longer ones are data."""
MAX_NESTING = 100
"""Levels of a body."""
LIMITS = tuple(each.name for each in fields(Limits))
T = TypeVar("T", bound=msgspec.Struct)


class Headers(Protocol):
    """Headers of a request; names in any case."""

    def get(self, name: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to an RLM."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    """As chat completions have them, of whichever API they came."""
    context: Content | None = None
    """The files in them."""
    expected: Shape = ANYTHING
    """What the answer must follow."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Bounds that the client sets beside the server's own."""
    choice: Choice = field(default_factory=Choice)
    """Of the client's functions."""
    parallel: bool = True
    """Whether one reply may have several calls."""
    going: Going | None = None
    """The conversation that it is a part of; None when it stands alone."""
    resume: str = ""
    """The id of a run that was cut off, to go on with; empty for a new one."""

    @property
    def instruction(self) -> str:
        """What the system messages say, where that is short."""
        said = [text_of(each) for each in self.messages if each.get("role") in ("system", "developer")]
        instruction = "\n\n".join(said)
        told = [instruction if len(instruction) <= MAX_INSTRUCTION else "", self.choice.told]
        return "\n\n".join(filter(None, told))

    @property
    def results(self) -> dict[str, str]:
        """What the client's functions returned to the calls of its last turn, by the ids of these.

        What the client says after that goes to the last of them: its code has gone on meanwhile.
        """
        found: dict[str, str] = {}
        said: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") == "assistant":
                break
            if message.get("role") == "tool":
                more = "".join(f"\n\n[the asker says beside it: {text}]" for text in reversed(said))
                found[str(message.get("tool_call_id"))] = text_of(message) + _unseen(message) + more
                said = []
            elif text := text_of(message).strip():
                said.append(text)
        return found

    def bounded(self, own: Limits) -> Limits:
        """The server's limits, or smaller ones that the client set. Raises ApiError."""
        try:
            return own.with_changes(self.limits).within(own)
        except ConfigError as error:
            raise ApiError(400, str(error), param="metadata") from None


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


def check_messages(messages: Sequence[Mapping[str, Any]], param: str, *, goes_on: bool = False) -> None:
    """Raise ApiError unless there is a question in messages, and all of them are text.

    Args:
        goes_on: whether the results of functions alone will do, for the run that waits for them.
    """
    for index, message in enumerate(messages):
        where = f"{param}[{index}]"
        if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise ApiError(400, f"{where}.role is none of the API's", param=f"{where}.role")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        for part in content if isinstance(content, list) else [None]:
            if isinstance(part, dict) and is_picture(part):
                _check_picture(part, where)
                continue
            text = part.get(part.get("type")) if isinstance(part, dict) and is_text(part) else None
            if not isinstance(text, str):
                raise ApiError(
                    400,
                    f"{where}.content must be a text, or a list of parts of type text, image_url or file",
                    param=f"{where}.content",
                )
    if goes_on and messages and messages[-1]["role"] == "tool":
        return
    if not asks(messages):
        raise ApiError(400, f"{param} hold no user message to take the question from", param=param)


def _check_picture(part: Mapping[str, Any], where: str) -> None:
    try:
        of_part(part, where)
    except ConfigError as error:
        raise ApiError(400, str(error), param=f"{where}.content") from None


def asks(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a question in messages."""
    return any(message["role"] == "user" and text_of(message).strip() for message in messages)


def _unseen(message: Mapping[str, Any]) -> str:
    """What is told of the parts of a result that are no text: it is a text to code."""
    content = message.get("content")
    pictures = sum(is_picture(part) for part in content) if isinstance(content, list) else 0
    return f"\n[pictures that cannot be shown here: {pictures}]" if pictures else ""


def is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("text", "refusal")


def resumed(headers: Headers) -> str:
    """The run to go on with: `X-Recursor-Resume`. Raises ApiError."""
    run_id = headers.get("X-Recursor-Resume") or ""
    if run_id and not re.fullmatch("[0-9a-f]{32}", run_id):
        raise ApiError(400, "X-Recursor-Resume takes the whole id of a run, as X-Recursor-Run told it")
    return run_id


def limits_of(metadata: Any, headers: Headers) -> dict[str, Any]:
    """Bounds that a request sets: `metadata: {"max_cost": "0.50"}` or `X-Recursor-Max-Cost: 0.50`."""
    given = dict(metadata) if isinstance(metadata, Mapping) else {}
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


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "\n".join(str(part.get(part["type"], "")) for part in parts if is_text(part))
