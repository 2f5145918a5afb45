"""`recursor mcp` on standard input and output, which are the protocol's alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mcp
from mcp.server.stdio import stdio_server

from recursor.hosted.ending import on_signals
from recursor.hosted.lines import Lines
from recursor.hosted.logs import without_content
from recursor.hosted.mcp import Tools
from recursor.mcp.pipes import mended


async def serve(tools: Tools) -> None:
    """Answer one host until it closes standard input; runs that go on are stopped then. A signal ends the process."""
    server = tools.server()
    on_signals(tools.jobs.close)
    without_content(mcp)
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
