"""What carries the line of a guest where a service carries no bytes. Run as `python -c`, with a mode and a command.

`text COMMAND...` starts the command and writes its stdout as lines of text: how many bytes were before,
in hexadecimal, a space, and the next bytes as base64; a line without bytes where there are none for a
while, so that the other end knows what it missed. Its stdin stays as it is.

`port NUMBER COMMAND...` opens a port of the loopback interface, returns, and lets the first who says
the token (in the environment, RECURSOR_TOKEN) have the command's stdin and stdout, as binary messages
of a WebSocket; the token is the first message. The port is closed then, and closes by itself when
nobody comes. What the other end does not keep alive ends, with the command.
"""

import base64
import binascii
import ctypes
import hashlib
import hmac
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

_PIECE = 1 << 16
_MAX_HEAD = 1 << 14
_MAX_MESSAGE = 1 << 24
_BEAT = 5.0
"""Seconds after which a line without bytes is written."""
_WELCOME = 60.0
"""Seconds within which the other end must come."""
_INTRODUCTION = 10.0
"""Seconds that one connection has to say the token."""
_SILENCE = 180.0
"""Seconds without a word, not even a ping, after which the other end is taken for dead."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_PR_SET_PDEATHSIG = 1
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


def main(arguments: Sequence[str]) -> NoReturn:
    """Do what the words after the program say."""
    mode, *rest = arguments
    if mode == "text":
        text(rest)
    port(int(rest[0]), rest[1:])


def text(command: Sequence[str]) -> NoReturn:
    """Carry the command's stdout as lines, and end as it does."""
    reading, writing = os.pipe()
    child = _start(command, 0, writing)
    os.close(writing)
    position = 0
    while True:
        ready, _, _ = select.select([reading], [], [], _BEAT)
        data = os.read(reading, _PIECE) if ready else b""
        if ready and not data:
            break
        _write(1, b"%x %s" % (position, binascii.b2a_base64(data)))
        position += len(data)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)


def port(number: int, command: Sequence[str]) -> NoReturn:
    """Open the port and go into the background; whoever waits for this process knows that it is open."""
    token = os.environ.pop("RECURSOR_TOKEN").encode()
    listener = socket.create_server(("127.0.0.1", number))
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with listener:
        stream = _welcomed(listener, token)
    if stream is not None:
        _serve(stream, command)
    os._exit(0)


class WebSocket:
    """The server's end of one connection (RFC 6455), from the handshake on. Raises OSError when it is no use."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file: Any = connection.makefile("rb")
        self._lock = threading.Lock()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline(_MAX_HEAD)
            head += line
            if not line or len(head) >= _MAX_HEAD:
                raise ConnectionError
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        keys = [
            value.strip() for name, value in fields.items() if name.strip().lower() == b"sec-websocket-key"
        ]
        if not keys:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            raise ConnectionError
        accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID).digest())  # noqa: S324 - the RFC's
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
        )

    def receive(self) -> bytes:
        """The next piece of data; none at the end. Answers pings meanwhile."""
        while True:
            first, second = self._exactly(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
            if not second & 128 or size > _MAX_MESSAGE:
                raise ConnectionError
            mask = self._exactly(4)
            data = _unmasked(self._exactly(size), mask)
            kind = first & 15
            if kind in (_CONTINUED, _TEXT, _BINARY):
                if data:
                    return data
            elif kind == _PING:
                self._send(_PONG, data)
            elif kind == _CLOSE:
                with suppress(OSError):
                    self._send(_CLOSE, data[:2])
                return b""

    def send(self, data: bytes) -> None:
        self._send(_BINARY, data)

    def close(self) -> None:
        with suppress(OSError):
            self._send(_CLOSE, b"\x03\xe8")
            self._socket.shutdown(socket.SHUT_WR)

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes((128 | kind, size))
        elif size < 1 << 16:
            head = bytes((128 | kind, 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((128 | kind, 127)) + size.to_bytes(8, "big")
        with self._lock:
            self._socket.sendall(head + data)

    def _exactly(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        if len(data) < size:
            raise ConnectionError
        return data


def _unmasked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def _welcomed(listener: socket.socket, token: bytes) -> "WebSocket | None":
    """The first connection that says the token."""
    end = time.monotonic() + _WELCOME
    while (left := end - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except OSError:
            return None
        connection.settimeout(min(left, _INTRODUCTION))
        with suppress(OSError):
            stream = WebSocket(connection)
            if hmac.compare_digest(stream.receive(), token):
                connection.settimeout(_SILENCE)
                return stream
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # a file of it may live on
        connection.close()
    return None


def _serve(stream: WebSocket, command: Sequence[str]) -> None:
    given, incoming = os.pipe()
    outgoing, taken = os.pipe()
    child = _start(command, given, taken)
    os.close(given)
    os.close(taken)

    def outward() -> None:
        with suppress(OSError):
            while data := os.read(outgoing, _PIECE):
                stream.send(data)
        stream.close()

    threading.Thread(target=outward, daemon=True).start()
    with suppress(OSError):
        while data := stream.receive():
            _write(incoming, data)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _start(command: Sequence[str], given: int, taken: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(given, 0)
        os.dup2(taken, 1)
        os.execvp(command[0], list(command))  # noqa: S606 - what the host asked for
    finally:
        os._exit(127)


def _write(descriptor: int, data: bytes) -> None:
    with memoryview(data) as view:
        sent = 0
        while sent < len(view):
            sent += os.write(descriptor, view[sent:])


if __name__ == "__main__":
    main(sys.argv[1:])
