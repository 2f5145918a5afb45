"""REPLs in sandboxes of Modal, which run under gVisor on Modal's machines. Needs `recursor[modal]` and a token.

Contexts are sent to Modal, and what a sandbox uses is billed until it ends: with its REPL, or by
itself after `lifetime` where this process could not end it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from recursor.errors import IsolationUnavailable
from recursor.sandboxes import wire
from recursor.sandboxes.process import MEMORY
from recursor.sandboxes.remote import Remote, RemoteSandbox
from recursor.types import Isolation

LIFETIME = 3600
BESIDE = 256
"""MiB that a place has beside what its code may allocate."""


class ModalSandbox(RemoteSandbox):
    """Sandboxes of Modal without network.

    Args:
        image: name of an image with a Python 3.11 or later; by default Modal's own of this Python's version.
        app: name of the app that they belong to, made when there is none.
        memory: bytes that the code of each REPL may allocate, beside room for its context.
        cpu: cores to reserve; None is Modal's default.
        lifetime: seconds after which Modal ends a REPL, whatever it does.
    """

    def __init__(
        self,
        image: str | None = None,
        *,
        app: str = "recursor",
        memory: int = MEMORY,
        cpu: float | None = None,
        lifetime: int = LIFETIME,
    ) -> None:
        super().__init__(memory=memory)
        self._image = image
        self._app = app
        self._cpu = cpu
        self._lifetime = lifetime

    async def start(self, command: Sequence[str], memory: int) -> Remote:
        try:
            modal: Any = importlib.import_module("modal")
        except ImportError as error:
            raise IsolationUnavailable(
                'the package modal is not installed: pip install "recursor[modal]"'
            ) from error
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        try:
            app = await modal.App.lookup.aio(self._app, create_if_missing=True)
            place = await modal.Sandbox.create.aio(
                app=app,
                image=(
                    modal.Image.from_registry(self._image)
                    if self._image
                    else modal.Image.debian_slim(python_version=version)
                ),
                block_network=True,
                timeout=self._lifetime,
                cpu=self._cpu,
                memory=(memory >> 20) + BESIDE,
            )
        except modal.exception.Error as error:
            raise IsolationUnavailable(
                f"Modal gives no sandbox: {type(error).__name__}: {error}; `modal setup` stores a token"
            ) from error
        try:
            quiet = importlib.import_module("modal.stream_type").StreamType.DEVNULL
            process = await place.exec.aio(*command, text=False, stderr=quiet)
        except BaseException as error:
            await place.terminate.aio()
            if isinstance(error, modal.exception.Error):
                raise IsolationUnavailable(f"Modal starts no Python: {error}") from error
            raise
        return _Process(place, process)

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        user = "a user that is not known" if facts is None else f"user {facts.uid}"
        return Isolation(
            sandbox="modal",
            files="the image's, on Modal's machines",
            network="none (block_network, as Modal has it)",
            processes="its own",
            environment="none of the caller's",
            kernel="gVisor's, on Modal's machines",
            memory=f"{self._memory >> 20:,} MB of address space for each process (RLIMIT_AS), and room for contexts",
            mechanisms=("a sandbox of Modal, as Modal describes it", user),
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

    async def end(self) -> None:
        await self._place.terminate.aio()
