"""Messages as lines of JSON over two descriptors: a transport for the package of ACP that no line ends."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from recursor.threads import in_thread

PIECE = 1 << 16
MAX_LINE = 64 << 20
"""Bytes of a message; a longer one is left out."""


class Lines:
    """Sends and receives; what is no message is left out. The descriptors may be pipes, files or a terminal."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._data = bytearray()
        self._order = asyncio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
        async with self._order:
            await in_thread(_write, self._writing, data)

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        while (line := await self.line()) is not None:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_message(message):
                found: dict[str, Any] = message
                return found
        return None

    async def close(self) -> None:
        """They are not ours to close."""

    async def line(self) -> bytes | None:
        """The next line; None at the end."""
        looked = 0
        while (end := self._data.find(b"\n", looked)) < 0:
            looked = len(self._data)
            if looked > MAX_LINE:
                self._data.clear()  # its end is no message either
                looked = 0
            piece = await in_thread(os.read, self._reading, PIECE)
            if not piece:
                return None
            self._data += piece
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return line


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str | int | None)
        and isinstance(value.get("method", ""), str)
    )
