"""`recursor mcp` on standard input and output, which are the protocol's alone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from mcp.server.stdio import stdio_server

from recursor.hosted.lines import Lines
from recursor.hosted.mcp import Tools
from recursor.mcp.pipes import mended


async def serve(tools: Tools) -> None:
    """Answer one host until it closes standard input; runs that go on are stopped then. A signal ends the process."""
    server, loop = tools.server(), asyncio.get_running_loop()

    def end(number: int) -> None:
        ending = asyncio.ensure_future(tools.jobs.close())
        # A thread waits for a line, which nothing interrupts.
        ending.add_done_callback(lambda _: os._exit(128 + number))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        given: Any = _Input()
        async with stdio_server(stdin=given) as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await tools.jobs.close()


class _Input:
    """Lines of standard input, which is nobody else's then, as the package wants them."""

    def __init__(self) -> None:
        self._lines = Lines(os.dup(0), -1)
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)

    def __aiter__(self) -> _Input:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.line()
        if line is None:
            raise StopAsyncIteration
        return mended(line).decode("utf-8", "replace")
