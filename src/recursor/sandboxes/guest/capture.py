"""Where prints go: the head and the tail are kept, the middle is counted, memory stays bounded."""

from __future__ import annotations

import io
import threading
from collections import deque
from typing import Any

KEEP = 30_000
"""Characters kept at each end."""


class Capture(io.TextIOBase):
    """A text stream that holds at most about 3 * KEEP characters of what was written."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._head: list[str] = []
        self._room = KEEP
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._dropped = 0

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self._add(text)
        return len(text)

    def skip(self, count: int) -> None:
        """Count characters that were never made."""
        with self._lock:
            self._room = 0
            self._dropped += count

    def _add(self, text: str) -> None:
        if self._room:
            piece = text[: self._room]
            self._head.append(str(piece))
            self._room -= len(piece)
            text = text[len(piece) :]
        if not text:
            return
        if len(text) > KEEP:
            self._dropped += len(text) - KEEP
            text = text[-KEEP:]
        self._tail.append(str(text))
        self._tail_size += len(text)
        while self._tail_size - len(self._tail[0]) >= KEEP:
            gone = self._tail.popleft()
            self._tail_size -= len(gone)
            self._dropped += len(gone)

    def take(self) -> tuple[str, int, str]:
        """Return (head, characters left out, tail) and start anew. Without a gap all is head."""
        with self._lock:
            head, tail, dropped = "".join(self._head), "".join(self._tail), self._dropped
            self._reset()
        if dropped == 0 and len(tail) <= KEEP:
            return head + tail, 0, ""
        cut = max(0, len(tail) - KEEP)
        return head, dropped + cut, tail[cut:]

    @property
    def buffer(self) -> Any:
        """`sys.stdout.buffer.write(b"...")` works; bytes are shown as UTF-8."""
        return _Binary(self)


class _Binary(io.RawIOBase):
    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = bytes(data)
        self._capture.write(view.decode("utf-8", "backslashreplace"))
        return len(view)
