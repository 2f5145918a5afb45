"""The jail that all workers share: namespaces whose root holds Python and its libraries, and nothing else.

Every step either succeeds or raises `StepFailed`, which says which one it was.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress

from . import linux

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
EXTRAS = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SCRATCH = "/tmp"  # noqa: S108 - inside, where it is private

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
NOBODY = 65534
INSIDE = 1000
"""The user and group that a worker sees itself as."""

_ROOT = "/tmp"  # noqa: S108 - a place to mount on that exists everywhere; nothing is written to the one outside
_OF_A_MOUNT = linux.ATTR_READ_ONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV | linux.ATTR_NOEXEC
_ID_MAPS = ("uid_map", "gid_map")


class StepFailed(Exception):
    """A step of the isolation could not be made."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.report = {"step": step, "errno": error.errno or 0, "error": str(error.args[-1])}


@contextmanager
def step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepFailed(name, error) from error


class Proc:
    """/proc of the outside, held open: the jail has none."""

    def __init__(self) -> None:
        self._directory = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def read(self, name: str) -> str:
        with open(os.open(f"self/{name}", os.O_RDONLY, dir_fd=self._directory), encoding="ascii") as file:
            return file.read()

    def write(self, name: str, text: str) -> None:
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=self._directory)
        try:
            os.write(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)

    def namespace(self, name: str) -> int:
        return os.open(f"self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)

    def namespaces(self) -> dict[str, str]:
        """Identities of the namespaces that this process is in, of those the kernel has."""
        found = {}
        for name in NAMESPACES:
            with suppress(FileNotFoundError):
                found[name] = os.readlink(f"self/ns/{name}", dir_fd=self._directory)
        return found

    def capabilities(self) -> int:
        line = next(line for line in self.read("status").splitlines() if line.startswith("CapEff:"))
        return int(line.split()[1], 16)

    def maps(self, identity: int) -> bool:
        """Whether a user and group id exist in this user namespace."""
        rows = [[tuple(map(int, row.split())) for row in self.read(name).splitlines()] for name in _ID_MAPS]
        return all(any(first <= identity < first + count for first, _, count in table) for table in rows)

    def statuses(self) -> Iterator[dict[str, str]]:
        """What the status files of all processes say that can be seen."""
        for name in os.listdir(self._directory):
            with suppress(OSError, ValueError):
                if name.isdecimal():
                    descriptor = os.open(f"{name}/status", os.O_RDONLY, dir_fd=self._directory)
                    with open(descriptor, encoding="utf-8", errors="replace") as file:
                        yield dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)

    def children(self, parent: int, *, beside: int, known: Container[int]) -> list[int] | None:
        """Pids of processes that are not known, and are children of a process, or have lost it to another.

        None where nothing can be said of that, since not even one that is known can be seen.

        Args:
            parent: a process in a namespace below this one's.
            beside: the first process there, which children are given to whose own parent has ended.
        """
        level = len(self.read("status").partition("NSpid:")[2].partition("\n")[0].split()) - 1
        above: dict[int, int] = {}
        numbers: dict[int, int] = {}
        for status in self.statuses():
            pids = status.get("NSpid", "").split()
            if len(pids) > level:
                numbers[int(pids[0])] = int(pids[level])
                above[int(pids[level])] = int(status["PPid"])
        if not any(pid in known for pid in above):
            return None
        return [
            pid for pid, its in above.items() if numbers.get(its) in (parent, beside) and pid not in known
        ]

    def address_space(self) -> int:
        return int(self.read("statm").split()[0]) * resource.getpagesize()


def enter_jail(proc: Proc, control: socket.socket, mounts: Mapping[str, str]) -> None:
    """Move into the jail, as its first process.

    Args:
        control: closed by the process that stays behind.
        mounts: folders to show, read-only, by their paths inside.
    """
    # Not the user id decides: root in a container mostly lacks the capability, or is the only user.
    privileged = bool(proc.capabilities() & linux.CAP_SYS_ADMIN) and proc.maps(NOBODY)
    if not privileged:
        _enter_user_namespace(proc)
    with step("unshare(mount, network, ipc, uts, cgroup)"):
        linux.unshare(linux.NEWNS | linux.NEWNET | linux.NEWIPC | linux.NEWUTS | linux.NEWCGROUP)
    with step("sethostname"):
        socket.sethostname("sandbox")
    with step("build the root of the jail"):
        _build_root(visible(), mounts)
    if privileged:
        # Root is exempt from RLIMIT_NPROC, even inside a user namespace.
        with step("setresuid(nobody)"):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            linux.set_dumpable(True)  # or it could not write its own uid_map
        _enter_user_namespace(proc)
        with step("unshare(mount, ipc) as nobody"):
            linux.unshare(linux.NEWNS | linux.NEWIPC)
    with step("unshare(pid)"):
        linux.unshare(linux.NEWPID)
        _become_init(control)


