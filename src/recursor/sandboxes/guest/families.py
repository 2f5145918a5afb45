"""The processes of one REPL: a worker, and what was forked from it.

They share a pid namespace. Its first process shares the memory of the template and waits in the C
library for ever: it runs nothing and costs nothing, is no child of any of them, so that each may end
before the others, and all end with it.

A worker's filter stops it when it wants to fork, and asks who holds the filter's descriptor: this
file, which says yes to the one process that the host has named, once for each time that it has, and
no to everything else. The process that comes of it gives up, once more by permission, to signal any
but itself. It holds an end of a socket that the host has made for it, on which the kernel says who
it is. Where one does not show itself there, it and who has forked it are ended.

They also share a user, a /tmp, and the limit of threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Container
from contextlib import suppress

from . import linux
from .namespaces import StepFailed, step

MOST = 80
"""Processes of one family: children of a run that start from its REPL, and the states that are kept of each."""
_STACK = 1 << 14
_WITH_TEMPLATE = 0x100 | 0x400
"""CLONE_VM and CLONE_FILES: no copy of either is made, and no descriptor is held open by one."""
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_REQUEST, _HEAD, _ANSWER = 80, struct.Struct("=QIIi"), struct.Struct("=QqiI")
"""struct seccomp_notif: its size, and its id, pid, flags and number of the call; struct seccomp_notif_resp."""
_CREDENTIALS = struct.Struct("=iII")
_PIDFD_GETFD = 438
_PATIENCE = 0.02
"""Seconds to wait for a question that was there."""

_libc = ctypes.CDLL(None, use_errno=True)


class Family:
    """One REPL's processes, as their template holds them.

    Args:
        namespace: whether they have one of their own; without it there is one process, which cannot fork.
        pinning: the number of the call by which a new process gives up to signal others: seccomp(2).

    Attributes:
        first: the pid of the first process; 0 when all has ended, or without a namespace.
        listener: of the filter of all of them; -1 where it is not to be had, and nothing forks.
        members: numbers, by pid, of those that the host has not asked to reap.
    """

    def __init__(self, *, namespace: bool, pinning: int) -> None:
        self._stack = ctypes.create_string_buffer(_STACK)
        self.first = 0
        if namespace:
            with step("clone the first process of a pid namespace"):
                self.first = self._wait_for_ever()
        self.listener = -1
        self.members: dict[int, int] = {}
        self._births: dict[int, socket.socket] = {}
        """Where the child of a member is to show itself, by the member's pid."""
        self._allowed: set[int] = set()
        """Those of them that may fork, until they have."""
        self._pinning = pinning
        self._unpinned = False
        """Whether there may be one that has not yet."""

    def _wait_for_ever(self) -> int:
        top = (ctypes.addressof(self._stack) + _STACK) & ~15
        wait = ctypes.cast(_libc.pause, ctypes.c_void_p)
        # It inherits this, so that orphans leave nothing behind.
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        flags = _WITH_TEMPLATE | linux.NEWPID | signal.SIGCHLD
        pid: int = _libc.clone(wait, ctypes.c_void_p(top), flags, None)
        signal.signal(signal.SIGCHLD, before)
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return pid

    def enter(self) -> None:
        """Let children of this process be born into the namespace."""
        place = linux.pidfd_open(self.first)
        try:
            with step("setns(pid) for a worker"):
                linux.setns(place, linux.NEWPID)
        finally:
            os.close(place)

    def take_listener(self, pid: int, descriptor: int) -> None:
        """Take the descriptor of its filter from a worker that has not begun to serve."""
        if descriptor < 0:
            return
        pidfd = linux.pidfd_open(pid)
        try:
            with suppress(OSError):  # the machine forbids it, and nothing forks
                self.listener = linux.syscall("pidfd_getfd", _PIDFD_GETFD, pidfd, descriptor, 0)
        finally:
            os.close(pidfd)

    def pid(self, number: int) -> int:
        return next(pid for pid, candidate in self.members.items() if candidate == number)

    def judge(self) -> None:
        """Answer a process that wants to fork, or to be pinned."""
        request = bytearray(_REQUEST)
        try:
            # Who asked may have been killed meanwhile: then this waits for who asks next.
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, request)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            number, caller, _, call = _HEAD.unpack_from(request)
            pins = call == self._pinning
            allowed = self._unpinned and caller not in self.members if pins else caller in self._allowed
            answer = (0, _CONTINUE) if allowed else (-errno.EPERM, 0)
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(number, 0, *answer))
        except OSError:
            return  # it has ended, or was interrupted and asks again
        if allowed and not pins:
            self._allowed.remove(caller)
            self._unpinned = True

    def begin_fork(self, pid: int, birth: int) -> None:
        """Allow a member to fork once; its child is to show itself at the other end of `birth`.

        Not where nobody is asked, while one of its forks is under way, nor where there are as many as may be.
        """
        if self.listener < 0 or pid in self._births or len(self.members) >= MOST:
            return
        self._births[pid] = end = socket.socket(fileno=os.dup(birth))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        end.setblocking(False)
        self._allowed.add(pid)

    def end_fork(self, pid: int, known: Container[int]) -> int | None:
        """Take the permission back; return the pid of the child that came of it, None when none did.

        Args:
            known: pids that are of others: a child that has ended leaves its own to who comes next.

        Raises:
            StepFailed: the member has forked, and the child does not show itself.
        """
        if pid not in self._births:
            return None
        forked = pid not in self._allowed
        self._allowed.discard(pid)
        with self._births.pop(pid) as end:
            self._unpinned = self._unpinned and bool(self._births)
            try:
                said, ancillary, _, _ = end.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                said, ancillary = b"", []
        found: list[int] = [
            _CREDENTIALS.unpack(data)[0]
            for level, kind, data in ancillary
            if said and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
        ]
        if not forked:
            return None
        if not found or found[0] <= 0 or found[0] in known:
            raise _refused("the new process did not show itself")
        return found[0]

    def kill(self) -> None:
        """End all of it. Members that are children of this process are then to be waited for, and `end` called."""
        if self.first:
            os.kill(self.first, signal.SIGKILL)

    def end(self) -> None:
        """Wait until none of it is left."""
        if self.first:
            os.waitpid(self.first, 0)
        self.forget()

    def forget(self) -> None:
        """Note that its first process has ended, and was waited for."""
        self.first = 0
        self._allowed.clear()
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1
        for end in self._births.values():
            end.close()
        self._births.clear()


def _refused(why: str) -> StepFailed:
    return StepFailed("fork a REPL", OSError(0, why))
