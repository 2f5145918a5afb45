"""Messages as lines of JSON over pipes: a transport for the package of ACP that no line ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Lines:
    """Sends and receives; what is no message is left out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        while line := await self._line():
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_message(message):
                found: dict[str, Any] = message
                return found
        return None

    async def close(self) -> None:
        self._writer.close()

    async def _line(self) -> bytes:
        """The next line; empty at the end."""
        while True:
            try:
                return await self._reader.readline()
            except ValueError:  # it is too long
                continue


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str | int | None)
        and isinstance(value.get("method", ""), str)
    )
