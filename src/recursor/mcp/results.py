"""What a server returns -> a plain value for code. It is data: nothing in it is obeyed or shown to a person."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from recursor.errors import SubcallError
from recursor.tools import weight

if TYPE_CHECKING:
    import mcp_types as types

MAX_RESULT = 8 << 20
"""About how many characters a result may have."""


def value_of(name: str, result: types.CallToolResult, *, wrapped: bool) -> Any:
    """The structured content of a result, else its text.

    Args:
        wrapped: whether the server puts what is no object into one with the key "result".

    Raises:
        SubcallError: the tool failed, or it returned too much.
    """
    text = "\n".join(map(_shown, result.content))
    if result.is_error:
        raise SubcallError(f"{name} failed: {text[:4000] or 'the server does not say why'}")
    value = text if result.structured_content is None else result.structured_content
    if wrapped and isinstance(value, dict) and value.keys() == {"result"}:
        value = value["result"]
    return bounded(name, value)


def contents_of(name: str, result: types.ReadResourceResult) -> Any:
    """A resource: a text or bytes; a list of them where it has several. Raises SubcallError when it is too large."""
    found = [_content(each) for each in result.contents]
    return bounded(name, found[0] if len(found) == 1 else found)


def bounded(name: str, value: Any) -> Any:
    """The value. Raises SubcallError when it is too large."""
    if weight(value, MAX_RESULT) > MAX_RESULT:
        raise SubcallError(f"{name} returned more than {MAX_RESULT:,} characters; ask for less at a time")
    return value


def listed(resources: Iterable[types.Resource]) -> list[dict[str, Any]]:
    """Resources as plain values."""
    return [
        {
            "uri": str(each.uri), "name": each.name, "description": each.description, "type": each.mime_type,
            "size": each.size,
        }
        for each in resources
    ]  # fmt: skip


def _shown(block: types.ContentBlock) -> str:
    """A part of a result as text; what is none is named."""
    match block.type:
        case "text":
            return block.text
        case "resource":
            inner = block.resource
            text = getattr(inner, "text", None)
            return text if isinstance(text, str) else f"[data: {inner.mime_type or 'bytes'}, {inner.uri}]"
        case "resource_link":
            return f"[resource {block.uri}: {block.name}]"
        case _:
            return f"[{block.type}: {block.mime_type}, {len(block.data.rstrip('=')) * 3 // 4:,} bytes, not shown]"


def _content(contents: types.TextResourceContents | types.BlobResourceContents) -> str | bytes:
    text = getattr(contents, "text", None)
    if isinstance(text, str):
        return text
    try:
        return base64.b64decode(getattr(contents, "blob", ""))
    except ValueError as error:
        raise SubcallError(f"the server's base64 is none: {error}") from None
