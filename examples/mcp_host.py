"""A host of the Model Context Protocol that starts `recursor mcp` and asks it over a folder.

    python examples/mcp_host.py                    # scripted, offline
    python examples/mcp_host.py openai/gpt-5       # with a model

Claude, Cursor and Zed do the same by a few lines of settings: docs/mcp.md. Needs recursor[mcp].
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mcp import Client, StdioServerParameters

from recursor.testing import ModelServer
from recursor.types import Message

SCRIPT = (
    "I look.\n```repl\nprint(len(context), 'documents')\n```",
    "```repl\nfound = {name: text.count('ERROR') for name, text in context.items()}\n"
    "FINAL({name: count for name, count in found.items() if count})\n```",
)


def scripted(messages: Sequence[Message]) -> str:
    return SCRIPT[sum(message.role == "assistant" for message in messages)]


async def told(progress: float, total: float | None, message: str | None) -> None:
    """What a host shows while it waits."""
    print(f"   {progress:.0f} of {total or 'some'} seconds: {message}")


async def ask(folder: Path, *model: str) -> None:
    command = ["-m", "recursor", "mcp", "--allow", str(folder), "--no-store", *model]
    started = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    async with Client(started) as client:
        print("tools:", *(tool.name for tool in (await client.list_tools()).tools))
        question = {"question": "Which logs have errors, and how many?", "paths": ["."]}
        done = await client.call_tool("ask", question, progress_callback=told)
        print(done.structured_content or done.content)
        refused = await client.call_tool("ask", {"question": "?", "paths": ["/etc/passwd"]})
        print("refused:", bool(refused.is_error))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for number in range(1, 1001):
            line = "ERROR disk full\n" if number % 400 == 0 else "INFO all is well\n"
            Path(name, f"day-{number}.log").write_text(line * number)
        if sys.argv[1:]:
            asyncio.run(ask(Path(name), "--model", sys.argv[1]))
            return
        with ModelServer(scripted) as server:
            asyncio.run(ask(Path(name), "--model", "scripted", "--base-url", server.url))


if __name__ == "__main__":
    main()
