"""Pictures in what a caller passes: out of the parts of messages, and out of values that become a prompt."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from recursor.errors import ConfigError
from recursor.sandboxes.guest.images import Image

MOST = 20 << 20
"""Bytes of a picture in a message."""


def with_pictures(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages in whose parts pictures are values: {"type": "image", "image": ...}.

    Raises:
        ConfigError: a part is no picture that can be had; the text says which.
    """
    found = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list | tuple):
            parts = [
                {"type": "image", "image": of_part(part, f"messages[{index}]")} if is_picture(part) else part
                for part in content
            ]
            found.append({**message, "content": parts})
        else:
            found.append(dict(message))
    return found


def is_picture(part: Any) -> bool:
    """Whether a part of a message is to be a picture, in the form of any provider."""
    return isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image", "image")


def of_part(part: Mapping[str, Any], where: str) -> Image:
    """The picture that a part of a message holds. Raises ConfigError."""
    given: Any = part.get("image_url", part.get("source", part.get("image")))
    if isinstance(given, Image):
        return given
    if isinstance(given, Mapping) and given.get("type") == "base64":
        return _decoded(given.get("data"), where)
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str) or not url.startswith("data:"):
        raise ConfigError(f"{where}: pictures come as data URLs (data:image/png;base64,...); none is fetched")
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ConfigError(f"{where}: a data URL of a picture must be data:TYPE;base64,DATA")
    return _decoded(data, where)


def _decoded(data: Any, where: str) -> Image:
    if not isinstance(data, str) or len(data) > MOST // 3 * 4 + 4:
        raise ConfigError(f"{where}: a picture may have {MOST:,} bytes at most, in base64")
    try:
        return Image(base64.b64decode(data, validate=True), where)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def taken_out(value: Any) -> tuple[Any, tuple[bytes, ...]]:
    """A value with a mark in the place of each picture, and the pictures in that order."""
    found: list[bytes] = []
    marked = _marked(value, found)
    return (marked if found else value), tuple(found)


def _marked(value: Any, found: list[bytes]) -> Any:
    if isinstance(value, Image):
        found.append(value)
        return f"[picture {len(found)}{f', {value.source}' if value.source else ''}]"
    if isinstance(value, dict):
        return {key: _marked(item, found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item, found) for item in value]
    return value
