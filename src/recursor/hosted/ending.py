"""How a command ends that answers on standard input: a thread waits there for a line, which nothing interrupts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from recursor.mcp.server import close_all
from recursor.threads import in_thread


def on_signals(close: Callable[[], Awaitable[object]]) -> None:
    """Have SIGINT and SIGTERM end this process, as one that they have ended, once its runs have; a second one at once.

    Args:
        close: ends the runs, and returns when what they did is recorded.
    """
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Future[None]] = []

    async def closed() -> None:
        await close()
        await in_thread(close_all)

    def end(number: int) -> None:
        if ending:
            os._exit(128 + number)
        ending.append(asyncio.ensure_future(closed()))
        ending[0].add_done_callback(lambda _: os._exit(128 + number))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
