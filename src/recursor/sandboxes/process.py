"""The default sandbox: a hardened process, forked from a template in a few milliseconds.

See `recursor.sandboxes.jail` for what is locked and `docs/sandbox.md` for what that means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from recursor.protocols import Repl
from recursor.sandboxes import jail
from recursor.sandboxes.repl import WireRepl, Worker

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

    async def open(self, *, tools: Sequence[str] = (), context_size: int = 0) -> Repl:
        memory = self._memory + PER_CONTEXT_BYTE * context_size
        zygote = await asyncio.to_thread(jail.shared)

        async def spawn() -> Worker:
            started = asyncio.ensure_future(
                asyncio.to_thread(jail.spawn, memory=memory, scratch=self._scratch)
            )
            try:
                spawned = await asyncio.shield(started)
            except asyncio.CancelledError:
                started.add_done_callback(_discard)
                raise
            return spawned

        repl = WireRepl(spawn, zygote.isolation(memory), tools)
        try:
            await repl.start()
        except BaseException:
            await repl.close()
            raise
        return repl


def _discard(started: asyncio.Future[jail.Spawned]) -> None:
    """End a worker that nobody waits for any more."""
    if not started.cancelled() and started.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, started.result().close)
