"""A REPL behind a socket: what every sandbox's `open` returns.

Loads contexts, runs blocks and keeps their time. A worker that died or had to be killed is
replaced by a new one with the same contexts before the next block; the execution says what was lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from recursor.errors import RLMError, SandboxError, UnreadableFile
from recursor.protocols import Snapshot, Source, Subcalls
from recursor.sandboxes import branches, wire
from recursor.sandboxes.blocks import Begun, execution_of, watched
from recursor.sandboxes.calls import Clock, decoded
from recursor.sandboxes.files import FileSource
from recursor.sandboxes.folders import FolderSource
from recursor.sandboxes.link import Link, Worker
from recursor.threads import in_thread
from recursor.types import CallStyle, ContextInfo, Execution, Isolation

START = 30.0
"""Seconds within which a worker must be ready, and a small context loaded."""
LOAD_RATE = 1e7
"""Bytes a second that loading a context reaches at the very least."""
CLOSED = "the REPL is closed"
DIED = "The REPL died in this block: "
DIED_SINCE = "the REPL died after the block before: "
LOST = "the REPL is started anew: your variables are lost, the given ones are loaded again"
BACK = (
    "the REPL went back to what it was before {}: your variables of then are there; what was done outside of them "
    "stays done (sub-calls, tools, files in /tmp)"
)


class Kept:
    """A state of a REPL that can be gone back to: implements `Snapshot`.

    Args:
        repl: a copy of it, which runs nothing.
        among: the others of the REPL.
    """

    def __init__(self, repl: WireRepl, among: set[Kept]) -> None:
        self.repl = repl
        self._among = among

    async def close(self) -> None:
        self._among.discard(self)
        await self.repl.close()


class WireRepl:
    """Implements `Repl` over workers that `spawn` starts.

    Args:
        spawn: starts a worker; used again when one died.
        isolation: what is in force for its workers, or what says so of one by the facts that it reports;
            that may raise a SandboxError, and the worker is not used.
        tools: names of host functions to bind.
        calls: how the plain names of sub-calls are called.
        seed: of all randomness in it; None where a worker cannot keep it, nor repeat what its clocks showed.
    """

    def __init__(
        self,
        spawn: Callable[[], Awaitable[Worker]],
        isolation: Isolation | Callable[[wire.Facts | None], Isolation],
        tools: Sequence[str],
        *,
        calls: CallStyle = "plain",
        seed: int | None = None,
    ) -> None:
        self._spawn = spawn
        self._found = isolation
        self._tools = list(tools)
        self._style = calls
        self._seed = seed
        self._births = itertools.count()
        self._sources: dict[str, Source] = {}
        self._link: Link | None = None
        self._draft: tuple[str, bytes] | None = None
        """The last draft that was small, as its worker encoded it: it outlives the worker."""
        self._closed = False
        self._rescue: Link | None = None
        """A copy of the worker, to go on with should it die."""
        self._since = 0
        """Blocks that have run since that was made, or since there was anything to lose."""
        self._keeping: asyncio.Task[None] | None = None
        self._kept: set[Kept] = set()
        self._told: tuple[str, ...] = ()
        """What is to be noted beside the next block."""

    async def start(self) -> None:
        """Start a worker, wait until it is ready, and load what earlier ones had."""
        link = Link(await self._spawn(), self._sources)
        if self._closed:  # meanwhile
            await link.bury(None)
            raise SandboxError(CLOSED)
        self._link = link
        link.calls.branch = self._branch
        facts = await link.open(START)
        try:
            self.isolation = self._found(facts) if callable(self._found) else self._found
        except SandboxError as error:
            await self._bury(link, str(error))
            raise
        # A worker that is born again does not repeat the randomness of the one that died.
        seed = None if self._seed is None else f"{self._seed}/{next(self._births)}"
        setup = {"op": "setup", "tools": self._tools, "calls": self._style, "seed": seed}
        setup["forks"] = branches.no_forks(link.worker)
        link.send(setup)
        for name, source in self._sources.items():
            await self._load(link, name, source)

    async def load(self, name: str, source: Source) -> ContextInfo:
        await self._settled()
        info = await self._load(await self._alive(), name, source)
        self._sources.pop(name, None)  # what is loaded last may be another name for what was before
        self._sources[name] = source
        return info

    async def execute(
        self,
        code: str,
        subcalls: Subcalls,
        *,
        max_time: float | None = None,
        max_wall: float | None = None,
        readings: Sequence[float] = (),
    ) -> Execution:
        await self._settled()
        begun = Begun()
        link = await self._alive()
        self._since += 1
        link.calls.subcalls, link.calls.clock = subcalls, Clock()
        header = {"op": "run", "readings": [float(reading) for reading in readings[: wire.MAX_READINGS]]}
        done = link.expect(header, wire.Done, code.encode("utf-8", "surrogatepass"))
        try:
            stopped = await watched(link, done, max_time, max_wall)
            if not done.done():
                how = await self._bury(link, stopped)
                error, notes = f"{DIED}{how}", (self._fall_back(),)
                return Execution(code, error=error, notes=notes, duration=begun.seconds, started=begun.at)
            await link.end_calls()
            frame, body = done.result()
            told, self._told = self._told, ()
            return await execution_of(code, frame, body, told=told, stopped=stopped, begun=begun)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def draft(self) -> Any:
        link = self._link
        try:
            if link is not None and not link.lost.done():
                asked = link.expect({"op": "draft"}, wire.Drafted)
                if await link.first(asked, 5.0):
                    frame, body = asked.result()
                    value = await decoded(frame.answer.form, body) if frame.answer else None
                    if value is not None:
                        return value
            kept = (link.kept if link is not None else None) or self._draft
            return None if kept is None else await decoded(*kept)
        except ValueError:
            return None

    async def close(self) -> None:
        self._closed = True
        await self._settled(cancel=True)
        links = (self._link, self._rescue)
        self._link = self._rescue = None
        for link in links:
            if link is not None:
                await link.bury(None)
        for kept in list(self._kept):
            await kept.close()
        self._sources.clear()  # a link refers to itself: what it was given would be held until garbage is collected

    # Copies ------------------------------------------------------------------------------------

    @property
    def copyable(self) -> bool:
        return self._link is not None and not branches.no_forks(self._link.worker)

    async def fork(self) -> WireRepl:
        await self._settled()
        return await self._copy(await self._alive(), None)

    async def snapshot(self) -> Kept:
        kept = Kept(await self.fork(), self._kept)
        self._kept.add(kept)
        return kept

    async def restore(self, snapshot: Snapshot) -> None:
        if not isinstance(snapshot, Kept):
            raise SandboxError("a REPL goes back only to a snapshot that was taken of one of its sandbox")
        copy = await snapshot.repl.fork()
        await self._settled()
        if self._link is not None:
            await self._bury(self._link, None)
        if self._closed:
            await copy.close()
            raise SandboxError(CLOSED)
        self._draft = copy._draft
        self._adopt(copy._release(), copy._sources)

    async def become(self, *, tools: Sequence[str], seed: int, calls: CallStyle) -> None:
        link = await self._alive()
        for gone in set(self._tools) - set(tools):
            self._sources.pop(gone, None)  # of a tool that was defined here
        self._tools, self._style = list(tools), calls
        self._seed, self._births = (None if self._seed is None else seed), itertools.count(1)
        self._draft = link.kept = None
        link.send({"op": "become", "tools": self._tools, "calls": calls, "seed": self._seed and f"{seed}/0"})

    def checkpoint(self) -> None:
        if self._closed or self._keeping is not None or not self._since:
            return
        if self._link is not None and self.copyable:
            self._keeping = asyncio.ensure_future(self._keep(self._link))

    async def _keep(self, link: Link) -> None:
        """Make a copy of the worker, in the place of an earlier one."""
        rescue, self._rescue = self._rescue, None
        if rescue is not None:
            await rescue.bury(None)
        try:
            made = await branches.fork(link, self._sources)
        except SandboxError:
            return  # threads that its code has left behind; should it die, it is started anew
        if self._closed:
            await made.bury(None)
            return
        self._rescue = made
        self._since = 0

    async def _settled(self, *, cancel: bool = False) -> None:
        """Wait until a copy that is being made is there."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            if cancel:
                keeping.cancel()
            await asyncio.wait([keeping])

    async def _branch(self, asked: int) -> WireRepl:
        """Make a copy that the running block asks for."""
        assert self._link is not None
        return await self._copy(self._link, asked)

    async def _copy(self, link: Link, asked: int | None) -> WireRepl:
        copy = WireRepl(self._spawn, self._found, self._tools, calls=self._style, seed=self._seed)
        copy.isolation, copy._draft = self.isolation, link.kept or self._draft
        copy._adopt(await branches.fork(link, copy._sources, asked), self._sources)
        return copy

    def _adopt(self, link: Link, sources: Mapping[str, Source]) -> None:
        """Go on with a worker that was another's, and has what was loaded there."""
        self._link, self._since = link, 1
        link.calls.branch = self._branch
        link.calls.sources = self._sources
        if sources is not self._sources:
            self._sources.clear()
            self._sources.update(sources)

    def _release(self) -> Link:
        link, self._link = self._link, None
        assert link is not None
        return link

    def _fall_back(self) -> str:
        """Go on with the copy, where there is one, after the worker has died; return what to tell of it."""
        rescue, self._rescue = self._rescue, None
        since, self._since = self._since, 0
        if rescue is None or rescue.lost.done():
            return LOST
        self._adopt(rescue, self._sources)
        return BACK.format("this block" if since <= 1 else f"the last {since} blocks")

    # Inside ------------------------------------------------------------------------------------

    async def _alive(self) -> Link:
        """The link to a worker that lives: the one there is, else a new one."""
        if self._closed:
            raise SandboxError(CLOSED)
        if self._link is not None and self._link.lost.done():
            how = await self._bury(self._link, None)
            self._told = (f"{DIED_SINCE}{how}", self._fall_back())
        if self._link is None:
            await self.start()
        assert self._link is not None
        return self._link

    async def _bury(self, link: Link, reason: str | None) -> str:
        self._link = None
        self._draft = link.kept or self._draft
        return await link.bury(reason)

    async def _load(self, link: Link, name: str, source: Source) -> ContextInfo:
        if link.worker.aux is None and isinstance(source, FolderSource):
            source = source.whole()
        try:
            if link.worker.aux is not None and isinstance(source, FileSource):
                source = await in_thread(source.shared)
            descriptor = await in_thread(source.open, discard=os.close)
        except (OSError, RLMError) as error:
            raise SandboxError(f"`{name}` could not be loaded: {error}") from error
        header = {"op": "load", "name": name, "form": source.form, "size": source.size}
        try:
            loaded = await link.load(header, descriptor)
        except SandboxError as error:
            raise SandboxError(f"`{name}` could not be loaded: {error}") from error
        except OSError as error:
            raise SandboxError(
                f"`{name}` could not be loaded: {await self._bury(link, str(error))}"
            ) from error
        finally:
            os.close(descriptor)
        if not await link.first(loaded, START + source.size / LOAD_RATE):
            late = None if link.lost.done() else "it took too long"
            raise SandboxError(f"`{name}` could not be loaded: {await self._bury(link, late)}")
        frame: wire.Loaded | wire.Failed
        frame, _ = loaded.result()
        if isinstance(frame, wire.Failed) and frame.unreadable:
            raise UnreadableFile(
                f"{source.origin or f'`{name}`'}: {frame.error[:1000]} (given as it stands, in "
                "recursor.files.Raw or by --raw, it is bytes)"
            )
        if isinstance(frame, wire.Failed):
            raise SandboxError(f"`{name}` could not be loaded: {frame.error[:1000]}")
        return ContextInfo(name, frame.type[:100], frame.size[:100], frame.preview[:4000], source.origin)


async def opened(
    spawn: Callable[[], Awaitable[Worker]],
    isolation: Isolation | Callable[[wire.Facts | None], Isolation],
    tools: Sequence[str],
    *,
    seed: int | None,
    calls: CallStyle,
) -> WireRepl:
    """Open a REPL over workers that `spawn` starts; see `WireRepl`. One that does not start is freed."""
    repl = WireRepl(spawn, isolation, tools, calls=calls, seed=seed)
    try:
        await repl.start()
    except BaseException:
        await repl.close()
        raise
    return repl
