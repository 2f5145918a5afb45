"""The template process: builds the jail once, then forks a locked-in worker for every request.

It imports what workers need, moves into namespaces whose root holds Python and its libraries and
nothing else, and becomes pid 1 of a pid namespace: when it ends, by any cause, all workers end.
It never runs code of a model. A worker runs some only after every step of `_lock_in` succeeded.

Control socket (SEQPACKET, JSON), one request at a time:
  -> {"ready": {...}} or {"failed": step} once, at the start
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
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from . import linux, memory, seccomp, worker

PRELOAD = (
    "abc array ast asyncio base64 bisect builtins calendar codecs collections collections.abc "
    "concurrent.futures contextlib copy csv ctypes dataclasses datetime decimal difflib enum fractions "
    "functools gc hashlib heapq html html.parser io itertools json keyword locale math mmap numbers "
    "operator os pathlib pprint queue random re reprlib secrets shutil statistics string struct sys "
    "tempfile textwrap threading time traceback types typing unicodedata urllib.parse uuid zlib zoneinfo"
)
"""Imported once here, and so free in every worker. Nothing that starts a thread."""

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
EXTRAS = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SCRATCH = "/tmp"  # noqa: S108 - inside, where it is private
ENVIRONMENT = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8", "PATH": "/nonexistent"}

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
NOBODY = 65534
INSIDE = 1000
"""The user and group that a worker sees itself as."""
THREADS = 400
OPEN_FILES = 256
SCRATCH_FILES = 20_000
STACK = 8 << 20
RPC, AUX, REPORT = 3, 4, 5

_ROOT = "/tmp"  # noqa: S108 - a place to mount on that exists everywhere; nothing is written to the one outside


_ID_MAPS = ("uid_map", "gid_map")


class StepFailed(Exception):
    """A step of the isolation could not be made."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.report = {"step": step, "errno": error.errno or 0, "error": str(error.args[-1])}


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepFailed(name, error) from error


class _Proc:
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

    def address_space(self) -> int:
        return int(self.read("statm").split()[0]) * resource.getpagesize()


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
    try:
        with _step("open /proc"):
            proc = _Proc()
        with _step("seccomp filter"):
            filter_ = seccomp.Filter(os.uname().machine)
        outside = proc.namespaces()
        _enter_jail(proc, control)
        entered = sorted(name for name, identity in proc.namespaces().items() if identity != outside[name])
        _Zygote(control, proc, filter_).serve(entered)
    except StepFailed as failed:
        control.send(json.dumps({"failed": failed.report}).encode())
    os._exit(0)


def _clear_places(control_fd: int) -> socket.socket:
    """Close what else was inherited, and occupy the numbers at which workers have their descriptors."""
    linux.close_from(control_fd + 1)
    control = socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, REPORT + 1))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for place in (RPC, AUX, REPORT):
        if place != null:
            os.dup2(null, place, inheritable=False)
    return control


# The jail that all workers share --------------------------------------------------------------


def _enter_jail(proc: _Proc, control: socket.socket) -> None:
    # Not the user id decides: root in a container mostly lacks the capability, or is the only user.
    privileged = bool(proc.capabilities() & linux.CAP_SYS_ADMIN) and proc.maps(NOBODY)
    if not privileged:
        _enter_user_namespace(proc)
    with _step("unshare(mount, network, ipc, uts, cgroup)"):
        linux.unshare(linux.NEWNS | linux.NEWNET | linux.NEWIPC | linux.NEWUTS | linux.NEWCGROUP)
    with _step("sethostname"):
        socket.sethostname("sandbox")
    with _step("build the root of the jail"):
        _build_root(_visible())
    if privileged:
        # Root is exempt from RLIMIT_NPROC, even inside a user namespace.
        with _step("setresuid(nobody)"):
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            linux.set_dumpable(True)  # or it could not write its own uid_map
        _enter_user_namespace(proc)
        with _step("unshare(mount, ipc) as nobody"):
            linux.unshare(linux.NEWNS | linux.NEWIPC)
    with _step("unshare(pid)"):
        linux.unshare(linux.NEWPID)
        _become_init(control)


def _enter_user_namespace(proc: _Proc) -> None:
    user, group = os.geteuid(), os.getegid()
    with _step("unshare(user)"):
        linux.unshare(linux.NEWUSER)
    with _step("write uid_map"):
        _map_ids(proc, user, group)


def _map_ids(proc: _Proc, user: int, group: int) -> None:
    proc.write("setgroups", "deny")
    proc.write("gid_map", f"{INSIDE} {group} 1")
    proc.write("uid_map", f"{INSIDE} {user} 1")


