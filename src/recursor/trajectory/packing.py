"""Text and values <-> bytes in the store. Any text survives, lone surrogates and NUL included."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from recursor.errors import TrajectoryError
from recursor.sandboxes.guest import values

COMPRESS_FROM = 512
"""Bytes from which compression is tried."""


def pack(text: str) -> bytes:
    """Return the bytes of a text, compressed where that helps. The first byte says which."""
    return _squeezed(text.encode("utf-8", "surrogatepass"))


def unpack(data: bytes | None) -> str:
    """Return the text that `pack` was given; empty for None."""
    return "" if data is None else _stretched(data).decode("utf-8", "surrogatepass")


def pack_value(value: Any) -> tuple[str, bytes]:
    """Return (form, bytes) of an answer. What is no plain value is made one, or kept as its repr."""
    try:
        form, data = values.encode(value)
    except values.NotPlain:
        try:
            form, data = values.encode(msgspec.to_builtins(value))
        except (TypeError, ValueError):
            form, data = "repr", repr(value).encode("utf-8", "surrogatepass")
    return form, _squeezed(data)


def unpack_value(form: str, data: bytes) -> Any:
    """Return the value that `pack_value` was given (the text of its repr for form "repr")."""
    try:
        return values.decode("text" if form == "repr" else form, _stretched(data))
    except ValueError as error:
        raise TrajectoryError(f"an answer cannot be read: {error}") from error


def _squeezed(data: bytes) -> bytes:
    if len(data) >= COMPRESS_FROM:
        small = zlib.compress(data, 1)
        if len(small) < len(data):
            return b"z" + small
    return b"=" + data


def _stretched(data: bytes) -> bytes:
    try:
        return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]
    except zlib.error as error:
        raise TrajectoryError(f"a recorded text is damaged: {error}") from error
