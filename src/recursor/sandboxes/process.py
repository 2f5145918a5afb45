"""The default sandbox: a hardened process, forked from a template in a few milliseconds.

See `recursor.sandboxes.jail` for what is locked and `docs/sandbox.md` for what that means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from recursor.protocols import Repl
from recursor.sandboxes import jail
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import opened
from recursor.threads import in_thread
from recursor.types import CallStyle

MEMORY = 2 << 30
"""Bytes that a REPL may allocate, beside what its context needs."""
PER_CONTEXT_BYTE = 6
"""A text takes up to four bytes a character; code copies pieces of it."""
SCRATCH = 64 << 20
"""Bytes of the private /tmp."""


class ProcessSandbox:
    """Namespaces, Landlock, seccomp and rlimits around a forked interpreter (Linux).

    Args:
        memory: bytes each REPL may allocate, beside room for its context.
        scratch: bytes of its private, non-executable /tmp.
    """

    def __init__(self, memory: int = MEMORY, scratch: int = SCRATCH) -> None:
        self._memory = memory
        self._scratch = scratch

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        memory = self._memory + PER_CONTEXT_BYTE * context_size
        zygote = await in_thread(jail.shared)

        async def spawn() -> Worker:
            start = partial(jail.spawn, memory=memory, scratch=self._scratch)
            return await in_thread(start, discard=jail.Spawned.close)

        return await opened(spawn, zygote.isolation(memory), tools, calls=calls, seed=seed)
