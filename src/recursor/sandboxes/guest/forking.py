"""Forking a REPL from inside: a copy of this process, variables and all, goes on with a host's end of its own.

The process forks with one thread: one that reads ends before and begins again after. Threads of
the code's own would not be in the copy, nor would what is under way in its event loop, so where
there are any the fork is refused. What the copy shares with this process is what all processes of a
REPL share: see `families`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from . import linux
from .turns import FORKED, TurnChannel

_fork, _dup2, _close, _write, _exit = linux.fork, os.dup2, os.close, os.write, os._exit
_mask = signal.pthread_sigmask
_SHOWN = 3
"""Names of threads that a refusal tells."""


class NotForked(Exception):
    """The process was not forked; the text says why, and what to do."""


def refusal(channel: TurnChannel, loop: asyncio.AbstractEventLoop | None, inside: bool) -> str | None:
    """Why this process cannot be forked as it is; None when it can.

    Args:
        loop: the event loop of the code, if it has one.
        inside: whether a block asks for it, whose own tasks may wait for that.
    """
    ours = {threading.main_thread(), channel.reader}
    if threading.current_thread() is not threading.main_thread():
        return "only the main thread can ask for a fork: call it outside of threads"
    threads = [thread.name for thread in threading.enumerate() if thread not in ours]
    if threads:
        named = ", ".join(threads[:_SHOWN]) + (", ..." if len(threads) > _SHOWN else "")
        return f"threads are running ({named}), and they would not be in the copy: end them first"
    if not inside and loop is not None and not loop.is_closed() and asyncio.all_tasks(loop):
        return "tasks of asyncio are under way, and they would not go on in the copy: await them first"
    return None


def fork(channel: TurnChannel, descriptors: Sequence[int]) -> bool:
    """Fork; return whether this is the child, which then has sockets and an output of its own.

    Nobody reads meanwhile; a thread that did has ended, or is about to.

    Args:
        descriptors: of the child: see `turns.FORKED`. They are closed.

    Raises:
        NotForked: it was not allowed, or there is no room for it.
    """
    child = False
    try:
        if channel.reader is not None:
            channel.reader.join()
        if len(descriptors) < FORKED:
            raise NotForked("too many files are open in the REPL")
        for stream in (sys.__stdout__, sys.__stderr__):
            with suppress(Exception):
                stream.flush()  # type: ignore[union-attr]  # what is in it would be written twice
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is left of a child that ends
        try:
            child = _fork() == 0
        except OSError as error:
            raise NotForked(f"the REPL cannot be forked: {error.strerror}") from None
        if child:
            rpc, aux, output, birth = descriptors
            channel.move(rpc, aux)
            _dup2(output, 1)
            _dup2(output, 2)
            _pin()
            _write(birth, b".")
    finally:
        for descriptor in descriptors:
            _close(descriptor)
    return child


def _pin() -> None:
    """Let this process signal itself alone; it ends where that is not to be had."""
    from . import seccomp  # noqa: PLC0415 - only where processes fork is there one, and Linux

    try:
        seccomp.pin(os.getpid())
    except OSError:
        _write(2, b"a copy of the REPL was not kept from signalling others\n")
        _exit(1)


def abandon(loop: asyncio.AbstractEventLoop | None) -> None:
    """In a forked child: let go of an event loop, whose epoll it shares with its parent.

    To close it as usual would take the parent's sockets out of that.
    """
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    for name in ("_selector", "_ssock", "_csock"):
        held = getattr(loop, name, None)
        if held is not None:
            with suppress(OSError):
                held.close()
    if loop is not None:
        loop._closed = True  # type: ignore[attr-defined]  # else it warns when it is collected


class Undisturbed:
    """Keeps interrupts waiting: one that came while nobody may read would leave it so."""

    def __enter__(self) -> None:
        self._before = _mask(signal.SIG_BLOCK, {signal.SIGINT})

    def __exit__(self, *_: object) -> None:
        _mask(signal.SIG_SETMASK, self._before)
