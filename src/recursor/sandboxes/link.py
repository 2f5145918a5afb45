"""The host's line to one worker: frames out, frames in, contexts, its calls and their replies.

Nothing here outlives its worker: a new worker gets a new link, so that a reply to the old one can
never reach it. Whatever breaks the protocol ends the worker; the loop is never kept busy by it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from recursor.errors import RLMError, SandboxError
from recursor.protocols import Repl, Source, Subcalls
from recursor.sandboxes import wire
from recursor.sandboxes.guest import toolcalls, values
from recursor.sandboxes.guest.images import media_type
from recursor.sandboxes.handed import CAN_LEND, HandedSource, Rooms
from recursor.threads import in_thread
from recursor.types import Batch, LlmQuery, RlmQuery, Subcall, ToolCall

MAX_CALLS_IN_FLIGHT = 1 << 12
"""Calls that are answered at once: two full windows of a batch."""
MAX_BRANCHES = 128
"""Forks that are being made at once; a worker waits for each."""
MAX_BYTES_IN_FLIGHT = 1 << 26
TOGETHER = 1 << 16
"""Bytes of frames that are sent at once, where there are as many."""
MAX_UNREAD = 1 << 26
"""Bytes that may wait for a worker that does not read."""
MAX_RESULT = 1 << 28
PART = 1 << 20
"""Bytes of a context that are sent at once to a worker that takes no descriptors."""
READING = 30.0
"""Seconds that a worker has to read a large result before the next is sent."""
MAX_KEPT = 1 << 20
"""Bytes of a draft that is held for a worker."""
ENDING = 5.0
"""Seconds that a cancelled call has to end: a tool may hold on to it."""
DECODE_ASIDE = 1 << 16
"""Bytes from which a value is decoded in a thread."""
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


class Clock:
    """Seconds a block has run by itself: it stands still while calls are in flight."""

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


class Link(asyncio.Protocol):
    """Talks to one worker.

    Attributes:
        lost: set when the worker is gone, with what it did wrong (None: it just went).
        clock: of the block that runs.
        subcalls: who answers calls; None while no block runs.
        sources: what was loaded into it, by name.
        branch: makes a fork that the running block asks for by a number; None where there are none.
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
        self.clock = Clock()
        self.subcalls: Subcalls | None = None
        self.kept: tuple[str, bytes] | None = None
        self.branch: Callable[[int], Awaitable[Repl]] | None = None
        self.forking = asyncio.Lock()
        """Held by who has the worker forked."""
        self._forks: dict[int, Repl] = {}
        """Copies of the REPL that no call has taken yet."""
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[wire.Facts | None] = loop.create_future()
        self._numbers = itertools.count(1)
        self._expected: dict[int, tuple[type[Any], asyncio.Future[Any]]] = {}
        self._parts: dict[int, bytearray] = {}
        self._parts_size = 0
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._branches: dict[int, asyncio.Task[None]] = {}
        self._bytes_in_flight = 0
        self.sources = sources
        self._rooms = Rooms(self._hand_room, self._refuse)
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

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Send one frame, with others of this moment. A worker that does not read them is given up."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._unread > MAX_UNREAD:
            self.give_up("does not read what it asked for")
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(wire.encode(header, body))
        self._outgoing_size += len(body)
        if self._outgoing_size > TOGETHER:
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
        self.send({**header, "id": number}, body)
        return future

    async def first(self, future: asyncio.Future[Any], seconds: float | None) -> bool:
        """Wait until the future is done, the worker is lost, or the time is up; return the first."""
        waited: set[asyncio.Future[Any]] = {future, self.lost}
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return future.done()

    async def end_calls(self) -> None:
        """Cancel the calls in flight and wait until they have ended; later ones are refused."""
        self.subcalls = None
        tasks = list(self._calls.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING)
            self._calls.clear()  # what holds on to a call holds up no later block
            self._bytes_in_flight = 0
            if self._transport is not None:
                self._transport.resume_reading()
        await self._end_branches()
        await self._rooms.free_all()
        self._parts.clear()
        self._parts_size = 0

    def give_up(self, reason: str | None) -> None:
        """Take the worker for lost, and kill it when it did something wrong."""
        if not self.lost.done():
            self.lost.set_result(reason)
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
        await self.end_calls()
        if self._transport is not None:
            self._transport.abort()
        else:
            self.worker.rpc.close()
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

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.give_up(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        try:
            for frame, body in self._decoder.feed(data):
                self._take_frame(frame, body)
        except wire.ProtocolError as error:
            self.give_up(f"broke the protocol ({error})")

    def _take_frame(self, frame: wire.Frame, body: bytes) -> None:
        match frame:
            case wire.Part(of=number):
                self._parts_size += len(body)
                self._parts.setdefault(number, bytearray()).extend(body)
                if self._parts_size > wire.MAX_VALUE or len(self._parts) > 2 * MAX_CALLS_IN_FLIGHT:
                    raise wire.ProtocolError("more value than may leave the REPL")
            case wire.CallLlm() | wire.CallRlm() | wire.CallTool() | wire.CallBatch():
                self._begin_call(frame, body)
            case wire.Branch() | wire.AskRoom() | wire.Fill():
                self._take_request(frame, body)
            case wire.Cancel(ids=numbers):
                self._cancel(numbers)
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
        future.set_result((frame, body if carried is None else self._carried(frame.re, carried.size)))

    def _carried(self, number: int, size: int) -> bytes:
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

    # Forks --------------------------------------------------------------------------------------

    def _begin_branch(self, number: int) -> None:
        if number in self._branches or number in self._forks or number in self._calls:
            raise wire.ProtocolError("a fork number twice")
        if len(self._branches) >= MAX_BRANCHES:
            raise wire.ProtocolError("more forks at once than a worker of ours asks for")
        if self.subcalls is None or self.branch is None:
            self._refuse(number, "no block is running: calls from threads end with their block")
            return
        # The clock goes on: a fork takes milliseconds, and whoever delays one would stop it.
        task = asyncio.get_running_loop().create_task(self._make_branch(number, self.branch))
        self._branches[number] = task

    async def _make_branch(self, number: int, branch: Callable[[int], Awaitable[Repl]]) -> None:
        try:
            self._forks[number] = await branch(number)
        except RLMError as error:
            self._refuse(number, str(error))
        finally:
            del self._branches[number]

    async def _taken(self, number: int) -> Repl:
        """The copy of a number, for the call that it was made for."""
        making = self._branches.get(number)
        if making is not None:
            await asyncio.wait([making])
        if number not in self._forks:
            raise SandboxError("there is no such copy of the REPL for a child to begin in")
        return self._forks.pop(number)

    def _go_on(self) -> None:
        """Let the clock of the block run where it waits for nothing."""
        if not self._calls:
            self.clock.start()

    async def _end_branches(self) -> None:
        tasks = list(self._branches.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING)
        while self._forks:
            _, repl = self._forks.popitem()
            await repl.close()

    # Calls --------------------------------------------------------------------------------------

    def _begin_call(self, frame: wire.Call, body: bytes) -> None:
        if frame.id in self._calls:
            raise wire.ProtocolError("a call number twice")
        if isinstance(frame, wire.CallTool) and frame.ahead:
            body += self._carried(frame.id, frame.ahead)
        elif isinstance(frame, wire.CallRlm):
            body = self._with_parts(frame, body)
        if self.subcalls is None:
            self._refuse(frame.id, "no block is running: calls from threads end with their block")
            return
        self.clock.stop()
        self._bytes_in_flight += len(body)
        task = asyncio.get_running_loop().create_task(self._answer(frame, body, self.subcalls))
        self._calls[frame.id] = task
        task.add_done_callback(partial(self._end_call, frame, len(body)))
        if len(self._calls) >= MAX_CALLS_IN_FLIGHT or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT:
            assert self._transport is not None
            self._transport.pause_reading()

    def _with_parts(self, frame: wire.CallRlm, body: bytes) -> bytes:
        """The question, and after it the context where that did not come by another way."""
        context = frame.context
        if isinstance(context, wire.InParts):
            body += self._carried(frame.id, context.size)
        if len(body) < frame.question or (
            len(body) > frame.question and not isinstance(context, wire.Inline | wire.InParts)
        ):
            raise wire.ProtocolError("a question of another size than announced")
        return body

    async def _answer(self, frame: wire.Call, body: bytes, subcalls: Subcalls) -> None:
        fork: Repl | None = None
        try:
            if isinstance(frame, wire.CallRlm) and frame.fork is not None:
                fork = await self._taken(frame.fork)
            value = await subcalls.answer(await self._subcall(frame, body, fork))
            form, data = values.encode(value)
            if len(data) > MAX_RESULT:
                raise SandboxError(
                    f"the result has {len(data):,} bytes; at most {MAX_RESULT:,} can enter the REPL"
                )
        except RLMError as error:
            self._refuse(frame.id, str(error))
        except values.NotPlain as error:
            self._refuse(frame.id, f"the result cannot enter the REPL: {error}")
        except Exception as error:  # noqa: BLE001 - the block waits for a reply, whatever went wrong
            self._refuse(frame.id, f"the call failed: {type(error).__name__}: {error}")
        else:
            await self._drained(READING)
            self.send({"op": "reply", "re": frame.id, "ok": True, "form": form}, data)
        finally:
            if fork is not None:
                await fork.close()

    async def _subcall(self, frame: wire.Call, body: bytes, fork: Repl | None) -> Subcall:
        match frame:
            case wire.CallLlm():
                prompt, images = _pictures(frame, body)
                return LlmQuery(prompt.decode("utf-8", "replace"), frame.model, frame.schema, images)
            case wire.CallBatch():
                return Batch(frame.count, frame.recursive, frame.model)
            case wire.CallTool():
                return ToolCall(frame.name, *await _arguments(frame, body))
            case wire.CallRlm():
                context = await self._context(frame, body)
                question = body[: frame.question].decode("utf-8", "replace")
                return RlmQuery(
                    question,
                    context,
                    frame.model,
                    frame.schema,
                    tuple(frame.tools),
                    frame.instruction,
                    frame.limits,
                    fork,
                )

    async def _context(self, frame: wire.CallRlm, body: bytes) -> Source | None:
        match frame.context:
            case None:
                return None
            case wire.Same(name=name):
                if name not in self.sources:
                    raise SandboxError(f"there is no context {name[:100]!r} to hand on")
                return self.sources[name]
            case wire.InRoom(form=form, room=number):
                room = self._rooms.get(number)
                await in_thread(room.seal, form)
                return room
            case wire.Inline(form=form) | wire.InParts(form=form):
                data = body[frame.question :]
                return HandedSource(form, data, len(data))

    def _take_request(self, frame: wire.Branch | wire.AskRoom | wire.Fill, body: bytes) -> None:
        match frame:
            case wire.Branch(id=number):
                self._begin_branch(number)
            case wire.Fill(room=number):
                self._fill_room(number, body)
            case wire.AskRoom():
                self._ask_room(frame)

    def _ask_room(self, frame: wire.AskRoom) -> None:
        if frame.id in self._rooms or len(self._rooms) >= MAX_CALLS_IN_FLIGHT:
            raise wire.ProtocolError("more room than a worker of ours asks for")
        if self.subcalls is None:
            self._refuse(frame.id, "no block is running: calls from threads end with their block")
        elif not CAN_LEND:
            self.send({"op": "reply", "re": frame.id, "ok": True, "form": "values"}, b"null")
        else:
            self._rooms.ask(frame.id, frame.size)

    def _cancel(self, numbers: list[int]) -> None:
        for number in numbers:
            task = self._calls.get(number)
            if task is not None:
                task.cancel()
            elif number in self._rooms:
                self._rooms.give_up(number)

    def _fill_room(self, number: int, body: bytes) -> None:
        try:
            room = self._rooms.get(number)
        except SandboxError:
            return  # its block has ended, or its call
        if self.worker.aux is not None or not room.fill(body):
            raise wire.ProtocolError("more context than was announced")

    def _hand_room(self, number: int, descriptor: int) -> None:
        if self.worker.aux is not None:
            try:
                socket.send_fds(self.worker.aux, [b"."], [descriptor])
            except OSError:
                self.give_up("does not take what it asked for")
                return
        self.send({"op": "room", "re": number})

    async def _drained(self, seconds: float) -> None:
        """Wait until the worker has read most of what it was sent; `send` gives it up when it has not."""
        deadline = time.monotonic() + seconds
        while self._transport is not None and self._unread > MAX_UNREAD:
            if self.lost.done() or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.005)

    def _refuse(self, number: int, reason: str) -> None:
        self.send({"op": "reply", "re": number, "ok": False}, reason[:10_000].encode("utf-8", "replace"))

    def _end_call(self, frame: wire.Call, size: int, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # maybe before it began
            self._refuse(frame.id, "the call was cancelled")
        if isinstance(frame, wire.CallRlm) and isinstance(frame.context, wire.InRoom):
            self._rooms.free(frame.context.room)
        if self._calls.get(frame.id) is not task:
            return  # given up before, with all others of its block
        del self._calls[frame.id]
        self._bytes_in_flight -= size
        self._go_on()
        if len(self._calls) < MAX_CALLS_IN_FLIGHT and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            assert self._transport is not None
            self._transport.resume_reading()


async def decoded(form: str, data: bytes) -> Any:
    """Decode a value from a sandbox. Raises ValueError when it is none."""
    if len(data) > DECODE_ASIDE:
        return await in_thread(values.decode, form, data)
    return values.decode(form, data)


def _pictures(frame: wire.CallLlm, body: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """The prompt, and the pictures after it. Raises SandboxError where they are none."""
    start = end = len(body) - sum(frame.images)
    found: list[bytes] = []
    for size in frame.images:
        found.append(body[end : end + size])
        end += size
    if start < 0 or not all(map(media_type, found)):
        raise SandboxError("an image is no PNG, JPEG, GIF or WebP")
    return body[:start], tuple(found)


async def _arguments(frame: wire.CallTool, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        if len(body) > DECODE_ASIDE:
            return await in_thread(toolcalls.unpack, frame.apart, body)
        return toolcalls.unpack(frame.apart, body)
    except ValueError as error:
        raise SandboxError(f"the arguments could not be read: {error}") from None
