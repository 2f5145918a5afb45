"""Locks in a process that a command has started, as far as the place it is in allows.

In the jail of the host's machine the template process does all that a worker cannot do for itself;
here the process was started by somebody else, and gives up what it has: limits, capabilities, files
(Landlock), system calls (a filter). What could not be had is told, and the host decides. Linux only:
elsewhere nothing is given up, which is told, too.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import linux, memory, seccomp

OPEN_FILES = 1024
PROCESSES = 1 << 15
"""Counted for the user, whose other processes may be many: no bound for one REPL, and yet an end."""
PENDING = 256
STACK = 8 << 20
HIDDEN = {"boot", "dev", "etc", "home", "proc", "root", "run", "sys", "var"}
"""What of the root code may not read, but for a Python in it: what tells of the machine and of users."""
FILES = ("/etc/ld.so.cache", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/null")
_ARENA_MAX = -8


def lock_in(room: int | None, processes: bool) -> dict[str, Any]:
    """Give up what code need not have, and return what holds in this place now.

    Args:
        room: bytes of address space to leave beside what is in use; None is no bound.
        processes: whether code may start any; then neither Landlock nor a filter is put on, which
            programs would not bear.
    """
    missing: list[str] = []
    landlock = syscalls = 0
    if sys.platform != "linux":
        return _facts(0, 0, [f"locks of its own: this is {sys.platform}"])

    def step(name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (OSError, AttributeError, ValueError) as error:  # a C library may lack a function
            missing.append(f"{name}: {error}"[:200])

    step("limits", lambda: _limit(room))
    step("capabilities", linux.drop_capabilities)
    step("no_new_privs", linux.set_no_new_privileges)
    step("dumpable", lambda: linux.set_dumpable(False))
    facts = _facts(0, 0, missing)  # while /proc can be read
    if not processes:
        landlock = step("Landlock", _confine) or 0
        syscalls = step("seccomp", _filter) or 0
    return {**facts, "landlock": landlock, "syscalls": syscalls}


def _limit(room: int | None) -> None:
    """Bound memory: code then gets a MemoryError, where it would be killed. And whatever else has a bound."""
    bounds = {
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_STACK: STACK,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: PENDING,
    }
    if room is not None:
        with suppress(AttributeError, OSError):  # a C library without it has no arenas either
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)  # each arena takes 64 MB of address space, used or not
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        bounds[resource.RLIMIT_AS] = used + room + memory.RESERVE
        bounds[resource.RLIMIT_FSIZE] = room  # a context is put together in one file
    for kind, value in bounds.items():
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _confine() -> int:
    """Leave the files that Python may need, read-only, and the temporary folder; return Landlock's version."""
    version = linux.landlock_version()
    if not version:
        raise OSError("the kernel, or a filter of the place, does not have it")
    rules = {f"/{name}": linux.READ for name in os.listdir("/") if name not in HIDDEN}
    rules |= dict.fromkeys((sys.prefix, sys.base_prefix, *sys.path), linux.READ)
    rules = {path: access for path, access in rules.items() if os.path.isdir(path) and path != "/"}
    rules |= {path: linux.READ_FILE for path in FILES if os.path.exists(path)}
    if os.devnull in rules:
        rules[os.devnull] |= linux.WRITE_FILE
    scratch = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - the place's own
    if os.path.isdir(scratch):
        rules[scratch] = linux.CHANGE
    linux.landlock(version, rules)
    return version


def _filter() -> int:
    """Put the filter of system calls on; return how many it allows."""
    alone = os.getpgrp() == os.getpid()
    changeable = not os.statvfs("/").f_flag & os.ST_RDONLY
    filter_ = seccomp.Filter(os.uname().machine, seccomp.among_others(os.getpid(), alone, changeable))
    filter_.install()
    return filter_.allowed + filter_.conditional


def _facts(landlock: int, syscalls: int, missing: list[str]) -> dict[str, Any]:
    """What this process finds itself in. The host does not open a container that is weaker than asked for."""
    status: dict[str, str] = {}
    with suppress(OSError), open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    interfaces: list[str] | None = None
    with suppress(OSError):
        interfaces = [name for _, name in socket.if_nameindex()]
    return {
        "uid": os.geteuid(),
        "capabilities": int(status["CapEff"], 16) if "CapEff" in status else None,
        "read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "interfaces": interfaces,
        "no_new_privileges": status["NoNewPrivs"] == "1" if "NoNewPrivs" in status else None,
        "seccomp": int(status["Seccomp"]) if "Seccomp" in status else None,
        "landlock": landlock,
        "syscalls": syscalls,
        "missing": missing,
    }
