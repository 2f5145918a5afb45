"""The template process: builds the jail once, then forks a locked-in worker for every request.

It imports what workers need, moves into namespaces whose root holds Python and its libraries and
nothing else, and becomes pid 1 of a pid namespace: when it ends, by any cause, all workers end. Where
it is told to do without namespaces ("alone"), workers are locked in by `alone`, and die of its death.
It never runs code of a model. A worker runs some only after every step of `Locks.lock_in` succeeded.

Control socket (SEQPACKET, JSON), one request at a time:
  <- {"begin": {"tier": "namespaces" or "alone", "mounts": {place: folder}}} once, at the start
  -> {"ready": {...}} or {"failed": step} once, then
  <- {"spawn": {"memory": bytes, "scratch": bytes}} with descriptors rpc, aux, output
  -> {"spawned": number, "forks": whether it can be forked} with a pidfd, or {"failed": step}
  <- {"fork": number} with an end of a socket: the worker may fork once
  -> {"forking": true}, or {"failed": step}
  <- {"born": number}      it has forked, or will not
  -> {"spawned": number, "forks": ...} of the new process, with a pidfd, or {"failed": step}
  <- {"reap": number}      the process has ended, or is about to
  -> {"status": wait status; -1 of one that was forked from a worker}
A step is {"step": name, "errno": number, "error": text}. The end of the socket ends the zygote.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from . import linux, loading, rehearsal, worker
from .alone import LocksAlone
from .channel import leave
from .families import Family
from .locks import OPEN_FILES, Locks
from .namespaces import SCRATCH, Proc, StepFailed, enter_jail, step
from .turns import TurnChannel

PRELOAD = (
    "abc array ast asyncio base64 bisect builtins calendar codecs collections collections.abc "
    "concurrent.futures contextlib copy csv ctypes dataclasses datetime decimal difflib enum fractions "
    "functools gc hashlib heapq html html.parser io itertools json keyword locale math mmap numbers "
    "operator os pathlib pprint queue random re reprlib secrets shutil statistics string struct sys "
    "tempfile textwrap threading time traceback types typing unicodedata urllib.parse uuid zlib zoneinfo"
)
"""Imported once here, and so free in every worker. Nothing that starts a thread."""

ENVIRONMENT = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8", "PATH": "/nonexistent"}

RPC, AUX, REPORT = 3, 4, 5


def main(control_fd: int, packages: list[str]) -> NoReturn:
    """Be the zygote of the host at the other end of the socket.

    Args:
        packages: directories of installed packages, to be importable in workers.
    """
    control = _clear_places(control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    for name in PRELOAD.split():
        importlib.import_module(name)
    loading.import_readers()  # a worker does not see the files of the guest
    sys.dont_write_bytecode = True
    sys.path += packages
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    asked = control.recv(1 << 16)
    if not asked:
        os._exit(0)
    begin = json.loads(asked)["begin"]
    try:
        with step("open /proc"):
            proc = Proc()
        locks, entered = _enter(begin["tier"], begin["mounts"], proc, control)
        serve = _rehearsed()
        gc.collect()
        gc.freeze()
        _Zygote(control, proc, locks, serve, own_pids="pid" in entered).serve(entered)
    except StepFailed as failed:
        control.send(json.dumps({"failed": failed.report}).encode())
    os._exit(0)


def _enter(tier: str, mounts: dict[str, str], proc: Proc, control: socket.socket) -> tuple[Locks, list[str]]:
    """Go where workers will be; return what locks each in, and the namespaces that were entered."""
    outside = proc.namespaces()
    if tier == "namespaces":
        enter_jail(proc, control, mounts)
    else:
        os.environ["TMPDIR"] = os.environ["HOME"] = "/nonexistent"  # there is no place to write to
    locks = Locks(proc) if tier == "namespaces" else LocksAlone(proc, list(mounts))
    return locks, sorted(name for name, identity in proc.namespaces().items() if identity != outside[name])


def _rehearsed() -> worker.Serve:
    """Prepare all that workers have in common; return what a forked one is to do."""
    rehearsal.rehearse()
    rpc, aux = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, place) for place in (RPC, AUX))
    return worker.prepared(TurnChannel(rpc, aux, leave))


def _clear_places(control_fd: int) -> socket.socket:
    """Close what else was inherited, and occupy the numbers at which workers have their descriptors."""
    linux.close_from(control_fd + 1)
    control = socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, REPORT + 1))
    os.closerange(RPC, REPORT + 1)
    for _ in (RPC, AUX, REPORT):  # by sockets: the objects of workers are made before there are any
        socket.socket(socket.AF_UNIX).detach()
    os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0, inheritable=False)
    return control


# Workers --------------------------------------------------------------------------------------


class _Zygote:
    def __init__(
        self,
        control: socket.socket,
        proc: Proc,
        locks: Locks,
        serve: worker.Serve,
        *,
        own_pids: bool,
    ) -> None:
        self._control = control
        self._proc = proc
        self._locks = locks
        self._serve_as_worker = serve
        self._own_pids = proc.namespace("pid") if own_pids else None
        self._number = 0
        self._alive: dict[int, int] = {}
        """Numbers by pid of workers that are children of this process."""
        self._ended: dict[int, int] = {}
        """Wait statuses by number, until the host asks."""
        self._families: dict[int, Family] = {}
        """By number of a member."""
        self._listeners: dict[int, Family] = {}
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)

    def serve(self, namespaces: list[str]) -> NoReturn:
        facts = {
            "namespaces": namespaces,
            "landlock": self._locks.landlock,
            "syscalls": self._locks.syscalls,
            "threads": self._locks.threads,
            "open_files": OPEN_FILES,
        }
        self._answer({"ready": facts})
        while True:
            for descriptor, events in self._poll.poll():
                if descriptor == self._control.fileno():
                    self._serve_host()
                elif descriptor in self._listeners:  # else its family has just ended
                    self._serve_family(descriptor, events)

    def _serve_host(self) -> None:
        message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 3)
        if not message:
            os._exit(0)
        self._collect()
        operations: dict[str, Callable[[Any, list[int]], None]] = {
            "spawn": self._spawn, "reap": self._reap, "fork": self._fork_worker, "born": self._born,
        }  # fmt: skip
        ((operation, argument),) = json.loads(message).items()
        try:
            operations[operation](argument, descriptors)
        except StepFailed as failed:
            self._answer({"failed": failed.report})
        except OSError as error:  # one worker is not worth all others
            self._answer({"failed": StepFailed(operation, error).report})
        for descriptor in descriptors:
            os.close(descriptor)

    def _serve_family(self, listener: int, events: int) -> None:
        if events & select.EPOLLIN:
            self._listeners[listener].judge()
        else:  # none of its processes is left
            self._poll.unregister(listener)

    def _answer(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError:
            os._exit(0)

    def _collect(self) -> None:
        """Take the statuses of all that have ended: a namespace that waits for that slows down new ones."""
        while self._alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._alive:
                self._ended[self._alive.pop(pid)] = status
            for family in {*self._families.values()}:
                if family.first == pid:  # killed by somebody else, and all of its family with it
                    self._forget(family)

    def _wait(self, pid: int) -> None:
        if pid in self._alive:
            try:
                status = os.waitpid(pid, 0)[1]
            except ChildProcessError:  # it ended in a moment in which statuses are not kept
                status = -1
            self._ended[self._alive.pop(pid)] = status

    def _reap(self, number: int, _descriptors: list[int]) -> None:
        family = self._families[number]
        pid = family.pid(number)
        self._drop_fork(family, pid)
        del self._families[number], family.members[pid]
        self._wait(pid)
        if not family.members:
            self._end(family)
        self._answer({"status": self._ended.pop(number, -1)})

    def _end(self, family: Family) -> None:
        family.kill()
        for pid in family.members:
            self._wait(pid)
        self._listeners.pop(family.listener, None)
        family.end()

    def _forget(self, family: Family) -> None:
        self._listeners.pop(family.listener, None)
        family.forget()

    def _drop_fork(self, family: Family, pid: int) -> None:
        """End what comes of a fork that the host has begun, and asks no more about."""
        try:
            child = family.end_fork(pid, self._known())
        except StepFailed:
            self._end_unknown(family, pid)
        else:
            if child is not None:
                with suppress(ProcessLookupError):
                    _kill(child)

    def _known(self) -> set[int]:
        """Pids of all that there is, but for children that have not shown themselves yet."""
        return {pid for family in {*self._families.values()} for pid in (family.first, *family.members)}

    def _end_unknown(self, family: Family, parent: int) -> None:
        """End a process that was forked and does not show itself, and its parent; or all, where none can be seen."""
        looks = [self._proc.children(parent, beside=family.first, known=family.members) for _ in range(2)]
        # One look may come while the parent ends, and find neither it nor the child with its new one.
        unknown = None if None in looks else {pid for found in looks for pid in found or ()}
        if unknown is None:
            self._end(family)
        elif unknown:
            for pid in (*unknown, parent):
                with suppress(ProcessLookupError):
                    _kill(pid)

    def _spawn(self, request: dict[str, int], descriptors: list[int]) -> None:
        reading, writing = os.pipe()
        family = Family(namespace=self._own_pids is not None, pinning=self._locks.pinning)
        try:
            try:
                pid = self._fork(family, lambda: self._become_worker(request, [*descriptors, writing]))
            finally:
                os.close(writing)
            said = json.loads(os.read(reading, 4096) or b"{}")
            if "listener" not in said:
                os.waitpid(pid, 0)
                raise _Unborn(said)
            family.take_listener(pid, said["listener"])
        except (StepFailed, _Unborn) as failed:
            self._end(family)
            died = {"step": "lock in", "errno": 0, "error": "the worker ended"}
            self._answer({"failed": failed.report or died})
            return
        finally:
            os.close(reading)  # the worker goes on
        if family.listener >= 0:
            self._listeners[family.listener] = family
            self._poll.register(family.listener, select.EPOLLIN)
        self._number += 1
        self._alive[pid] = self._number
        self._welcome(family, pid)

    def _welcome(self, family: Family, pid: int) -> None:
        pidfd = linux.pidfd_open(pid)
        family.members[pid] = self._number
        self._families[self._number] = family
        self._answer({"spawned": self._number, "forks": family.listener >= 0}, (pidfd,))
        os.close(pidfd)

    def _family(self, number: int) -> Family:
        """The family of a worker that may fork. Raises StepFailed when the host has asked to reap it."""
        if number not in self._families:
            raise StepFailed("fork a REPL", OSError(0, "it has ended"))
        return self._families[number]

    def _fork_worker(self, number: int, descriptors: list[int]) -> None:
        family = self._family(number)
        family.begin_fork(family.pid(number), descriptors[0])
        self._answer({"forking": True})

    def _born(self, number: int, _descriptors: list[int]) -> None:
        family = self._family(number)
        try:
            pid = family.end_fork(family.pid(number), self._known())
        except StepFailed:
            self._end_unknown(family, family.pid(number))
            raise
        if pid is None:
            self._answer({"failed": {"step": "fork a REPL", "errno": 0, "error": "it did not fork"}})
            return
        self._number += 1
        self._welcome(family, pid)

    def _fork(self, family: Family, child: Callable[[], NoReturn]) -> int:
        """Fork; where there are namespaces, into those of a family, and come back to our own."""
        if self._own_pids is None:
            return _forked(child)
        family.enter()
        try:
            return _forked(child)
        finally:
            linux.setns(self._own_pids, linux.NEWPID)

    def _become_worker(self, request: dict[str, int], descriptors: list[int]) -> NoReturn:
        try:
            _place_descriptors(*descriptors)
            listener = self._locks.lock_in(request["memory"], request["scratch"], last=REPORT)
        except StepFailed as failed:
            os.write(REPORT, json.dumps(failed.report).encode())
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must not go on
            os.write(REPORT, json.dumps({"step": "lock in", "errno": 0, "error": repr(error)}).encode())
            os._exit(1)
        try:
            os.write(REPORT, b'{"listener": %d}' % listener)
            self._serve_as_worker(lambda: _close_off(listener))
        finally:
            traceback.print_exc()
            os._exit(1)


def _forked(child: Callable[[], NoReturn]) -> int:
    with step("fork a worker"):
        pid = os.fork()
    if not pid:
        child()
    return pid


def _kill(pid: int) -> None:
    """End a process that may be no child of this one, and wait until it has ended."""
    pidfd = linux.pidfd_open(pid)
    try:
        linux.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(1000)
    finally:
        os.close(pidfd)


class _Unborn(Exception):
    """A worker ended before it served."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(report)
        self.report = report


def _place_descriptors(rpc: int, aux: int, output: int, report: int) -> None:
    """Put what a worker keeps in its places; the template has them taken, so that what comes has other numbers."""
    for place, descriptor in ((1, output), (2, output), (RPC, rpc), (AUX, aux), (REPORT, report)):
        os.dup2(descriptor, place, inheritable=False)


def _close_off(listener: int) -> None:
    """Wait until the template has taken the filter's descriptor, and close this process to others of its user."""
    taken = select.poll()
    taken.register(REPORT, 0)
    taken.poll()
    linux.set_dumpable(False)
    if listener >= 0:
        os.close(listener)
    os.close(REPORT)
