"""REPLs in containers of Docker or Podman, with any OCI runtime: gVisor's `runsc` has a kernel of its own.

A container is one run of `docker run` whose stdin and stdout are the line to the worker: it has no
network, publishes no port, mounts nothing of the host's and logs nothing. The image needs a Python
and nothing of ours. What the worker finds inside before it runs the first block is compared with
what was asked for; where it is weaker the REPL is not opened.

Nothing is downloaded: an image that is not there is an error that names the command which gets it.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

import msgspec

from recursor.errors import ConfigError, IsolationUnavailable
from recursor.protocols import Repl
from recursor.sandboxes import wire
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import opened
from recursor.sandboxes.sizes import MEMORY, PER_CONTEXT_BYTE, SCRATCH
from recursor.sandboxes.stream import (
    CommandWorker,
    arguments,
    assignments,
    not_locked,
    own_locks,
    preface,
    started,
)
from recursor.threads import in_thread
from recursor.types import CallStyle, Isolation

PIDS = 400
"""Processes and threads of one container."""
BESIDE = 256 << 20
"""Bytes that a container may take beside what its code may allocate: the interpreter, stacks, pages of files."""
OPEN_FILES = 1024
SCRATCH_FILES = 20_000
USER = "65534:65534"
ANSWER = 30.0
"""Seconds within which an engine answers a question."""
_SMALLEST = 1 << 20
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""Both engines pass these of the caller into containers, with the passwords in them."""


class _Podman(msgspec.Struct, frozen=True, rename="camel"):
    class Host(msgspec.Struct, frozen=True, rename="camel"):
        class Security(msgspec.Struct, frozen=True, rename="camel"):
            rootless: bool = False
            apparmor_enabled: bool = False
            selinux_enabled: bool = False

        security: Security = Security()

    host: Host = Host()


class _Docker(msgspec.Struct, frozen=True, rename="pascal"):
    security_options: list[str] | None = None
    runtimes: dict[str, msgspec.Raw] | None = None
    memory_limit: bool = True
    pids_limit: bool = True
    server_errors: list[str] | None = None


class _Engine(msgspec.Struct, frozen=True):
    """What an engine says of itself."""

    mechanisms: tuple[str, ...]
    runtimes: tuple[str, ...] | None = None
    """Those that it knows; None where it takes any that is installed."""
    bounds_memory: bool = True
    bounds_pids: bool = True


