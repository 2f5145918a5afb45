"""REPLs in sandboxes of E2B: virtual machines (Firecracker) on E2B's machines. Needs `recursor[e2b]` and a key.

Contexts are sent to E2B, and what a sandbox uses is billed until it ends: with its REPL, after
`lifetime`, or by itself when this process has not asked for it for `lease` seconds.

E2B carries what a process prints as text, so that its bytes go as base64; what it reads goes as bytes.
Never run with E2B; written after the package e2b 2.63.
"""

from __future__ import annotations

import asyncio
import math
import shlex
from collections.abc import Sequence
from typing import Any

from recursor.sandboxes import wire
from recursor.sandboxes.inbox import Inbox, Lines, Words, relayed
from recursor.sandboxes.remote import ENDING, LEASE, Remote
from recursor.sandboxes.service import LIFETIME, ServiceSandbox
from recursor.sandboxes.sizes import MEMORY
from recursor.types import Isolation

REQUEST = 30.0
"""Seconds that E2B has for one piece of stdin: it answers when the process has read most of it."""


class E2BSandbox(ServiceSandbox):
    """Sandboxes of E2B without network.

    Args:
        template: name of a template with a Python 3.11 or later; None is E2B's `base`.
        memory: bytes of address space that the code of each REPL may take, beside room for its
            context. How much memory the machine has is up to the template.
        executable: the Python there.
        lifetime: seconds after which a REPL is ended, whatever it does.
        lease: seconds after which E2B ends a sandbox that this process no longer asks for.
        api_key: None is what E2B's package finds, E2B_API_KEY.
    """

    service = "E2B"
    package = "e2b"
    extra = "e2b"
    remedy = "E2B_API_KEY holds the key, from e2b.dev/dashboard"
    key_variable = "E2B_API_KEY"

    def __init__(
        self,
        template: str | None = None,
        *,
        memory: int = MEMORY,
        executable: str = "python3",
        lifetime: int = LIFETIME,
        lease: float = LEASE,
        api_key: str | None = None,
    ) -> None:
        super().__init__(
            memory=memory, executable=executable, lifetime=lifetime, lease=lease, api_key=api_key
        )
        self._template = template

    async def make(self, package: Any, memory: int) -> Any:  # noqa: ARG002 - a template's machine has what it has
        return await package.AsyncSandbox.create(
            template=self._template,
            timeout=self._timeout,
            metadata={"made_by": "recursor"},
            allow_internet_access=False,
            lifecycle={"on_timeout": "kill"},
            api_key=self._api_key,
        )

    async def connect(self, package: Any, place: Any, command: Sequence[str]) -> Remote:
        inbox, words = Inbox(), Words()
        lines = Lines(inbox)

        async def take(text: str) -> None:
            await inbox.put_in_turn(lines.take(text))

        process = await place.commands.run(
            f"exec {shlex.join(relayed(self._executable, 'text', *command))}",
            background=True,
            stdin=True,
            timeout=0,
            on_stdout=take,
            on_stderr=words.hear,
            retain_output=False,
        )
        return _Process(package, place, process, inbox, words, timeout=self._timeout)

    async def drop(self, place: Any) -> None:
        await place.kill()

    @property
    def _timeout(self) -> int:
        return max(1, math.ceil(min(self._lease, self._seconds + ENDING)))

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        return self.report(
            facts,
            files="the template's, on E2B's machines",
            network="none outward (allow_internet_access=False, as E2B has it)",
            environment="the template's, none of the caller's",
            kernel="its own, in a virtual machine on E2B's machines",
            bound="; no more than the template's machine has",
        )


class _Process:
    """A `Remote` over a process in a sandbox of E2B."""

    def __init__(
        self, package: Any, place: Any, process: Any, inbox: Inbox, words: Words, *, timeout: int
    ) -> None:
        self._package = package
        self._place = place
        self._process = process
        self._words = words
        self._timeout = timeout
        self._inbox = inbox
        self.read = inbox.read
        self._watch = asyncio.create_task(self._watched())

    async def _watched(self) -> None:
        try:
            await self._process.wait()
        except self._package.CommandExitException as error:
            self._inbox.end(self._words.ended(error.exit_code))
        except Exception as error:  # noqa: BLE001 - whatever ends the stream ends the worker
            self._inbox.end(ConnectionError(f"{type(error).__name__}: {error}"))
        else:
            self._inbox.end(self._words.ended(0))

    async def write(self, data: bytes) -> None:
        await self._place.commands.send_stdin(self._process.pid, data, request_timeout=REQUEST)

    async def renew(self) -> None:
        try:
            await self._place.set_timeout(self._timeout)
        except self._package.SandboxNotFoundException as error:
            raise ConnectionError(f"E2B has ended it: {error}") from error

    async def end(self) -> None:
        try:
            await self._place.kill()
        finally:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            await self._process.disconnect()
