"""What happens in a run, for who reads it as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from recursor import background
from recursor.sinks import QueueSink
from recursor.types import Event


async def events(work: Callable[[QueueSink], Coroutine[Any, Any, object]]) -> AsyncGenerator[Event, None]:
    """Do the work of a run on the background loop, and yield what it tells; closing this stops the run.

    Args:
        work: is given who watches.

    Raises:
        RLMError: what the work raises, after all events.
    """
    queue = QueueSink(asyncio.get_running_loop())
    run = asyncio.ensure_future(background.arun(lambda: work(queue)))
    run.add_done_callback(lambda _: queue.end())
    try:
        async for event in queue:
            yield event
    finally:
        run.cancel()
        await asyncio.wait([run])
    await run