class DockerSandbox:
    """Containers of Docker.

    Args:
        image: has a Python 3.11 or later; by default the slim official one of this Python's version.
        runtime: OCI runtime, such as "runsc" for gVisor; None is the engine's default.
        memory: bytes that the code of each REPL may allocate, beside room for its context.
        scratch: bytes of its private, non-executable /tmp, which is memory.
        pids: processes and threads of each REPL.
        executable: the Python of the image.
        processes: whether code may start processes, as `subprocess` does. The worker's own filter of system
            calls and Landlock are left out then: what holds the code in is the engine's.
    """

    engine: ClassVar[str] = "docker"
    _scratch_options: ClassVar[str] = f"nr_inodes={SCRATCH_FILES},"
    _remedy: ClassVar[str] = (
        "start it (`sudo systemctl start docker`, or Docker Desktop), and see that you may use it "
        "(`sudo usermod -aG docker $USER`, then log in anew)"
    )

    def __init__(
        self,
        image: str | None = None,
        *,
        runtime: str | None = None,
        memory: int = MEMORY,
        scratch: int = SCRATCH,
        pids: int = PIDS,
        executable: str = "python3",
        processes: bool = False,
    ) -> None:
        version = sys.version_info
        self.image = image or f"docker.io/library/python:{version.major}.{version.minor}-slim"
        if self.image.startswith("-") or (runtime or "").startswith("-"):
            raise ConfigError("the name of an image or a runtime does not begin with a hyphen")
        if memory < _SMALLEST or scratch < _SMALLEST or pids < 1:
            raise ConfigError(
                f"a container needs {_SMALLEST:,} bytes of memory and of scratch, and a process"
            )
        self._runtime = runtime
        self._memory = memory
        self._scratch = scratch
        self._pids = pids
        self._executable = executable
        self._processes = processes
        self._known: _Engine | None = None

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        if self._known is None:
            self._known = await in_thread(self._examine)
        known = self._known
        memory = self._memory + PER_CONTEXT_BYTE * context_size
        in_all = memory + context_size + self._scratch + BESIDE

        async def spawn() -> Worker:
            name = f"recursor-{secrets.token_hex(8)}"
            end = functools.partial(self._remove, name)
            ahead = preface(memory, self._processes)
            start = functools.partial(started, self._command(name, in_all), ahead, end=end)
            return await in_thread(start, discard=CommandWorker.close)

        def found(facts: wire.Facts | None) -> Isolation:
            return self._isolation(known, facts, memory, in_all)

        return await opened(spawn, found, tools, seed=seed, calls=calls)

    def _command(self, name: str, in_all: int) -> list[str]:
        """The command that runs a worker in a container of this name."""
        environment = [*assignments(), *(f"{proxy}=" for low in _PROXIES for proxy in (low, low.upper()))]
        return [
            *self._run(),
            "--interactive",
            "--rm",
            f"--name={name}",
            "--label=recursor",
            "--pull=never",
            "--network=none",
            "--read-only",
            f"--tmpfs=/tmp:rw,noexec,nosuid,nodev,{self._scratch_options}size={self._scratch},mode=1777",
            "--workdir=/tmp",
            f"--user={USER}",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--ipc=none",
            "--hostname=sandbox",
            f"--pids-limit={self._pids}",
            f"--memory={in_all}",
            f"--memory-swap={in_all}",  # as much as memory: no swap
            "--ulimit=core=0:0",
            f"--ulimit=nofile={OPEN_FILES}:{OPEN_FILES}",
            "--log-driver=none",  # the stream is data of the caller, and would be kept on disk
            *(f"--env={assignment}" for assignment in environment),
            f"--entrypoint={self._executable}",
            self.image,
            *arguments(),
        ]

    def _run(self) -> list[str]:
        runtime = [f"--runtime={self._runtime}"] if self._runtime else []
        return [self.engine, "run", *runtime]

    def _remove(self, name: str) -> None:
        """End a container, whatever state it is in."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._ask("rm", "--force", name)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603 - the words are ours
            [self.engine, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER,
            check=False,
            start_new_session=True,
        )

    # What is in force -------------------------------------------------------------------------

    def _examine(self) -> _Engine:
        """Ask the engine what it is, and whether the image is there."""
        if shutil.which(self.engine) is None:
            raise IsolationUnavailable(
                f'{self.engine} is not installed: install it, or use sandbox="process", which needs no engine'
            )
        try:
            info = self._ask("info", "--format={{json .}}")
            if info.returncode:
                raise IsolationUnavailable(
                    f"{self.engine} does not answer: {_last(info.stderr)}; {self._remedy}"
                )
            known = self._known_from(info.stdout)
            if self._runtime and known.runtimes is not None and self._runtime not in known.runtimes:
                raise IsolationUnavailable(
                    f"{self.engine} has no runtime {self._runtime!r} (it has {', '.join(known.runtimes)}): install "
                    "it and register it, as for gVisor with `sudo runsc install && sudo systemctl restart docker`"
                )
            if self._ask("image", "inspect", "--format={{.Id}}", self.image).returncode:
                raise IsolationUnavailable(
                    f"{self.engine} has no image {self.image}: `{self.engine} pull {self.image}`"
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IsolationUnavailable(f"{self.engine} does not answer: {error}; {self._remedy}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise IsolationUnavailable(f"{self.engine} talks nonsense of itself: {error}") from error
        return known

    def _known_from(self, said: bytes) -> _Engine:
        info = msgspec.json.decode(said, type=_Docker)
        if info.server_errors:
            raise IsolationUnavailable(f"docker does not answer: {info.server_errors[0]}; {self._remedy}")
        options = [option.removeprefix("name=").split(",")[0] for option in info.security_options or ()]
        names = {
            "apparmor": "AppArmor",
            "selinux": "SELinux",
            "rootless": "rootless",
            "userns": "user namespace",
        }
        mechanisms = tuple(names[option] for option in options if option in names)
        runtimes = tuple(sorted(info.runtimes or ()))
        return _Engine(mechanisms, runtimes, info.memory_limit, info.pids_limit)

    def _isolation(self, known: _Engine, facts: wire.Facts | None, memory: int, in_all: int) -> Isolation:
        """What is in force. Raises IsolationUnavailable where that is less than what was asked for."""
        if facts is None:
            raise IsolationUnavailable("the container does not say what is in force in it")
        # Another runtime may filter system calls outside, or not say: then this is told and not demanded.
        foreign = bool(self._runtime)
        weak = [
            what
            for what, holds in (
                (f"capabilities ({facts.capabilities or 0:#x})", facts.capabilities == 0),
                ("the rights of root", facts.uid != 0),
                ("a root that can be written to", facts.read_only),
                (f"network ({', '.join(facts.interfaces or ['unknown'])})", facts.interfaces == ["lo"]),
                ("a way to new privileges", facts.no_new_privileges or foreign),
                ("no seccomp filter", facts.syscalls or facts.seccomp == wire.SECCOMP_FILTER or foreign),
            )
            if not holds
        ]
        if weak:
            raise IsolationUnavailable(
                f"the container has {' and '.join(weak)}, which it was told not to have: see the "
                f"configuration of {self.engine}"
            )
        if not (facts.syscalls or self._processes or foreign):
            raise IsolationUnavailable(
                f"the worker cannot lock itself in in the container ({'; '.join(facts.missing)}): with "
                "`processes=True` the engine's own filter is left to hold the code"
            )
        seccomp = facts.seccomp == wire.SECCOMP_FILTER
        runtime = f"runtime {self._runtime}" if self._runtime else "the engine's default runtime"
        each = "" if facts.syscalls else " for each process"
        bound = f", {in_all >> 20:,} MB in all (cgroup)" if known.bounds_memory else ""
        return Isolation(
            sandbox=self.engine,
            files=f"the image {self.image}, read-only; a private /tmp in memory",
            network="none",
            processes=self._processes_of(known, facts),
            environment="none of the caller's",
            kernel=_kernel(self._runtime),
            memory=f"{memory >> 20:,} MB of address space{each} (RLIMIT_AS){bound}",
            mechanisms=(
                f"a container of {self.engine} ({runtime})",
                *known.mechanisms,
                *(["seccomp (the engine's filter)"] if seccomp else []),
                f"user {facts.uid}, no capabilities",
                *(["no new privileges"] if facts.no_new_privileges else []),
                *own_locks(facts),
                *(f"not {missing}" for missing in facts.missing if foreign),
            ),
            weaknesses=(
                *([] if foreign else not_locked(facts)),
                *([] if known.bounds_memory else ["this engine bounds no container's memory"]),
                *([] if known.bounds_pids else ["this engine bounds no container's processes"]),
            ),
        )

    def _processes_of(self, known: _Engine, facts: wire.Facts) -> str:
        if facts.syscalls:
            return f"none; up to {self._pids} threads" if known.bounds_pids else "none"
        return f"its own, up to {self._pids} with threads" if known.bounds_pids else "its own, unbounded"


class PodmanSandbox(DockerSandbox):
    """Containers of Podman, which needs no daemon and no root. The arguments are those of `DockerSandbox`."""

    engine = "podman"
    _scratch_options = ""  # it knows no bound of files
    _remedy = "`podman info` says what is wrong"

    def _run(self) -> list[str]:
        runtime = [f"--runtime={self._runtime}"] if self._runtime else []
        # Podman would put writable memory at more places, and the caller's proxies and hosts inside.
        return [self.engine, *runtime, "run", "--read-only-tmpfs=false", "--http-proxy=false", "--no-hosts"]

    def _known_from(self, said: bytes) -> _Engine:
        security = msgspec.json.decode(said, type=_Podman).host.security
        names = {
            "rootless": security.rootless,
            "AppArmor": security.apparmor_enabled,
            "SELinux": security.selinux_enabled,
        }
        return _Engine(tuple(name for name, holds in names.items() if holds))


def _kernel(runtime: str | None) -> str:
    if runtime is None:
        return "shared with the machine of the engine"
    if runtime.startswith("runsc"):
        return "gVisor's, in user space"
    return f"as runtime {runtime} has it"


def _last(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace").strip()[-500:] or "it says nothing"
