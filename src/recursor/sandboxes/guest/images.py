"""Pictures: which format a file has, how many pixels, and the value that code finds. No pixel is decoded here.

`media_type` looks at the first bytes alone, and is what the host asks, too. `dimensions` reads headers; whatever
a file holds, that ends soon, with a size or with a ValueError.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

MOST_SEGMENTS = 10_000
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_FILL = re.compile(b"\xff*")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG after which the size stands."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of JPEG without a segment."""


def media_type(data: bytes) -> str:
    """The media type of a picture by its first 16 bytes; empty for all that models do not take."""
    head = bytes(data[:16])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


class Image(bytes):
    """A picture: the bytes of its file, with what can be said of them.

    Attributes:
        type: "image/png", "image/jpeg", "image/gif" or "image/webp".
        width, height: pixels, as the file says. Raises ValueError where that is damaged.
        source: the file that it is from, or the page; empty where that is not known.

    Raises:
        ValueError: the bytes are none of these formats.
    """

    source: str

    def __new__(cls, data: Any, source: str = "") -> Image:
        image = super().__new__(cls, data)
        if not media_type(image):
            raise ValueError("these bytes are no picture of a format that models take: PNG, JPEG, GIF, WebP")
        image.source = source
        return image

    @property
    def type(self) -> str:
        return media_type(self)

    @property
    def width(self) -> int:
        return dimensions(self)[0]

    @property
    def height(self) -> int:
        return dimensions(self)[1]

    def __repr__(self) -> str:
        try:
            pixels = "{:,} x {:,} pixels".format(*dimensions(self))
        except ValueError:
            pixels = "damaged"
        source = f", from {str(self.source)[:200]!r}" if self.source else ""
        return f"<Image: {media_type(self)}, {pixels}, {len(self):,} bytes{source}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return type(self), (bytes(self), self.source)


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, as the header says. Raises ValueError where it says none."""
    try:
        width, height = _SIZES[media_type(data)](data)
    except (KeyError, struct.error, IndexError):
        width = height = 0
    if not width or not height:
        raise ValueError("its header is damaged: it says no size")
    return width, height


def named(value: Any, source: str) -> Any:
    """A value that was loaded; a picture says where it is from."""
    if type(value) is Image and not value.source:
        value.source = source
    return value


def _of_png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _of_gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _of_jpeg(data: bytes) -> tuple[int, int]:
    for marker, position in _segments(data):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
    return 0, 0


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG, with where what follows each begins: its length, two bytes."""
    position = 2
    for _ in range(MOST_SEGMENTS):
        if data[position] != 0xFF:
            return
        filled = _FILL.match(data, position)
        assert filled is not None, "it matches nothing, too"
        position = filled.end()
        marker = data[position]
        position += 1
        if marker in (0xD9, 0xDA):  # the pixels begin
            return
        if marker not in _ALONE:
            yield marker, position
            (length,) = struct.unpack_from(">H", data, position)
            position += max(2, length)


def _of_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


_SIZES = {"image/png": _of_png, "image/jpeg": _of_jpeg, "image/gif": _of_gif, "image/webp": _of_webp}
