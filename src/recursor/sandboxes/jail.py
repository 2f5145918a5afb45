"""Host side of the process sandbox: one template process, and workers forked from it.

`spawn` hands over a worker that is locked in already; what it is locked into is in
`guest/zygote.py` and in docs/sandbox.md. There is no weaker mode: what cannot be had raises
`IsolationUnavailable`, which names the step that failed and what would help.

All functions block for milliseconds and may be called from any thread. The template process is
shared by the whole host process, started when it is first needed, replaced when it died, left
alone by forked children, and ends with the host whatever ends that.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from recursor.errors import ConfigError, IsolationUnavailable, SandboxError
from recursor.sandboxes.cgroups import NO_BOUND, Bound, bound
from recursor.sandboxes.guest import linux
from recursor.sandboxes.guest.families import MOST
from recursor.sandboxes.mounts import check_again
from recursor.sandboxes.remedies import explain_platform, explain_step
from recursor.sandboxes.report import Facts, isolation
from recursor.sandboxes.template import Tier, installed_packages, start
from recursor.types import Isolation

_START = 30.0
"""Seconds within which the template must be up, or a worker be there."""
_END = 10.0
"""Seconds within which what was killed must be gone."""
_SMALLEST = 1 << 20
NO_MOUNTS: Final[Mapping[str, str]] = MappingProxyType({})


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: str
    errno: int
    error: str


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of these is set."""

    ready: Facts | None = None
    failed: _Step | None = None
    spawned: int | None = None
    forks: bool = False
    status: int | None = None


class _ZygoteLost(SandboxError):
    """The template process died or talks nonsense; a new one may do better."""


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
    _zygote: Zygote = field(repr=False)
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
        if self._ending is None and _readable(self._pidfd, seconds):
            with self._lock:
                if self._ending is None:
                    self._ending = self._zygote.ending(self._number)
                    self._kin.discard(self._number)
                    os.close(self._pidfd)
        return self._ending


@dataclass(eq=False)
class _Ends:
    """What a worker and its host talk by: the host's ends, and the worker's."""

    rpc: socket.socket
    aux: socket.socket
    output: int
    inside: list[int]

    @classmethod
    def make(cls) -> _Ends:
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

    def __init__(self, zygote: Zygote, parent: int, kin: set[int], ends: _Ends) -> None:
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


