"""A REPL under Seatbelt, the sandbox of macOS: `sandbox="process:weak"` there. Written by its documentation,
and never run on a Mac: only its profile and its command are tested.

It is weaker than the process sandbox of Linux, so nobody gets it who does not ask for it. Network,
processes, and writing but to a scratch folder are denied; so is reading what people keep in their home
folders and what programs keep for each other. The rest of the system can be read: lists of what may be
read have made Python abort on some versions of macOS. Memory has no bound, since macOS enforces none.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from recursor.protocols import Repl
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import START, opened
from recursor.sandboxes.stream import ENVIRONMENT, CommandWorker, arguments, preface
from recursor.sandboxes.template import installed_packages
from recursor.threads import in_thread
from recursor.types import CallStyle, Isolation

PROGRAM = "/usr/bin/sandbox-exec"
SECRET = (
    "/Users",
    "/Volumes",
    "/private/tmp",
    "/private/var",
    "/Library/Keychains",
    "/Network",
    "/opt/homebrew/var",
)
"""What is not read, but for a Python in it."""
NEEDED = ("/private/var/db/dyld", "/private/var/db/timezone")
"""What Python needs of it."""

ISOLATION = Isolation(
    sandbox="process:weak",
    files="partially confined: the system and Python, read-only, nothing of people; a folder of its own, on disk",
    network="none",
    processes="none",
    environment="none of the caller's",
    kernel="shared with this machine",
    memory="no limit",
    mechanisms=("Seatbelt (sandbox-exec)",),
    weaknesses=(
        "files of the system, and which files exist anywhere, can be seen",
        "neither memory nor disk space is limited",
    ),
)


def profile(scratch: Path, readable: Sequence[Path], executables: Sequence[Path]) -> str:
    """Return the rules, in Seatbelt's language; of those that match the last counts.

    Args:
        scratch: the only folder that may be written to.
        readable: folders that may be read although they lie in a place of secrets.
        executables: what may be started: the Python itself, by all its names.
    """
    inside = _each("subpath", [scratch, *readable, *map(Path, NEEDED)])
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            f"(allow process-exec {_each('literal', executables)})",
            "(allow signal (target self))",
            "(allow process-info* (target self))",
            "(allow sysctl-read)",
            '(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))',
            "(allow file-read*)",
            f"(deny file-read* {_each('subpath', map(Path, SECRET))})",
            f"(allow file-read* {inside})",
            "(allow file-read-metadata)",
            f"(allow file-write* {_each('subpath', [scratch])})",
            '(allow file-write-data (literal "/dev/null"))',
        ]
    )


def command(scratch: Path, program: str = PROGRAM) -> list[str]:
    """Return what starts a worker that may write to a folder."""
    executable = Path(sys.executable)
    bundled = Path(sys.base_prefix, "Resources/Python.app/Contents/MacOS/Python")  # a framework starts this
    executables = dict.fromkeys([executable, executable.resolve(), bundled])
    # Not sys.path: there is the folder of the program that runs, with all that lies in it.
    library = sysconfig.get_paths()
    places = [sys.prefix, sys.base_prefix, library["stdlib"], library["platstdlib"], *installed_packages()]
    readable = dict.fromkeys(path for place in places for path in _both(place))
    rules = profile(scratch, [path for path in readable if path != Path("/")], list(executables))
    return [program, "-p", rules, sys.executable, *arguments()]


def _both(place: str) -> list[Path]:
    """A folder by its name and by that which the kernel knows; nothing where it is none."""
    path = Path(place)
    return [path, path.resolve()] if place and path.is_absolute() and path.is_dir() else []


def _each(kind: str, paths: Iterable[Path]) -> str:
    words = []
    for path in paths:
        text = str(path).replace("\\", "\\\\").replace('"', '\\"')
        words.append(f'({kind} "{text}")')
    return " ".join(words)


class SeatbeltSandbox:
    """REPLs that Seatbelt holds in (macOS). See the module for what that is worth.

    Args:
        program: sandbox-exec; None is the system's.
    """

    def __init__(self, program: str | None = None) -> None:
        self._program = program or PROGRAM

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,  # noqa: ARG002 - there is no bound to leave room in
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        async def spawn() -> Worker:
            return await in_thread(partial(_spawn, self._program), discard=CommandWorker.close)

        return await opened(spawn, ISOLATION, tools, seed=seed, calls=calls)


class _Worker(CommandWorker):
    """A worker with a folder that goes when it goes."""

    def __init__(self, program: str) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="recursor-")).resolve()
        inside = {**ENVIRONMENT, "LANG": "C.UTF-8", "PATH": "/nonexistent"}
        inside |= dict.fromkeys(("HOME", "TMPDIR"), str(self._scratch))
        try:
            super().__init__(command(self._scratch, program), inside)
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise

    def wait(self) -> str:
        told = super().wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        return told


def _spawn(program: str) -> _Worker:
    worker = _Worker(program)
    with suppress(OSError):  # whoever waits until it is ready hears how it ended
        worker.rpc.settimeout(START)
        worker.rpc.sendall(preface(None))
        worker.rpc.settimeout(None)
    return worker
