"""REPLs in sandboxes of services that rent out machines: what such adapters have in common.

Nothing that costs money is left behind: a place is dropped when anything fails or is cancelled after
it was asked for, and what cannot be dropped any more ends with its lease (`recursor.sandboxes.remote`).
A key goes to the service's package, and never into a place, a log or an error.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from recursor.errors import IsolationUnavailable
from recursor.sandboxes import wire
from recursor.sandboxes.remote import ENDING, LEASE, Remote, RemoteSandbox
from recursor.sandboxes.sizes import MEMORY
from recursor.sandboxes.stream import not_locked, own_locks
from recursor.types import Isolation

STARTING = 300.0
"""Seconds that a service has to give a place with a Python in it."""
LIFETIME = 3600
"""Seconds after which a place ends, whatever it does."""
BESIDE = 256
"""MiB that a place has beside what its code may allocate."""


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
            ) from self._cause(error)
        except Exception as error:  # noqa: BLE001 - of a service, and raised again as one of ours
            remedy = f"; {self.remedy}" if doing == "gives no sandbox" else ""
            raise IsolationUnavailable(
                f"{self.service} {doing}: {self._told(error)}{remedy}"
            ) from self._cause(error)

    def report(
        self,
        facts: wire.Facts | None,
        *,
        files: str,
        network: str,
        environment: str,
        kernel: str,
        bound: str = "",
    ) -> Isolation:
        """Return what is in force in a place, by what its worker found there.

        Args:
            bound: what else bounds its memory.
        """
        locked = facts is not None and facts.syscalls > 0
        each = "" if locked else " for each process"
        return Isolation(
            sandbox=self.extra,
            files=files,
            network=network,
            processes="none" if locked else "its own",
            environment=environment,
            kernel=kernel,
            memory=f"{self._memory >> 20:,} MB of address space{each} (RLIMIT_AS), and room for contexts{bound}",
            mechanisms=(
                f"a sandbox of {self.service}, as {self.service} describes it",
                *((f"user {facts.uid}", *own_locks(facts)) if facts else ("a user that is not known",)),
            ),
            weaknesses=not_locked(facts),
        )

    async def _dropped(self, place: Any) -> None:
        with suppress(Exception):  # the first error is the one to tell of; the lease ends what is left
            await asyncio.wait_for(self.drop(place), ENDING)

    def _told(self, error: Exception) -> str:
        """What a package raised, without the key."""
        text = f"{type(error).__name__}: {error}" if str(error) else ""
        return " ".join(self.hide(text).split())[:500]

    def _cause(self, error: Exception) -> Exception | None:
        """What a package raised, to be shown below; nothing where the key is in it, or in what it came of."""
        shown = "".join(traceback.format_exception(error))
        return error if self.hide(shown) == shown else None

    def hide(self, text: str) -> str:
        for key in (self._api_key, os.environ.get(self.key_variable) if self.key_variable else None):
            if key:
                text = text.replace(key, "...")
        return text


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
