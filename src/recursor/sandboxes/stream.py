"""Workers that only bytes reach: in a container, behind ssh, on another machine.

All that such a place needs is a Python and a command that starts it and carries its stdin and
stdout. The guest goes ahead of the first frame, as source: nothing of ours has to be there. No
descriptor passes, so contexts go and come in parts, at the pace of who reads them.

The worker locks itself in as far as the place allows it (`guest.selflock`), and says how far that was.
The rest of what holds the code in is the place that the command leads to.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files

from recursor.errors import IsolationUnavailable
from recursor.protocols import Repl
from recursor.sandboxes import wire
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import START, opened
from recursor.sandboxes.sizes import MEMORY, PER_CONTEXT_BYTE
from recursor.threads import in_thread
from recursor.types import CallStyle, Isolation

ENDING = 10.0
"""Seconds within which what was killed must be gone."""
_NOT_FOR_STREAMS = {
    "alone",
    "boot",
    "families",
    "locks",
    "namespaces",
    "newcomers",
    "parent",
    "rehearsal",
    "relay",
    "zygote",
}
_FLAGS = ("-P", "-s")
"""Neither the working directory nor a user's own packages."""
ENVIRONMENT = {
    # Sets have the same order in every REPL, so that a run can be repeated.
    "PYTHONHASHSEED": "0",
    # A thread pool per worker would be as large as the machine.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Of the Python inside."""


def boot() -> str:
    """What `python -c` runs inside."""
    return guest("boot")


def guest(module: str) -> str:
    """The source of a module of the guest."""
    return _guest()[module]


def python(executable: str = "python3") -> tuple[str, ...]:
    """The command that starts a guest inside; `preface` must be the first that it reads."""
    return ("env", *assignments(), executable, *arguments())


def arguments() -> tuple[str, ...]:
    return (*_FLAGS, "-c", boot())


def assignments() -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in ENVIRONMENT.items())


@functools.cache
def preface(memory: int | None, processes: bool = False) -> bytes:
    """The guest, as it goes ahead of the first frame.

    Args:
        memory: bytes of address space that it may take beside what it has; None is no bound.
        processes: whether code may start processes: the worker then leaves files and system calls to the place.
    """
    sources = {f"guest.{name}": text for name, text in _guest().items() if name not in _NOT_FOR_STREAMS}
    sources["guest"] = sources.pop("guest.__init__")
    lock = {"room": memory, "processes": processes}
    data = zlib.compress(json.dumps({"modules": sources, "lock": lock}).encode())
    return len(data).to_bytes(4, "little") + data


@functools.cache
def _guest() -> dict[str, str]:
    folder = files("recursor.sandboxes") / "guest"
    return {
        entry.name.removesuffix(".py"): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".py")
    }


class CommandWorker:
    """A worker at the other end of the stdin and stdout of a command.

    Its methods block, but for `interrupt` and `kill`.

    Args:
        command: what leads to a guest that waits for its preface.
        environment: of the command; None is this process's.
        end: called in a thread to end what killing the command leaves alive; None where that is nothing.
        folder: that the command runs in; None is this process's.

    Raises:
        IsolationUnavailable: the command cannot be started.
    """

    aux: None = None
    interrupt: Callable[[], None] | None = None

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        end: Callable[[], None] | None = None,
        folder: str | None = None,
    ) -> None:
        self._end = end
        self._ending: threading.Thread | None = None
        self.rpc, inside = socket.socketpair()
        self.output, errors = os.pipe()
        os.set_blocking(self.output, False)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is the sandbox's own
                list(command),
                stdin=inside.fileno(),
                stdout=inside.fileno(),
                stderr=errors,
                env=None if environment is None else dict(environment),
                cwd=folder,
                start_new_session=True,  # Ctrl-C at the terminal is for the host
            )
        except OSError as error:
            self.rpc.close()
            os.close(self.output)
            raise IsolationUnavailable(f"{command[0]} cannot be started: {error.strerror}") from error
        finally:
            inside.close()
            os.close(errors)

    def kill(self) -> None:
        """End it now, in the background where that takes more than a signal. May be called twice."""
        if self._end is None:
            self._signal()
        elif self._ending is None:
            self._ending = threading.Thread(target=self._end, daemon=True, name="recursor-ending")
            self._ending.start()

    def wait(self) -> str:
        """Block until it is gone; return how it ended. Call `kill` first, unless it is ending."""
        if self._ending is not None:
            self._ending.join(ENDING)
        try:
            status = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._signal()
            status = self._process.wait()
        if status >= 0:
            return f"exit status {status}"
        return f"killed by signal {-status} ({signal.Signals(-status).name})"

    def close(self) -> None:
        """Kill it, wait, and close everything. For a worker that no link has taken over."""
        self.kill()
        self.wait()
        self.rpc.close()
        os.close(self.output)

    def send_ahead(self, data: bytes) -> None:
        """Send what the guest needs before the first frame. Whoever waits until it is ready hears of a failure."""
        with suppress(OSError):
            self.rpc.settimeout(START)
            self.rpc.sendall(data)
            self.rpc.settimeout(None)

    def _signal(self) -> None:
        with suppress(ProcessLookupError):
            if self._process.poll() is None:  # else another process may have its number
                os.killpg(self._process.pid, signal.SIGKILL)


