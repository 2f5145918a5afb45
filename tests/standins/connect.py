"""The Connect protocol (connectrpc.com), as far as two services use it: unary calls, and streams from a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from standins import Machine

CHUNK = 32 << 10
"""What a process prints goes on in pieces of at most so many bytes."""


def problem(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


def enveloped(data: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + len(data).to_bytes(4, "big") + data


async def request_of_stream(request: web.Request) -> bytes:
    body = await request.read()
    assert len(body) == 5 + int.from_bytes(body[1:5], "big")
    return body[5:]


class Session:
    """A process in a machine, which outlives the stream that shows it. What it prints while there is none is lost.

    Args:
        event: the message that tells of a start, of bytes, or of the end.
    """

    def __init__(self, machine: Machine, event: Callable[[str, Any], bytes]) -> None:
        self._machine = machine
        self._event = event
        self._stream: web.StreamResponse | None = None
        self.dropped = asyncio.Event()
        """Set: the stream there is breaks off, and the machine runs on."""
        self._missed: asyncio.Event | None = None
        """Of a stream that broke off: whether something was printed since, which is lost. Then comes the next."""

    async def start(self, words: Sequence[str], env: Mapping[str, str]) -> None:
        environment = {**env, "MACHINE": self._machine.id}
        self.process = await self._machine.run(words, environment)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._pumps: asyncio.Future[Any] = asyncio.gather(
            self._pump("stdout", self.process.stdout), self._pump("stderr", self.process.stderr)
        )

    async def _pump(self, kind: str, printed: asyncio.StreamReader) -> None:
        while data := await printed.read(CHUNK):
            if self._machine.stalled.is_set():
                await self._machine.gone.wait()
            await self._send(self._event(kind, data))

    async def _send(self, data: bytes, flags: int = 0) -> None:
        if self._stream is not None:
            try:
                await self._stream.write(enveloped(data, flags))
            except ConnectionError:
                self._stream = None
        if self._stream is None and self._missed is not None:
            self._missed.set()

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Stream what it prints, until it or the machine ends."""
        if self._missed is not None:
            await self._missed.wait()
        stream = web.StreamResponse(headers={"Content-Type": request.content_type})
        await stream.prepare(request)
        await stream.write(enveloped(self._event("start", self.process.pid)))
        self._stream = stream
        over: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(each.wait()) for each in (self._machine.gone, self.dropped)
        ]
        try:
            await asyncio.wait([self._pumps, *over], return_when=asyncio.FIRST_COMPLETED)
            if self.dropped.is_set():
                self.dropped.clear()
                self._missed = asyncio.Event()
                assert request.transport is not None
                request.transport.abort()
            elif self._machine.stalled.is_set():
                await asyncio.Event().wait()  # the line says nothing, not even that the machine is gone
            elif self._machine.ended:
                told = {"code": "unavailable", "message": "the connection ended before the stream completed"}
                await self._send(json.dumps({"error": told}).encode(), 2)
            else:
                await self._send(self._event("end", await self.process.wait()))
                await self._send(b"{}", 2)
        finally:
            for task in over:
                task.cancel()
            if self._stream is stream:
                self._stream = None
        return stream

    async def give(self, data: bytes) -> web.Response | None:
        """Write to it, and wait until it has read most of that."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            await self.process.stdin.drain()
        except ConnectionError as error:
            return problem(500, "internal", f"error writing to stdin: {error}")
        return None
