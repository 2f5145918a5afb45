"""A REPL behind a socket: what every sandbox's `open` returns.

Sends code and contexts, answers calls, keeps time, and kills what breaks the protocol. A worker
that died is replaced by a new one with the same contexts; the execution says what was lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from recursor.errors import RLMError, SandboxError
from recursor.protocols import Source, Subcalls
from recursor.sandboxes import wire
from recursor.sandboxes.guest import values
from recursor.types import (
    ContextInfo,
    Execution,
    Isolation,
    LlmQuery,
    Output,
    RlmQuery,
    Subcall,
    Submission,
    ToolCall,
)

MAX_CALLS_IN_FLIGHT = 1024
MAX_BYTES_IN_FLIGHT = 1 << 26
MAX_UNREAD = 1 << 28
GRACE = 1.0
"""Seconds between the interrupt and the kill."""
START = 30.0
"""Seconds within which a worker must be ready, and a context loaded per 100 MB."""


class Worker(Protocol):
    """One running worker, as its sandbox hands it over."""

    rpc: socket.socket
    aux: socket.socket

    @property
    def output(self) -> int | None:
        """Read end of the pipe that its stdout and stderr go to; None where there is none."""

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in its running block."""

    def kill(self) -> None:
        """End it now, with everything it started."""

    def wait(self) -> str:
        """Block until it is gone; return how it ended, as a person says it."""


class _Link(asyncio.Protocol):
    """Bytes from the socket to frames; everything else is the REPL's."""

    def __init__(
        self, on_frame: Callable[[wire.Frame, bytes], None], on_lost: Callable[[str | None], None]
    ) -> None:
        self._decoder = wire.Decoder()
        self._on_frame = on_frame
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame, body in self._decoder.feed(data):
                self._on_frame(frame, body)
        except wire.ProtocolError as error:
            self._on_lost(f"broke the protocol ({error})")

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._on_lost(None)


