"""What both APIs ask for: checked before anything is paid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.server.failures import ApiError

MAX_INSTRUCTION = 8_000
"""Characters of system messages that the root LM reads as they are; longer ones are data."""
LIMITS = tuple(each.name for each in fields(Limits))


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to an RLM."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    schema: Mapping[str, Any] | None = None
    """What the answer must follow; None for any text."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Bounds that the client sets beside the server's own."""

    @property
    def instruction(self) -> str:
        """What the system messages say, where that is short."""
        said = [text_of(each) for each in self.messages if each.get("role") in ("system", "developer")]
        instruction = "\n\n".join(said)
        return instruction if len(instruction) <= MAX_INSTRUCTION else ""

    def bounded(self, own: Limits) -> Limits:
        """The server's limits, or smaller ones that the client set. Raises ApiError."""
        try:
            return own.with_changes(self.limits).within(own)
        except ConfigError as error:
            raise ApiError(400, str(error), param="metadata") from None


def limits_of(metadata: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    """Bounds that a request sets: `metadata: {"max_cost": "0.50"}` or `X-Recursor-Max-Cost: 0.50`."""
    given = dict(metadata) if isinstance(metadata, Mapping) else {}
    found: dict[str, Any] = {}
    for name in LIMITS:
        text = headers.get("X-Recursor-" + name.replace("_", "-"), given.get(name))
        if text is not None:
            found[name] = _number(name, text)
    return found


def _number(name: str, text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ApiError(400, f"{name} must be a number, not {str(text)[:40]!r}", param="metadata")
    return int(value) if value == int(value) else value


def schema_of(form: Any) -> Mapping[str, Any] | None:
    """The schema that a `response_format` (or `text.format`) asks for."""
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        named = form.get("json_schema", form)
        schema = named.get("schema") if isinstance(named, Mapping) else None
        if isinstance(schema, Mapping):
            return schema
    raise ApiError(
        400,
        "response_format must be {'type': 'text' | 'json_object' | 'json_schema', ...}, a json_schema with its schema",
        param="response_format",
    )


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)
