"""The inside end of the socket to the host: frames out, frames in, calls that wait for replies.

A frame is two little-endian u32 (header length, body length), a JSON header and a body of raw
bytes. Everything that could be patched by code of a model is bound here at import.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias

from . import values

MAX_BODY = 1 << 24
PART = 1 << 20
_HEAD = struct.Struct("<II")
MAX_HEADER = 1 << 20
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_loads = json.JSONDecoder().decode
_encode, _decode = values.encode, values.decode


OnDone: TypeAlias = Callable[[Any], None]


class SubcallError(Exception):
    """A sub-call failed. In a batch, `results` holds every slot: a result, or its SubcallError."""

    __module__ = "builtins"  # a traceback then shows the bare name

    results: list[Any]


class Channel:
    """One duplex stream of frames. `send` and `call` may be used from any thread."""

    def __init__(self, rpc: socket.socket, aux: socket.socket, hang_up: Callable[[], Any]) -> None:
        self._socket = rpc
        self._aux = aux
        self._hang_up = hang_up
        self._write_lock = threading.Lock()
        self._numbers = itertools.count(-1, -1)  # commands of the host count upwards
        self._waiting: dict[int, OnDone] = {}
        self.commands: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True, name="channel").start()

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        head = _head(header)
        with self._write_lock:
            if len(body) < 65536:
                self._socket.sendall(_HEAD.pack(len(head), len(body)) + head + body)
            else:
                self._socket.sendall(_HEAD.pack(len(head), len(body)) + head)
                self._socket.sendall(body)

    def send_value(self, number: int, value: Any) -> dict[str, Any]:
        """Send a plain value ahead of the frame that refers to it; return what that frame says of it."""
        form, data = _encode(value)
        if len(data) > values.MAX_BYTES:
            raise values.NotPlain(
                f"the value has {len(data):,} bytes; at most {values.MAX_BYTES:,} can leave the REPL"
            )
        view = memoryview(data)
        for start in range(0, len(data), PART):
            self.send({"op": "part", "of": number}, bytes(view[start : start + PART]))
        return {"form": form, "size": len(data)}

    def next_number(self) -> int:
        return next(self._numbers)

    def call(self, header: dict[str, Any], *, text: str = "", value: Any = None) -> Future[Any]:
        """Start a sub-call; see `request`."""
        future: Future[Any] = Future()

        def done(outcome: Any) -> None:
            if future.set_running_or_notify_cancel():
                if isinstance(outcome, SubcallError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        self.request(header, done, text=text, value=value)
        return future

    def request(self, header: dict[str, Any], on_done: OnDone, *, text: str = "", value: Any = None) -> None:
        """Start a sub-call whose argument is a text, or a plain value of any size.

        Args:
            on_done: called with the result, or with the SubcallError that it ended in, from any thread.
        """
        _head(header)  # refused before anything is sent
        number = self.next_number()
        body = text.encode("utf-8", "replace")
        if len(body) > MAX_BODY:
            raise SubcallError(
                f"the prompt has {len(body):,} bytes; at most {MAX_BODY:,} can be sent: cut it up"
            )
        if value is not None:
            header = {**header, "value": self.send_value(number, value)}
        self._waiting[number] = on_done
        self.send({**header, "id": number}, body)

    def fail_waiting(self, reason: str) -> None:
        """Raise SubcallError in everything that waits for a reply."""
        while self._waiting:
            _, on_done = self._waiting.popitem()
            _tell(on_done, SubcallError(reason))

    def receive_descriptor(self) -> int:
        _, descriptors, _, _ = socket.recv_fds(self._aux, 1, 1)
        return descriptors[0]

    def _read(self) -> None:
        try:
            while True:
                head, body = _HEAD.unpack(self._exactly(_HEAD.size))
                header = _loads(self._exactly(head).decode("utf-8"))
                data = self._exactly(body)
                if header["op"] == "reply":
                    self._settle(header, data)
                else:
                    self.commands.put((header, data))
        except (OSError, EOFError):
            self._hang_up()

    def _settle(self, header: dict[str, Any], data: bytes) -> None:
        on_done = self._waiting.pop(header["re"], None)
        if on_done is None:
            return
        outcome: Any
        if header["ok"]:
            try:
                outcome = _decode(header["form"], data)
            except Exception as error:  # noqa: BLE001 - who waits must hear of it, and the reader go on
                outcome = SubcallError(f"the result could not be read: {error}")
        else:
            outcome = SubcallError(data.decode("utf-8", "replace"))
        _tell(on_done, outcome)

    def _exactly(self, size: int) -> bytes:
        if size == 0:
            return b""
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) == size:
            return data
        buffer = bytearray(data)
        while len(buffer) < size:
            piece = self._socket.recv(min(size - len(buffer), 1 << 20))
            if not piece:
                raise EOFError
            buffer += piece
        return bytes(buffer)


def _tell(on_done: OnDone, outcome: Any) -> None:
    with suppress(RuntimeError):  # the event loop that waited is closed
        on_done(outcome)


def _head(header: dict[str, Any]) -> bytes:
    """The header as the host takes it. Raises TypeError or ValueError when it is none."""
    head = _dumps(header).encode("utf-8", "replace")
    if len(head) > MAX_HEADER:
        raise ValueError(f"a schema of {len(head):,} bytes is too long; at most {MAX_HEADER:,}")
    return head


def leave() -> None:
    os._exit(0)
