"""The inside end of the line to the host: frames out, frames in, calls that wait for replies.

Everything that could be patched by code of a model is bound here at import. Beside the frames a worker on
the host's machine has a second socket, on which descriptors come. Where only bytes reach the worker, a
context comes in parts and goes in parts, and an interrupt is a frame.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from . import values
from .frames import Duplex, Incoming, frame, frame_of

PART = 1 << 20
IN_PARTS = -1
"""In place of a descriptor: memory of the host's that is filled by frames."""
_encode, _decode = values.encode, values.decode
_signal = signal.pthread_kill


class SubcallError(Exception):
    """A sub-call failed. In a batch, `results` holds every slot: a result, or its SubcallError.

    `results` is empty where nothing was sent: the batch was refused as a whole.
    """

    __module__ = "builtins"  # a traceback then shows the bare name

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.results: list[Any] = []


Settle: TypeAlias = Callable[[Any], object]
"""Takes the outcome of a call, a value or a SubcallError, in the thread that reads. Must not raise."""


class Inbox(Protocol):
    """A queue."""

    def put(self, item: Any, /) -> None:
        """Never waits."""

    def get(self) -> Any:
        """Wait for the next item."""


class Channel:
    """One duplex stream of frames, which a thread of its own reads. May be used from any thread.

    Args:
        aux: on which descriptors come; None where only bytes do.
        hang_up: called when the host has hung up.
    """

    def __init__(
        self, rpc: socket.socket | Duplex, aux: socket.socket | None, hang_up: Callable[[], Any]
    ) -> None:
        self._socket = rpc
        self._aux = aux
        self._arriving: dict[int, int] = {}
        """Descriptors of the files that contexts are put together in, by number; one at a time."""
        self._hang_up = hang_up
        self._write_lock = threading.Lock()
        self._numbers = itertools.count(-1, -1)  # commands of the host count upwards
        self._waiting: dict[int, Settle] = {}
        self._owner = 0
        """The thread that interrupts reach."""
        self._incoming = Incoming(rpc)
        self._sending = self._interrupted = False
        self.commands = self.inbox()

    def start(self) -> None:
        """Begin to read. Call it in the thread that runs the blocks."""
        self._owner = threading.get_ident()
        self._read_aside()

    def _read_aside(self) -> threading.Thread:
        """Have a thread read."""
        # Python 3.12 and later warn of it wherever code forks; nothing of it is needed in the child.
        warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)
        reader = threading.Thread(target=self._read, daemon=True, name="channel")
        reader.start()
        return reader

    def inbox(self) -> Inbox:
        """Make a queue whose `get` waits for what comes of a frame that is read."""
        return queue.SimpleQueue()

    def attend(self, ready: Callable[[], bool]) -> None:
        """See to it that frames are read until something that is waited for is there."""

    def summon(self) -> None:
        """See to it that frames are read while this thread waits in another way."""

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt: here, or after the frame that is under way, since half of one ends the REPL."""
        if not self._sending:
            raise KeyboardInterrupt
        self._interrupted = True

    def raise_late(self) -> None:
        """Raise the KeyboardInterrupt that could not be raised before."""
        if self._interrupted and threading.get_ident() == self._owner:
            self._interrupted = False
            raise KeyboardInterrupt

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        self.transmit(frame_of(header, body))

    def transmit(self, data: bytes) -> None:
        """Send whole frames."""
        with self._write_lock:
            self._sending = threading.get_ident() == self._owner
            try:
                self._socket.sendall(data)
            finally:
                self._sending = False
        self.raise_late()

    def send_value(self, number: int, value: Any) -> dict[str, Any]:
        """Send a plain value ahead of the frame that refers to it; return what that frame says of it."""
        form, data = _encode(value)
        self.send_parts(number, data)
        return {"form": form, "size": len(data)}

    def fill(self, room: int, pieces: Iterable[bytes]) -> None:
        """Send the bytes of a context to memory that the host keeps for it."""
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(piece), PART):
                self.send({"op": "fill", "room": room}, bytes(view[start : start + PART]))

    def send_parts(self, number: int, data: bytes) -> None:
        """Send bytes that a later frame of this number refers to. Raises NotPlain when they are too many."""
        if len(data) > values.MAX_BYTES:
            raise values.NotPlain(
                f"the value has {len(data):,} bytes; at most {values.MAX_BYTES:,} can leave the REPL"
            )
        view = memoryview(data)
        for start in range(0, len(data), PART):
            self.send({"op": "part", "of": number}, bytes(view[start : start + PART]))

    # Calls --------------------------------------------------------------------------------------

    def next_number(self) -> int:
        return next(self._numbers)

    def prepare(
        self, start: bytes, body: bytes, settle: Settle, number: int | None = None
    ) -> tuple[int, bytes]:
        """Register a call; return its number and its frame, which is yet to be transmitted.

        Args:
            start: of the header, see `header_start`.
        """
        if number is None:
            number = next(self._numbers)
        self._waiting[number] = settle
        return number, frame(b"%s%d}" % (start, number), body)

    def ask(self, start: bytes, body: bytes = b"", number: int | None = None) -> Any:
        """Make a call and wait for its result.

        Raises:
            SubcallError: it failed.
        """
        slot = _Slot()
        number, data = self.prepare(start, body, slot.settle, number)
        try:
            self.transmit(data)
            self.attend(slot.ready)
            return result(slot.wait())
        except (KeyboardInterrupt, SystemExit):
            self.cancel([number])
            raise

    async def ask_async(self, start: bytes, body: bytes = b"", number: int | None = None) -> Any:
        """`ask` for `await`. Cancelling it cancels the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        number, data = self.prepare(start, body, lambda outcome: post(loop, _fulfil, future, outcome), number)
        try:
            self.transmit(data)
            self.summon()
            return result(await future)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            self.cancel([number])
            raise

    def cancel(self, numbers: Collection[int]) -> None:
        """Give calls up: nobody waits for them any more, and the host is told."""
        live = [number for number in numbers if self._waiting.pop(number, None) is not None]
        if live:
            self.send({"op": "cancel", "ids": live})

    def give_back(self, room: int) -> None:
        """Tell the host that memory which it lent, or may be about to lend, is not needed."""
        self.send({"op": "cancel", "ids": [room]})

    def fail_waiting(self, reason: str) -> None:
        """Fail everything that waits for a reply."""
        while self._waiting:
            _, settle = self._waiting.popitem()
            settle(SubcallError(reason))

    # Who reads ----------------------------------------------------------------------------------

    def _read(self) -> None:
        while self._deal():
            pass

    def _deal(self) -> bool:
        """Read one frame and deal with it. Blocks until there is one; returns whether there may be more."""
        try:
            header, data = self._incoming.frame()
            if header["op"] == "reply":
                self._settle(header, data)
            else:
                self._take(header, data)
        except MemoryError:
            os.write(2, b"the memory is full, and what the host sent found no place\n")
        except (OSError, EOFError):
            pass
        else:
            return True
        self._hang_up()
        return False

    def _take(self, header: dict[str, Any], data: bytes) -> None:
        if header["op"] == "room":
            self._settle_room(header["re"])
        elif header["op"] == "part":
            self._put(header["of"], data)
        elif header["op"] == "interrupt":
            _signal(self._owner, signal.SIGINT)
        else:
            if header["op"] == "load":
                # Taken here, in the order in which they come: a room may be on its way too.
                header["descriptor"] = self._loaded(header["id"])
            self.commands.put((header, data))

    def _settle(self, header: dict[str, Any], data: bytes) -> None:
        settle = self._waiting.pop(header["re"], None)
        if settle is None:
            return
        outcome: Any
        try:
            ok = header["ok"]
            outcome = _decode(header["form"], data) if ok else SubcallError(data.decode("utf-8", "replace"))
        except Exception as error:  # noqa: BLE001 - who waits must hear of it, and the reader go on
            outcome = SubcallError(f"the result could not be read: {error}")
        settle(outcome)

    def _settle_room(self, number: int) -> None:
        if self._aux is None:
            settle = self._waiting.pop(number, None)
            if settle is not None:
                settle(IN_PARTS)
            return
        descriptor = self._descriptor()
        settle = self._waiting.pop(number, None)
        if settle is not None:
            settle(descriptor if descriptor >= 0 else SubcallError("too many files are open in the REPL"))
        elif descriptor >= 0:
            os.close(descriptor)

    def _put(self, number: int, data: bytes) -> None:
        """Put a part of a context after the parts before it."""
        if number not in self._arriving:
            self._drop_arriving()  # the host has given up what came before
        try:
            if number not in self._arriving:
                self._arriving[number] = _anonymous_file()
            if self._arriving[number] >= 0:
                Duplex(-1, self._arriving[number]).sendall(data)
        except OSError:  # no memory; loading says so
            self._drop_arriving()
            self._arriving[number] = -1

    def _drop_arriving(self) -> None:
        while self._arriving:
            _, descriptor = self._arriving.popitem()
            if descriptor >= 0:
                os.close(descriptor)

    def _loaded(self, number: int) -> int:
        """The descriptor of the context that is to be loaded now; -1 when there was no room for it."""
        if self._aux is not None:
            return self._descriptor()
        if number not in self._arriving:  # it is empty
            self._put(number, b"")
        descriptor = self._arriving.pop(number)
        if descriptor >= 0:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _descriptor(self) -> int:
        """The next descriptor from the host; -1 when there was no room for it here."""
        assert self._aux is not None
        data, descriptors, _, _ = socket.recv_fds(self._aux, 1, 1)
        if not data:
            raise EOFError
        return descriptors[0] if descriptors else -1


class _Slot:
    """Where one thread waits for one outcome."""

    __slots__ = ("_done", "_outcome")

    def __init__(self) -> None:
        self._done = threading.Lock()
        self._done.acquire()

    def ready(self) -> bool:
        return not self._done.locked()

    def settle(self, outcome: Any) -> None:
        self._outcome = outcome
        self._done.release()

    def wait(self) -> Any:
        self._done.acquire()
        return self._outcome


def result(outcome: Any) -> Any:
    """The value that a call ended with. Raises SubcallError when that is what it ended with."""
    if isinstance(outcome, SubcallError):
        raise outcome
    return outcome


def post(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nobody waits
        loop.call_soon_threadsafe(function, *arguments)


def _fulfil(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)


def _anonymous_file() -> int:
    try:
        return os.memfd_create("context", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def leave() -> None:
    os._exit(0)
