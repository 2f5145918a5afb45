"""The Connect protocol (connectrpc.com), as far as two services use it: unary calls, and streams from a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from standins import PIPE, Machine

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


async def run(
    request: web.Request,
    machine: Machine,
    words: list[str],
    env: dict[str, str],
    event: Callable[[str, Any], bytes],
) -> web.StreamResponse:
    """Start a process and stream what it prints, until it or the machine ends. It outlives the stream."""
    response = web.StreamResponse(headers={"Content-Type": request.content_type})
    await response.prepare(request)
    process = await machine.run(words, {**env, "MACHINE": machine.id}, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    lock = asyncio.Lock()

    async def send(data: bytes) -> None:
        async with lock:
            await response.write(enveloped(data))

    async def pump(kind: str, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(CHUNK):
            if machine.stalled.is_set():
                await asyncio.Event().wait()
            await send(event(kind, data))

    await send(event("start", process.pid))
    gone = asyncio.ensure_future(machine.gone.wait())
    pumps = asyncio.gather(pump("stdout", process.stdout), pump("stderr", process.stderr))
    try:
        await asyncio.wait([gone, pumps], return_when=asyncio.FIRST_COMPLETED)
        if machine.stalled.is_set():
            await asyncio.Event().wait()  # the line says nothing, not even that the machine is gone
        if machine.ended:
            error = {"code": "unavailable", "message": "the connection ended before the stream completed"}
            await response.write(enveloped(json.dumps({"error": error}).encode(), 2))
        else:
            await send(event("end", await process.wait()))
            await response.write(enveloped(b"{}", 2))
    finally:
        gone.cancel()
        pumps.cancel()
        await asyncio.gather(gone, pumps, return_exceptions=True)
    return response


async def give(machine: Machine, pid: int, data: bytes) -> web.Response | None:
    """Write to a process, and wait until it has read most of it."""
    process = next((each for each in machine.processes if each.pid == pid), None)
    if process is None or process.returncode is not None:
        return problem(404, "not_found", f"process with pid {pid} not found")
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        await process.stdin.drain()
    except ConnectionError as error:
        return problem(500, "internal", f"error writing to stdin: {error}")
    return None


