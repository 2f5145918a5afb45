"""The host's line to one worker: frames out, frames in, contexts.

Nothing here outlives its worker: a new worker gets a new link, so that a reply to the old one can
never reach it. Whatever breaks the protocol ends the worker; the loop is never kept busy by it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from recursor.errors import SandboxError
from recursor.protocols import Source
from recursor.sandboxes import wire
from recursor.sandboxes.calls import MAX_CALLS_IN_FLIGHT, READING, Calls
from recursor.sandboxes.intake import Intake
from recursor.threads import in_thread

AHEAD = 1 << 18
"""Bytes that are read at once, where there are as many."""
TOGETHER = 1 << 16
"""Bytes of frames that are sent at once, where there are as many."""
MAX_UNREAD = 1 << 26
"""Bytes that may wait for a worker that does not read."""
PART = 1 << 20
"""Bytes of a context that are sent at once to a worker that takes no descriptors."""
MAX_KEPT = 1 << 20
"""Bytes of a draft that is held for a worker."""
F = TypeVar("F", bound=wire.Frame)


class Worker(Protocol):
    """One running worker, as its sandbox hands it over."""

    rpc: socket.socket
    """Carries the frames."""

    @property
    def aux(self) -> socket.socket | None:
        """Takes descriptors to it; None where only bytes reach it: contexts then go in parts."""

    @property
    def output(self) -> int | None:
        """Read end of the pipe that its stdout and stderr go to; None where there is none."""

    @property
    def interrupt(self) -> Callable[[], None] | None:
        """Raises KeyboardInterrupt in its running block; None where only a frame can. A worker that only
        bytes reach gets the frame in any case: it may wait for one."""

    def kill(self) -> None:
        """End it now, with everything it started."""

    def wait(self) -> str:
        """Block until it is gone; return how it ended, as a person says it."""


class _Reading(threading.local):
    """What the event loop of a thread reads into, for all its links: each takes out at once what is its own.

    With `asyncio.Protocol` the loop maps and unmaps new memory for each read.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(AHEAD))


_reading = _Reading()


