"""Linux system calls that the standard library lacks: namespaces, mounts, Landlock, capabilities.

Thin over ctypes: every function either does what its name says or raises OSError. Policy is in
`zygote`. The numbers of system calls newer than 5.0 are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
ATTR_READ_ONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8

CAP_SYS_ADMIN = 1 << 21

_PIDFD_SEND_SIGNAL, _PIDFD_OPEN = 424, 434
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _MOUNT_SETATTR = 428, 429, 436, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_DROP = 1, 4, 15, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)
"""Keeps the interpreter's lock in a call."""
_ulong = ctypes.c_ulong


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: Any) -> int:
    """Make a system call by its number. Integers are widened, bytes are passed by address."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide), what)


def prctl(option: int, argument: int = 0) -> int:
    return _checked(
        _libc.prctl(option, _ulong(argument), _ulong(0), _ulong(0), _ulong(0)), f"prctl({option})"
    )


# Namespaces and processes ---------------------------------------------------------------------


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _checked(_libc.setns(descriptor, kind), "setns")


def fork() -> int:
    """Fork a process that has one thread; return the child's pid, 0 in it.

    Unlike `os.fork` this runs nothing of Python's in the child. That makes locks anew, which other threads may
    have held, and gives the child other randomness than its parent's: there are none, and who calls this
    wants the same, or seeds it. It would touch more memory than all else that a copy does first.
    """
    pid: int = _python.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    syscall("close_range", _CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def pidfd_open(pid: int) -> int:
    """As in `os`, which lacks it where Python was built with old headers."""
    return syscall("pidfd_open", _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """As in `signal`, which lacks it where Python was built with old headers."""
    syscall("pidfd_send_signal", _PIDFD_SEND_SIGNAL, pidfd, number, None, 0)


def set_name(name: str) -> None:
    """What lists of processes show, 15 characters; new processes of this one begin with it."""
    text = ctypes.create_string_buffer(name.encode())
    prctl(_PR_SET_NAME, ctypes.addressof(text))


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends. Changes of credentials undo it."""
    prctl(_PR_SET_PDEATHSIG, 9)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may trace this process and open its files in /proc."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privileges() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability, and every way to get one back."""
    _checked(
        _libc.prctl(_PR_CAP_AMBIENT, _ulong(_PR_CAP_AMBIENT_CLEAR_ALL), _ulong(0), _ulong(0), _ulong(0)),
        "ambient",
    )
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, _ulong(capability), _ulong(0), _ulong(0), _ulong(0)) == 0:
        capability += 1
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)), "capset")


# Mounts ---------------------------------------------------------------------------------------


def mount(kind: str, target: str, flags: int, options: str = "") -> None:
    """Mount a file system without a device; `kind` "" changes the propagation of what is there."""
    source = kind or "none"
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, _ulong(flags), options.encode() or None
    )
    _checked(result, f"mount {source} on {target}")


def clone_tree(path: str, held: int | None = None) -> int:
    """Return a descriptor of a detached copy of the mounts at and below a path.

    Args:
        held: a descriptor of what is at the path, which is not looked up again then.
    """
    flags = 1 | os.O_CLOEXEC | _AT_RECURSIVE
    if held is not None:
        return syscall(f"open_tree {path}", _OPEN_TREE, held, b"", flags | _AT_EMPTY_PATH)
    return syscall(f"open_tree {path}", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def restrict_tree(tree: int, attributes: int) -> None:
    """Add ATTR_* to every mount of a detached tree, keeping those it has."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", flags, wanted, len(wanted))


def restrict_mount(path: str, attributes: int) -> None:
    """Add ATTR_* to the one mount at a path."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscall(f"mount_setattr {path}", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), 0, wanted, len(wanted))


def attach_tree(tree: int, path: str) -> None:
    from_empty_path = 4
    syscall(f"move_mount {path}", _MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), from_empty_path)


def enter_root(path: str) -> None:
    """Make a mount the root, and let go of the old root with all that is mounted in it."""
    os.chdir(path)
    # Both arguments the same: the old root is stacked below the new one, and needs no directory in it.
    _checked(_libc.pivot_root(b".", b"."), f"pivot_root {path}")
    _checked(_libc.umount2(b".", _MNT_DETACH), "umount the old root")
    os.chdir("/")


# Landlock -------------------------------------------------------------------------------------

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_SYM, _REFER, _TRUNCATE = 1 << 12, 1 << 13, 1 << 14

READ_FILE = _READ_FILE
READ = _READ_FILE | _READ_DIR
WRITE_FILE = _WRITE_FILE
CHANGE = (
    READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE
)

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many file rights a version of the interface knows; 16 from version 5 on."""


def landlock_version() -> int:
    """The version of the kernel's Landlock interface; 0 where there is none."""
    version: int = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(version, 0)


def landlock(version: int, rules: dict[str, int]) -> None:
    """Deny this process all access to files but what the rules give, TCP, and signals and abstract
    sockets to the outside, as far as the version goes. Needs no_new_privs."""
    handled = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    wanted = struct.pack("=Q", handled)
    if version >= 4:
        bind_and_connect = 3
        wanted += struct.pack("=Q", bind_and_connect)
    if version >= 6:
        abstract_sockets_and_signals = 3
        wanted += struct.pack("=Q", abstract_sockets_and_signals)
    rules_fd = syscall("landlock_create_ruleset", _LANDLOCK_CREATE, wanted, len(wanted), 0)
    beneath_path = 1
    for path, access in rules.items():
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access & handled, directory)
        syscall(f"landlock_add_rule {path}", _LANDLOCK_ADD, rules_fd, beneath_path, rule, 0)
        os.close(directory)
    syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, rules_fd, 0)
    os.close(rules_fd)
