"""Forks of a REPL, as the host has them made: a worker becomes two, and the new one gets a link of its own.

Nothing waits for a worker longer than `BIRTH`: one that does not fork, or whose child does not show
itself, is what the template process ends.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from recursor.errors import SandboxError
from recursor.protocols import Source
from recursor.sandboxes import wire
from recursor.sandboxes.link import Link, Worker
from recursor.threads import in_thread

BIRTH = 5.0
"""Seconds within which a worker must have forked."""


class Copied(Worker, Protocol):
    """A worker that was forked from another."""

    def close(self) -> None:
        """Kill it and free everything; for one that no link has taken over."""


class Birth(Protocol):
    """A worker that is about to fork."""

    @property
    def rpc(self) -> socket.socket:
        """Becomes readable when the new worker is ready."""

    @property
    def inside(self) -> Sequence[int]:
        """Descriptors that the new worker is to have."""

    def given(self) -> None:
        """Close those."""

    def end(self) -> Copied:
        """Return the new worker. Raises SandboxError when there is none."""

    def drop(self) -> None:
        """Do without it. One of these two is to be called."""


@runtime_checkable
class Forkable(Protocol):
    """A worker of a kind that can be forked."""

    @property
    def forks(self) -> bool:
        """Whether it can be where it is."""

    def fork(self) -> Birth:
        """Let it fork once. Does not block; raises SandboxError when it may not."""


def no_forks(worker: Worker) -> str:
    """Why a worker cannot be forked; empty when it can."""
    if not isinstance(worker, Forkable):
        return 'this sandbox cannot copy a REPL that runs; sandbox="process" can, on Linux'
    if not worker.forks:
        return (
            "copying a REPL that runs takes namespaces, and a kernel that asks about its system calls (seccomp "
            'user notification): see `recursor doctor`; sandbox="process" has both where they are to be had'
        )
    return ""


async def fork(link: Link, sources: Mapping[str, Source], asked: int | None = None) -> Link:
    """Fork a worker; return the link to the copy.

    Args:
        sources: what was loaded into it, as the copy's REPL holds it.
        asked: the number under which its code asked for it; None forks it between blocks.

    Raises:
        SandboxError: that is not possible here, or now; the text says what to do.
    """
    worker = link.worker
    if not isinstance(worker, Forkable) or not worker.forks:
        raise SandboxError(f"a REPL cannot be forked: {no_forks(worker)}")
    async with link.forking:
        new = await _forked(worker, link, asked)
    copy = Link(new, sources)
    try:
        await copy.open(BIRTH)
    except BaseException:
        await copy.bury("it is not needed")
        raise
    return copy


async def _forked(worker: Forkable, link: Link, asked: int | None) -> Copied:
    try:
        birth = worker.fork()
    except OSError as error:
        raise SandboxError(f"the REPL cannot be forked: {error.strerror}") from error
    try:
        refused = await _told(link, birth, asked)
    except BaseException:
        await in_thread(birth.drop)
        raise
    if refused:
        await in_thread(birth.drop)
        raise SandboxError(refused)
    return await in_thread(_born, birth, discard=lambda worker: worker.close())


def _born(birth: Birth) -> Copied:
    """Wait until the new worker is ready, or for as long as that may take, and return it."""
    arrivals = select.poll()
    arrivals.register(birth.rpc, select.POLLIN)
    arrivals.poll(BIRTH * 1000)
    return birth.end()


async def _told(link: Link, birth: Birth, asked: int | None) -> str:
    """Have the worker fork; return why it did not, or nothing when it may have."""
    try:
        assert link.worker.aux is not None
        socket.send_fds(link.worker.aux, [b"."], birth.inside)
        header = {"op": "fork"} if asked is None else {"op": "fork", "re": asked}
        told = link.expect(header, wire.Forked, number=asked)
        if not await link.first(told, BIRTH):
            link.give_up("does not fork when it is told to")
            return "the REPL cannot be forked: it does not answer"
        frame: wire.Forked | wire.Failed
        frame, _ = told.result()
        if isinstance(frame, wire.Failed):
            return f"the REPL was not forked: {frame.error[:1000]}"
        return ""
    except OSError:
        return "the REPL cannot be forked: it does not take what it is given"
    finally:
        birth.given()