class Link(asyncio.BufferedProtocol):
    """Talks to one worker.

    Attributes:
        lost: set when the worker is gone, with what it did wrong (None: it just went).
        calls: of the block that runs.
        kept: form and bytes of the last small draft of the answer.
    """

    def __init__(self, worker: Worker, sources: Mapping[str, Source]) -> None:
        """Take the worker over.

        Args:
            sources: what was loaded into it, by name.
        """
        loop = asyncio.get_running_loop()
        self.worker = worker
        if worker.aux is not None:
            worker.aux.setblocking(False)
        self.lost: asyncio.Future[str | None] = loop.create_future()
        self.calls = Calls(self, sources)
        self.kept: tuple[str, bytes] | None = None
        self.forking = asyncio.Lock()
        """Held by who has the worker forked."""
        self._intake = Intake(self._take_frame, lambda: bool(self._expected), self.give_up)
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[wire.Facts | None] = loop.create_future()
        self._numbers = itertools.count(1)
        self._expected: dict[int, tuple[type[Any], asyncio.Future[Any]]] = {}
        self._waiters: dict[asyncio.Future[Any], asyncio.Future[None]] = {}
        """Who waits for an answer."""
        self._parts: dict[int, bytearray] = {}
        self._parts_size = 0
        self._outgoing: list[bytes] = []
        self._outgoing_size = 0
        self._printed = bytearray()
        self._burial: asyncio.Future[str] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    async def open(self, seconds: float) -> wire.Facts | None:
        """Connect, wait until the worker is ready, and return what it says of its place.

        Raises:
            SandboxError: it is not ready in time.
        """
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=self.worker.rpc)
        if self.worker.output is not None:
            loop.add_reader(self.worker.output, self._drain, self.worker.output)
        if not await self.first(self._ready, seconds):
            late = None if self.lost.done() else "it said nothing in time"
            raise SandboxError(f"the worker did not start: {await self.bury(late)}")
        return self._ready.result()

    def send(self, header: dict[str, Any], body: bytes = b"", *, now: bool = False) -> None:
        """Send one frame, with others of this moment. A worker that does not read them is given up.

        Args:
            now: none is to come that it could go with.
        """
        if self._transport is None or self._transport.is_closing():
            return
        if self._unread > MAX_UNREAD:
            self.give_up("does not read what it asked for")
            return
        if not (self._outgoing or now):
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(wire.encode(header, body))
        self._outgoing_size += len(body)
        if now or self._outgoing_size > TOGETHER:
            self._flush()

    @property
    def _unread(self) -> int:
        """Bytes that wait for the worker to read what is before them."""
        assert self._transport is not None
        return self._transport.get_write_buffer_size() + self._outgoing_size

    def _flush(self) -> None:
        outgoing, self._outgoing, self._outgoing_size = self._outgoing, [], 0
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the block that runs."""
        if self.worker.interrupt is not None:
            self.worker.interrupt()
        if self.worker.interrupt is None or self.worker.aux is None:
            self.send({"op": "interrupt"})

    async def load(
        self, header: dict[str, Any], descriptor: int
    ) -> asyncio.Future[tuple[wire.Loaded | wire.Failed, bytes]]:
        """Send a context and the command that loads it; return the future of what answers that.

        Args:
            header: of the command, "size" included.
            descriptor: of the bytes; it stays the caller's, who closes it afterwards.

        Raises:
            OSError: the worker does not take the descriptor.
            SandboxError: the bytes cannot be read to the end; the worker lives.
        """
        number = next(self._numbers)
        if self.worker.aux is not None:
            socket.send_fds(self.worker.aux, [b"."], [descriptor])
        else:
            await self._send_parts(number, descriptor, header["size"])
        return self.expect(header, wire.Loaded, number=number)

    async def _send_parts(self, number: int, descriptor: int, size: int) -> None:
        position = 0
        while position < size and not self.lost.done():
            try:
                part = await in_thread(os.pread, descriptor, min(PART, size - position), position)
            except OSError as error:
                raise SandboxError(f"reading it failed ({error.strerror})") from error
            if not part:
                raise SandboxError(f"it ends after {position:,} of {size:,} bytes")
            position += len(part)
            if not await self._wait_writable():
                return
            self.send({"op": "part", "of": number}, part)

    async def _wait_writable(self) -> bool:
        """Wait until the worker has read most of what it was sent; one that does not is given up."""
        if not self._writable.is_set():
            waiting = asyncio.ensure_future(self._writable.wait())
            try:
                if not await self.first(waiting, READING) and not self.lost.done():
                    self.give_up("does not read what it is given")
            finally:
                waiting.cancel()
        return not self.lost.done()

    def expect(
        self, header: dict[str, Any], kind: type[F], body: bytes = b"", number: int | None = None
    ) -> asyncio.Future[tuple[F, bytes]]:
        """Send a command; return the future of the frame of this kind that answers it."""
        if number is None:
            number = next(self._numbers)
        future: asyncio.Future[tuple[F, bytes]] = asyncio.get_running_loop().create_future()
        self._expected[number] = kind, future
        self._intake.ask()
        self.send({**header, "id": number}, body, now=True)
        return future

    async def first(self, future: asyncio.Future[Any], seconds: float | None) -> bool:
        """Wait until the future is done, the worker is lost, or the time is up; return the first."""
        if not (future.done() or self.lost.done()):  # what asyncio.wait does, in less time
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, _wake, waiter)
            wake = partial(_wake, waiter)
            future.add_done_callback(wake)
            self.lost.add_done_callback(wake)
            self._waiters[future] = (
                waiter  # an answer wakes it at once: a callback, a round of the loop later
            )
            try:
                await waiter
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiters.pop(future, None)
                future.remove_done_callback(wake)
                self.lost.remove_done_callback(wake)
        return future.done()

    async def end_calls(self) -> None:
        """Cancel the calls in flight and wait until they have ended; later ones are refused."""
        await self.calls.end()
        self._parts.clear()
        self._parts_size = 0

    def give_up(self, reason: str | None) -> None:
        """Take the worker for lost, and kill it when it did something wrong."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self._intake.stop()
            if reason is not None:
                self.worker.kill()

    async def bury(self, reason: str | None) -> str:
        """End the worker and free what it held, also when cancelled meanwhile; return how it ended."""
        if self._burial is None:
            self._burial = asyncio.ensure_future(self._bury(reason))
        try:
            return await asyncio.shield(self._burial)
        except asyncio.CancelledError:
            await asyncio.wait([self._burial])
            raise

    async def _bury(self, reason: str | None) -> str:
        said = self.lost.result() if self.lost.done() else None
        self.worker.kill()
        if self._transport is not None:
            self._transport.abort()  # before its calls end, each of which would be refused to it
        else:
            self.worker.rpc.close()
        await self.end_calls()
        how = await in_thread(self.worker.wait)
        if self.worker.output is not None:
            self._drain(self.worker.output)
            asyncio.get_running_loop().remove_reader(self.worker.output)
            os.close(self.worker.output)
        if self.worker.aux is not None:
            self.worker.aux.close()
        self.give_up(None)
        last = bytes(self._printed).decode("utf-8", "backslashreplace").strip()
        return f"{said or reason or how}" + (f"; last words: {last[-800:]}" if last else "")

    # From the socket ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._intake.begin(transport)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._intake.end()
        self.give_up(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return _reading.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._intake.feed(_reading.buffer[:nbytes])

    def _take_frame(self, frame: wire.Frame, body: bytes) -> None:
        match frame:
            case wire.Part(of=number):
                self._parts_size += len(body)
                self._parts.setdefault(number, bytearray()).extend(body)
                if self._parts_size > wire.MAX_VALUE or len(self._parts) > 2 * MAX_CALLS_IN_FLIGHT:
                    raise wire.ProtocolError("more value than may leave the REPL")
            case wire.CallLlm() | wire.CallRlm() | wire.CallTool() | wire.CallBatch():
                self.calls.take(frame, body)
            case wire.Branch() | wire.AskRoom() | wire.Fill():
                self.calls.take_request(frame, body)
            case wire.Cancel(ids=numbers):
                self.calls.cancel(numbers)
            case wire.Kept(form=form):
                if len(body) > MAX_KEPT:
                    raise wire.ProtocolError("a draft that is not small")
                self.kept = form, body
            case wire.Ready(facts=facts):
                if self._ready.done():
                    raise wire.ProtocolError("ready twice")
                self._ready.set_result(facts)
            case _:
                self._take_answer(frame, body)

    def _take_answer(self, frame: wire.Answered, body: bytes) -> None:
        """What answers a command."""
        kind, future = self._expected.pop(frame.re, (None, None))
        if isinstance(frame, wire.Failed) and kind in (wire.Loaded, wire.Forked):
            kind = wire.Failed
        if kind is not type(frame) or future is None or future.done():
            raise wire.ProtocolError(f"an answer to a question that was not asked ({frame.re})")
        carried = frame.answer if isinstance(frame, wire.Done | wire.Drafted) else None
        future.set_result((frame, body if carried is None else self.carried(frame.re, carried.size)))
        if future in self._waiters:
            _wake(self._waiters[future])

    def carried(self, number: int, size: int) -> bytes:
        """Take what came ahead of a frame, in parts. Raises ProtocolError where it is not so many bytes."""
        data = bytes(self._parts.pop(number, b""))
        self._parts_size -= len(data)
        if size != len(data):
            raise wire.ProtocolError("a value of another size than announced")
        return data

    def _drain(self, output: int) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = os.read(output, 65536)
            if not data:
                asyncio.get_running_loop().remove_reader(output)
        self._printed = (self._printed + data)[-2000:]

    # What calls need ----------------------------------------------------------------------------

    @property
    def takes_descriptors(self) -> bool:
        """Whether any reach the worker."""
        return self.worker.aux is not None

    def refuse(self, number: int, reason: str) -> None:
        """Answer a call with an error."""
        self.send({"op": "reply", "re": number, "ok": False}, reason[:10_000].encode("utf-8", "replace"))

    def hand(self, number: int, descriptor: int) -> None:
        """Give memory that was asked for."""
        if self.worker.aux is not None:
            try:
                socket.send_fds(self.worker.aux, [b"."], [descriptor])
            except OSError:
                self.give_up("does not take what it asked for")
                return
        self.send({"op": "room", "re": number})

    async def drained(self, seconds: float) -> None:
        """Wait until the worker has read most of what it was sent; `send` gives it up when it has not."""
        deadline = time.monotonic() + seconds
        while self._transport is not None and self._unread > MAX_UNREAD:
            if self.lost.done() or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.005)

    def pause(self) -> None:
        """Read nothing more of the worker."""
        self._intake.hold(True)

    def resume(self) -> None:
        """Read on."""
        self._intake.hold(False)


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)
