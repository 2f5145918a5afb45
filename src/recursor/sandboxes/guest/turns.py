"""The channel of a worker that can be forked: nobody reads while code runs, unless something waits for a frame.

The first thread reads whenever it waits itself. So a command and its answer, or a call and its reply, are no
matter of two threads, and a process that does nothing has one. Where others wait (threads of the code, an
event loop) while the first thread does something else, a thread is begun that reads until nobody waits.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .channel import SubcallError
from .frames import Incoming
from .pumped import PumpedChannel

FORKED = 4
"""Descriptors that a forked child is to have: both sockets, its output, and where it shows itself."""


class TurnChannel(PumpedChannel):
    """A channel over sockets that is read by those who wait, one at a time."""

    def __init__(self, rpc: socket.socket, aux: socket.socket, hang_up: Callable[[], Any]) -> None:
        super().__init__(rpc, aux, hang_up)
        self._ends = rpc, aux
        self._arrivals = select.poll()
        self._arrivals.register(rpc, select.POLLIN)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._incoming = Incoming(self._ends[0])
        self._write_lock = threading.Lock()
        self._sending = self._interrupted = False
        self._turn = threading.Lock()
        self._pumping = False
        """Whether the first thread reads."""
        self._taking = False
        """Whether it does what no interrupt may break off."""
        self._threaded = False
        """Whether the other thread reads."""
        self._commanded = False
        """Whether it has read a command."""
        self._held = False
        """Whether nobody may: a process with one thread forks."""
        self.reader: threading.Thread | None = None
        """The other thread, once there was one."""

    def move(self, rpc: int, aux: int) -> None:
        """In a forked child: go on with sockets of its own, in the place of those that are its parent's."""
        for descriptor, end in zip((rpc, aux), self._ends, strict=True):
            os.dup2(descriptor, end.fileno(), inheritable=False)
        self._waiting.clear()
        self.commands = self.inbox()
        self._begin_anew()

    # The first thread ---------------------------------------------------------------------------

    def interrupt(self) -> None:
        if self._taking:
            self._interrupted = True
        else:
            super().interrupt()

    def attend(self, ready: Callable[[], bool]) -> None:
        if threading.get_ident() != self._owner:
            self.summon()
            return
        if self._pumping:
            raise SubcallError(
                "no call can be made here: a frame of the host is being read (in a finalizer?)"
            )
        self._taking = True
        try:
            if self._begin():
                try:
                    while not ready():
                        self.pump()
                finally:
                    self._taking = True
                    self._end()
        finally:
            self._taking = False
        self.raise_late()

    def pump(self) -> None:
        if not self._incoming.ahead:
            self._taking = False
            self.raise_late()
            self._arrivals.poll()
            self._taking = True
        self._deal()

    def _begin(self) -> bool:
        """Begin to read here, unless the other thread does."""
        with self._turn:
            self._pumping = not self._threaded
        return self._pumping

    def _end(self) -> None:
        with self._turn:
            self._pumping = False
            with suppress(RuntimeError):  # no room for a thread: who waits does so till the end of the block
                self._hand_on()

    # The other thread ---------------------------------------------------------------------------

    def summon(self) -> None:
        first = threading.get_ident() == self._owner
        self._taking = self._taking or first
        try:
            with self._turn:
                self._hand_on()
        finally:
            if first:
                self._taking = False
        self.raise_late()

    def resume(self) -> None:
        """Let frames be read again after a fork."""
        with self._turn:
            self._held = False
            self._hand_on()

    def _hand_on(self) -> None:
        """Let the other thread read, where somebody waits and nobody reads."""
        if not self._waiting or self._pumping or self._threaded or self._held:
            return
        if self.reader is not None:
            self.reader.join()
        self.reader = threading.Thread(target=self._read, daemon=True, name="channel")
        self.reader.start()
        self._threaded = True

    def _read(self) -> None:
        self._commanded = False
        while self._deal():
            if self._done():
                return

    def _done(self) -> bool:
        """Whether this thread has read enough: nobody waits but the first, which has what it waited for."""
        with self._turn:
            if self._held or (self._commanded and not self._waiting):
                self._threaded = False
            self._commanded = False
            return not self._threaded

    # Frames -------------------------------------------------------------------------------------

    def _take(self, header: dict[str, Any], data: bytes) -> None:
        if header["op"] == "fork":
            self._take_fork(header)
            return
        self._commanded = header["op"] not in ("room", "part")
        super()._take(header, data)

    def _take_fork(self, header: dict[str, Any]) -> None:
        """Hand what a forked child is to have to who asked for it, and read nothing more before that has forked."""
        header["descriptors"] = self._descriptors()
        if "re" not in header:
            self._held = True
            self.commands.put((header, b""))
            return
        settle = self._waiting.pop(header["re"], None)
        if settle is not None:
            self._held = True
            settle(header["descriptors"])
            return
        for descriptor in header["descriptors"]:
            os.close(descriptor)

    def _descriptors(self) -> list[int]:
        """What a child is to have; less, where there was no room for all of it."""
        data, descriptors, _, _ = socket.recv_fds(self._ends[1], 1, FORKED)
        if not data:
            raise EOFError
        return descriptors
