"""The calls of the block that runs in a worker: each is answered by a task of the host's, or refused.

They end with their block. What they bring along is counted, and a worker that sends more waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

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
MAX_RESULT = 1 << 28
READING = 30.0
"""Seconds that a worker has to read a large result before the next is sent."""
ENDING = 5.0
"""Seconds that a cancelled call has to end: a tool may hold on to it."""
WORK = 1e-4
"""Seconds of its own time that a block pays for each call: the host's work for it. Else calls that are refused, or cost
nothing, would stop its clock for as long as there are always more of them."""
WORK_PER_BYTE = 1e-8
"""The same for each byte that comes with it."""
CANCELLED = "the call was cancelled"
DECODE_ASIDE = 1 << 16
"""Bytes from which a value is decoded in a thread."""


class Line(Protocol):
    """What calls need of the line to their worker."""

    @property
    def takes_descriptors(self) -> bool:
        """Whether any reach the worker."""

    def send(self, header: dict[str, Any], body: bytes = b"", *, now: bool = False) -> None:
        """Send a frame; `now` where none is to come that it could go with."""

    def refuse(self, number: int, reason: str) -> None:
        """Answer a call with an error."""

    def hand(self, number: int, descriptor: int) -> None:
        """Give memory that was asked for."""

    def carried(self, number: int, size: int) -> bytes:
        """Take what came ahead of a frame, in parts. Raises ProtocolError where it is not so many bytes."""

    async def drained(self, seconds: float) -> None:
        """Wait until the worker has read most of what it was sent."""

    def pause(self) -> None:
        """Read nothing more of the worker."""

    def resume(self) -> None:
        """Read on."""


class Clock:
    """Seconds a block has run by itself: it stands still while calls are in flight, each of which has its price."""

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

    def pay(self, seconds: float) -> None:
        self._ran += seconds

    @property
    def ran(self) -> float:
        return self._ran + (time.monotonic() - self._since if self._since is not None else 0.0)


class _Call:
    """A call that is being answered."""

    __slots__ = ("begun", "frame", "size", "task")

    def __init__(self, frame: wire.Call, size: int) -> None:
        self.frame = frame
        self.size = size
        """Bytes that came with it."""
        self.task: asyncio.Task[None] | None = None
        self.begun = False


class Calls:
    """Answers the calls of one worker.

    Args:
        sources: what was loaded into it, by name.

    Attributes:
        subcalls: who answers; None while no block runs.
        clock: of the block that runs.
        branch: makes a fork that the block asks for by a number; None where there are none.
    """

    def __init__(self, line: Line, sources: Mapping[str, Source]) -> None:
        self._line = line
        self.sources = sources
        self.subcalls: Subcalls | None = None
        self.clock = Clock()
        self.branch: Callable[[int], Awaitable[Repl]] | None = None
        self._calls: dict[int, _Call] = {}
        self._ended: asyncio.Future[None] | None = None
        """Of who waits until there are none."""
        self._branches: dict[int, asyncio.Task[None]] = {}
        self._forks: dict[int, Repl] = {}
        """Copies of the REPL that no call has taken yet."""
        self._bytes_in_flight = 0
        self._rooms = Rooms(line.hand, line.refuse)

    async def end(self) -> None:
        """Cancel the calls in flight and wait until they have ended; later ones are refused."""
        self.subcalls = None
        if self._calls:
            for call in list(self._calls.values()):
                self._stop(call)
            if self._calls:
                if self._ended is None or self._ended.done():
                    self._ended = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._ended], timeout=ENDING)
            self._calls.clear()  # what holds on to a call holds up no later block
            self._bytes_in_flight = 0
            self._line.resume()
        if self._branches or self._forks:
            await self._end_branches()
        await self._rooms.free_all()

    def take(self, frame: wire.Call, body: bytes) -> None:
        if frame.id in self._calls:
            raise wire.ProtocolError("a call number twice")
        if isinstance(frame, wire.CallTool) and frame.ahead:
            body += self._line.carried(frame.id, frame.ahead)
        elif isinstance(frame, wire.CallRlm):
            body = self._with_parts(frame, body)
        if self.subcalls is None:
            self._line.refuse(frame.id, "no block is running: calls from threads end with their block")
            return
        self.clock.stop()
        self.clock.pay(WORK + WORK_PER_BYTE * len(body))
        self._bytes_in_flight += len(body)
        call = self._calls[frame.id] = _Call(frame, len(body))
        call.task = asyncio.get_running_loop().create_task(self._answer(call, body, self.subcalls))
        if len(self._calls) >= MAX_CALLS_IN_FLIGHT or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT:
            self._line.pause()

    def _with_parts(self, frame: wire.CallRlm, body: bytes) -> bytes:
        """The question, and after it the context where that did not come by another way."""
        context = frame.context
        if isinstance(context, wire.InParts):
            body += self._line.carried(frame.id, context.size)
        if len(body) < frame.question or (
            len(body) > frame.question and not isinstance(context, wire.Inline | wire.InParts)
        ):
            raise wire.ProtocolError("a question of another size than announced")
        return body

    async def _answer(self, call: _Call, body: bytes, subcalls: Subcalls) -> None:
        call.begun = True
        # It ends its call itself: a callback of the task would cost one more round of the event loop.
        try:
            await self._reply(call.frame, body, subcalls)
        except asyncio.CancelledError:
            # Not raised: this is all of its task, which would hold the error and all frames that it came through, and
            # with thousands of them collecting garbage takes longer than all the rest.
            self._line.refuse(call.frame.id, CANCELLED)
        finally:
            self._end_call(call)

    async def _reply(self, frame: wire.Call, body: bytes, subcalls: Subcalls) -> None:
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
            self._line.refuse(frame.id, str(error))
        except values.NotPlain as error:
            self._line.refuse(frame.id, f"the result cannot enter the REPL: {error}")
        except Exception as error:  # noqa: BLE001 - the block waits for a reply, whatever went wrong
            self._line.refuse(frame.id, f"the call failed: {type(error).__name__}: {error}")
        else:
            await self._line.drained(READING)
            alone = len(self._calls) == 1
            self._line.send({"op": "reply", "re": frame.id, "ok": True, "form": form}, data, now=alone)
        finally:
            if fork is not None:
                await fork.close()

    async def _subcall(self, frame: wire.Call, body: bytes, fork: Repl | None) -> Subcall:
        match frame:
            case wire.CallLlm():
                prompt, images = _pictures(frame, body) if frame.images else (body, ())
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

    def take_request(self, frame: wire.Branch | wire.AskRoom | wire.Fill, body: bytes) -> None:
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
            self._line.refuse(frame.id, "no block is running: calls from threads end with their block")
        elif not CAN_LEND:
            self._line.send({"op": "reply", "re": frame.id, "ok": True, "form": "values"}, b"null")
        else:
            self._rooms.ask(frame.id, frame.size)

    def cancel(self, numbers: list[int]) -> None:
        for number in numbers:
            call = self._calls.get(number)
            if call is not None:
                self._stop(call)
            elif number in self._rooms:
                self._rooms.give_up(number)

    def _fill_room(self, number: int, body: bytes) -> None:
        try:
            room = self._rooms.get(number)
        except SandboxError:
            return  # its block has ended, or its call
        if self._line.takes_descriptors or not room.fill(body):
            raise wire.ProtocolError("more context than was announced")

    def _stop(self, call: _Call) -> None:
        assert call.task is not None
        call.task.cancel()
        if not call.begun:  # and so it never will
            self._line.refuse(call.frame.id, CANCELLED)
            self._end_call(call)

    def _end_call(self, call: _Call) -> None:
        frame = call.frame
        if isinstance(frame, wire.CallRlm) and isinstance(frame.context, wire.InRoom):
            self._rooms.free(frame.context.room)
        if self._calls.get(frame.id) is not call:
            return  # given up before, with all others of its block
        del self._calls[frame.id]
        self._bytes_in_flight -= call.size
        self._go_on()
        if len(self._calls) < MAX_CALLS_IN_FLIGHT and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            self._line.resume()

    # Copies -------------------------------------------------------------------------------------

    def _begin_branch(self, number: int) -> None:
        if number in self._branches or number in self._forks or number in self._calls:
            raise wire.ProtocolError("a fork number twice")
        if len(self._branches) >= MAX_BRANCHES:
            raise wire.ProtocolError("more forks at once than a worker of ours asks for")
        if self.subcalls is None or self.branch is None:
            self._line.refuse(number, "no block is running: calls from threads end with their block")
            return
        # The clock goes on: a fork takes milliseconds, and whoever delays one would stop it.
        task = asyncio.get_running_loop().create_task(self._make_branch(number, self.branch))
        self._branches[number] = task

    async def _make_branch(self, number: int, branch: Callable[[int], Awaitable[Repl]]) -> None:
        try:
            self._forks[number] = await branch(number)
        except RLMError as error:
            self._line.refuse(number, str(error))
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
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    async def _end_branches(self) -> None:
        tasks = list(self._branches.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING)
        while self._forks:
            _, repl = self._forks.popitem()
            await repl.close()


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
