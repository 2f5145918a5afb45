"""Workers of a template process, as their host holds them: one that runs, and one that is about to be forked.

All functions block for milliseconds, but for `Spawned.fork`, and may be called from any thread.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from recursor.errors import SandboxError
from recursor.sandboxes.guest import linux
from recursor.types import Isolation

_END = 10.0
"""Seconds within which what was killed must be gone."""


class Keeper(Protocol):
    """The template process of workers, by their numbers."""

    def begin_fork(self, number: int, kin: set[int]) -> Birth:
        """See `Spawned.fork`."""

    def end_fork(self, parent: int, kin: set[int], ends: Ends) -> Spawned:
        """See `Birth.end`."""

    def ending(self, number: int) -> str:
        """Say how a worker that has ended did so."""

    def isolation(self, memory: int) -> Isolation:
        """What is in force for workers with so many bytes of memory."""


@dataclass(eq=False)
class Spawned:
    """A worker that runs, as its host holds it.

    The sockets and `output` belong to whoever asked for it; `wait` frees the rest.
    """

    rpc: socket.socket
    aux: socket.socket
    """Takes descriptors of contexts into the worker."""
    output: int
    """Non-blocking read end of the pipe that its stdout and stderr go to."""
    forks: bool
    """Whether it can be forked: not without namespaces, nor where nobody is asked by its filter."""
    _pidfd: int
    _number: int
    _kin: set[int]
    """Numbers of all that were forked from the same worker, and of that one."""
    _zygote: Keeper = field(repr=False)
    _ending: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def pid(self) -> int:
        """Its number as this process sees it; 0 when that cannot be known. For display: signals go by pidfd."""
        with self._lock:
            return _pid_of(self._pidfd) if self._ending is None else 0

    def isolation(self, memory: int) -> Isolation:
        """What is in force for it, which has so many bytes of memory."""
        return self._zygote.isolation(memory)

    def fork(self) -> Birth:
        """Let it fork once, and prepare what the new process is to have. Does not block.

        Raises:
            SandboxError: there are as many as there may be.
        """
        return self._zygote.begin_fork(self._number, self._kin)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what runs."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def exit_status(self) -> str | None:
        """How it ended ("killed by signal 11 (SIGSEGV)"); None while it runs."""
        return self._settle(0)

    def wait(self) -> str:
        """Block until it is gone and return how it ended. Call `kill` first, unless it is ending.

        Raises:
            SandboxError: it is still there after ten seconds.
        """
        ending = self._settle(_END)
        if ending is None:
            raise SandboxError(f"the sandboxed process {self.pid} does not end")
        return ending

    def close(self) -> None:
        """Kill it, wait, and close everything, the sockets and the pipe too. May be called twice."""
        self.kill()
        self.wait()
        self.rpc.close()
        self.aux.close()
        output, self.output = self.output, -1
        if output >= 0:
            os.close(output)

    def _signal(self, number: int) -> None:
        with self._lock:
            if self._ending is None:
                with suppress(ProcessLookupError):
                    linux.pidfd_send_signal(self._pidfd, number)

    def _settle(self, seconds: float) -> str | None:
        if self._ending is None and readable(self._pidfd, seconds):
            with self._lock:
                if self._ending is None:
                    self._ending = self._zygote.ending(self._number)
                    self._kin.discard(self._number)
                    os.close(self._pidfd)
        return self._ending


@dataclass(eq=False)
class Ends:
    """What a worker and its host talk by: the host's ends, and the worker's."""

    rpc: socket.socket
    aux: socket.socket
    output: int
    inside: list[int]

    @classmethod
    def make(cls) -> Ends:
        with ExitStack() as opened:
            rpc, worker_rpc = map(opened.enter_context, socket.socketpair())
            aux, worker_aux = map(opened.enter_context, socket.socketpair())
            output, worker_output = os.pipe()
            os.set_blocking(output, False)
            opened.pop_all()
        return cls(rpc, aux, output, [worker_rpc.detach(), worker_aux.detach(), worker_output])

    def close_inside(self) -> None:
        while self.inside:
            os.close(self.inside.pop())

    def close(self) -> None:
        self.close_inside()
        self.rpc.close()
        self.aux.close()
        os.close(self.output)


class Birth:
    """A worker that is about to fork. `end` or `drop` it, whatever comes of it."""

    def __init__(self, zygote: Keeper, parent: int, kin: set[int], ends: Ends) -> None:
        self._zygote = zygote
        self._parent = parent
        self._kin = kin
        self._ends = ends

    @property
    def rpc(self) -> socket.socket:
        """Becomes readable when the new process serves."""
        return self._ends.rpc

    @property
    def inside(self) -> tuple[int, ...]:
        """What the worker has to be given for the new process, in this order."""
        return tuple(self._ends.inside)

    def given(self) -> None:
        """Let go of that: the worker has it."""
        self._ends.close_inside()

    def end(self) -> Spawned:
        """Return the new process, which serves; nothing more comes of this fork.

        Raises:
            SandboxError: there is none. Had the worker forked all the same, it and all its kin are ended.
        """
        try:
            return self._zygote.end_fork(self._parent, self._kin, self._ends)
        except BaseException:
            self._ends.close()
            raise

    def drop(self) -> None:
        """End it, and the new process where there is one."""
        with suppress(SandboxError):
            self.end().close()


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read; return whether there is."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _pid_of(pidfd: int) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text("ascii").splitlines()
        return int(next(line for line in lines if line.startswith("Pid:")).split()[1])
    return 0
