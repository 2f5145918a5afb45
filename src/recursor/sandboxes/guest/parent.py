"""The template process as the parent of workers: the requests of the host, one at a time. See `zygote`."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from . import linux
from .families import Family
from .locks import OPEN_FILES, Locks
from .namespaces import Proc, StepFailed, step
from .newcomers import Newcomer, addressed, failed

_NAME = "recursor"
"""Of the process."""
_FDS = socket.CMSG_LEN(3 * array("i").itemsize)
"""Bytes of the most descriptors that come at once."""
RPC, AUX, DOOR = 3, 4, 5
"""Where workers have their descriptors; the last till they are addressed."""


class Parent:
    """Serves the host: forks workers, asks and is asked about forks of theirs, and tells how each has ended.

    Args:
        control: the other end is the host's.
        locks: what locks a worker in.
        serve: what a worker does then.
        own_pids: whether this process is in a PID namespace of its own, and each family gets one.
    """

    def __init__(
        self,
        control: socket.socket,
        proc: Proc,
        locks: Locks,
        serve: Callable[[], NoReturn],
        *,
        own_pids: bool,
    ) -> None:
        self._control = control
        self._proc = proc
        self._locks = locks
        self._serve_as_worker = serve
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, DOOR)
        """Of a worker. Here it leads nowhere."""
        self._own_pids = proc.namespace("pid") if own_pids else None
        self._number = 0
        self._alive: dict[int, int] = {}
        """Numbers by pid of workers that are children of this process."""
        self._ended: dict[int, int] = {}
        """Wait statuses by number, until the host asks."""
        self._families: dict[int, Family] = {}
        """By number of a member."""
        self._listeners: dict[int, Family] = {}
        self._newcomer: Newcomer | None = None
        """Locked in, or about to be, and the next that the host gets."""
        self._scratch = (0, 0)
        """Bytes of the /tmp of the last two that the host was given."""
        signal.signal(signal.SIGALRM, lambda *_: None)  # ends a wait of `Family.judge`
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
            events = dict(self._poll.poll())
            if self._control.fileno() in events:
                # First: whether a process may fork was said before it tries to. Then what else there is has
                # to be asked anew: numbers of descriptors may mean other things now.
                self._serve_host()
                self._look_ahead()
                continue
            for descriptor, happened in events.items():
                if descriptor in self._listeners:
                    self._serve_family(descriptor, happened)
                elif self._newcomer is not None and descriptor == self._newcomer.door.fileno():
                    self._receive(self._newcomer)
            self._look_ahead()

    def _serve_host(self) -> None:
        """Do all that the host has asked for."""
        while True:
            try:  # not recv_fds, which forgets its flags
                message, ancillary, _, _ = self._control.recvmsg(4096, _FDS, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not message:
                os._exit(0)
            descriptors = array("i")
            for _level, _kind, data in ancillary:
                descriptors.frombytes(data)
            self._serve_request(message, descriptors.tolist())

    def _serve_request(self, message: bytes, descriptors: list[int]) -> None:
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
            self._ignore(listener)

    def _ignore(self, listener: int) -> None:
        """Ask no more about a listener. To close it is not enough: a worker that is being born has a copy."""
        if self._listeners.pop(listener, None) is not None:
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
        self._ignore(family.listener)
        family.end()

    def _forget(self, family: Family) -> None:
        self._ignore(family.listener)
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
        memory, scratch = request["memory"], request["scratch"]
        newcomer = self._newcomer
        if newcomer is not None and newcomer.scratch == scratch:
            self._newcomer = None
            if self._give(newcomer, memory, descriptors):
                return
        newcomer = self._begin(scratch)
        if not self._give(newcomer, memory, descriptors):
            self._answer({"failed": newcomer.report})

    def _give(self, newcomer: Newcomer, memory: int, descriptors: list[int]) -> bool:
        """Let the host have a newcomer; return False where it has come to nothing."""
        try:
            if not self._admit(newcomer):
                return False
            newcomer.address(memory, descriptors)
        except OSError:
            self._dismiss(newcomer)
            return False
        self._scratch = (self._scratch[1], newcomer.scratch)
        self._welcome(newcomer.family, newcomer.pid)
        return True

    def _begin(self, scratch: int) -> Newcomer:
        """Fork a worker that locks itself in. Raises StepFailed."""
        self._number += 1
        linux.set_name(f"family-{self._number}")
        family = Family(namespace=self._own_pids is not None, pinning=self._locks.pinning)
        door, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        linux.set_name(f"next-{self._number}")
        try:
            with inside:
                pid = self._fork(family, lambda: self._become_worker(scratch, inside.fileno()))
        except StepFailed:
            door.close()
            self._end(family)
            raise
        finally:
            linux.set_name(_NAME)
        self._alive[pid] = self._number
        self._enter(family, pid)
        self._poll.register(door, select.EPOLLIN)
        return Newcomer(self._number, pid, family, scratch, door)

    def _admit(self, newcomer: Newcomer) -> bool:
        """Wait until it has locked itself in; return whether it has. It is gone where it has not."""
        if newcomer.admitted:
            return True
        self._poll.unregister(newcomer.door)
        try:
            admitted = newcomer.admit()
        except OSError:
            admitted = False
        listener = newcomer.family.listener
        if not admitted:
            self._dismiss(newcomer)
        elif listener >= 0:
            self._listeners[listener] = newcomer.family
            self._poll.register(listener, select.EPOLLIN)
        return admitted

    def _receive(self, newcomer: Newcomer) -> None:
        if not self._admit(newcomer):
            self._newcomer, self._scratch = None, (0, 0)  # who asks for one will hear of it

    def _dismiss(self, newcomer: Newcomer) -> None:
        with suppress(OSError):  # it was admitted
            self._poll.unregister(newcomer.door)
        newcomer.door.close()
        with suppress(ProcessLookupError):
            os.kill(newcomer.pid, signal.SIGKILL)
        self._end(newcomer.family)
        del self._families[newcomer.number]
        self._ended.pop(newcomer.number, None)

    def _look_ahead(self) -> None:
        """Begin the worker that the host will ask for next."""
        before, last = self._scratch
        newcomer = self._newcomer
        if not last or (newcomer is not None and (newcomer.scratch == last or before != last)):
            return
        self._newcomer = None
        if newcomer is not None:
            self._dismiss(newcomer)
        try:
            self._newcomer = self._begin(last)
        except (StepFailed, OSError):
            self._scratch = (0, 0)  # who asks for one will hear of it

    def _enter(self, family: Family, pid: int) -> None:
        """Note a process of a family under the last number."""
        family.members[pid] = self._number
        self._families[self._number] = family

    def _welcome(self, family: Family, pid: int) -> None:
        pidfd = linux.pidfd_open(pid)
        if pid not in family.members:
            self._enter(family, pid)
        self._answer({"spawned": family.members[pid], "forks": family.listener >= 0}, (pidfd,))
        os.close(pidfd)

    def _fork_worker(self, number: int, descriptors: list[int]) -> None:
        if number in self._families:
            family = self._families[number]
            with suppress(OSError):  # no room for a descriptor: it may not
                family.begin_fork(family.pid(number), descriptors[0])

    def _born(self, number: int, _descriptors: list[int]) -> None:
        if number not in self._families:  # the host has asked to reap it
            raise StepFailed("fork a REPL", OSError(0, "it has ended"))
        family = self._families[number]
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

    def _become_worker(self, scratch: int, door: int) -> NoReturn:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for place, descriptor in ((1, 0), (2, 0), (DOOR, door)):
                os.dup2(descriptor, place, inheritable=False)
            listener = self._locks.lock_in(scratch, last=DOOR)
        except StepFailed as step:
            failed(self._door, step.report)
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker must not go on
            failed(self._door, {"step": "lock in", "errno": 0, "error": repr(error)})
            os._exit(1)
        try:
            memory, descriptors = addressed(self._door, listener)
            linux.set_name(f"repl-{self._number}")
            self._locks.bound(memory)
            _place_descriptors(*descriptors)
            self._serve_as_worker()
        finally:
            traceback.print_exc()
            os._exit(1)


def _forked(child: Callable[[], NoReturn]) -> int:
    with step("fork a worker"):
        pid = linux.fork()
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


def _place_descriptors(rpc: int, aux: int, output: int) -> None:
    """Put what a worker keeps in its places; these are taken till then, so that what comes has other numbers."""
    for place, descriptor in ((1, output), (2, output), (RPC, rpc), (AUX, aux)):
        os.dup2(descriptor, place, inheritable=False)
    for descriptor in (rpc, aux, output):
        os.close(descriptor)
