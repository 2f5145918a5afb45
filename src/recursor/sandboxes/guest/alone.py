"""A worker's locks where no namespaces are to be had: Landlock, seccomp and limits, on the host's own root.

Landlock keeps it from opening files, seccomp from sockets, processes, and signals to others, and from
changing what Landlock does not know (modes, owners, times, attributes). What neither hides: whether a
path exists, and what stat(2), readlink(2) and statfs(2) tell of it. Nothing can be written, since only a
mount of its own would bound how much.
"""

from __future__ import annotations

import errno
import os

from . import linux, seccomp
from .locks import Locks, limit
from .namespaces import DEVICES, NOBODY, Proc, step, visible

THREADS = 1000
"""More than a user may have had when the template process began."""
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 1 << 5, 1 << 6, 1 << 7


class LocksAlone(Locks):
    """The steps that lock a worker in without namespaces. Root becomes nobody, where nobody can run Python.

    Args:
        mounts: folders that it may read beside Python's.

    Raises:
        StepFailed: a step could never succeed here.
    """

    def __init__(self, proc: Proc, mounts: list[str]) -> None:
        with step("asking for Landlock"):
            if not linux.landlock_version():
                raise OSError(errno.ENOSYS, "this kernel has none (Linux 5.13 and later do), or has it off")
        paths = [path for path in [*visible(), *mounts] if not os.path.islink(path)]
        _become_nobody(proc, paths)
        super().__init__(proc)
        # Without a user namespace it is all threads of the user that count, and others come and go.
        self._most = THREADS + _threads_of(os.getuid(), proc)
        self.threads = THREADS if self.threads else 0
        self._rules = {path: _access(path) for path in paths}

    def lock_in(self, scratch: int, *, last: int) -> int:
        self._leave_the_group()
        os.chdir("/")
        with step("close_range"):  # the template has a descriptor for each of its workers
            linux.close_from(last + 1)
        with step("setrlimit"):
            limit(scratch, self._most)
        self._give_up()
        with step("landlock"):
            linux.landlock(self.landlock, self._rules)
        with step("seccomp"):
            changes = seccomp.alone(os.getpid(), self.landlock)
            return seccomp.Filter(os.uname().machine, changes).install()


def _access(path: str) -> int:
    if os.path.isdir(path):
        return linux.READ
    writable = path in DEVICES[:2]
    return linux.READ_FILE | (linux.WRITE_FILE if writable else 0)


def _become_nobody(proc: Proc, paths: list[str]) -> None:
    """Leave root, which the limit of threads is not for; but not where others may not read Python."""
    needed = _CAP_SETGID | _CAP_SETUID | _CAP_KILL  # the last for the host, which must be able to end it
    if os.getuid() or proc.capabilities() & needed != needed or not proc.maps(NOBODY):
        return
    child = os.fork()
    if not child:
        try:
            _as_nobody()
            os._exit(not all(os.access(path, os.R_OK) for path in paths))
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        with step("setresuid(nobody)"):
            _as_nobody()
            linux.set_dumpable(True)  # or it could not write its own oom_score_adj


def _as_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _threads_of(user: int, proc: Proc) -> int:
    """How many threads all processes of a user have."""
    found = 0
    for status in proc.statuses():
        if int(status["Uid"].split()[0]) == user:
            found += int(status["Threads"])
    return found
