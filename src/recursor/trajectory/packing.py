"""Text and values <-> bytes in the store. Any text survives, lone surrogates and NUL included."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from recursor.errors import TrajectoryError
from recursor.sandboxes.guest import values
from recursor.sandboxes.guest.images import media_type
from recursor.types import Message

COMPRESS_FROM = 512
"""Bytes from which compression is tried."""


def pack(text: str) -> bytes:
    """Return the bytes of a text, compressed where that helps. The first byte says which."""
    return squeezed(text.encode("utf-8", "surrogatepass"))


def unpack(data: bytes | None) -> str:
    """Return the text that `pack` was given; empty for None. Of a message: its text, and what its pictures are."""
    try:
        if data is not None and data[:1] == b"i":
            return _told(data)
        return "" if data is None else stretched(data).decode("utf-8", "surrogatepass")
    except (UnicodeDecodeError, AttributeError, TypeError) as error:
        raise TrajectoryError(f"a recorded text is damaged: {error}") from error


def pack_message(message: Message) -> bytes:
    """Return the bytes of a message. Its pictures are named by digest, type and size; they are stored apart."""
    if not message.images:
        return pack(message.content)
    named = [{**pictured(image), "digest": picture_digest(image).hex()} for image in message.images]
    return b"i" + pack(dumps({"text": message.content, "images": named}))


def pictured(image: bytes) -> dict[str, Any]:
    """What is told of a picture in place of its bytes."""
    return {"type": media_type(image), "bytes": len(image)}


def picture_digest(image: bytes) -> bytes:
    """What a picture is stored under."""
    return hashlib.blake2b(image, digest_size=20).digest()


def unpack_message(data: bytes) -> tuple[str, list[bytes]]:
    """Return the text of a message, and the digests of its pictures. Raises TrajectoryError."""
    if data[:1] != b"i":
        return unpack(data), []
    try:
        found = unpack_json(data[1:])
        return str(found["text"]), [bytes.fromhex(image["digest"]) for image in found["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise TrajectoryError(f"a recorded message is damaged: {error}") from error


def pack_value(value: Any) -> tuple[str, bytes]:
    """Return (form, bytes) of an answer. What is no plain value is made one, or kept as its repr."""
    try:
        form, data = values.encode(value)
    except values.NotPlain:
        try:
            form, data = values.encode(msgspec.to_builtins(value))
        except Exception:  # noqa: BLE001 - any type may come here, and the recording goes on
            form, data = "repr", represent(value).encode("utf-8", "surrogatepass")
    return form, squeezed(data)


def unpack_json(data: bytes | str) -> Any:
    """Return what JSON, packed or not, stands for."""
    try:
        return json.loads(data if isinstance(data, str) else unpack(data))
    except (ValueError, RecursionError) as error:
        raise TrajectoryError(f"recorded JSON is damaged: {error}") from error


def unpack_value(form: str, data: bytes) -> Any:
    """Return the value that `pack_value` was given (the text of its repr for form "repr")."""
    try:
        return values.decode("text" if form == "repr" else form, stretched(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise TrajectoryError(f"a recorded value cannot be read: {error}") from error


def _told(data: bytes) -> str:
    found = unpack_json(data[1:])
    try:
        said = [f"[picture: {image['type']}, {image['bytes']:,} bytes]" for image in found["images"]]
        return "\n".join([*said, found["text"]])
    except (KeyError, TypeError, ValueError) as error:
        raise TrajectoryError(f"a recorded message is damaged: {error}") from error


def represent(value: Any) -> str:
    """Return `repr(value)`, or what stands for it: it is foreign code, and may fail."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - see above
        return f"<{type(value).__name__} without a repr: {type(error).__name__}>"


def dumps(data: Any) -> str:
    """Return strict JSON in one line, whatever is in the data: a repr stands for what JSON lacks."""
    try:
        return json.dumps(data, default=represent, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a key, NaN, a cycle, or too deep
        return json.dumps(_repaired(data, 0))


def _repaired(data: Any, depth: int) -> Any:
    if depth > 100:
        return "<nested too deep>"
    if isinstance(data, Mapping):
        return {
            key if isinstance(key, str) else represent(key): _repaired(item, depth + 1)
            for key, item in data.items()
        }
    if isinstance(data, list | tuple):
        return [_repaired(item, depth + 1) for item in data]
    plain = data is None or isinstance(data, str | bool)
    plain = plain or (isinstance(data, int) and data.bit_length() < 10_000)
    plain = plain or (isinstance(data, float) and math.isfinite(data))
    return data if plain else represent(data)


def squeezed(data: bytes) -> bytes:
    if len(data) >= COMPRESS_FROM:
        small = zlib.compress(data, 1)
        if len(small) < len(data):
            return b"z" + small
    return b"=" + data


def stretched(data: bytes) -> bytes:
    try:
        return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]
    except (zlib.error, TypeError) as error:  # a number or text where bytes belong
        raise TrajectoryError(f"a recorded text is damaged: {error}") from error
