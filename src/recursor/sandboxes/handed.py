"""Contexts on their way from one REPL to another: the host holds their bytes and reads none of them.

A room is memory that the host lends to a worker: an anonymous file whose size is fixed. When its
call comes the worker's access ends (F_SEAL_WRITE: refused while it maps it writable), and the
room is the source of the child's context. When the call ends the file is cut to nothing, so that
the memory is free even if the worker has kept a descriptor; that is why F_SEAL_SHRINK is not set.
A worker that cuts the file itself spoils the context of its own child: nothing on the host maps it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from recursor.errors import SandboxError
from recursor.sandboxes.guest import values
from recursor.threads import in_thread

MAX_ROOMS = 64
"""Rooms of one REPL at once: as many as children are at work. Each is a descriptor of the host's."""
MAX_ROOM = 1 << 32
"""Bytes of all rooms of one REPL: twice the memory it has by default. What it was given travels without."""
QUICK = 1 << 23
"""Bytes up to which memory is freed at once, and not in a thread."""

CAN_LEND = hasattr(os, "memfd_create")


class HandedSource:
    """A `Source` of bytes that came from a REPL. Nothing about them can be trusted, their form included.

    Args:
        form: "text", "bytes" or "values".
        content: the bytes, or a descriptor that this object then owns.
        size: their number.
    """

    origin = ""

    def __init__(self, form: str, content: bytes | int, size: int) -> None:
        self.form = form
        self.size = size
        self._content: bytes | int | None = content
        self._lock = threading.Lock()

    def open(self) -> int:
        """Return a new descriptor. Raises SandboxError when the call that it came with has ended."""
        with self._lock:
            if self._content is None:
                raise SandboxError("the call that handed this context over has ended")
            if isinstance(self._content, bytes):
                return _file_of(self._content)
            return reopened(self._content)

    def value(self) -> Any:
        """Decode the bytes, within the bounds of `values.decode`. Blocks; call it in a thread.

        Raises:
            SandboxError: they are not what their form says.
        """
        with os.fdopen(self.open(), "rb") as file:
            data = file.read(values.MAX_BYTES + 1)
        try:
            if len(data) > values.MAX_BYTES:
                raise ValueError(f"more than {values.MAX_BYTES:,} bytes")
            return values.decode(self.form, data)
        except ValueError as error:
            raise SandboxError(f"the context cannot be read: {error}") from None

    def digest(self) -> str:
        """Hash the bytes ("sha256:..."). Blocks; call it in a thread."""
        with os.fdopen(self.open(), "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        """Free the memory, whoever else has it open. May be called twice."""
        with self._lock:
            content, self._content = self._content, None
        if isinstance(content, int):
            with suppress(OSError):
                os.ftruncate(content, 0)
            os.close(content)

    def __del__(self) -> None:
        self.close()


class Room(HandedSource):
    """Memory that is lent to a worker; a source once it is sealed.

    Raises:
        OSError: there is not as much.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = anonymous()
        super().__init__("bytes", self.descriptor, size)
        self.sealed = False
        self._filled: int | None = None
        """Bytes that came by frames; None while none did."""
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)

    def fill(self, data: bytes) -> bool:
        """Put bytes after those before, for a worker that cannot; return whether there was space."""
        filled = self._filled or 0
        if self.sealed or filled + len(data) > self.size:
            return False
        try:
            self._filled = filled + os.pwrite(self.descriptor, data, filled)
        except OSError:
            return False
        return self._filled == filled + len(data)

    def seal(self, form: str) -> None:
        """End the worker's access. Blocks; call it in a thread.

        Raises:
            SandboxError: the worker can still write to it, has cut it, or has handed it over before.
        """
        with self._lock:
            if self.sealed or self._content is None:
                raise SandboxError("this context was handed over before")
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            try:
                fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            except OSError as error:
                raise SandboxError(f"the context is still being written ({error.strerror})") from error
            if os.fstat(self.descriptor).st_size != self.size or self._filled not in (None, self.size):
                raise SandboxError("the context has another size than was said")
            self.sealed, self.form = True, form


class Rooms:
    """The rooms of one worker: made in the order in which they were asked for, when there is space.

    Args:
        hand: gives the worker the descriptor of a room, under the number that it was asked for.
        refuse: tells the worker why it gets none.
    """

    def __init__(self, hand: Callable[[int, int], None], refuse: Callable[[int, str], None]) -> None:
        self._hand = hand
        self._refuse = refuse
        self._rooms: dict[int, Room] = {}
        self._asked: dict[int, int] = {}
        """Sizes by number, in order."""
        self._lent = 0
        """Bytes of the rooms there are, and of those that are being freed."""
        self._freeing: set[asyncio.Task[None]] = set()

    def ask(self, number: int, size: int) -> None:
        """Hand over a room of this size, now or when others have been freed."""
        if size > MAX_ROOM:
            self._refuse(number, f"the context has {size:,} bytes; at most {MAX_ROOM:,} can be handed over")
            return
        self._asked[number] = size
        self._lend()

    def __contains__(self, number: int) -> bool:
        return number in self._rooms or number in self._asked

    def __len__(self) -> int:
        return len(self._rooms) + len(self._asked)

    def get(self, number: int) -> Room:
        """The room that was asked for under this number. Raises SandboxError when there is none."""
        room = self._rooms.get(number)
        if room is None:
            raise SandboxError("there is no such context: it was not handed over, or in an earlier block")
        return room

    def give_up(self, number: int) -> None:
        """Free a room that the worker does not need, unless a call needs it."""
        self._asked.pop(number, None)
        room = self._rooms.get(number)
        if room is not None and not room.sealed:
            self.free(number)

    def free(self, number: int) -> None:
        """Free a room, if there is such a one."""
        room = self._rooms.pop(number, None)
        if room is None:
            return
        if room.size <= QUICK:
            room.close()
            self._freed(room.size)
        else:
            task = asyncio.get_running_loop().create_task(self._free_aside(room))
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    async def free_all(self) -> None:
        """Free all rooms, and forget what was asked for."""
        self._asked.clear()
        for number in list(self._rooms):
            self.free(number)
        if self._freeing:
            await asyncio.wait(self._freeing)

    async def _free_aside(self, room: Room) -> None:
        await in_thread(room.close)
        self._freed(room.size)

    def _freed(self, size: int) -> None:
        self._lent -= size
        self._lend()

    def _lend(self) -> None:
        while self._asked and len(self._rooms) < MAX_ROOMS:
            number, size = next(iter(self._asked.items()))
            if self._lent + size > MAX_ROOM:
                return
            del self._asked[number]
            try:
                room = Room(size)
            except OSError as error:
                self._refuse(number, f"there is no memory for a context of {size:,} bytes ({error.strerror})")
                continue
            self._rooms[number] = room
            self._lent += size
            self._hand(number, room.descriptor)


def anonymous() -> int:
    """A descriptor of an unnamed file: in memory, where it may be sealed; else, where there are no such, on disk."""
    if CAN_LEND:
        return os.memfd_create("recursor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def reopened(descriptor: int) -> int:
    """A descriptor of the same file, for reading only, at an offset of its own."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc; who reads at positions does not mind a shared offset
        return os.dup(descriptor)


def _file_of(data: bytes) -> int:
    """A descriptor of an anonymous file with these bytes, at offset 0."""
    with os.fdopen(anonymous(), "w+b") as file:
        file.write(data)
        file.seek(0)
        return os.dup(file.fileno())
