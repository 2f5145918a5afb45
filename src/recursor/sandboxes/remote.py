"""REPLs on other machines: whatever starts a Python there and carries bytes to it and from it.

The line is the stream of the service that started the Python, with the service's own authentication
and encryption. What an adapter has to give is `Remote`, by way of `ServiceSandbox` where places are
made and billed; a place that a command leads to, as ssh or kubectl, needs none of this
(`recursor.sandboxes.stream`).

A place that is billed ends: with its REPL; after its lifetime; and, where the service can do that,
when this process has not renewed its lease for a while, so that a host that died leaves nothing.
"""

from __future__ import annotations

import asyncio
import binascii
import importlib
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol

from recursor.errors import IsolationUnavailable
from recursor.protocols import Repl
from recursor.sandboxes import wire
from recursor.sandboxes.link import Worker
from recursor.sandboxes.process import MEMORY, PER_CONTEXT_BYTE
from recursor.sandboxes.repl import opened
from recursor.sandboxes.stream import guest, preface, python
from recursor.types import CallStyle, Isolation

ENDING = 30.0
"""Seconds that a service has to end a place."""
STARTING = 300.0
"""Seconds that a service has to give a place with a Python in it."""
LIFETIME = 3600
"""Seconds after which a place ends, whatever it does."""
LEASE = 300.0
"""Seconds after which a service ends a place that this process no longer asks for."""
PIECE = 1 << 20
"""Bytes that are written to a service at once, and a little more."""
BESIDE = 256
"""MiB that a place has beside what its code may allocate."""


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
        self, remote: Remote, memory: int | None, *, lease: float = LEASE, lifetime: float | None = None
    ) -> None:
        """Take the remote over.

        Args:
            memory: bytes of address space that the Python may take beside what it has; None is no bound.
            lease: seconds within which the place must be renewed.
            lifetime: seconds after which it is ended; None is no bound.
        """
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
        return self._how

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
            return RemoteWorker(remote, memory, lease=self._lease, lifetime=self._lifetime)

        return await opened(spawn, self.isolation, tools, seed=seed, calls=calls)


class ServiceSandbox(RemoteSandbox):
    """Sandboxes of a service that is reached by its own package, and paid for.

    A subclass gives `make`, `connect` and `drop`. Whatever fails or is cancelled between them, the
    place is dropped; what a service or its package raises becomes IsolationUnavailable.

    Args:
        memory: as of `RemoteSandbox`.
        executable: as of `RemoteSandbox`.
        lifetime: seconds after which a REPL is ended, whatever it does.
        lease: as of `RemoteSandbox`.
        api_key: of the service; None leaves it to the package, which looks for one in its own places.
    """

    service: ClassVar[str]
    """Its name, as people write it."""
    package: ClassVar[str]
    """The package that is imported."""
    extra: ClassVar[str]
    """What brings the package along: recursor[extra]."""
    remedy: ClassVar[str]
    """What to do where the service refuses."""
    key_variable: ClassVar[str | None] = None
    """The environment variable that holds the key; None where `api_key` is not taken."""

    def __init__(
        self,
        *,
        memory: int = MEMORY,
        executable: str = "python3",
        lifetime: int = LIFETIME,
        lease: float = LEASE,
        api_key: str | None = None,
    ) -> None:
        super().__init__(memory=memory, executable=executable, lifetime=lifetime, lease=lease)
        self._seconds = lifetime
        self._api_key = api_key

    @abstractmethod
    async def make(self, package: Any, memory: int) -> Any:
        """Ask the service for a place and return it as soon as it can be dropped."""

    @abstractmethod
    async def connect(self, package: Any, place: Any, command: Sequence[str]) -> Remote:
        """Start the command in a place, as soon as the place is ready."""

    @abstractmethod
    async def drop(self, place: Any) -> None:
        """End a place, and wait for that."""

    async def start(self, command: Sequence[str], memory: int) -> Remote:
        try:
            package = importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            raise IsolationUnavailable(
                f'the package {error.name} is not installed: pip install "recursor[{self.extra}]"'
            ) from error
        except ImportError as error:
            raise IsolationUnavailable(f"the package {self.package} cannot be used: {error}") from error
        doing = "gives no sandbox"
        try:
            async with asyncio.timeout(STARTING):
                place = await held(self.make(package, memory), self.drop)
                doing = "starts no Python"
                try:
                    return await self.connect(package, place, command)
                except BaseException:
                    await held(self._dropped(place))
                    raise
        except IsolationUnavailable:
            raise
        except TimeoutError as error:
            raise IsolationUnavailable(
                f"{self.service} {doing}: {self._told(error) or f'nothing came within {STARTING:g} s'}"
            ) from error
        except Exception as error:
            remedy = f"; {self.remedy}" if doing == "gives no sandbox" else ""
            raise IsolationUnavailable(f"{self.service} {doing}: {self._told(error)}{remedy}") from error

    async def _dropped(self, place: Any) -> None:
        with suppress(Exception):  # the first error is the one to tell of; the lease ends what is left
            await asyncio.wait_for(self.drop(place), ENDING)

    def _told(self, error: Exception) -> str:
        """What a package raised, without the key."""
        text = f"{type(error).__name__}: {error}" if str(error) else ""
        if self._api_key:
            text = text.replace(self._api_key, "...")
        return " ".join(text.split())[:500]


