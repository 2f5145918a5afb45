"""The template processes of this host process.

One is shared by all sandboxes without mounts. Each is started when it is first needed, replaced when it
died, left alone by forked children, and ends with the host.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Mapping

from recursor.sandboxes.jail import NO_MOUNTS, Zygote, ZygoteLost
from recursor.sandboxes.template import Tier
from recursor.sandboxes.workers import Spawned


class Templates:
    """One template process, started when it is needed, and anew when it died.

    Args:
        tier: how workers are isolated.
        mounts: folders to show to workers, read-only, by their paths inside.
        total_memory: bytes that all workers may take together; None is no bound.
    """

    def __init__(
        self,
        tier: Tier = "namespaces",
        mounts: Mapping[str, str] = NO_MOUNTS,
        total_memory: int | None = None,
    ) -> None:
        self._tier = tier
        self._total_memory = total_memory
        self._mounts = mounts
        self._zygote: Zygote | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def get(self) -> Zygote:
        """Return the process; raises what `Zygote` raises."""
        with self._lock:
            if self._zygote is not None and not self._zygote.alive:
                self._zygote.close()
                self._zygote = None
            if self._zygote is None:
                self._zygote = Zygote(tier=self._tier, mounts=self._mounts, total_memory=self._total_memory)
                # Not __del__: in garbage with cycles the sockets of the process might go first.
                weakref.finalize(self, self._zygote.close).atexit = False
            return self._zygote

    def spawn(self, *, memory: int, scratch: int) -> Spawned:
        """Fork a worker, starting the template process anew if it has died."""
        try:
            return self.get().spawn(memory=memory, scratch=scratch)
        except ZygoteLost:
            return self.get().spawn(memory=memory, scratch=scratch)

    def close(self) -> None:
        """End the process and every worker of it."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def forget(self) -> None:
        """Let go of it in a forked child."""
        self._lock = threading.Lock()  # a thread of the parent may hold the old one
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.forget()


_all: weakref.WeakSet[Templates] = weakref.WeakSet()
_shared: dict[Tier, Templates] = {}
_shared_lock = threading.Lock()


def of(tier: Tier = "namespaces") -> Templates:
    """The template process of this host process for workers without mounts."""
    with _shared_lock:
        if tier not in _shared:
            _shared[tier] = Templates(tier)
        return _shared[tier]


def shared() -> Zygote:
    """The template process of this host process, started when there is none that lives."""
    return of().get()


def spawn(*, memory: int, scratch: int) -> Spawned:
    """Fork a worker from the shared template process."""
    return of().spawn(memory=memory, scratch=scratch)


@atexit.register
def _close_all() -> None:
    for each in list(_all):
        each.close()


def _forget_all() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for each in list(_all):
        each.forget()


if sys.platform == "linux":
    os.register_at_fork(after_in_child=_forget_all)