def started(
    command: Sequence[str],
    ahead: bytes,
    environment: Mapping[str, str] | None = None,
    end: Callable[[], None] | None = None,
) -> CommandWorker:
    """Start a worker by a command, and send ahead what it needs. Blocks; call it in a thread."""
    worker = CommandWorker(command, environment, end)
    worker.send_ahead(ahead)
    return worker


class CommandSandbox:
    """REPLs behind a command that leads to a Python: "ssh" with a host, "kubectl exec -i" with a pod, "bwrap".

    Each REPL is one run of the command, with the command of a Python after it. What is at the other
    end is not known, so what holds the code in there has to be said; what the worker finds it can add
    by itself is added.

    Args:
        command: what starts the words after it in the other place, and carries their stdin and stdout.
        isolation: what is in force there, as completions then report it.
        executable: the Python there, 3.11 or later.
        shell: whether the place takes one text for a shell, as ssh does, and not words.
        memory: bytes of address space that each REPL may take, beside room for its context; None is no bound.
        environment: of the command; None is this process's.
        processes: whether code may start processes, and read and write what the place lets it; otherwise the
            worker locks itself in there, as far as the place allows.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        isolation: Isolation,
        executable: str = "python3",
        shell: bool = False,
        memory: int | None = MEMORY,
        environment: Mapping[str, str] | None = None,
        processes: bool = False,
    ) -> None:
        inside = python(executable)
        self._command = (*command, *((shlex.join(inside),) if shell else inside))
        self._isolation = isolation
        self._memory = memory
        self._environment = environment
        self._processes = processes

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        memory = None if self._memory is None else self._memory + PER_CONTEXT_BYTE * context_size

        async def spawn() -> Worker:
            ahead = preface(memory, self._processes)
            start = functools.partial(started, self._command, ahead, self._environment)
            return await in_thread(start, discard=CommandWorker.close)

        found = functools.partial(with_own_locks, self._isolation)
        return await opened(spawn, found, tools, seed=seed, calls=calls)


def with_own_locks(isolation: Isolation, facts: wire.Facts | None) -> Isolation:
    """What is in force in a place, and by what the worker has given up there."""
    if facts is None:
        return isolation
    return replace(
        isolation,
        processes="none" if facts.syscalls else isolation.processes,
        mechanisms=(*isolation.mechanisms, *own_locks(facts)),
        weaknesses=(*isolation.weaknesses, *not_locked(facts)),
    )


def own_locks(facts: wire.Facts) -> tuple[str, ...]:
    """What a worker has given up by itself."""
    return (
        *([f"Landlock (version {facts.landlock})"] if facts.landlock else []),
        *([f"seccomp (allow-list of {facts.syscalls} system calls)"] if facts.syscalls else []),
    )


def not_locked(facts: wire.Facts | None) -> tuple[str, ...]:
    """What a worker would have given up by itself, and could not."""
    return tuple(f"the worker could not add {missing}" for missing in facts.missing) if facts else ()
