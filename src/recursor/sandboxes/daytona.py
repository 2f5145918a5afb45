"""REPLs in sandboxes of Daytona, on Daytona's machines. Needs `recursor[daytona]` and a key.

Contexts are sent to Daytona, and what a sandbox uses is billed until it ends: with its REPL, after
`lifetime`, or by itself when this process has not asked for it for `lease` seconds. It is deleted then.

Daytona gives no stream of bytes to a process: the sessions of its package are lines of text in a log
on the machine's disk. The line is a WebSocket through Daytona's proxy to a port of the sandbox's
loopback interface: over TLS, with Daytona's token for that sandbox, and with a token of 256 bits of
our own as the first message. Never run with Daytona; written after the package daytona 0.226.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from recursor.errors import IsolationUnavailable
from recursor.sandboxes import wire
from recursor.sandboxes.inbox import relayed
from recursor.sandboxes.remote import ENDING, LEASE, Remote
from recursor.sandboxes.service import BESIDE, LIFETIME, STARTING, ServiceSandbox
from recursor.sandboxes.sizes import MEMORY
from recursor.types import Isolation

PORTS = range(3000, 10_000)
"""Those that Daytona has always passed on."""
HEARTBEAT = 60.0
"""Seconds between pings; a line that answers none for half of that is given up."""
OPENING = 30
"""Seconds that the port and the line to it have to open."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class DaytonaSandbox(ServiceSandbox):
    """Sandboxes of Daytona without network.

    Args:
        snapshot: name of a snapshot with a Python 3.11 or later; None is Daytona's default one.
        image: name of an image to make a snapshot of instead; the first time takes minutes. Only
            then can memory be asked for; a snapshot has its own.
        memory: bytes of address space that the code of each REPL may take, beside room for its context.
        executable: the Python there.
        lifetime: seconds after which a REPL is ended, whatever it does; Daytona counts whole minutes.
        lease: seconds after which Daytona deletes a sandbox that this process no longer asks for;
            whole minutes.
        api_key: None is what Daytona's package finds, DAYTONA_API_KEY.
    """

    service = "Daytona"
    package = "daytona"
    extra = "daytona"
    remedy = "DAYTONA_API_KEY holds the key, from app.daytona.io/dashboard/keys"
    key_variable = "DAYTONA_API_KEY"

    def __init__(
        self,
        snapshot: str | None = None,
        *,
        image: str | None = None,
        memory: int = MEMORY,
        executable: str = "python3",
        lifetime: int = LIFETIME,
        lease: float = LEASE,
        api_key: str | None = None,
    ) -> None:
        super().__init__(
            memory=memory, executable=executable, lifetime=lifetime, lease=lease, api_key=api_key
        )
        self._snapshot = snapshot
        self._image = image

    async def make(self, package: Any, memory: int) -> Any:
        client = package.AsyncDaytona(package.DaytonaConfig(api_key=self._api_key))
        name = f"recursor-{secrets.token_hex(8)}"
        asked = {
            "name": name,
            "language": "python",
            "labels": {"made_by": "recursor"},
            "public": False,
            "network_block_all": True,
            "ephemeral": True,
            "auto_stop_interval": max(1, math.ceil(self._lease / 60)),
            "ttl_minutes": max(1, math.ceil(self._seconds / 60)),
        }
        if self._image is None:
            parameters = package.CreateSandboxFromSnapshotParams(snapshot=self._snapshot, **asked)
        else:
            resources = package.Resources(memory=math.ceil((memory >> 20) / 1024 + BESIDE / 1024))
            parameters = package.CreateSandboxFromImageParams(image=self._image, resources=resources, **asked)
        try:
            return _Place(client, await client.create(parameters, timeout=STARTING))
        except BaseException as error:
            # Daytona's package makes a sandbox and then waits for it: it may be there all the same.
            with suppress(Exception):
                if not isinstance(error, package.DaytonaAuthenticationError | package.DaytonaForbiddenError):
                    await asyncio.wait_for(_forget(client, name), ENDING)
            await client.close()
            raise

    async def connect(self, package: Any, place: Any, command: Sequence[str]) -> Remote:
        port = secrets.choice(PORTS)
        token = secrets.token_hex(32)
        words = relayed(self._executable, "port", str(port), *command)
        opened = await place.sandbox.process.exec(
            shlex.join(words), env={"RECURSOR_TOKEN": token}, timeout=OPENING
        )
        if opened.exit_code:
            raise IsolationUnavailable(
                f"Daytona starts no Python: exit status {opened.exit_code}: {opened.result[-500:]}"
            )
        link = await place.sandbox.get_preview_link(port)
        session = aiohttp.ClientSession()
        try:
            line = await asyncio.wait_for(
                session.ws_connect(
                    checked(link.url),
                    headers={"X-Daytona-Preview-Token": link.token},
                    heartbeat=HEARTBEAT,
                    max_msg_size=1 << 20,
                ),
                OPENING,
            )
            await line.send_bytes(token.encode())
        except BaseException:
            await session.close()
            raise
        return _Line(place, session, line, package)

    async def drop(self, place: Any) -> None:
        await place.end()

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        return self.report(
            facts,
            files="the snapshot's, on Daytona's machines",
            network="none outward (network_block_all, as Daytona has it)",
            environment="the snapshot's, none of the caller's",
            kernel="that of Daytona's machines or its own, by the kind of sandbox",
            bound="; no more than the sandbox has",
        )


def checked(url: str) -> str:
    """The address of the line, which others could read where it has no TLS. Raises IsolationUnavailable then."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return url
    raise IsolationUnavailable(f"Daytona gives an address without TLS: {parts.scheme}://{parts.hostname}")


async def _forget(client: Any, name: str) -> None:
    """Delete what may have been made under a name."""
    sandbox = await client.get(name)
    await sandbox.delete()


class _Place:
    """A sandbox, and the client that it came from."""

    def __init__(self, client: Any, sandbox: Any) -> None:
        self._client = client
        self.sandbox = sandbox

    async def end(self) -> None:
        try:
            await self.sandbox.delete()
        finally:
            await self._client.close()


class _Line:
    """A `Remote` over a WebSocket to a sandbox of Daytona."""

    def __init__(
        self,
        place: _Place,
        session: aiohttp.ClientSession,
        line: aiohttp.ClientWebSocketResponse,
        package: Any,
    ) -> None:
        self._place = place
        self._session = session
        self._line = line
        self._package = package

    async def read(self) -> bytes:
        message = await self._line.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.CLOSE and message.data == aiohttp.WSCloseCode.OK:
            return b""
        problem = self._line.exception()
        raise ConnectionError(
            f"{type(problem).__name__}: {problem}" if problem else f"closed ({self._line.close_code})"
        )

    async def write(self, data: bytes) -> None:
        await self._line.send_bytes(data)

    async def renew(self) -> None:
        try:
            await self._place.sandbox.refresh_activity()
        except self._package.DaytonaNotFoundError as error:
            raise ConnectionError(f"Daytona has ended it: {error}") from error

    async def end(self) -> None:
        try:
            await self._place.end()
        finally:
            with suppress(Exception):  # nothing is at the other end any more
                await asyncio.wait_for(self._line.close(), 1)
            await self._session.close()
