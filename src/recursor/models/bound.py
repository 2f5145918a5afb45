"""How many calls a whole process has out at once: of all endpoints, threads and event loops.

Invariants: places are given in the order in which calls came; however a wait ends, it takes one place
or none. May be used from any thread; a forked child begins with none out.
"""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections import deque

from recursor.errors import ConfigError

MAX_IN_FLIGHT = 2_048
"""Calls of a process that are out at once, where it may open that many files and nobody said otherwise."""
_FILES = 1_024
"""Descriptors that are left for everything but calls."""


class Bound:
    """The calls of a whole process: of all endpoints, threads and event loops."""

    def __init__(self, limit: int | None = None) -> None:
        self.out = 0
        self._limit = limit
        self._waiting: deque[_Waiter] = deque()
        # Reentrant: the collector may end an abandoned call, and so give its place back, anywhere.
        self._lock = threading.RLock()

    @property
    def limit(self) -> int:
        """Calls that may be out at once. The first look raises the limit of open files if it must."""
        if self._limit is None:
            self._limit = min(MAX_IN_FLIGHT, _room_for(MAX_IN_FLIGHT))
        return self._limit

    def resize(self, limit: int) -> None:
        """Change the limit. Calls that are out stay out.

        Raises:
            ConfigError: it is no positive number, or the process may not open that many files.
        """
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ConfigError(f"a process needs room for at least 1 call, not {limit!r}")
        room = _room_for(limit)
        if limit > room:
            raise ConfigError(
                f"{limit:,} calls at once need more open files than this process may have "
                f"(room for {room:,} calls): raise `ulimit -Hn`"
            )
        with self._lock:
            self._limit = limit
            self._grant()

    def take(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        with self._lock:
            if self.out < self.limit and not self._waiting:
                self.out += 1
                return True
            return False

    async def wait(self) -> None:
        """Take a place, after all that came before."""
        waiter = _Waiter(asyncio.get_running_loop())
        with self._lock:
            self._waiting.append(waiter)
            self._grant()
        try:
            await waiter.future
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self.leave()
                else:
                    waiter.gone = True
                    self._grant()
            raise

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self.out -= 1
            if self._waiting:
                self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0].gone or self.out < self.limit):
            waiter = self._waiting.popleft()
            if waiter.gone:
                continue
            try:
                waiter.loop.call_soon_threadsafe(waiter.wake)
            except RuntimeError:  # its loop was closed under it
                continue
            waiter.granted = True
            self.out += 1

    def forget(self) -> None:
        """A forked child has its parent's count, but none of its calls."""
        self.out, self._waiting, self._lock = 0, deque(), threading.RLock()


class _Waiter:
    """Somebody who waits for a place in the process."""

    __slots__ = ("future", "gone", "granted", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.granted = False
        self.gone = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


IN_FLIGHT = Bound()
"""Of this process."""

os.register_at_fork(after_in_child=IN_FLIGHT.forget)


def _room_for(calls: int) -> int:
    """Return how many calls the limit of open files leaves room for, after raising it no more than needed.

    Many systems begin with 1,024, for programs that use select(2), and let a process have more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = calls + _FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        except (OSError, ValueError):  # forbidden, in some containers
            raised = soft
        soft = max(soft, raised)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return calls
    return max(1, soft - min(_FILES, soft // 4))
