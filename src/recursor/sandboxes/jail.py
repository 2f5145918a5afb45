"""Host side of a template process, from which the workers of the process sandbox are forked.

`spawn` hands over a worker that is locked in already; what it is locked into is in
`guest/zygote.py` and in docs/sandbox.md. There is no weaker mode: what cannot be had raises
`IsolationUnavailable`, which names the step that failed and what would help.

All functions block for milliseconds and may be called from any thread. The template process ends with
the host, whatever ends that.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from recursor.sandboxes.workers import Birth, Ends, Spawned, readable
from recursor.types import Isolation

_START = 30.0
"""Seconds within which the template must be up, or a worker be there."""
_SMALLEST = 1 << 20
_NOT_NOW = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)
"""With which nothing is sent: too many descriptors of this user are on their way, or there is no memory."""
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


class ZygoteLost(SandboxError):
    """The template process died or talks nonsense; a new one may do better."""


class Zygote:
    """A template process. Use `templates.shared()`; a second one is for tests.

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
        return not self._broken and not readable(self._pidfd, 0)

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
        ends = Ends.make()
        try:
            answer, received = self._ask({"spawn": {"memory": memory, "scratch": scratch}}, ends)
            if answer.failed is not None:
                raise IsolationUnavailable(_explain(answer.failed))
            spawned = self._spawned(answer, received, set(), ends)
        except BaseException:
            ends.close()
            raise
        return spawned

    def begin_fork(self, number: int, kin: set[int]) -> Birth:
        """See `Spawned.fork`."""
        if len(kin) >= MOST:
            raise SandboxError(
                f"the REPL cannot be forked: {MOST} processes were forked from the same one; close some of them, or "
                "have fewer children begin in a copy at once"
            )
        ends = Ends.make()
        try:
            outside, inside = socket.socketpair()
            ends.inside.append(inside.detach())
            with outside:
                self._tell({"fork": number}, [outside.fileno()])
        except BaseException:
            ends.close()
            raise
        return Birth(self, number, kin, ends)

    def end_fork(self, parent: int, kin: set[int], ends: Ends) -> Spawned:
        """See `Birth.end`."""
        answer, received = self._ask({"born": parent})
        if answer.failed is not None:
            raise SandboxError(f"the REPL was not forked: {_why(answer)}")
        return self._spawned(answer, received, kin, ends)

    def _spawned(self, answer: _Answer, received: list[int], kin: set[int], ends: Ends) -> Spawned:
        if answer.spawned is None or len(received) != 1:
            raise self._lost("it gave no worker", received)
        pidfd = received[0]
        kin.add(answer.spawned)
        return Spawned(ends.rpc, ends.aux, ends.output, answer.forks, pidfd, answer.spawned, kin, self)

    def ending(self, number: int) -> str:
        """Say how a worker that has ended did so."""
        try:
            answer, _ = self._ask({"reap": number})
        except ZygoteLost:
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
        if not readable(pidfd, 1.0):
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
        except ZygoteLost as lost:
            said = os.read(errors, 1 << 16) if readable(errors, 1.0) else b""
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
            raise ZygoteLost("the sandbox's template process is gone")
        try:
            socket.send_fds(self._aside, [msgspec.json.encode(message)], descriptors)
        except OSError as error:  # it ends, or has not read for long
            raise SandboxError(f"the sandbox's template process does not listen: {error.strerror}") from error

    def _ask(self, message: object, ends: Ends | None = None) -> tuple[_Answer, list[int]]:
        """Ask; a worker gets its ends, and so makes room for the descriptor that comes back."""
        with self._lock:
            if self._broken:
                raise ZygoteLost("the sandbox's template process is gone")
            try:
                socket.send_fds(self._control, [msgspec.json.encode(message)], ends.inside if ends else ())
            except OSError as error:
                if error.errno in _NOT_NOW:
                    raise SandboxError(f"there is no room for another REPL now: {error.strerror}") from error
                raise self._lost(str(error)) from error
            if ends is not None:
                ends.close_inside()
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

    def _lost(self, why: str, received: Sequence[int] = ()) -> ZygoteLost:
        self._broken = True
        for descriptor in received:
            os.close(descriptor)
        return ZygoteLost(f"the sandbox's template process is gone: {why}")


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
