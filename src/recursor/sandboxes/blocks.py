"""One block in a worker: its bounds in time, and what came of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from recursor.sandboxes import wire
from recursor.sandboxes.calls import decoded
from recursor.sandboxes.link import Link
from recursor.types import Execution, Output, Submission, Variable

GRACE = 3.0
"""Seconds between the interrupt and the kill, which loses the variables: a busy or distant machine takes its time."""
LAST_GRACE = 0.05
"""The same when the time of the whole run is up."""
MAX_ERROR = 8_000
MAX_NOTES = 20
INTERRUPTED = "the block was interrupted: "


class Begun:
    """When a block was to run."""

    def __init__(self) -> None:
        self.at = time.time()
        self._monotonic = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self._monotonic


async def watched(
    link: Link, done: asyncio.Future[Any], max_time: float | None, max_wall: float | None
) -> str | None:
    """Wait for the block; at a bound interrupt it, then give up. Return the bound that was hit."""
    begun = time.monotonic()
    while True:
        own = None if max_time is None else max_time - link.calls.clock.ran
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


async def execution_of(
    code: str,
    frame: wire.Done,
    body: bytes,
    *,
    told: tuple[str, ...],
    stopped: str | None,
    begun: Begun,
) -> Execution:
    """Return what a block did, as its worker says, within bounds.

    Args:
        told: notes that go before its own.
        stopped: the bound that it hit.
        begun: when it was to run.
    """
    error = frame.error and _clipped(frame.error, MAX_ERROR)
    notes = (*told, *(_clipped(note, 500) for note in frame.notes[:MAX_NOTES]))
    if stopped and error:
        notes = (*notes, f"{INTERRUPTED}{stopped}")
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
        code, output, error, notes, submission, begun.seconds, tuple(frame.readings),
        variables, frame.more_variables, begun.at,
    )  # fmt: skip


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... [{len(text) - limit:,} characters left out]"
