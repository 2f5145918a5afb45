"""What the tests of the server share: a server over a scripted model, and clients of it over real HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from recursor import RLM
from recursor.server.app import Server, Settings
from recursor.testing import ScriptedModel
from recursor.testing.scripted import Scripted
from recursor.types import Message

COUNT = "```python\nFINAL(str(len(messages[-1]['content'])))\n```"
HELLO = {"model": "recursor", "messages": [{"role": "user", "content": "Hello"}]}


class Client:
    """A client of one server."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.root = server.url.removesuffix("/v1")

    async def post(
        self, body: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON and headers of a reply; a body that is no bytes is sent as JSON."""
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.post(self.root + path, data=data, headers=headers) as response:
            return response.status, await response.json(), response.headers

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        async with self.session.get(self.root + path, headers=headers) as response:
            return response.status, await response.text()

    async def events(
        self, body: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None
    ) -> list[Any]:
        """The events of a streamed reply, the last of them "[DONE]" where the API has that."""
        data = json.dumps({**body, "stream": True}).encode()
        async with self.session.post(self.root + path, data=data, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            return parsed(await response.text())

    async def until(self, line: str) -> None:
        """Return when the metrics have a line."""
        async with asyncio.timeout(60):
            while line not in (await self.get("/metrics"))[1].splitlines():
                await asyncio.sleep(0.005)


def parsed(text: str) -> list[Any]:
    data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def content(events: Sequence[Any], field: str = "content") -> str:
    deltas = [event["choices"][0]["delta"] for event in events if event != "[DONE]" and event["choices"]]
    return "".join(delta.get(field) or "" for delta in deltas)


def by_turn(*replies: Scripted) -> Callable[[Sequence[Message]], Scripted]:
    """A script for many runs at once: the turn counts."""
    return lambda messages: replies[sum(message.role == "assistant" for message in messages)]


@asynccontextmanager
async def serving(model: Any, settings: Settings | None = None, **options: Any) -> AsyncIterator[Client]:
    """A server, and a client of it."""
    model = ScriptedModel(model) if callable(model) or isinstance(model, list) else model
    server = Server({"recursor": RLM(model, **options)}, settings)
    timeout = aiohttp.ClientTimeout(total=60)
    async with server.serving(), aiohttp.ClientSession(timeout=timeout) as session:
        yield Client(server, session)