async def held(
    making: Coroutine[Any, Any, Any], drop: Callable[[Any], Awaitable[object]] | None = None
) -> Any:
    """Await something that must not be left half done. When cancelled, wait for it, and drop what it made."""
    task = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            made = await asyncio.wait_for(task, ENDING)
            if drop is not None:
                await asyncio.wait_for(drop(made), ENDING)
        raise


class Inbox:
    """Bytes that a package hands over in its own time, until they are read."""

    MAX = 1 << 28
    """Bytes that may wait to be read: a sandbox that floods its line must not fill the host."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, data: bytes) -> None:
        if self._ended is None and data:
            self._pieces.append(data)
            self._size += len(data)
            self._news.set()
            if self._size > PIECE:
                self._room.clear()
            if self._size > self.MAX:
                self._pieces.clear()
                self.end(ConnectionError("it sends more than can be read"))

    async def put_in_turn(self, data: bytes) -> None:
        """`put`, once what is there was read."""
        await self._room.wait()
        self.put(data)

    def end(self, how: Exception) -> None:
        """Let `read` raise this after what is there; the first time counts."""
        if self._ended is None:
            self._ended = how
        self._news.set()
        self._room.set()

    async def read(self) -> bytes:
        await self._news.wait()
        data = b"".join(self._pieces)
        if not data:
            assert self._ended is not None
            raise self._ended
        self._pieces.clear()
        self._size = 0
        self._room.set()
        if self._ended is None:
            self._news.clear()
        return data


class Lines:
    """Bytes out of the lines that a relay writes, which come in pieces as a service cuts them.

    A service may also lose some on the way, where it connects anew: that ends the line.
    """

    MAX = 1 << 20
    """Characters that may come without the end of a line."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._rest = ""
        self._position = 0

    def take(self, text: str) -> bytes:
        """Return the bytes that a piece makes complete; at a fault the inbox is ended."""
        *lines, self._rest = (self._rest + text).split("\n")
        pieces = []
        try:
            for line in lines:
                position, _, data = line.partition(" ")
                if int(position, 16) != self._position:
                    raise ValueError("a gap")
                pieces.append(binascii.a2b_base64(data, strict_mode=True))
                self._position += len(pieces[-1])
            if len(self._rest) > self.MAX:
                raise ValueError("no line")
        except ValueError:
            self._rest = ""
            self._inbox.end(ConnectionError("what came is not what its relay sent, or not all of it"))
        return b"".join(pieces)


class Words:
    """The last that a process wrote to its stderr."""

    def __init__(self) -> None:
        self._kept = ""

    def hear(self, text: str) -> None:
        self._kept = (self._kept + text)[-800:]

    def ended(self, status: int | None) -> EOFError:
        """How the process ended, and what it said."""
        how = "it ended by itself" if status is None else f"it ended with exit status {status}"
        return EOFError(f"{how}; last words: {self._kept.strip()}" if self._kept.strip() else how)


def relayed(executable: str, *words: str) -> tuple[str, ...]:
    """The command that carries the line of a guest otherwise: see `recursor.sandboxes.guest.relay`."""
    return (executable, "-P", "-s", "-c", guest("relay"), *words)


def whose(facts: wire.Facts | None) -> str:
    """The user that a guest runs as, for a report."""
    return "a user that is not known" if facts is None else f"user {facts.uid}"
