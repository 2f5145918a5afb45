"""REPLs on other machines: whatever starts a Python there and carries its stdin and stdout as bytes.

No port is opened on either side: the line is the stream of the service that started the Python, with
the service's own authentication and encryption. What an adapter has to give is `Remote`; a place
that a command leads to, as ssh or kubectl, needs none of this (`recursor.sandboxes.stream`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from recursor.protocols import Repl
from recursor.sandboxes import wire
from recursor.sandboxes.link import Worker
from recursor.sandboxes.process import MEMORY, PER_CONTEXT_BYTE
from recursor.sandboxes.repl import opened
from recursor.sandboxes.stream import preface, python
from recursor.types import CallStyle, Isolation

ENDING = 30.0
"""Seconds that a service has to end a place."""
PIECE = 1 << 18
"""Bytes that are written to a service at once."""


class Remote(Protocol):
    """A process that was started elsewhere, at the other end of one stream each way.

    `read` and `write` are each called one at a time, at the same time as the other. What they raise
    ends the worker.
    """

    async def read(self) -> bytes:
        """Return the next bytes of its stdout, as soon as there are any; none at its end."""

    async def write(self, data: bytes) -> None:
        """Give bytes to its stdin; return when more may follow."""

    async def end(self) -> None:
        """End the place it is in with all that runs there, and wait for that. Called once, whatever happened."""


class RemoteWorker:
    """A worker over a `Remote`. Make it in the event loop that the remote belongs to."""

    aux: None = None
    interrupt: None = None
    output: None = None

    def __init__(self, remote: Remote, memory: int | None) -> None:
        """Take the remote over.

        Args:
            memory: bytes of address space that the Python may take beside what it has; None is no bound.
        """
        self.rpc, self._inside = socket.socketpair()
        self._inside.setblocking(False)
        self._remote = remote
        self._memory = memory
        self._killed = asyncio.Event()
        self._gone = threading.Event()
        self._how = "it was ended"
        self._task = asyncio.get_running_loop().create_task(self._carry())

    def kill(self) -> None:
        """Have it ended. Call it in the event loop."""
        self._killed.set()

    def wait(self) -> str:
        """Block until it is gone; return how it ended."""
        self._gone.wait()
        return self._how

    async def _carry(self) -> None:
        killed = asyncio.ensure_future(self._killed.wait())
        pumps = [asyncio.ensure_future(self._outward()), asyncio.ensure_future(self._inward())]
        try:
            await asyncio.wait([killed, *pumps], return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                if pump.done() and (error := pump.exception()) is not None:
                    self._how = f"its line broke: {type(error).__name__}: {error}"[:1000]
                elif pump.done():
                    self._how = "it ended by itself"
        finally:
            for task in (killed, *pumps):
                task.cancel()
            await asyncio.gather(killed, *pumps, return_exceptions=True)
            self._inside.close()
            try:
                await asyncio.wait_for(self._remote.end(), ENDING)
            except Exception as error:  # noqa: BLE001 - of a service, and whoever waits is told
                self._how += f"; the place may still be there: {type(error).__name__}: {error}"[:1000]
            finally:
                self._gone.set()

    async def _outward(self) -> None:
        loop = asyncio.get_running_loop()
        await self._remote.write(preface(self._memory))
        while data := await loop.sock_recv(self._inside, PIECE):
            await self._remote.write(data)

    async def _inward(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._remote.read():
            await loop.sock_sendall(self._inside, data)


class RemoteSandbox(ABC):
    """What the sandboxes of services have in common. A subclass says how one is started, and what holds there.

    Args:
        memory: bytes of address space that the code of each REPL may take, beside room for its context.
        executable: the Python there, 3.11 or later.
    """

    def __init__(self, *, memory: int = MEMORY, executable: str = "python3") -> None:
        self._memory = memory
        self._executable = executable

    @abstractmethod
    async def start(self, command: Sequence[str], memory: int) -> Remote:
        """Start a place and the command in it.

        Args:
            memory: bytes that the command may come to need.

        Raises:
            IsolationUnavailable: it cannot be had; nothing was left behind.
        """

    @abstractmethod
    def isolation(self, facts: wire.Facts | None) -> Isolation:
        """Return what is in force in a place. Raises IsolationUnavailable where that is too little."""

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        memory = self._memory + PER_CONTEXT_BYTE * context_size

        async def spawn() -> Worker:
            remote = await self.start(python(self._executable), memory + context_size)
            return RemoteWorker(remote, memory)

        return await opened(spawn, self.isolation, tools, seed=seed, calls=calls)
