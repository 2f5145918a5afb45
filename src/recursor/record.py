"""A run between the event of its start and that of its end, and what of its settings may be recorded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from recursor.context import Source
from recursor.errors import RLMError, TrajectoryError
from recursor.protocols import Sink
from recursor.threads import in_thread
from recursor.types import Completion, ContextHashed, RunEnded, RunStarted

PUBLIC_FIELDS = ("api-version", "version")
"""Fields of a URL's query that are recorded; others may be keys."""


def public_url(url: str | None) -> str | None:
    """The part of an address that may be recorded: without a password, and without keys in its query."""
    if url is None:
        return None
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name in PUBLIC_FIELDS])
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


async def recorded(
    sink: Sink,
    started: RunStarted,
    contexts: Mapping[str, Source],
    work: Callable[[], Awaitable[Completion]],
    known: Mapping[str, str] = MappingProxyType({}),
) -> Completion:
    """Do the work of a run, and emit what it was.

    Args:
        known: digests of contexts that need not be made again.

    Raises:
        TrajectoryError: nothing can be recorded: before the first call, so that it costs nothing,
            or at the end, with the completion in it.
    """
    run_id = started.run_id
    sink.emit(started)
    hashing: asyncio.Future[None] | None = None
    try:
        await sink.flush()
        hashing = asyncio.ensure_future(_hash(run_id, contexts, sink, known))
        completion = await work()
        await hashing
    except BaseException as error:
        if hashing is not None:
            hashing.cancel()
        sink.emit(RunEnded(run_id, None, f"{type(error).__name__}: {error}", time.time()))
        if isinstance(error, RLMError):
            error.run_id = run_id
        with contextlib.suppress(TrajectoryError):
            await sink.flush()
        raise
    sink.emit(RunEnded(run_id, completion, None, time.time()))
    try:
        await sink.flush()
    except TrajectoryError as error:
        error.run_id, error.completion = run_id, completion
        raise
    return completion


async def _hash(run_id: str, contexts: Mapping[str, Source], sink: Sink, known: Mapping[str, str]) -> None:
    """Emit the digests of the contexts, off the run's own path."""
    for name, source in contexts.items():
        try:
            found = known[name] if name in known else await in_thread(source.digest)
        except (OSError, ValueError, RLMError):
            continue  # a file that went, a value that was changed: what the REPL has is not known any more
        sink.emit(ContextHashed(run_id, name, found))
