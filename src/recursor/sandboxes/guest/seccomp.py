"""The system calls that code in a REPL may make: a seccomp filter, assembled here.

An allow-list: see `syscalls`. What is denied gets EPERM, what is in no list ENOSYS. A call of a foreign
architecture (32-bit, x32) kills the process: its numbers mean other things.

The rules rest on the rest of the jail: `kill` is allowed because the process has a pid namespace
of its own, `open` because there is nothing to open; where it has no namespaces, `alone` says more.
Descriptors that the host passes in are of the host, so calls that change the file behind a
descriptor (fchmod, futimens, flock) are not.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Mapping
from contextlib import suppress

from . import linux
from .syscalls import ALLOWED, ARCHITECTURES, DENIED, UNSUPPORTED, Architecture

_CLONE_THREAD = 0x10000
_NAMESPACES = (
    linux.NEWNS | linux.NEWCGROUP | linux.NEWUTS | linux.NEWIPC | linux.NEWUSER | linux.NEWPID | linux.NEWNET
)
_IOCTLS = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]
"""TCGETS and TIOCGWINSZ (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_FICLONE = 0x40049409
_FCNTLS = [0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 1034]
"""Duplicating, flags, record locks (SQLite takes them), sizes and seals read; no leases, owners or pipe sizes."""
_GETSOCKOPTS = [3, 4, 38, 39]
"""TYPE, ERROR, PROTOCOL, DOMAIN: not PEERPIDFD, which is a handle of the host."""
_SETSOCKOPTS = [9, 20, 21, 66, 67]
"""KEEPALIVE and time-outs: no buffer sizes, which are kernel memory, and no filters."""
_SET_DUMPABLE = 4
_PRCTLS = [3, 15, 16, 23, 0x53564D41]
"""GET_DUMPABLE, SET_NAME, GET_NAME, CAPBSET_READ, SET_VMA (names of maps, by malloc)."""
_SIGSTOP, _MODE_FILTER, _NEW_LISTENER = 19, 1, 8
_FORK = 0x1200011
"""SIGCHLD, CHILD_SETTID and CHILD_CLEARTID: what the C library's fork asks of clone, and nothing else."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN, _JUMP = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06, 0x05
_FARTHEST = 255
"""Instructions that a condition can pass over."""
_ALLOW, _KILL, _ERRNO, _NOTIFY = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_ENOTTY, _ENOTSUP = _ERRNO | errno.ENOTTY, _ERRNO | errno.ENOTSUP
_NUMBER, _ARCH = 0, 4
_AF_UNIX, _SOCK_STREAM, _TYPE_MASK, _AT_EMPTY_PATH = 1, 1, 0xF, 0x1000
_MFD_CLOEXEC = 1


def _op(code: int, operand: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, operand)


def _low(argument: int) -> int:
    """Offset of the low half of an argument: arguments are 64 bits wide, little-endian."""
    return 16 + 8 * argument


def _one_of(argument: int, values: list[int], otherwise: int) -> list[bytes]:
    """Allow when the argument is one of the values."""
    tests = [_op(_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [_op(_LOAD, _low(argument)), *tests, _op(_RETURN, otherwise), _op(_RETURN, _ALLOW)]


def _unless(argument: int, value: int) -> list[bytes]:
    """Allow when the argument is not the value."""
    test = [_op(_LOAD, _low(argument)), _op(_EQUAL, value, 0, 1)]
    return [*test, _op(_RETURN, _EPERM), _op(_RETURN, _ALLOW)]


_CONDITIONAL: dict[str, list[bytes]] = {
    # Threads, and neither processes nor namespaces. clone3 keeps its flags in memory, where a
    # filter cannot look; on ENOSYS the C library uses clone.
    "clone": [
        _op(_LOAD, _low(0)),
        _op(_ANY_BIT, _NAMESPACES, 2, 0),
        _op(_ANY_BIT, _CLONE_THREAD, 0, 1),
        _op(_RETURN, _ALLOW),
        _op(_RETURN, _EPERM),
    ],
    "clone3": [_op(_RETURN, _ENOSYS)],
    # Only streams: a datagram socket can be told where to send.
    "socketpair": [
        _op(_LOAD, _low(0)),
        _op(_EQUAL, _AF_UNIX, 0, 4),
        _op(_LOAD, _low(1)),
        _op(_AND, _TYPE_MASK),
        _op(_EQUAL, _SOCK_STREAM, 0, 1),
        _op(_RETURN, _ALLOW),
        _op(_RETURN, _EPERM),
    ],
    # Without an address.
    "sendto": [
        _op(_LOAD, _low(4)),
        _op(_EQUAL, 0, 0, 3),
        _op(_LOAD, _low(4) + 4),
        _op(_EQUAL, 0, 0, 1),
        _op(_RETURN, _ALLOW),
        _op(_RETURN, _EPERM),
    ],
    # With a path: without one it changes the file behind a descriptor.
    "utimensat": [
        _op(_LOAD, _low(3)),
        _op(_ANY_BIT, _AT_EMPTY_PATH, 4, 0),
        _op(_LOAD, _low(1)),
        _op(_EQUAL, 0, 0, 3),
        _op(_LOAD, _low(1) + 4),
        _op(_EQUAL, 0, 0, 1),
        _op(_RETURN, _EPERM),
        _op(_RETURN, _ALLOW),
    ],
    # To clone a file is what `Path.copy` tries first; this answer, of file systems that cannot, lets it go on.
    "ioctl": [
        _op(_LOAD, _low(1)),
        _op(_EQUAL, _FICLONE, 0, 1),
        _op(_RETURN, _ENOTSUP),
        *_one_of(1, _IOCTLS, _ENOTTY),
    ],
    "fcntl": _one_of(1, _FCNTLS, _EPERM),
    # Beside those a process may make itself less open to others: not dumpable.
    "prctl": [
        _op(_LOAD, _low(0)),
        _op(_EQUAL, _SET_DUMPABLE, 0, 3),
        _op(_LOAD, _low(1)),
        _op(_EQUAL, 0, len(_PRCTLS) + 3, 0),
        _op(_RETURN, _EPERM),
        *_one_of(0, _PRCTLS, _EPERM),
    ],
    "getsockopt": _one_of(2, _GETSOCKOPTS, _EPERM),
    "setsockopt": _one_of(2, _SETSOCKOPTS, _EPERM),
    # Of itself. Hard limits only go down.
    "prlimit64": _one_of(0, [0], _EPERM),
}

_FORKS: dict[str, list[bytes]] = {
    # A process, too, where who holds the filter's descriptor says so: see `families`.
    "clone": [
        _op(_LOAD, _low(0)),
        _op(_ANY_BIT, _NAMESPACES, 4, 0),
        _op(_ANY_BIT, _CLONE_THREAD, 0, 1),
        _op(_RETURN, _ALLOW),
        _op(_EQUAL, _FORK, 0, 1),
        _op(_RETURN, _NOTIFY),
        _op(_RETURN, _EPERM),
    ],
    # One more filter without a descriptor of its own (`pin`), where they say so.
    "seccomp": [
        _op(_LOAD, _low(0)),
        _op(_EQUAL, _MODE_FILTER, 0, 3),
        _op(_LOAD, _low(1)),
        _op(_EQUAL, 0, 0, 1),
        _op(_RETURN, _NOTIFY),
        _op(_RETURN, _EPERM),
    ],
    # Not to stop a process: nobody inside would let it go on.
    "kill": _unless(1, _SIGSTOP),
    "tkill": _unless(1, _SIGSTOP),
    "tgkill": _unless(2, _SIGSTOP),
    # Of itself: others are of the same user.
    "sched_setaffinity": _one_of(0, [0], _EPERM),
}


def pin(pid: int) -> None:
    """Let this process, for good, signal itself alone, by its number: those beside it are of the same user.

    A process that is forked from it has two of these filters, and signals nobody.
    """
    number, others, own = _pinning()
    program = _Program(others + _op(_EQUAL, pid, 0, 1) + own)
    linux.syscall("seccomp", number, _MODE_FILTER, 0, program.header)


@functools.cache
def _pinning() -> tuple[int, bytes, bytes]:
    """The number of seccomp(2), and what comes before and after the question of whether a signal is for a process."""
    architecture = ARCHITECTURES[os.uname().machine]
    signals = [architecture.numbers[name] for name in ("kill", "tkill", "tgkill")]
    program = [_op(_LOAD, _NUMBER)]
    program += [_op(_EQUAL, number, len(signals) - index, 0) for index, number in enumerate(signals)]
    program += [_op(_RETURN, _ALLOW), _op(_LOAD, _low(0))]
    return architecture.seccomp, b"".join(program), _op(_RETURN, _ALLOW) + _op(_RETURN, _EPERM)


_CHANGES = ("chmod", "fchmodat", "utime", "utimes", "utimensat")
"""Change what is at a path, beside its bytes."""
_ABOUT_ONE = (
    "sched_setaffinity", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "getpgid", "getsid",
    "get_robust_list",
)  # fmt: skip
"""Take the number of a process first, and tell of it or change it."""


def among_others(pid: int, alone: bool, changeable: bool) -> dict[str, list[bytes]]:
    """Rules for a process that may see others, and gets no descriptors from its host.

    Args:
        pid: its own.
        alone: whether its process group is its own.
        changeable: whether there may be files of its user that are not for it. Landlock keeps it from opening
            them, and not from changing their modes and times.
    """
    own = [0, pid] if alone else [pid]
    changes = _CHANGES if changeable else ()
    return {
        **{name: [_op(_RETURN, _EPERM)] for name in changes},
        **{name: _one_of(0, [0, pid], _EPERM) for name in _ABOUT_ONE},
        "getpriority": _one_of(1, [0, pid], _EPERM),
        "kill": _one_of(0, own, _EPERM),
        "tgkill": _one_of(0, [pid], _EPERM),
        "tkill": _one_of(0, [pid], _EPERM),  # of threads the first, which is interrupted
        "prlimit64": _one_of(0, [0, pid], _EPERM),
        # What a context is put together in. There is no execve for what code writes into one.
        "memfd_create": _one_of(1, [_MFD_CLOEXEC], _EPERM),
    }


def alone(pid: int, landlock: int) -> dict[str, list[bytes]]:
    """Rules for a process that shares the namespaces of its host: nothing but Landlock hides files there.

    Args:
        pid: its own, the only one that it may signal.
        landlock: the version; before 3 it lets files be truncated that it lets be read.
    """
    refused, own = [_op(_RETURN, _EPERM)], [0, pid]
    # O_PATH gives a descriptor of any file, which Landlock has no say in.
    flags = os.O_PATH | (os.O_TRUNC if landlock < 3 else 0)
    changes = dict.fromkeys(_CHANGES, refused)
    if landlock < 3:
        changes |= dict.fromkeys(("truncate", "creat"), refused)
    about_one = ("kill", "tkill", "tgkill", "prlimit64", *_ABOUT_ONE)
    changes |= {name: _one_of(0, own, _EPERM) for name in about_one}
    changes["getpriority"] = _one_of(1, own, _EPERM)
    for name, argument in (("open", 1), ("openat", 2)):
        test = [_op(_LOAD, _low(argument)), _op(_ANY_BIT, flags, 0, 1)]
        changes[name] = [*test, *refused, _op(_RETURN, _ALLOW)]
    return changes


class Filter:
    """A compiled filter, ready to be installed in many processes.

    Args:
        rules: by the name of a call, in place of those of the jail.
        forks: whether to ask who holds the descriptor of the filter when a process wants to fork.

    Raises:
        OSError: (ENOSYS) there is no table for this architecture.
    """

    def __init__(
        self, machine: str, rules: Mapping[str, list[bytes]] | None = None, *, forks: bool = False
    ) -> None:
        if machine not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise OSError(errno.ENOSYS, f"no table of system calls for {machine}; there is one for {known}")
        self._architecture = ARCHITECTURES[machine]
        rules = {**_CONDITIONAL, **(rules or {})}
        self._program = _Program(_assemble(self._architecture, rules))
        self._asking: _Program | None = None
        if forks:
            self._asking = _Program(_assemble(self._architecture, {**rules, **_FORKS}))
            _pinning()  # once here, and not in each copy
        numbers = self._architecture.numbers
        self.number = self._architecture.seccomp
        """Of seccomp(2) itself."""
        self.allowed = sum(name in numbers for name in ALLOWED if name not in rules)
        """System calls that are allowed whatever their arguments."""
        self.conditional = sum(name in numbers for name in rules) - 1
        """System calls that are allowed with some arguments; clone3 never is."""

    def install(self) -> int:
        """Bind this process to the filter for the rest of its life. Needs no_new_privs.

        Returns:
            The descriptor whose holder is asked about forks; -1 where nobody is, and none are allowed:
            by choice, or since another filter that asks is in force already.
        """
        number = self._architecture.seccomp
        if self._asking is not None:
            with suppress(OSError):
                return linux.syscall("seccomp", number, _MODE_FILTER, _NEW_LISTENER, self._asking.header)
        linux.syscall("seccomp", number, _MODE_FILTER, 0, self._program.header)
        return -1


class _Program:
    """A filter as the kernel takes it."""

    def __init__(self, program: bytes) -> None:
        self._memory = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: a count, padding, the address of the program.
        self.header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(self._memory))


def _assemble(architecture: Architecture, rules: Mapping[str, list[bytes]]) -> bytes:
    numbers = architecture.numbers
    bodies = {name: [_op(_RETURN, _ALLOW)] for name in ALLOWED}
    bodies |= rules
    bodies |= {name: [_op(_RETURN, _EPERM)] for name in DENIED if name not in rules}
    bodies |= {name: [_op(_RETURN, _ENOTSUP)] for name in UNSUPPORTED}
    verdicts = {numbers[name]: body for name, body in bodies.items() if name in numbers}
    program = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, architecture.audit, 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, architecture.first_foreign, 0, 1),
        _op(_RETURN, _KILL),
        *_search(_runs(verdicts)),
    ]
    return b"".join(program)


def _runs(verdicts: Mapping[int, list[bytes]]) -> list[tuple[int, list[bytes]]]:
    """Verdicts of all numbers: (the first of some in a row, what is done about each of them)."""
    runs: list[tuple[int, list[bytes]]] = []
    for number in range(max(verdicts) + 2):
        body = verdicts.get(number, [_op(_RETURN, _ENOSYS)])
        if not runs or runs[-1][1] != body:
            runs.append((number, body))
    return runs


def _search(runs: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """A search by halves: the kernel tries the whole filter for each call that there is, whenever it is put on."""
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    below, above = _search(runs[:middle]), _search(runs[middle:])
    if len(below) <= _FARTHEST:
        return [_op(_AT_LEAST, runs[middle][0], len(below), 0), *below, *above]
    return [_op(_AT_LEAST, runs[middle][0], 0, 1), _op(_JUMP, len(below)), *below, *above]
