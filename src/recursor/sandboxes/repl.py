"""A REPL behind a socket: what every sandbox's `open` returns.

Loads contexts, runs blocks and keeps their time. A worker that died or had to be killed is
replaced by a new one with the same contexts before the next block; the execution says what was lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from recursor.errors import RLMError, SandboxError
from recursor.protocols import Source, Subcalls
from recursor.sandboxes import wire
from recursor.sandboxes.folders import FolderSource
from recursor.sandboxes.link import Clock, Link, Worker, decoded
from recursor.threads import in_thread
from recursor.types import CallStyle, ContextInfo, Execution, Isolation, Output, Submission, Variable

GRACE = 1.0
"""Seconds between the interrupt and the kill."""
LAST_GRACE = 0.05
"""The same when the time of the whole run is up."""
START = 30.0
"""Seconds within which a worker must be ready, and a small context loaded."""
LOAD_RATE = 1e7
"""Bytes a second that loading a context reaches at the very least."""
MAX_ERROR = 8_000
MAX_NOTES = 20
LOST = "the REPL is started anew: your variables are lost, the given ones are loaded again"


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

    async def start(self) -> None:
        """Start a worker, wait until it is ready, and load what earlier ones had."""
        self._link = Link(await self._spawn(), self._sources)
        facts = await self._link.open(START)
        try:
            self.isolation = self._found(facts) if callable(self._found) else self._found
        except SandboxError as error:
            await self._bury(self._link, str(error))
            raise
        # A worker that is born again does not repeat the randomness of the one that died.
        seed = None if self._seed is None else f"{self._seed}/{next(self._births)}"
        setup = {"op": "setup", "tools": self._tools, "calls": self._style, "seed": seed}
        self._link.send(setup)
        for name, source in self._sources.items():
            await self._load(self._link, name, source)

    async def load(self, name: str, source: Source) -> ContextInfo:
        info = await self._load(await self._alive(), name, source)
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
        began, started = time.time(), time.monotonic()
        link = await self._alive()
        link.subcalls, link.clock = subcalls, Clock()
        header = {"op": "run", "readings": [float(reading) for reading in readings[: wire.MAX_READINGS]]}
        done = link.expect(header, wire.Done, code.encode("utf-8", "surrogatepass"))
        try:
            execution = await self._execute(link, code, done, max_time, max_wall)
        except asyncio.CancelledError:
            await self.close()
            raise
        await link.end_calls()
        return replace(execution, duration=time.monotonic() - started, started=began)

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
            kept = link.kept if link is not None and link.kept else self._draft
            return None if kept is None else await decoded(*kept)
        except ValueError:
            return None

    async def close(self) -> None:
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            await link.bury(None)

    # Inside ------------------------------------------------------------------------------------

    async def _alive(self) -> Link:
        """The link to a worker that lives: the one there is, else a new one."""
        if self._closed:
            raise SandboxError("the REPL is closed")
        if self._link is not None and self._link.lost.done():
            await self._bury(self._link, None)
        if self._link is None:
            await self.start()
        assert self._link is not None
        return self._link

    async def _bury(self, link: Link, reason: str | None) -> str:
        self._link = None
        self._draft = link.kept or self._draft
        return await link.bury(reason)

    async def _execute(
        self,
        link: Link,
        code: str,
        done: asyncio.Future[tuple[wire.Done, bytes]],
        max_time: float | None,
        max_wall: float | None,
    ) -> Execution:
        stopped = await self._watch(link, done, max_time, max_wall)
        if not done.done():
            how = await self._bury(link, stopped)
            return Execution(code, error=f"The REPL died in this block: {how}", notes=(LOST,))
        frame, body = done.result()
        error = frame.error and _clipped(frame.error, MAX_ERROR)
        notes = tuple(_clipped(note, 500) for note in frame.notes[:MAX_NOTES])
        if stopped and error:
            notes = (*notes, f"the block was interrupted: {stopped}")
        submission = None
        if frame.answer is not None:
            try:
                submission = Submission(await decoded(frame.answer.form, body))
            except ValueError as problem:
                error = f"The answer could not be read: {problem}; make it smaller or simpler"
        output = Output(frame.head, frame.omitted, frame.tail)
        variables = tuple(
            Variable(each.name, each.type, each.size, each.preview, each.change) for each in frame.variables
        )
        return Execution(
            code, output, error, notes, submission, readings=tuple(frame.readings),
            variables=variables, more_variables=frame.more_variables,
        )  # fmt: skip

    async def _watch(
        self, link: Link, done: asyncio.Future[Any], max_time: float | None, max_wall: float | None
    ) -> str | None:
        """Wait for the block; at a bound interrupt it, then give up. Return the bound that was hit."""
        begun = time.monotonic()
        while True:
            own = None if max_time is None else max_time - link.clock.ran
            wall = None if max_wall is None else begun + max_wall - time.monotonic()
            if own is not None and own <= 0:
                stopped = f"it ran for {max_time:g} s without waiting for a sub-call, and that is the limit"
                grace = GRACE
                break
            if wall is not None and wall <= 0:
                stopped, grace = "the time of the whole run is up", LAST_GRACE
                break
            left = min((bound for bound in (own, wall) if bound is not None), default=None)
            if await link.first(done, left) or link.lost.done():
                return None
        link.interrupt()  # first: it would go on to send calls while those in flight end
        await link.end_calls()
        await link.first(done, grace)
        return stopped

    async def _load(self, link: Link, name: str, source: Source) -> ContextInfo:
        if link.worker.aux is None and isinstance(source, FolderSource):
            source = source.whole()
        try:
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


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... [{len(text) - limit:,} characters left out]"