def _visible() -> list[str]:
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


def _build_root(paths: list[str]) -> None:
    """Make a small tmpfs the root, with read-only views of the paths at their places."""
    linux.mount("", "/", linux.MS_REC | linux.MS_PRIVATE)
    links: dict[str, str] = {}
    trees: dict[str, tuple[int, bool]] = {}
    # Copies of the mounts are taken before anything is mounted over them.
    for path in sorted(set(paths)):
        if os.path.islink(path) and path in SYSTEM_LIBRARIES:
            links[path] = os.readlink(path)
        elif not any(path.startswith(f"{parent}/") for parent in trees):
            trees[path] = (linux.clone_tree(path), os.path.isdir(path))
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
    os.makedirs(_ROOT + SCRATCH, exist_ok=True)
    linux.enter_root(_ROOT)
    linux.restrict_mount("/", linux.ATTR_READ_ONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV)
    sys.path[:] = map(_inside, sys.path)


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


# Workers --------------------------------------------------------------------------------------


class _Zygote:
    def __init__(self, control: socket.socket, proc: _Proc, filter_: seccomp.Filter) -> None:
        self._control = control
        self._proc = proc
        self._filter = filter_
        self._landlock = linux.landlock_version()
        self._own_pids = proc.namespace("pid")
        self._number = 0
        self._alive: dict[int, int] = {}
        """Numbers of workers by pid."""
        self._ended: dict[int, int] = {}
        """Wait statuses by number, until the host asks."""
        gc.collect()
        gc.freeze()
        self._baseline = proc.address_space()

    def serve(self, namespaces: list[str]) -> NoReturn:
        facts = {
            "namespaces": namespaces,
            "landlock": self._landlock,
            "syscalls": self._filter.allowed + self._filter.conditional,
            "threads": THREADS,
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
        """Fork into a new pid namespace, and come back to our own."""
        with _step("unshare(pid) for a worker"):
            linux.unshare(linux.NEWPID)
        try:
            with _step("fork a worker"):
                pid = os.fork()
            if not pid:
                child()
        finally:
            linux.setns(self._own_pids, linux.NEWPID)
        return pid

    def _become_worker(self, request: dict[str, int], descriptors: list[int], report: int) -> NoReturn:
        try:
            _place_descriptors(descriptors, report)
            self._lock_in(request["memory"], request["scratch"])
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

    def _lock_in(self, memory: int, scratch: int) -> None:
        with _step("setsid"):
            # kill(0) reaches a process group across pid namespaces: not the one of the template.
            os.setsid()
        with suppress(OSError):  # a courtesy to the host when the machine runs out of memory
            self._proc.write("oom_score_adj", "500")
        user, group = os.getuid(), os.getgid()
        with _step("unshare(user, mount, ipc) for a worker"):
            # A user namespace of its own, so that RLIMIT_NPROC counts its threads alone.
            linux.unshare(linux.NEWUSER | linux.NEWNS | linux.NEWIPC)
        with _step("write uid_map for a worker"):
            _map_ids(self._proc, user, group)
        with _step("mount /tmp for a worker"):
            options = f"mode=700,size={scratch},nr_inodes={SCRATCH_FILES},uid={INSIDE},gid={INSIDE}"
            linux.mount("tmpfs", SCRATCH, linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, options)
            os.chdir(SCRATCH)
        with _step("setrlimit"):
            _limit(self._baseline + memory, scratch)
        with _step("drop capabilities"):
            linux.drop_capabilities()
            linux.set_no_new_privileges()
            linux.set_dumpable(False)
            linux.die_with_parent()
        if self._landlock:
            with _step("landlock"):
                rules = {"/": linux.READ, SCRATCH: linux.CHANGE, "/dev": linux.WRITE_FILE}
                linux.landlock(self._landlock, rules)
        with _step("close_range"):
            linux.close_from(REPORT + 1)
        with _step("seccomp"):
            self._filter.install()


def _place_descriptors(descriptors: list[int], report: int) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    rpc, aux, output = descriptors
    wanted = {0: null, 1: output, 2: output, RPC: rpc, AUX: aux, REPORT: report}
    # Copies above the places first: a place may be the number of something that is still needed.
    copies = {place: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 16) for place, source in wanted.items()}
    for place, copy in copies.items():
        os.dup2(copy, place, inheritable=False)


def _limit(address_space: int, scratch: int) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, address_space + memory.RESERVE),
        (resource.RLIMIT_NPROC, THREADS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_FSIZE, scratch),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))
