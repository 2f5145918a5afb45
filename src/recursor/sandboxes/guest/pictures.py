"""Reader of pictures, which stay the bytes that they are; and a writer, for what is drawn here."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from .images import Image, dimensions
from .loading import Loaded, Unreadable

MOST_FILE = 1 << 28
"""Bytes of a picture that is loaded. Fewer can be sent to a model."""


def read_image(file: BinaryIO, size: int) -> Loaded:
    """The picture."""
    if size > MOST_FILE:
        raise Unreadable(f"it has {size:,} bytes; at most {MOST_FILE:,} are read")
    try:
        image = Image(file.read())
        dimensions(image)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return Loaded(image, "a picture: `llm_query(prompt, images=[context])` shows it to a model")


def png(rows: bytes, width: int, height: int, stride: int) -> bytes:
    """A file of PNG.

    Args:
        rows: red, green and blue of each pixel, a byte each; row after row.
        stride: bytes from the beginning of one row to that of the next.
    """
    with memoryview(rows) as view:
        lines = b"".join(
            piece for row in range(height) for piece in (b"\0", view[row * stride : row * stride + 3 * width])
        )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