class Zygote:
    """A template process. Use `shared()`; a second one is for tests.

    Args:
        packages: directories of installed packages to show to workers; None is those of this process.
        tier: how workers are isolated.
        mounts: folders to show to workers, read-only, by their paths inside.
        total_memory: bytes that it and all workers may take together; None is no bound.

    Raises:
        IsolationUnavailable: this machine does not let us isolate anything.
        SandboxError: the template process did not start.
    """

    def __init__(
        self,
        packages: Sequence[str] | None = None,
        *,
        tier: Tier = "namespaces",
        mounts: Mapping[str, str] = NO_MOUNTS,
        total_memory: int | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise IsolationUnavailable(explain_platform(sys.platform))
        check_again(mounts)
        self._lock = threading.Lock()
        self._broken = False
        self._tier = tier
        self._mounts = dict(mounts)
        self._bound: Bound = NO_BOUND
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._aside = self._control.dup()
        self._aside.setblocking(False)
        self._control.settimeout(_START)
        self._pidfd = -1
        errors, write_errors = os.pipe()
        try:
            with inside, os.fdopen(write_errors, "wb") as said:
                shown = installed_packages() if packages is None else packages
                self._pid = start(inside, said.fileno(), shown, tier, self._mounts)
            self._pidfd = linux.pidfd_open(self._pid)
            if total_memory is not None:  # before it forks anything
                self._bound = bound(self._pid, total_memory)
            self._begin()
            self._facts = self._greeting(errors)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(errors)

    @property
    def alive(self) -> bool:
        """Whether it can be asked for workers."""
        return not self._broken and not _readable(self._pidfd, 0)

    def spawn(self, *, memory: int, scratch: int) -> Spawned:
        """Fork a worker that is isolated and ready to serve.

        Args:
            memory: bytes of address space beyond what a fresh worker has.
            scratch: bytes of its private /tmp, and of the longest file in it.

        Raises:
            IsolationUnavailable: a step of the isolation failed; nothing runs.
            SandboxError: the template process died.
        """
        if memory < _SMALLEST or scratch < _SMALLEST:
            raise ConfigError(f"a sandbox needs at least {_SMALLEST:,} bytes of memory and of scratch space")
        ends = _Ends.make()
        try:
            answer, received = self._ask({"spawn": {"memory": memory, "scratch": scratch}}, ends.inside)
            if answer.failed is not None:
                raise IsolationUnavailable(_explain(answer.failed))
            spawned = self._spawned(answer, received, set(), ends)
        except BaseException:
            ends.close()
            raise
        ends.close_inside()
        return spawned

    def begin_fork(self, number: int, kin: set[int]) -> Birth:
        """See `Spawned.fork`."""
        if len(kin) >= MOST:
            raise SandboxError(
                f"the REPL cannot be forked: {MOST} processes were forked from the same one; close some of them, or "
                "have fewer children begin in a copy at once"
            )
        ends = _Ends.make()
        try:
            outside, inside = socket.socketpair()
            ends.inside.append(inside.detach())
            with outside:
                self._tell({"fork": number}, [outside.fileno()])
        except BaseException:
            ends.close()
            raise
        return Birth(self, number, kin, ends)

    def end_fork(self, parent: int, kin: set[int], ends: _Ends) -> Spawned:
        """See `Birth.end`."""
        answer, received = self._ask({"born": parent})
        if answer.failed is not None:
            raise SandboxError(f"the REPL was not forked: {_why(answer)}")
        return self._spawned(answer, received, kin, ends)

    def _spawned(self, answer: _Answer, received: list[int], kin: set[int], ends: _Ends) -> Spawned:
        if answer.spawned is None or len(received) != 1:
            raise self._lost("it gave no worker", received)
        pidfd = received[0]
        kin.add(answer.spawned)
        return Spawned(ends.rpc, ends.aux, ends.output, answer.forks, pidfd, answer.spawned, kin, self)

    def ending(self, number: int) -> str:
        """Say how a worker that has ended did so."""
        try:
            answer, _ = self._ask({"reap": number})
        except _ZygoteLost:
            return "killed together with the sandbox's template process"
        if answer.status is None:
            raise self._lost("it knows no status")
        return _describe(answer.status) + self._bound.reason(answer.status)

    def isolation(self, memory: int) -> Isolation:
        """What is in force for workers with so many bytes of memory, as the template process found it."""
        return isolation(self._tier, self._facts, memory, self._mounts, self._bound)

    def close(self) -> None:
        """End it and every worker. May be called twice."""
        self._broken = True
        self._aside.close()
        self._control.close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            return
        if not _readable(pidfd, 1.0):
            with suppress(ProcessLookupError):
                linux.pidfd_send_signal(pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):  # who waits for all children of the process may have taken it
            os.waitpid(self._pid, 0)
        os.close(pidfd)
        self._bound.close()

    def forget(self) -> None:
        """Let go of it without ending it: in a forked child it is the parent's."""
        self._broken = True
        self._aside.close()
        self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _begin(self) -> None:
        """Tell it where to go."""
        place = "namespaces" if self._tier == "namespaces" else "alone"
        begin = {"begin": {"tier": place, "mounts": self._mounts}}
        with suppress(OSError):  # one that has ended says why on its stderr
            self._control.send(msgspec.json.encode(begin))

    def _greeting(self, errors: int) -> Facts:
        try:
            answer, _ = self._receive()
        except _ZygoteLost as lost:
            said = os.read(errors, 1 << 16) if _readable(errors, 1.0) else b""
            why = said.decode("utf-8", "backslashreplace").strip()[-2000:] or str(lost)
            raise SandboxError(f"the sandbox's template process did not start: {why}") from lost
        if answer.failed is not None:
            raise IsolationUnavailable(_explain(answer.failed))
        if answer.ready is None:
            raise self._lost("it does not say that it is ready")
        missing = {"user", "mnt", "pid", "net", "ipc"}.difference(answer.ready.namespaces)
        if missing and self._tier == "namespaces":
            step = f"unshare({', '.join(sorted(missing))})"
            raise IsolationUnavailable(explain_step(step, 0, "it had no effect"))
        return answer.ready

    def _tell(self, message: object, descriptors: Sequence[int]) -> None:
        """Send what is not answered. It may go between a request of another thread and its answer."""
        if self._broken:
            raise _ZygoteLost("the sandbox's template process is gone")
        try:
            socket.send_fds(self._aside, [msgspec.json.encode(message)], descriptors)
        except OSError as error:  # it ends, or has not read for long
            raise SandboxError(f"the sandbox's template process does not listen: {error.strerror}") from error

    def _ask(self, message: object, descriptors: Sequence[int] = ()) -> tuple[_Answer, list[int]]:
        with self._lock:
            if self._broken:
                raise _ZygoteLost("the sandbox's template process is gone")
            try:
                socket.send_fds(self._control, [msgspec.json.encode(message)], descriptors)
            except OSError as error:
                raise self._lost(str(error)) from error
            return self._receive()

    def _receive(self) -> tuple[_Answer, list[int]]:
        received: list[int] = []
        try:
            data, received, _, _ = socket.recv_fds(self._control, 1 << 16, 1)
            if not data:
                raise self._lost("it ended", received)
            return msgspec.json.decode(data, type=_Answer), received
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._lost(str(error) or type(error).__name__, received) from error

    def _lost(self, why: str, received: Sequence[int] = ()) -> _ZygoteLost:
        self._broken = True
        for descriptor in received:
            os.close(descriptor)
        return _ZygoteLost(f"the sandbox's template process is gone: {why}")


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
        except _ZygoteLost:
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


def templates(tier: Tier = "namespaces") -> Templates:
    """The template process of this host process for workers without mounts."""
    with _shared_lock:
        if tier not in _shared:
            _shared[tier] = Templates(tier)
        return _shared[tier]


def shared() -> Zygote:
    """The template process of this host process, started when there is none that lives."""
    return templates().get()


def spawn(*, memory: int, scratch: int) -> Spawned:
    """Fork a worker from the shared template process."""
    return templates().spawn(memory=memory, scratch=scratch)


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


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _pid_of(pidfd: int) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text("ascii").splitlines()
        return int(next(line for line in lines if line.startswith("Pid:")).split()[1])
    return 0


def _explain(failed: _Step) -> str:
    return explain_step(failed.step, failed.errno, failed.error)


def _why(answer: _Answer) -> str:
    return answer.failed.error if answer.failed is not None else "the template process does not say why"


def _describe(status: int) -> str:
    if status < 0:  # a copy of a worker is no child of the template
        return "ended"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    with suppress(ValueError):
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return f"killed by signal {-code}"
