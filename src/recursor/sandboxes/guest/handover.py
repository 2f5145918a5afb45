"""From a value to bytes that the REPL of a child run can load, on a way on which the host reads nothing.

A small context goes inside the frame of its call. For a large one the host lends memory: an
anonymous file of the very size, which is filled here, or by frames where no descriptor can come,
and then belongs to the call. A text or bytes
that were loaded into this REPL and are handed on as they are travel by name alone.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from . import values
from .channel import IN_PARTS, Channel
from .frames import header_start
from .images import Image
from .lazy import Lazy
from .mapped import MappedStr
from .text import Text

INLINE = 1 << 16
"""Bytes up to which a context goes inside the frame."""
PIECE = 1 << 17
WINDOW = 1 << 22
"""Bytes of a room that are mapped at once."""
AT_ONCE = 8
"""Rooms that are filled at once: each takes a descriptor."""


class Handover:
    """Hands contexts over. May be used from any thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loaded: dict[str, Any] = {}
        self._filling = threading.BoundedSemaphore(AT_ONCE)

    def keep(self, name: str, value: Any) -> None:
        """Remember what was loaded under a name."""
        self._loaded[name] = value

    def loaded(self, name: str) -> Any:
        """What was loaded under a name. Raises KeyError."""
        return self._loaded[name]

    def forget(self, name: str) -> None:
        """Forget what was loaded under a name: it is another's now."""
        self._loaded.pop(name, None)

    def give(self, number: int, context: Any) -> tuple[dict[str, Any] | None, bytes]:
        """Return what the frame of the call says of its context, and the bytes that go into the frame.

        Raises:
            NotPlain: the context holds something that cannot leave the REPL.
            SubcallError: the host has no room for it.
        """
        if context is None:
            return None, b""
        unchanging = type(context) in (str, bytes, Text, MappedStr, Image) or isinstance(context, Lazy)
        if unchanging:  # others may have changed since they were loaded
            for name, value in self._loaded.items():
                if value is context:
                    return {"by": "same", "name": name}, b""
        form, size, pieces = encoded(context)
        if size <= INLINE:
            return {"by": "inline", "form": form}, b"".join(pieces)
        with self._filling:
            room = self._channel.next_number()
            try:
                descriptor = self._channel.ask(header_start({"op": "room", "size": size}), number=room)
                if descriptor is not None:
                    if descriptor == IN_PARTS:
                        self._channel.fill(room, pieces)
                    else:
                        _fill(descriptor, size, pieces)
                    return {"by": "room", "form": form, "room": room}, b""
            except BaseException:
                self._channel.give_back(room)
                raise
        for piece in pieces:  # a host that has no anonymous files
            self._channel.send_parts(number, piece)
        return {"by": "parts", "form": form, "size": size}, b""


def encoded(context: Any) -> tuple[str, int, Iterable[bytes]]:
    """Return form, number of bytes, and the bytes piece by piece, made when they are asked for."""
    if isinstance(context, Text):
        return "text", context.size, context.encoded(PIECE)
    if isinstance(context, str):
        text = context if isinstance(context, MappedStr) else str.__str__(context)
        size = len(text) if text.isascii() else sum(map(len, _text_pieces(text)))
        return "text", size, _text_pieces(text)
    if isinstance(context, bytes | bytearray | memoryview) and not isinstance(context, Image):
        data = context if isinstance(context, bytes) else bytes(context)
        return "bytes", len(data), _byte_pieces(data)
    pieces = values.pieces(context)
    return "values", sum(map(len, pieces)), pieces


def _text_pieces(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE].encode("utf-8", "surrogatepass")


def _byte_pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def _fill(descriptor: int, size: int, pieces: Iterable[bytes]) -> None:
    """Write pieces and close: through maps, since RLIMIT_FSIZE bounds what is written otherwise."""
    window: mmap.mmap | None = None
    begin = position = 0
    try:
        for piece in pieces:
            taken = 0
            while taken < len(piece):
                if window is None or position == begin + len(window):
                    if window is not None:
                        window.close()
                    begin = position
                    window = mmap.mmap(descriptor, min(WINDOW, size - begin), offset=begin)
                count = min(len(piece) - taken, begin + len(window) - position)
                window[position - begin : position - begin + count] = piece[taken : taken + count]
                taken += count
                position += count
    finally:
        if window is not None:
            window.close()
        os.close(descriptor)
