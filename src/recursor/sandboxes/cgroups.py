"""Control groups: a bound on what the workers of one template process take together.

A group is made below the one that this process is in, so that nothing leaves it: in version 2, where it was
delegated (a service or scope with Delegate=yes, a container with a writable /sys/fs/cgroup), or in
version 1 as root. Nothing else is asked for and nothing is configured. In version 2 a group that has processes of its
own cannot have groups with controllers; this process then moves into one beside, with all that it has started, if
nobody else is there.

What the kernel takes for workers counts, too: /tmp, pipes, sockets, page tables. When the bound is
reached it kills one of them.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TASKS = 8192
"""Processes and threads of all workers together."""
_GONE = 1.0
"""Seconds that what was killed takes at most to leave its group."""
_HOST = "recursor-host"
_TRIES = 20
"""How often a group is emptied into which processes are forked meanwhile."""

_numbers = itertools.count(1)


class NoGroup(Exception):
    """There is no group to be had; the text says why."""


@dataclass(frozen=True)
class Group:
    """A control group with a process in it, and all that it starts."""

    folders: tuple[Path, ...]
    """In version 1 one for each controller."""
    version: int
    memory: int

    def __str__(self) -> str:
        return f"{self.memory >> 20:,} MB of all REPLs together (cgroup v{self.version})"

    def kills(self) -> int:
        """How many of its processes the kernel has ended because the memory was full."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with suppress(OSError, ValueError):
            rows = dict(line.split() for line in (self.folders[0] / name).read_text("ascii").splitlines())
            return int(rows["oom_kill"])
        return 0

    def close(self) -> None:
        """Remove it; blocks until the last of its processes, which somebody has killed, is gone."""
        end = time.monotonic() + _GONE
        for folder in self.folders:
            while folder.exists() and not _removed(folder) and time.monotonic() < end:
                time.sleep(0.005)


class Bound:
    """What holds for all workers together: a group, or the reason why there is none, where one was wanted."""

    def __init__(self, group: Group | None = None, missing: str = "") -> None:
        self.group = group
        self.missing = missing
        self._lock = threading.Lock()
        self._kills = 0

    def reason(self, status: int) -> str:
        """Why a process with this wait status was killed, where the group did it; else nothing."""
        if self.group is None or not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            return ""
        with self._lock:
            before, self._kills = self._kills, self.group.kills()
            if self._kills == before:
                return ""
        return f": the memory that all REPLs share was full ({self.group.memory >> 20:,} MB); use less of it"

    def close(self) -> None:
        if self.group is not None:
            self.group.close()


NO_BOUND = Bound()


def bound(pid: int, memory: int) -> Bound:
    """Put a process into a group, if one can be had."""
    try:
        return Bound(confine(pid, memory))
    except NoGroup as why:
        return Bound(missing=str(why))


def confine(pid: int, memory: int, root: Path = Path("/")) -> Group:
    """Put a process into a new group with bounds.

    Args:
        memory: bytes.
        root: where /proc and /sys are.

    Raises:
        NoGroup: none can be had.
    """
    refusals = []
    for attempt in (_version_2, _version_1):
        try:
            return attempt(pid, memory, root)
        except NoGroup as refused:
            refusals.append(str(refused))
        except OSError as error:
            refusals.append(f"{error.filename}: {error.strerror}")
    raise NoGroup("; ".join(refusals))


def _version_2(pid: int, memory: int, root: Path) -> Group:
    own = _own("", root)
    if own is None:
        raise NoGroup("no cgroup v2 is mounted")
    if own.name == _HOST:  # this process made room before
        own = own.parent
    if "memory" not in (own / "cgroup.controllers").read_text("ascii").split():
        raise NoGroup("cgroup v2 has no memory controller here")
    if "memory" not in (own / "cgroup.subtree_control").read_text("ascii").split():
        _make_room(own, root)
    group = _made(own)
    try:
        (group / "memory.max").write_text(str(memory), "ascii")
        with suppress(OSError):  # where there is no swap there is no such file
            (group / "memory.swap.max").write_text("0", "ascii")
        with suppress(OSError):  # not every place delegates it
            (group / "pids.max").write_text(str(TASKS), "ascii")
        (group / "cgroup.procs").write_text(str(pid), "ascii")
    except OSError:
        _removed(group)
        raise
    return Group((group,), 2, memory)


def _make_room(own: Path, root: Path) -> None:
    """Let groups below this one have controllers, which none may have beside processes."""
    for _ in range(_TRIES):
        inside = [int(number) for number in (own / "cgroup.procs").read_text("ascii").split()]
        if not all(_ours(number, root) for number in inside):
            raise NoGroup(f"{own} has other processes in it than this one and what it has started")
        if inside:
            (own / _HOST).mkdir(exist_ok=True)
        for number in inside:
            with suppress(ProcessLookupError):
                (own / _HOST / "cgroup.procs").write_text(str(number), "ascii")
        try:
            (own / "cgroup.subtree_control").write_text("+memory", "ascii")
            break
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    else:
        raise NoGroup(f"{own} is never without processes")
    with suppress(OSError):
        (own / "cgroup.subtree_control").write_text("+pids", "ascii")


def _ours(number: int, root: Path) -> bool:
    """Whether this is the process that asks, or one that it or its children have started."""
    while number > 1 and number != os.getpid():
        try:
            fields = (root / f"proc/{number}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            return True
        number = int(fields.rpartition(b")")[2].split()[1])
    return number == os.getpid()


def _version_1(pid: int, memory: int, root: Path) -> Group:
    own = _own("memory", root)
    if own is None:
        raise NoGroup("no memory controller of cgroup v1 is mounted")
    folders = [_made(own)]
    try:
        (folders[0] / "memory.limit_in_bytes").write_text(str(memory), "ascii")
        (folders[0] / "cgroup.procs").write_text(str(pid), "ascii")
        with suppress(OSError):
            counting = _own("pids", root)
            if counting is not None:
                folders.append(_made(counting))
                (folders[1] / "pids.max").write_text(str(TASKS), "ascii")
                (folders[1] / "cgroup.procs").write_text(str(pid), "ascii")
    except OSError:
        for folder in folders:
            _removed(folder)
        raise
    return Group(tuple(folders), 1, memory)


def _own(controller: str, root: Path) -> Path | None:
    """The group of this process as a folder, by controller; "" is version 2's."""
    path = next((path for names, path in _memberships(root) if controller in names.split(",")), None)
    if path is None:
        return None
    for place, shown, kind, options in _mounts(root):
        matches = kind == "cgroup2" if not controller else kind == "cgroup" and controller in options
        if matches:
            below = Path(path).relative_to(shown) if Path(path).is_relative_to(shown) else Path()
            return root / place.lstrip("/") / below
    return None


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
        _, names, path = line.split(":", 2)
        yield names, path


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Where control groups are mounted: the place, what of the hierarchy is shown there, the kind, the options."""
    for line in (root / "proc/self/mountinfo").read_text("utf-8").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind.startswith("cgroup"):
            yield left.split()[4], left.split()[3], kind, options.split(",")


def _made(own: Path) -> Path:
    """A new group; those of processes that are gone are removed."""
    for old in own.glob("recursor-*-*"):
        if not Path("/proc", old.name.split("-")[1]).exists():
            _removed(old)
    group = own / f"recursor-{os.getpid()}-{next(_numbers)}"
    group.mkdir()
    return group


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
