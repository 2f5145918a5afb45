"""What a worker is locked into, beyond the jail that it shares: a user, a /tmp and limits of its own.

Nothing here can be undone by the process that it was done to.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

from . import linux, seccomp
from .memory import RESERVE
from .namespaces import INSIDE, SCRATCH, Proc, map_ids, step

THREADS = 400
OPEN_FILES = 256
SCRATCH_FILES = 20_000
STACK = 8 << 20


class Locks:
    """The steps that lock a freshly forked worker in, prepared by its template, which is in the jail.

    Raises:
        StepFailed: a step could never succeed here.
    """

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self._baseline = proc.address_space()
        self.landlock = linux.landlock_version()
        self.threads = THREADS if _threads_are_counted() else 0
        """How many a worker may have; 0 where nothing limits them."""
        self._filter = _filter()
        self.syscalls = self._filter.allowed + self._filter.conditional
        self.pinning = self._filter.number

    def lock_in(self, scratch: int, *, last: int) -> int:
        """Make this process a worker's, for good, but for its memory (`bound`), and the descriptor of its filter.

        That is returned (-1 where there is none). The template takes it out of this process, which has
        to close it then, and to make itself undumpable, before it serves anybody.

        Args:
            scratch: bytes of its private /tmp, and of the longest file in it.
            last: the last descriptor that it keeps.

        Raises:
            StepFailed: it must end at once.
        """
        self._leave_the_group()
        user, group = os.getuid(), os.getgid()
        with step("unshare(user, mount, ipc) for a worker"):
            # A user namespace of its own, so that RLIMIT_NPROC counts its threads alone.
            linux.unshare(linux.NEWUSER | linux.NEWNS | linux.NEWIPC)
        with step("write uid_map for a worker"):
            map_ids(self._proc, user, group)
        with step("mount /tmp for a worker"):
            options = f"mode=700,size={scratch},nr_inodes={SCRATCH_FILES},uid={INSIDE},gid={INSIDE}"
            linux.mount("tmpfs", SCRATCH, linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)
            os.chdir(SCRATCH)
        with step("close_range"):  # before the limit: the template has a descriptor for each of its workers
            linux.close_from(last + 1)
        with step("setrlimit"):
            limit(scratch, THREADS)
        self._give_up()
        if self.landlock:
            with step("landlock"):
                rules = {"/": linux.READ, SCRATCH: linux.CHANGE, "/dev": linux.WRITE_FILE}
                linux.landlock(self.landlock, rules)
        with step("seccomp"):
            return self._filter.install()

    def bound(self, memory: int) -> None:
        """Bound the address space of this process, beyond what it had when it was a template's."""
        _lower(resource.RLIMIT_AS, self._baseline + memory + RESERVE)

    def _leave_the_group(self) -> None:
        with step("setsid"):
            # kill(0) reaches a process group across pid namespaces: not the one of the template.
            os.setsid()
        with suppress(OSError):  # a courtesy to the host when the machine runs out of memory
            self._proc.write("oom_score_adj", "500")

    def _give_up(self) -> None:
        with step("drop capabilities"):
            linux.drop_capabilities()
            linux.set_no_new_privileges()
            linux.die_with_parent()
            linux.set_dumpable(True)  # until the template has taken the filter's descriptor out of it


def _filter() -> seccomp.Filter:
    with step("seccomp filter"):
        return seccomp.Filter(os.uname().machine, forks=True)


def _threads_are_counted() -> bool:
    """Whether RLIMIT_NPROC is for this user: it is not for root, also where root has lost its capabilities."""
    child = os.fork()
    if not child:
        try:
            linux.drop_capabilities()
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            grandchild = os.fork()
            if grandchild:
                os.waitpid(grandchild, 0)
        except BlockingIOError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def limit(scratch: int, threads: int) -> None:
    """Set the limits of this process but for that of memory; none of them is ever raised."""
    for kind, value in (
        (resource.RLIMIT_NPROC, threads),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_FSIZE, scratch),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
    ):
        _lower(kind, value)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))