class _Clock:
    """Seconds a block has run by itself: the clock stands still while calls are in flight."""

    def __init__(self) -> None:
        self._ran = 0.0
        self._since: float | None = time.monotonic()

    def stop(self) -> None:
        if self._since is not None:
            self._ran += time.monotonic() - self._since
            self._since = None

    def start(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    @property
    def ran(self) -> float:
        return self._ran + (time.monotonic() - self._since if self._since is not None else 0.0)


class WireRepl:
    """Implements `Repl` over workers that `spawn` starts.

    Args:
        spawn: starts a worker; used again when one died.
        isolation: what is in force for its workers.
        tools: names of host functions to bind.
    """

    def __init__(
        self, spawn: Callable[[], Awaitable[Worker]], isolation: Isolation, tools: Sequence[str]
    ) -> None:
        self._spawn = spawn
        self.isolation = isolation
        self._tools = list(tools)
        self._sources: dict[str, Source] = {}
        self._numbers = itertools.count(1)
        self._worker: Worker | None = None
        self._closed = False

    async def start(self) -> None:
        """Start a worker and wait until it is ready."""
        self._worker = worker = await self._spawn()
        self._lost: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending: dict[int, asyncio.Future[tuple[Any, bytes]]] = {}
        self._parts: dict[int, bytearray] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._bytes_in_flight = 0
        self._subcalls: Subcalls | None = None
        self._clock = _Clock()
        self._printed = bytearray()
        link = _Link(self._on_frame, self._on_lost)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: link, sock=worker.rpc)
        assert link.transport is not None
        self._transport = link.transport
        if worker.output is not None:
            loop.add_reader(worker.output, self._drain, worker.output)
        await self._first(self._ready, START)
        if not self._ready.done():
            raise SandboxError(f"the worker did not start: {await self._bury('it said nothing in time')}")
        if self._tools:
            self._send({"op": "tools", "names": self._tools})

    async def load(self, name: str, source: Source) -> ContextInfo:
        info = await self._load(name, source)
        self._sources[name] = source
        return info

    async def execute(
        self, code: str, subcalls: Subcalls, *, max_time: float | None = None, max_wall: float | None = None
    ) -> Execution:
        started = time.monotonic()
        try:
            execution = await self._execute(code, subcalls, max_time, max_wall)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            self._end_calls()
        return _timed(execution, time.monotonic() - started)

    async def draft(self) -> Any:
        if self._worker is None or self._lost.done():
            return None
        frame, body = await self._ask({"op": "draft"}, timeout=5.0) or (None, b"")
        return None if frame is None or frame.answer is None else await _decoded(frame.answer, body)

    async def close(self) -> None:
        self._closed = True
        if self._worker is not None:
            self._end_calls()
            await self._bury(None)

    # Inside ------------------------------------------------------------------------------------

    async def _execute(
        self, code: str, subcalls: Subcalls, max_time: float | None, max_wall: float | None
    ) -> Execution:
        if self._worker is None:
            if self._closed:
                raise SandboxError("the REPL is closed")
            await self._rebirth()
        self._subcalls, self._clock = subcalls, _Clock()
        number = next(self._numbers)
        done = self._expect(number)
        self._send({"op": "run", "id": number}, code.encode("utf-8", "surrogatepass"))
        stopped = await self._watch(done, max_time, max_wall)
        if not done.done():
            how = await self._bury(stopped)
            await self._rebirth()
            note = "the REPL was started anew: your variables are lost, the given ones are loaded again"
            return Execution(code, error=f"The REPL died in this block: {how}", notes=(note,))
        frame, body = done.result()
        submission = Submission(await _decoded(frame.answer, body)) if frame.answer else None
        notes = (
            (*frame.notes, f"the block was interrupted: {stopped}")
            if stopped and frame.error
            else frame.notes
        )
        output = Output(frame.head, max(0, frame.omitted), frame.tail)
        return Execution(code, output, frame.error, tuple(notes), submission)

    async def _watch(
        self, done: asyncio.Future[Any], max_time: float | None, max_wall: float | None
    ) -> str | None:
        """Wait for the block; at a bound interrupt it, then give up. Return the bound that was hit."""
        begun = time.monotonic()
        while True:
            own = None if max_time is None else max_time - self._clock.ran
            wall = None if max_wall is None else begun + max_wall - time.monotonic()
            if own is not None and own <= 0:
                stopped = f"it ran for {max_time:g} s without waiting for a sub-call, and that is the limit"
                break
            if wall is not None and wall <= 0:
                stopped = "the time of the whole run is up"
                break
            left = min((bound for bound in (own, wall) if bound is not None), default=None)
            await self._first(done, left)
            if done.done() or self._lost.done():
                return None
        self._end_calls()
        assert self._worker is not None
        self._worker.interrupt()
        await self._first(done, GRACE)
        return stopped

    async def _rebirth(self) -> None:
        await self.start()
        for name, source in self._sources.items():
            await self._load(name, source)

    async def _load(self, name: str, source: Source) -> ContextInfo:
        assert self._worker is not None
        descriptor = await asyncio.to_thread(source.open)
        try:
            socket.send_fds(self._worker.aux, [b"."], [descriptor])
        finally:
            os.close(descriptor)
        header = {"op": "load", "name": name, "form": source.form, "size": source.size}
        answer = await self._ask(header, timeout=START + source.size / 1e7)
        if answer is None:
            raise SandboxError(f"`{name}` could not be loaded: {await self._bury('it took too long')}")
        frame, _ = answer
        if isinstance(frame, wire.Failed):
            raise SandboxError(f"`{name}` could not be loaded: {frame.error}")
        return ContextInfo(name, frame.type, frame.size, frame.preview[:4000], source.origin)

    async def _ask(self, header: dict[str, Any], timeout: float) -> tuple[Any, bytes] | None:  # noqa: ASYNC109
        """Send a command and wait for the frame that answers it; None when none comes."""
        number = next(self._numbers)
        answer = self._expect(number)
        self._send({**header, "id": number})
        await self._first(answer, timeout)
        return answer.result() if answer.done() else None

    async def _first(self, future: asyncio.Future[Any], seconds: float | None) -> None:
        """Wait until the future is done, the worker is lost, or the time is up."""
        waited: set[asyncio.Future[Any]] = {future, self._lost}
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _expect(self, number: int) -> asyncio.Future[tuple[Any, bytes]]:
        future: asyncio.Future[tuple[Any, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        return future

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        self._transport.write(wire.encode(header, body))
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            self._on_lost("does not read what it asked for")

    def _on_frame(self, frame: wire.Frame, body: bytes) -> None:
        match frame:
            case wire.Part(of=number):
                parts = self._parts.setdefault(number, bytearray())
                parts += body
                if sum(map(len, self._parts.values())) > wire.MAX_VALUE:
                    raise wire.ProtocolError("more value than may leave the REPL")
            case wire.CallLlm() | wire.CallRlm() | wire.CallTool():
                self._begin_call(frame, body)
            case wire.Ready():
                if self._ready.done():
                    raise wire.ProtocolError("ready twice")
                self._ready.set_result(None)
            case _:
                future = self._pending.pop(frame.re, None)
                if future is None or future.done():
                    raise wire.ProtocolError(f"an answer to a question that was not asked ({frame.re})")
                carried = frame.answer if isinstance(frame, wire.Done | wire.Drafted) else None
                future.set_result((frame, self._take(frame.re, carried)))

    def _take(self, number: int, carried: wire.Carried | None) -> bytes:
        data = bytes(self._parts.pop(number, b""))
        if carried is not None and carried.size != len(data):
            raise wire.ProtocolError("a value of another size than announced")
        return data

    def _begin_call(self, frame: wire.CallLlm | wire.CallRlm | wire.CallTool, body: bytes) -> None:
        if frame.id in self._calls:
            raise wire.ProtocolError("a call number twice")
        if self._subcalls is None:
            self._reply(frame.id, error="no block is running: calls from threads end with their block")
            return
        if not isinstance(frame, wire.CallLlm):
            body = self._take(frame.id, frame.value)
        if not self._calls:
            self._clock.stop()
        self._bytes_in_flight += len(body)
        task = asyncio.get_running_loop().create_task(self._answer(frame, body, self._subcalls))
        self._calls[frame.id] = task
        if len(self._calls) >= MAX_CALLS_IN_FLIGHT or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT:
            self._transport.pause_reading()

    async def _answer(
        self, frame: wire.CallLlm | wire.CallRlm | wire.CallTool, body: bytes, subcalls: Subcalls
    ) -> None:
        try:
            value = await subcalls.answer(await _subcall(frame, body))
        except RLMError as error:
            self._reply(frame.id, error=str(error))
        except asyncio.CancelledError:
            self._reply(frame.id, error="the call was cancelled")
            raise
        except wire.ProtocolError as error:
            self._on_lost(f"broke the protocol ({error})")
        else:
            self._reply(frame.id, value=value)
        finally:
            self._bytes_in_flight -= len(body)
            self._calls.pop(frame.id, None)
            if not self._calls:
                self._clock.start()
            if len(self._calls) < MAX_CALLS_IN_FLIGHT and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
                self._transport.resume_reading()

    def _reply(self, number: int, *, value: Any = None, error: str | None = None) -> None:
        if self._lost.done():
            return
        if error is not None:
            self._send({"op": "reply", "re": number, "ok": False}, error.encode("utf-8", "replace"))
            return
        try:
            form, data = values.encode(value)
        except values.NotPlain as problem:
            self._reply(number, error=f"the result cannot enter the REPL: {problem}")
            return
        self._send({"op": "reply", "re": number, "ok": True, "form": form}, data)

    def _end_calls(self) -> None:
        self._subcalls = None
        for task in list(self._calls.values()):
            task.cancel()

    def _on_lost(self, reason: str | None) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
            if reason is not None and self._worker is not None:
                self._worker.kill()

    def _drain(self, output: int) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = os.read(output, 65536)
            if not data:
                asyncio.get_running_loop().remove_reader(output)
        self._printed = (self._printed + data)[-2000:]

    async def _bury(self, reason: str | None) -> str:
        """Kill the worker and free what it held; return how it ended."""
        worker, self._worker = self._worker, None
        if worker is None:
            return reason or "it was closed"
        said = self._lost.result() if self._lost.done() else None
        worker.kill()
        self._transport.abort()
        how = await asyncio.shield(asyncio.to_thread(worker.wait))
        if worker.output is not None:
            self._drain(worker.output)
            asyncio.get_running_loop().remove_reader(worker.output)
            os.close(worker.output)
        worker.aux.close()
        if not self._lost.done():
            self._lost.set_result(reason)
        last = bytes(self._printed).decode("utf-8", "backslashreplace").strip()
        return f"{reason or said or how}" + (f"; last words: {last[-800:]}" if last else "")


def _timed(execution: Execution, duration: float) -> Execution:
    return Execution(
        execution.code, execution.output, execution.error, execution.notes, execution.submission, duration
    )


async def _decoded(carried: wire.Carried, data: bytes) -> Any:
    try:
        if len(data) > 1 << 20:
            return await asyncio.to_thread(values.decode, carried.form, data)
        return values.decode(carried.form, data)
    except ValueError as error:
        raise SandboxError(f"the sandbox sent an answer that is none: {error}") from None


async def _subcall(frame: wire.CallLlm | wire.CallRlm | wire.CallTool, body: bytes) -> Subcall:
    if isinstance(frame, wire.CallLlm):
        return LlmQuery(body.decode("utf-8", "replace"), frame.model, frame.schema)
    try:
        first, second = await _decoded(frame.value, body)
    except (SandboxError, TypeError, ValueError) as error:
        raise wire.ProtocolError(f"bad arguments of {type(frame).__name__}: {error}") from None
    if isinstance(frame, wire.CallTool):
        if not isinstance(first, tuple) or not isinstance(second, dict):
            raise wire.ProtocolError("bad arguments of a tool")
        return ToolCall(frame.name, first, second)
    if not isinstance(first, str):
        raise wire.ProtocolError("a question that is no text")
    return RlmQuery(first, second, frame.model, frame.schema)
