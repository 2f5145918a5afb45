"""Server-sent events out of bytes, without I/O (WHATWG HTML, section 9.2).

Any bytes parse: what is not a field of an event is skipped, and bad UTF-8 is replaced.
`id` and `retry` are not kept, since a model's stream cannot be resumed.
"""

from __future__ import annotations

from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event."""

    event: str
    """Its name; empty when it has none."""
    data: str


class EventParser:
    """Turns chunks of bytes, cut anywhere, into events."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Take the next bytes and return the events that they complete."""
        self._pending += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        lines = self._pending.splitlines(keepends=True)
        # A last "\r" may be the first half of "\r\n".
        self._pending = bytearray() if lines[-1].endswith(b"\n") else lines.pop()
        return self._take(lines)

    def close(self) -> list[ServerEvent]:
        """Return the event that the end of the stream left without its empty line, if any."""
        lines = [self._pending, bytearray()] if self._pending else [bytearray()]
        self._pending = bytearray()
        return self._take(lines)

    def _take(self, lines: list[bytearray]) -> list[ServerEvent]:
        events = []
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                self._field(text)
            elif self._data:
                events.append(ServerEvent(self._event, "\n".join(self._data)))
                self._event, self._data = "", []
            else:
                self._event = ""
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.removeprefix("\ufeff").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
