"""Starts the template process, by itself or in bubblewrap. See `recursor.sandboxes.jail` for what it is for."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from recursor.errors import IsolationUnavailable, SandboxError

Tier: TypeAlias = Literal["namespaces", "bubblewrap", "landlock"]
"""How workers are isolated, strongest first: by namespaces, Landlock and seccomp; by the latter two in
namespaces that bubblewrap makes; by the latter two alone."""

_CONTROL = 3
# A package of its own for the guest: importing `recursor` would bring much that has no place there.
_BOOT: Final = """
import sys, types
guest = sys.modules["guest"] = types.ModuleType("guest")
guest.__path__ = [sys.argv[1]]
from guest import zygote
zygote.main(int(sys.argv[2]), sys.argv[3:])
"""
_GUEST = Path(__file__).parent / "guest"
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/nonexistent",
    # Huge pages make forking a big heap cheap; one arena makes threads cheap under RLIMIT_AS.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1",
    # A thread pool per worker would be as large as the machine.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Sets have the same order in every REPL, so that a run can be repeated.
    "PYTHONHASHSEED": "0",
}
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")


def start(
    control: socket.socket, errors: int, packages: Sequence[str], tier: Tier, mounts: Mapping[str, str]
) -> int:
    """Start the process and return its pid; it waits to be told where to go.

    Args:
        control: its end of the socket.
        errors: a descriptor for its stderr.
        packages: directories of installed packages.
        mounts: folders by their paths inside, which bubblewrap has to know of.

    Raises:
        IsolationUnavailable: the tier needs bubblewrap, and there is none.
        SandboxError: it cannot be started.
    """
    if not sys.executable:
        raise SandboxError("this Python does not know its own path (sys.executable), which a sandbox starts")
    environment = dict(_ENVIRONMENT)
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries  # some builds of Python do not start without
    # Like -I, but with the environment above: it holds nothing of the caller's.
    arguments = [sys.executable, "-P", "-s", "-S", "-c", _BOOT, str(_GUEST), str(_CONTROL), *packages]
    if tier == "bubblewrap":
        arguments = [*_bubblewrap(packages, mounts, environment), *arguments]
    try:
        return os.posix_spawn(
            arguments[0],
            arguments,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, errors, 2),
                (os.POSIX_SPAWN_DUP2, control.fileno(), _CONTROL),
            ],
            setsid=True,  # Ctrl-C at the terminal is for the host
            setsigmask=[],
        )
    except OSError as error:
        raise SandboxError(f"{arguments[0]} could not be started: {error}") from error


def _bubblewrap(
    packages: Sequence[str], mounts: Mapping[str, str], environment: Mapping[str, str]
) -> list[str]:
    """What runs a command in namespaces, with a root that has what Python needs, read-only."""
    program = shutil.which("bwrap")
    if program is None:
        raise IsolationUnavailable("bubblewrap (bwrap) is not installed")
    executable = Path(sys.executable)
    interpreter = {executable.resolve().parent, executable.parent}
    python = {Path(sys.prefix), Path(sys.base_prefix, "lib"), *interpreter, _GUEST, *map(Path, packages)}
    system = set(map(Path, _SYSTEM))
    words = [program, "--unshare-all", "--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
    bound: list[Path] = []
    for path in sorted((system | python) - {Path("/usr"), Path("/")}):
        if path in system and path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists() and not any(path.is_relative_to(above) for above in bound):
            words += ["--ro-bind", str(path), str(path)]
            bound.append(path)
    for place, folder in mounts.items():
        words += ["--ro-bind", folder, place]
    for name, value in environment.items():  # where bubblewrap is setuid it loses some
        words += ["--setenv", name, value]
    return [*words, "--"]


def installed_packages() -> list[str]:
    """Directories of installed packages that this process imports from, and nothing else it does."""
    names = ("site-packages", "dist-packages")
    found = [Path(entry).resolve() for entry in sys.path if Path(entry).name in names]
    return list(dict.fromkeys(str(path) for path in found if path.is_dir()))
