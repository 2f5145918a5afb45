"""The template process: builds the jail once, then forks a locked-in worker for every request.

It imports what workers need, moves into namespaces whose root holds Python and its libraries and
nothing else, and becomes pid 1 of a pid namespace: when it ends, by any cause, all workers end. Where
it is told to do without namespaces ("alone"), workers are locked in by `alone`, and die of its death.
It never runs code of a model. A worker runs some only after every step of `Locks.lock_in` succeeded.

Control socket (SEQPACKET, JSON), one request at a time:
  <- {"begin": {"tier": "namespaces" or "alone", "mounts": {place: folder}}} once, at the start
  -> {"ready": {...}} or {"failed": step} once, then
  <- {"spawn": {"memory": bytes, "scratch": bytes}} with descriptors rpc, aux, output
  -> {"spawned": number, "forks": whether it can be forked} with a pidfd, or {"failed": step}
  <- {"fork": number} with an end of a socket: the worker may fork once, if there may be more
     Nothing is answered, and it may come between a request and its answer.
  <- {"born": number}      it has forked, or will not
  -> {"spawned": number, "forks": ...} of the new process, with a pidfd, or {"failed": step}
  <- {"reap": number}      the process has ended, or is about to
  -> {"status": wait status; -1 of one that was forked from a worker}
A step is {"step": name, "errno": number, "error": text}. The end of the socket ends the zygote.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from . import linux, loading, rehearsal, serving
from .alone import LocksAlone
from .channel import leave
from .locks import Locks
from .namespaces import SCRATCH, Proc, StepFailed, enter_jail, step
from .parent import AUX, DOOR, RPC, Parent
from .turns import TurnChannel

PRELOAD = (
    "abc array ast asyncio base64 bisect builtins calendar codecs collections collections.abc "
    "concurrent.futures contextlib copy csv ctypes dataclasses datetime decimal difflib enum fractions "
    "functools gc hashlib heapq html html.parser io itertools json keyword locale math mmap numbers "
    "operator os pathlib pprint queue random re reprlib secrets shutil statistics string struct sys "
    "tempfile textwrap threading time traceback types typing unicodedata urllib.parse uuid zlib zoneinfo"
)
"""Imported once here, and so free in every worker. Nothing that starts a thread."""

ENVIRONMENT = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8", "PATH": "/nonexistent"}


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
    loading.import_readers()  # a worker does not see the files of the guest
    sys.dont_write_bytecode = True
    sys.path += packages
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    asked = control.recv(1 << 16)
    if not asked:
        os._exit(0)
    begin = json.loads(asked)["begin"]
    try:
        with step("open /proc"):
            proc = Proc()
        locks, entered = _enter(begin["tier"], begin["mounts"], proc, control)
        serve = _rehearsed()
        gc.collect()
        gc.freeze()
        Parent(control, proc, locks, serve, own_pids="pid" in entered).serve(entered)
    except StepFailed as failed:
        control.send(json.dumps({"failed": failed.report}).encode())
    os._exit(0)


def _enter(tier: str, mounts: dict[str, str], proc: Proc, control: socket.socket) -> tuple[Locks, list[str]]:
    """Go where workers will be; return what locks each in, and the namespaces that were entered."""
    outside = proc.namespaces()
    if tier == "namespaces":
        enter_jail(proc, control, mounts)
    else:
        os.environ["TMPDIR"] = os.environ["HOME"] = "/nonexistent"  # there is no place to write to
    locks = Locks(proc) if tier == "namespaces" else LocksAlone(proc, list(mounts))
    return locks, sorted(name for name, identity in proc.namespaces().items() if identity != outside[name])


def _rehearsed() -> Callable[[], NoReturn]:
    """Prepare all that workers have in common; return what a forked one is to do."""
    rehearsal.rehearse()
    rpc, aux = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, place) for place in (RPC, AUX))
    return serving.prepared(TurnChannel(rpc, aux, leave))


def _clear_places(control_fd: int) -> socket.socket:
    """Close what else was inherited, and occupy the numbers at which workers have their descriptors."""
    linux.close_from(control_fd + 1)
    control = socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, DOOR + 1))
    os.closerange(RPC, DOOR + 1)
    for _ in (RPC, AUX, DOOR):  # by sockets: the objects of workers are made before there are any
        socket.socket(socket.AF_UNIX).detach()
    os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), 0, inheritable=False)
    return control
