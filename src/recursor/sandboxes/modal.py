"""REPLs in sandboxes of Modal, which run under gVisor on Modal's machines. Needs `recursor[modal]` and a token.

Contexts are sent to Modal, and what a sandbox uses is billed until it ends: with its REPL, or by
itself after `lifetime` where this process could not end it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from recursor.sandboxes import wire
from recursor.sandboxes.remote import Remote
from recursor.sandboxes.service import BESIDE, LIFETIME, ServiceSandbox
from recursor.sandboxes.sizes import MEMORY
from recursor.types import Isolation


class ModalSandbox(ServiceSandbox):
    """Sandboxes of Modal without network.

    Args:
        image: name of an image with a Python 3.11 or later; by default Modal's own of this Python's version.
        app: name of the app that they belong to, made when there is none.
        memory: bytes that the code of each REPL may allocate, beside room for its context.
        cpu: cores to reserve; None is Modal's default.
        lifetime: seconds after which Modal ends a REPL, whatever it does.
    """

    service = "Modal"
    package = "modal"
    extra = "modal"
    remedy = "`modal setup` stores a token"

    def __init__(
        self,
        image: str | None = None,
        *,
        app: str = "recursor",
        memory: int = MEMORY,
        cpu: float | None = None,
        lifetime: int = LIFETIME,
    ) -> None:
        super().__init__(memory=memory, lifetime=lifetime)
        self._image = image
        self._app = app
        self._cpu = cpu

    async def make(self, package: Any, memory: int) -> Any:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        app = await package.App.lookup.aio(self._app, create_if_missing=True)
        return await package.Sandbox.create.aio(
            app=app,
            image=(
                package.Image.from_registry(self._image)
                if self._image
                else package.Image.debian_slim(python_version=version)
            ),
            block_network=True,
            timeout=self._seconds,
            cpu=self._cpu,
            memory=(memory >> 20) + BESIDE,
        )

    async def connect(self, package: Any, place: Any, command: Sequence[str]) -> Remote:  # noqa: ARG002
        quiet = importlib.import_module("modal.stream_type").StreamType.DEVNULL
        return _Process(place, await place.exec.aio(*command, text=False, stderr=quiet))

    async def drop(self, place: Any) -> None:
        await place.terminate.aio()

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        return self.report(
            facts,
            files="the image's, on Modal's machines",
            network="none (block_network, as Modal has it)",
            environment="none of the caller's",
            kernel="gVisor's, on Modal's machines",
        )


class _Process:
    """A `Remote` over a process in a sandbox of Modal."""

    def __init__(self, place: Any, process: Any) -> None:
        self._place = place
        self._stdin = process.stdin
        self._chunks: AsyncIterator[bytes] = aiter(process.stdout)

    async def read(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain.aio()

    async def renew(self) -> None:
        """Nothing: Modal ends a sandbox after its lifetime, and takes no other time for it."""

    async def end(self) -> None:
        await self._place.terminate.aio()
