"""An OpenAI-compatible server in a program of yours, and a client of it that streams.

    python examples/ask_over_http.py                    # scripted, offline
    python examples/ask_over_http.py openai/gpt-5       # with a model

From the shell the server is `recursor serve`. Any client of OpenAI's API works; this one needs no package.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request

from recursor import RLM, Limits
from recursor.server.app import Server
from recursor.testing import ScriptedModel

LOG = "\n".join(
    "ERROR disk full" if number == 4711 else f"INFO step {number}" for number in range(1, 100_001)
)
SCRIPT = [
    "I count lines.\n```repl\nlines = messages[0]['content'].splitlines()\nprint(f'{len(lines):,} lines')\n```",
    "```repl\nFINAL(next(n for n, line in enumerate(lines, 1) if line.startswith('ERROR')))\n```",
]


def ask(url: str) -> None:
    """What a client does, in a thread of its own."""
    messages = [
        {"role": "user", "content": LOG},
        {"role": "user", "content": "On which line is the first error?"},
    ]
    body = {
        "model": "recursor",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            for choice in chunk["choices"]:
                print(
                    choice["delta"].get("reasoning_content") or choice["delta"].get("content") or "", end=""
                )
            if chunk["usage"]:
                print(
                    f"\n{len(LOG):,} characters were sent, and {chunk['usage']['prompt_tokens']:,} tokens read"
                )


async def main() -> None:
    rlm = RLM(sys.argv[1], limits=Limits(max_tokens=500_000)) if sys.argv[1:] else RLM(ScriptedModel(SCRIPT))
    server = Server({"recursor": rlm})
    async with server.serving():
        await asyncio.to_thread(ask, server.url)


if __name__ == "__main__":
    asyncio.run(main())
