"""REPLs in sandboxes of Prime Intellect: virtual machines on its machines. Needs `recursor[prime]` and a key.

Contexts are sent to Prime Intellect, and what a sandbox uses is billed until it ends: with its REPL,
after `lifetime`, or by itself when this process has not asked for it for `lease` seconds.

Where the stream of a process breaks, Prime Intellect's package takes it up again without what was
lost, so that what a process prints goes as lines that are counted. The package keeps tokens for
sandboxes in ~/.prime. Never run with Prime Intellect; written after the package prime-sandboxes 0.5.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from recursor.sandboxes import wire
from recursor.sandboxes.inbox import Inbox, Lines, Words, relayed
from recursor.sandboxes.remote import LEASE, Remote
from recursor.sandboxes.service import BESIDE, LIFETIME, ServiceSandbox
from recursor.sandboxes.sizes import MEMORY
from recursor.types import Isolation

STOPPING = 2.0
"""Seconds that a process has to end before its machine does."""


class PrimeSandbox(ServiceSandbox):
    """Virtual machines of Prime Intellect without network.

    Args:
        image: name of an image with a Python 3.11 or later and bash; by default `python:3.N-slim`
            of this Python's version. The first use of an image takes minutes.
        memory: bytes of address space that the code of each REPL may take, beside room for its context.
        cpu: cores of the machine.
        executable: the Python there.
        lifetime: seconds after which a REPL is ended, whatever it does; Prime Intellect counts
            whole minutes.
        lease: seconds after which Prime Intellect ends a sandbox that this process no longer asks
            for; whole minutes.
        api_key: None is what the package finds, PRIME_API_KEY or that of `prime login`.
    """

    service = "Prime Intellect"
    package = "prime_sandboxes"
    extra = "prime"
    remedy = "PRIME_API_KEY holds the key, from app.primeintellect.ai"
    key_variable = "PRIME_API_KEY"

    def __init__(
        self,
        image: str | None = None,
        *,
        memory: int = MEMORY,
        cpu: float = 1.0,
        executable: str = "python3",
        lifetime: int = LIFETIME,
        lease: float = LEASE,
        api_key: str | None = None,
    ) -> None:
        super().__init__(
            memory=memory, executable=executable, lifetime=lifetime, lease=lease, api_key=api_key
        )
        self._image = image or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
        self._cpu = cpu

    async def make(self, package: Any, memory: int) -> Any:
        client = package.AsyncSandboxClient(api_key=self._api_key)
        minutes = max(1, math.ceil(self._seconds / 60))
        try:
            made = await client.create(
                package.CreateSandboxRequest(
                    name=f"recursor-{secrets.token_hex(8)}",
                    docker_image=self._image,
                    cpu_cores=self._cpu,
                    memory_gb=math.ceil(((memory >> 20) + BESIDE) / 1024),
                    network_allowlist=[],
                    timeout_minutes=minutes,
                    idle_timeout_minutes=min(minutes, max(1, math.ceil(self._lease / 60))),
                    labels=["recursor"],
                )
            )
        except BaseException:
            await client.aclose()
            raise
        return _Place(client, made.id)

    async def connect(self, package: Any, place: Any, command: Sequence[str]) -> Remote:
        await place.client.wait_for_creation(place.id)
        process = await place.client.open_process(
            place.id, f"exec {shlex.join(relayed(self._executable, 'text', *command))}"
        )
        return _Process(package, place, process)

    async def drop(self, place: Any) -> None:
        await place.end()

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        return self.report(
            facts,
            files="the image's, on Prime Intellect's machines",
            network="none outward (an empty network_allowlist, as Prime Intellect has it)",
            environment="the image's, none of the caller's",
            kernel="its own, in a virtual machine on Prime Intellect's machines",
        )


class _Place:
    """A sandbox by its id, and the client that made it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.id = name

    async def end(self) -> None:
        try:
            await self.client.delete(self.id)
        finally:
            await self.client.aclose()


class _Process:
    """A `Remote` over a process in a virtual machine of Prime Intellect.

    The package holds what it has received without a bound: it is taken over at once, and bounded here.
    """

    def __init__(self, package: Any, place: _Place, process: Any) -> None:
        self._package = package
        self._place = place
        self._process = process
        self._inbox = Inbox()
        self.read = self._inbox.read
        self._words = Words()
        self._tasks = [asyncio.create_task(task) for task in (self._listen(), self._overhear())]

    async def _listen(self) -> None:
        lines = Lines(self._inbox)
        try:
            async for data in self._process.stdout:
                self._inbox.put(lines.take(data.decode("ascii", "replace")))
        except Exception as error:  # noqa: BLE001 - whatever ends the stream ends the worker
            self._inbox.end(ConnectionError(f"{type(error).__name__}: {error}"))
        else:
            self._inbox.end(self._words.ended(self._process.returncode))

    async def _overhear(self) -> None:
        with suppress(Exception):  # stdout says it too
            async for data in self._process.stderr:
                self._words.hear(data.decode("utf-8", "replace"))

    async def write(self, data: bytes) -> None:
        await self._process.write_stdin(data)

    async def renew(self) -> None:
        try:
            await self._place.client.execute_command(self._place.id, "true", timeout=10)
        except self._package.SandboxNotRunningError as error:
            raise ConnectionError(f"Prime Intellect has ended it: {error}") from error

    async def end(self) -> None:
        try:
            # First: the package takes a stream that breaks for one to take up again.
            with suppress(Exception):
                await asyncio.wait_for(self._stop(), STOPPING)
        finally:
            try:
                await self._place.end()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stop(self) -> None:
        await self._process.kill()
        await self._process.aclose()
