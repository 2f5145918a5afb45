"""Reader of pictures. They stay the bytes that they are; of their headers the size is read."""

from __future__ import annotations

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
        width, height = dimensions(image)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    what = f"a picture, {image.type}, {width:,} x {height:,} pixels"
    return Loaded(image, f"{what}; `llm_query(prompt, images=[context])` shows it to a model")
