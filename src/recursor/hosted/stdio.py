"""`recursor mcp` on standard input and output, which are the protocol's alone."""

from __future__ import annotations

import asyncio
import os
import signal

from mcp.server.stdio import stdio_server

from recursor.hosted.mcp import Tools


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
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
    finally:
        await tools.jobs.close()
