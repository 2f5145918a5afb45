"""REPLs on other machines: whatever starts a Python there and carries bytes to it and from it.

The line is the stream of the service that started the Python, with the service's own authentication
and encryption. What an adapter has to give is `Remote`. Where places are made, and paid for, there is
more to it (`recursor.sandboxes.service`); a place that a command leads to, as ssh or kubectl, needs
none of this (`recursor.sandboxes.stream`).

A place ends with its REPL; after its lifetime; and, where the service can do that, when this process
has not renewed its lease for a while, so that a host that died leaves nothing.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from recursor.protocols import Repl
from recursor.sandboxes import wire
from recursor.sandboxes.inbox import PIECE, Inbox
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import opened
from recursor.sandboxes.sizes import MEMORY, PER_CONTEXT_BYTE
from recursor.sandboxes.stream import preface, python
from recursor.types import CallStyle, Isolation

ENDING = 30.0
"""Seconds that a service has to end a place."""
LEASE = 300.0
"""Seconds after which a service ends a place that this process no longer asks for."""


class Remote(Protocol):
    """A process that was started elsewhere, at the other end of one stream each way.

    `read` and `write` are each called one at a time, at the same time as the other. What they raise
    ends the worker; the text of an EOFError says how it ended.
    """

    async def read(self) -> bytes:
        """Return the next bytes of its stdout, as soon as there are any; none at its end."""

    async def write(self, data: bytes) -> None:
        """Give bytes to its stdin; return when more may follow."""

    async def renew(self) -> None:
        """Ask for the place for another lease; nothing to do where the service has none.

        Raises:
            ConnectionError: the place is gone. Anything else may be tried again.
        """

    async def end(self) -> None:
        """End the place it is in with all that runs there, and wait for that. Called once, whatever happened."""


class RemoteWorker:
    """A worker over a `Remote`. Make it in the event loop that the remote belongs to."""

    aux: None = None
    interrupt: None = None
    output: None = None

    def __init__(
        self,
        remote: Remote,
        memory: int | None,
        *,
        lease: float = LEASE,
        lifetime: float | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        """Take the remote over.

        Args:
            memory: bytes of address space that the Python may take beside what it has; None is no bound.
            lease: seconds within which the place must be renewed.
            lifetime: seconds after which it is ended; None is no bound.
            hide: takes what nobody is to read out of the text of an error.
        """
        self._hide = hide
        self.rpc, self._inside = socket.socketpair()
        self._inside.setblocking(False)
        self._remote = remote
        self._memory = memory
        self._lease = lease
        self._lifetime = lifetime
        self._outbox = Inbox()
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
        return self._hide(self._how)

    async def _carry(self) -> None:
        killed = asyncio.ensure_future(self._killed.wait())
        pumps = [
            asyncio.ensure_future(pump()) for pump in (self._fill, self._outward, self._inward, self._keep)
        ]
        try:
            await asyncio.wait([killed, *pumps], return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                if pump.done():
                    self._how = _how(pump.exception())
        finally:
            await _stopped(killed, *pumps)
            self._inside.close()
            try:
                await asyncio.wait_for(self._remote.end(), ENDING)
            except Exception as error:  # noqa: BLE001 - of a service, and whoever waits is told
                self._how += f"; the place may still be there: {type(error).__name__}: {error}"[:1000]
            finally:
                self._gone.set()

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._inside, PIECE):
            await self._outbox.put_in_turn(data)

    async def _outward(self) -> None:
        """Write all that came while the last piece was on its way: each may cost a round trip."""
        await self._remote.write(preface(self._memory))
        while True:
            await self._remote.write(await self._outbox.read())

    async def _inward(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._remote.read():
            await loop.sock_sendall(self._inside, data)

    async def _keep(self) -> None:
        begun, failed = time.monotonic(), False
        pause = self._lease / 3
        while True:
            left = pause if self._lifetime is None else begun + self._lifetime - time.monotonic()
            if left <= 0:
                raise EOFError(f"its lifetime of {self._lifetime:g} s is over")
            await asyncio.sleep(min(left, pause))
            try:
                await asyncio.wait_for(self._remote.renew(), pause)
                failed = False
            except ConnectionError:
                raise
            except Exception:
                if failed:
                    raise
                failed = True


async def _stopped(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until all have ended: a package of a service may swallow a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


def _how(error: BaseException | None) -> str:
    if error is None:
        return "it ended by itself"
    if isinstance(error, EOFError):
        return f"{error}"[:1000] or "it ended by itself"
    return f"its line broke: {type(error).__name__}: {error}"[:1000]


class RemoteSandbox(ABC):
    """What the sandboxes of services have in common. A subclass says how one is started, and what holds there.

    Args:
        memory: bytes of address space that the code of each REPL may take, beside room for its context.
        executable: the Python there, 3.11 or later.
        lifetime: seconds after which a REPL is ended, whatever it does; None is no bound.
        lease: seconds within which a place must be renewed, so that the service does not end it.
    """

    def __init__(
        self,
        *,
        memory: int = MEMORY,
        executable: str = "python3",
        lifetime: float | None = None,
        lease: float = LEASE,
    ) -> None:
        self._memory = memory
        self._executable = executable
        self._lifetime = lifetime
        self._lease = lease

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

    def hide(self, text: str) -> str:
        """Take what nobody is to read, such as a key, out of the text of an error."""
        return text

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
            return RemoteWorker(remote, memory, lease=self._lease, lifetime=self._lifetime, hide=self.hide)

        return await opened(spawn, self.isolation, tools, seed=seed, calls=calls)
