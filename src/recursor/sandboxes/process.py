"""The default sandbox: a hardened process, forked from a template in a few milliseconds.

See `recursor.sandboxes.jail` for what is locked and `docs/sandbox.md` for what that means.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from recursor.errors import ConfigError, IsolationUnavailable, SandboxError
from recursor.protocols import Repl
from recursor.sandboxes import templates
from recursor.sandboxes.link import Worker
from recursor.sandboxes.mounts import Mounts, checked
from recursor.sandboxes.remedies import explain_tiers, reason
from recursor.sandboxes.repl import opened
from recursor.sandboxes.sizes import MEMORY, PER_CONTEXT_BYTE, SCRATCH
from recursor.sandboxes.template import Tier
from recursor.sandboxes.workers import Spawned
from recursor.threads import in_thread
from recursor.types import CallStyle

WEAK: Final[tuple[Tier, ...]] = ("namespaces", "bubblewrap", "landlock")
_TRIAL = 64 << 20
_LEAST = 64 << 20
"""Bytes that a template process needs, and some."""

_found: dict[tuple[Tier, ...], Tier] = {}
"""What this process can have, of those that were wanted."""


class ProcessSandbox:
    """Namespaces, Landlock, seccomp and rlimits around a forked interpreter (Linux).

    Args:
        memory: bytes each REPL may allocate, beside room for its context.
        scratch: bytes of its private, non-executable /tmp.
        mounts: folders that code may read, by the paths at which it sees them: {"/context": "papers"}. Each sandbox
            with mounts has a template process of its own.
        total_memory: bytes that all its REPLs may take together, what the kernel takes for them included, in a
            control group. None is no bound beside each REPL's own. Where no group is to be had, the report says so.

    Raises:
        ConfigError: a folder cannot be mounted, or a number makes no sense.
    """

    _tiers: tuple[Tier, ...] = ("namespaces",)

    def __init__(
        self,
        memory: int = MEMORY,
        scratch: int = SCRATCH,
        mounts: Mounts | None = None,
        total_memory: int | None = None,
    ) -> None:
        if total_memory is not None and total_memory < _LEAST:
            raise ConfigError(f"total_memory must be {_LEAST:,} bytes or more, not {total_memory:,}")
        self._memory = memory
        self._total_memory = total_memory
        self._scratch = scratch
        self.mounts: Mapping[str, str] = checked(mounts)
        """Folders by the paths at which code sees them."""
        self._own: dict[Tier, templates.Templates] = {}

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        memory = self._memory + PER_CONTEXT_BYTE * context_size
        spawned: list[Spawned] = []

        async def spawn() -> Worker:
            spawned[:] = [await in_thread(self._spawn, memory, discard=Spawned.close)]
            return spawned[0]

        return await opened(spawn, lambda _: spawned[0].isolation(memory), tools, calls=calls, seed=seed)

    def _spawn(self, memory: int) -> Spawned:
        return self._templates().spawn(memory=memory, scratch=self._scratch)

    def _templates(self) -> templates.Templates:
        """The template processes of the strongest tier that works, found by trying."""
        wanted = tuple(tier for tier in self._tiers if not self.mounts or tier != "landlock")
        if len(wanted) == 1:
            return self._of(wanted[0])
        if wanted not in _found:
            failures: dict[Tier, SandboxError] = {}
            for tier in wanted:
                try:
                    self._of(tier).spawn(memory=_TRIAL, scratch=_TRIAL).close()
                except SandboxError as failure:
                    failures[tier] = failure
                else:
                    _found[wanted] = tier
                    break
            else:
                raise IsolationUnavailable(explain_tiers(failures))
        return self._of(_found[wanted])

    def _of(self, tier: Tier) -> templates.Templates:
        if not self.mounts and self._total_memory is None:
            return templates.of(tier)
        if tier not in self._own:
            self._own[tier] = templates.Templates(tier, self.mounts, self._total_memory)
        return self._own[tier]


def tried_tiers() -> dict[Tier, str]:
    """Try every tier on this machine, and return for each what keeps it from working: nothing where it works."""
    found: dict[Tier, str] = {}
    for tier in WEAK:
        own = templates.Templates(tier)
        try:
            own.spawn(memory=_TRIAL, scratch=_TRIAL).close()
            found[tier] = ""
        except SandboxError as failure:
            found[tier] = reason(failure)
        finally:
            own.close()
    return found


class WeakProcessSandbox(ProcessSandbox):
    """The strongest of what this machine can do: as `ProcessSandbox`, or else without namespaces.

    Where namespaces cannot be had, not even by bubblewrap, Landlock and seccomp hold the code in by
    themselves; on macOS Seatbelt does. `Isolation.weaknesses` says what that lacks. Mounts need namespaces.
    """

    _tiers = WEAK

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        if sys.platform != "darwin":
            return await super().open(tools=tools, context_size=context_size, seed=seed, calls=calls)
        from recursor.sandboxes.seatbelt import SeatbeltSandbox  # noqa: PLC0415 - a way in a thousand

        if self.mounts:
            raise IsolationUnavailable("Seatbelt mounts nothing: pass the folder as the context")
        return await SeatbeltSandbox().open(tools=tools, context_size=context_size, seed=seed, calls=calls)
