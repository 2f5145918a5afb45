"""What is asked of a model that shall reply in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from recursor.types import Schema

_CONSTRAINED = frozenset({
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "items", "properties",
    "required", "title", "type",
})  # fmt: skip
"""The keywords that every provider's constrained decoding takes."""


def constrainable(schema: Schema) -> bool:
    """Say whether providers can hold a reply to the schema while it is written.

    They take closed objects whose properties are all required, of a few keywords. Other
    schemas are passed as a wish, and the caller validates.
    """
    return schema.get("type") == "object" and _constrainable(schema)


def _constrainable(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _CONSTRAINED:
        return False
    properties = schema.get("properties", {})
    is_object = schema.get("type") == "object"
    if is_object and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties)
    ):
        return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    if "items" in schema:
        inner.append(schema["items"])
    return all(_constrainable(each) for each in inner)


def instruction(schema: Schema) -> str:
    """Return the sentence that asks for the schema in a prompt."""
    text = msgspec.json.encode(schema).decode()
    return (
        f"Reply with one JSON value and nothing else, no code fence. It must follow this JSON Schema:\n{text}"
    )
