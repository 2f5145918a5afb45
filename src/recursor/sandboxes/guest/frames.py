"""Frames as the inside end of the line to the host writes and reads them.

A frame is two little-endian u32 (header length, body length), a JSON header and a body of raw
bytes. Everything that could be patched by code of a model is bound here at import.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

MAX_BODY = 1 << 24
MAX_HEADER = 1 << 20
AHEAD = 1 << 18
"""Bytes that are read from the socket at once."""
_HEAD = struct.Struct("<II")
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_loads = json.JSONDecoder().decode
_read, _readv, _write = os.read, os.readv, os.write


def header_start(fields: dict[str, Any]) -> bytes:
    """The header of a call up to its number. Raises TypeError or ValueError when it cannot be one."""
    return head_of(fields)[:-1] + b',"id":'


def frame(head: bytes, body: bytes) -> bytes:
    return b"".join((_HEAD.pack(len(head), len(body)), head, body))


def frame_of(header: dict[str, Any], body: bytes) -> bytes:
    return frame(head_of(header), body)


def head_of(header: dict[str, Any]) -> bytes:
    head = _dumps(header).encode("utf-8", "replace")
    if len(head) > MAX_HEADER:
        raise ValueError(f"a schema of {len(head):,} bytes is too long; at most {MAX_HEADER:,}")
    return head


class Duplex:
    """What is used of a socket, over one descriptor to read from and one to write to."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def recv(self, size: int) -> bytes:
        return _read(self._incoming, size)

    def recv_into(self, view: memoryview) -> int:
        return _readv(self._incoming, [view])

    def sendall(self, data: bytes) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += _write(self._outgoing, view[sent:])


class Incoming:
    """Exact lengths from a socket, read ahead."""

    def __init__(self, source: socket.socket | Duplex) -> None:
        self._socket = source
        self._buffer = b""
        self._position = 0

    @property
    def ahead(self) -> bool:
        """Whether something was read that nobody has taken."""
        return self._position < len(self._buffer)

    def take(self, size: int) -> bytes:
        start, end = self._position, self._position + size
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        have = self._buffer[start:]
        if size > AHEAD:
            return self._large(have, size)
        while len(have) < size:
            have += self._more(self._socket.recv(AHEAD))
        self._buffer, self._position = have, size
        return have[:size]

    def frame(self) -> tuple[dict[str, Any], bytes]:
        """The next frame: header and body. Blocks until it is there."""
        head, body = _HEAD.unpack(self.take(_HEAD.size))
        header = _loads(self.take(head).decode("utf-8"))
        return header, self.take(body)

    def _large(self, have: bytes, size: int) -> bytes:
        self._buffer, self._position = b"", 0
        whole = bytearray(size)
        whole[: len(have)] = have
        with memoryview(whole) as view:
            position = len(have)
            while position < size:
                received = self._socket.recv_into(view[position:])
                if not received:
                    raise EOFError
                position += received
        return whole  # type: ignore[return-value]  # reads like bytes, and spares a copy

    @staticmethod
    def _more(piece: bytes) -> bytes:
        if not piece:
            raise EOFError
        return piece
