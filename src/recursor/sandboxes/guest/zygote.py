"""The template process: builds the jail once, then forks a locked-in worker for every request.

It imports what workers need, moves into namespaces whose root holds Python and its libraries and
nothing else, and becomes pid 1 of a pid namespace: when it ends, by any cause, all workers end. Where
it is told to do without namespaces ("alone"), workers are locked in by `alone`, and die of its death.
It never runs code of a model. A worker runs some only after every step of `Locks.lock_in` succeeded.

Control socket (SEQPACKET, JSON), one request at a time:
  <- {"begin": {"tier": "namespaces" or "alone", "mounts": {place: folder}}} once, at the start
  -> {"ready": {...}} or {"failed": step} once, then
  <- {"spawn": {"memory": bytes, "scratch": bytes}} with descriptors rpc, aux, output
  -> {"spawned": number} with a pidfd, or {"failed": step}
  <- {"reap": number}      the process has ended, or is about to
  -> {"status": wait status}
A step is {"step": name, "errno": number, "error": text}. The end of the socket ends the zygote.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from . import linux, worker
from .alone import LocksAlone
from .locks import OPEN_FILES, Locks
from .namespaces import SCRATCH, Proc, StepFailed, enter_jail, step

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
        _Zygote(control, proc, locks, own_pids="pid" in entered).serve(entered)
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
    gc.collect()
    gc.freeze()
    locks = Locks(proc) if tier == "namespaces" else LocksAlone(proc, list(mounts))
    return locks, sorted(name for name, identity in proc.namespaces().items() if identity != outside[name])


def _clear_places(control_fd: int) -> socket.socket:
    """Close what else was inherited, and occupy the numbers at which workers have their descriptors."""
    linux.close_from(control_fd + 1)
    control = socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, REPORT + 1))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for place in (RPC, AUX, REPORT):
        if place != null:
            os.dup2(null, place, inheritable=False)
    return control


# Workers --------------------------------------------------------------------------------------


class _Zygote:
    def __init__(self, control: socket.socket, proc: Proc, locks: Locks, *, own_pids: bool) -> None:
        self._control = control
        self._locks = locks
        self._own_pids = proc.namespace("pid") if own_pids else None
        self._number = 0
        self._alive: dict[int, int] = {}
        """Numbers of workers by pid."""
        self._ended: dict[int, int] = {}
        """Wait statuses by number, until the host asks."""

    def serve(self, namespaces: list[str]) -> NoReturn:
        facts = {
            "namespaces": namespaces,
            "landlock": self._locks.landlock,
            "syscalls": self._locks.syscalls,
            "threads": self._locks.threads,
            "open_files": OPEN_FILES,
        }
        self._answer({"ready": facts})
        operations: dict[str, Callable[[Any, list[int]], None]] = {"spawn": self._spawn, "reap": self._reap}
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 3)
            if not message:
                os._exit(0)
            self._collect()
            ((operation, argument),) = json.loads(message).items()
            operations[operation](argument, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

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
            self._ended[self._alive.pop(pid)] = status

    def _reap(self, number: int, _descriptors: list[int]) -> None:
        for pid, candidate in list(self._alive.items()):
            if candidate == number:
                self._ended[number] = os.waitpid(pid, 0)[1]
                del self._alive[pid]
        self._answer({"status": self._ended.pop(number)})

    def _spawn(self, request: dict[str, int], descriptors: list[int]) -> None:
        report, write_report = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(lambda: self._become_worker(request, descriptors, write_report))
        except StepFailed as step:
            os.close(report)
            self._answer({"failed": step.report})
            return
        finally:
            os.close(write_report)
        pidfd = linux.pidfd_open(pid)
        with open(report, "rb") as file:
            failed = file.read()
        if failed:
            os.waitpid(pid, 0)
            self._answer({"failed": json.loads(failed)})
        else:
            self._number += 1
            self._alive[pid] = self._number
            self._answer({"spawned": self._number}, (pidfd,))
        os.close(pidfd)

    def _fork(self, child: Callable[[], NoReturn]) -> int:
        """Fork; where there are namespaces, into a new one of pids, and come back to our own."""
        if self._own_pids is None:
            return _forked(child)
        with step("unshare(pid) for a worker"):
            linux.unshare(linux.NEWPID)
        try:
            return _forked(child)
        finally:
            linux.setns(self._own_pids, linux.NEWPID)

    def _become_worker(self, request: dict[str, int], descriptors: list[int], report: int) -> NoReturn:
        try:
            _place_descriptors(descriptors, report)
            self._locks.lock_in(request["memory"], request["scratch"], last=REPORT)
        except StepFailed as failed:
            os.write(REPORT, json.dumps(failed.report).encode())
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must not go on
            os.write(REPORT, json.dumps({"step": "lock in", "errno": 0, "error": repr(error)}).encode())
            os._exit(1)
        try:
            os.close(REPORT)
            worker.serve(RPC, AUX)
        finally:
            traceback.print_exc()
            os._exit(1)


def _forked(child: Callable[[], NoReturn]) -> int:
    with step("fork a worker"):
        pid = os.fork()
    if not pid:
        child()
    return pid


def _place_descriptors(descriptors: list[int], report: int) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    rpc, aux, output = descriptors
    wanted = {0: null, 1: output, 2: output, RPC: rpc, AUX: aux, REPORT: report}
    # Copies above the places first: a place may be the number of something that is still needed.
    copies = {place: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 16) for place, source in wanted.items()}
    for place, copy in copies.items():
        os.dup2(copy, place, inheritable=False)