def _enter_user_namespace(proc: Proc) -> None:
    user, group = os.geteuid(), os.getegid()
    with step("unshare(user)"):
        linux.unshare(linux.NEWUSER)
    with step("write uid_map"):
        map_ids(proc, user, group)


def map_ids(proc: Proc, user: int, group: int) -> None:
    proc.write("setgroups", "deny")
    proc.write("gid_map", f"{INSIDE} {group} 1")
    proc.write("uid_map", f"{INSIDE} {user} 1")


def visible() -> list[str]:
    """Paths that the jail shows: what Python needs to import its library and installed packages."""
    paths = [path for path in sys.path if os.path.isdir(path)]
    if sys.base_prefix not in ("/", "/usr"):
        paths.append(f"{sys.base_prefix}/lib")
    architecture = getattr(sys.implementation, "_multiarch", "")
    for directory in SYSTEM_LIBRARIES:
        narrow = f"{directory}/{architecture}"
        islink = os.path.islink(directory)
        paths.append(narrow if architecture and os.path.isdir(narrow) and not islink else directory)
    return [path for path in (*paths, *EXTRAS, *DEVICES) if os.path.lexists(path)]


def _build_root(paths: list[str], mounts: Mapping[str, str]) -> None:
    """Make a small tmpfs the root, with read-only views of the paths at their places, and of the mounts."""
    linux.mount("", "/", linux.MS_REC | linux.MS_PRIVATE)
    links: dict[str, str] = {}
    trees: dict[str, tuple[int, bool]] = {}
    # Copies of the mounts are taken before anything is mounted over them.
    for path in sorted(set(paths)):
        if os.path.islink(path) and path in SYSTEM_LIBRARIES:
            links[path] = os.readlink(path)
        elif not any(path.startswith(f"{parent}/") for parent in trees):
            trees[path] = (linux.clone_tree(path), os.path.isdir(path))
    shown = {place: _clone_folder(folder) for place, folder in mounts.items()}
    linux.mount("tmpfs", _ROOT, linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m,nr_inodes=4k")
    for path, (tree, is_directory) in trees.items():
        place = _ROOT + _inside(path)
        _make_place(place, is_directory)
        device = linux.ATTR_NODEV if path not in DEVICES else 0
        linux.restrict_tree(tree, linux.ATTR_READ_ONLY | linux.ATTR_NOSUID | device)
        linux.attach_tree(tree, place)
        os.close(tree)
    for path, target in links.items():
        os.symlink(target, _ROOT + path)
    for path, tree in shown.items():
        os.makedirs(_ROOT + path)
        linux.restrict_tree(tree, _OF_A_MOUNT)
        linux.attach_tree(tree, _ROOT + path)
        os.close(tree)
    os.makedirs(_ROOT + SCRATCH, exist_ok=True)
    linux.enter_root(_ROOT)
    linux.restrict_mount("/", linux.ATTR_READ_ONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV)
    sys.path[:] = map(_inside, sys.path)


def _clone_folder(folder: str) -> int:
    """A detached copy of the mounts at and below a folder. Raises OSError where a link has come between."""
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{held}") != folder:
            raise OSError(errno.ELOOP, f"{folder} lies behind a link now")
        return linux.clone_tree(folder, held)
    finally:
        os.close(held)


def _inside(path: str) -> str:
    """Where the jail shows a path: a worker's own /tmp would hide what is below /tmp."""
    return f"/packages{path}" if path.startswith(f"{SCRATCH}/") else path


def _make_place(path: str, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path), exist_ok=True)
    if not is_directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _become_init(control: socket.socket) -> None:
    """Go on as pid 1 of the new pid namespace; who called stays behind and waits for it."""
    child = os.fork()
    if child:
        control.close()
        linux.close_from(3)
        os.waitpid(child, 0)
        os._exit(0)
    linux.die_with_parent()
