"""Whoever goes away ends the run, on every path."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import aiohttp.web
import pytest

from recursor.testing import ScriptedModel
from recursor.types import Message, Reply
from serving import Client, serving

CODE = "```python\nwhile True: pass\n```"
SLEEP = "```python\nimport time\ntime.sleep(1000)\n```"
CALLS = "```python\nllm_query_batched(['x'] * 1_000)\n```"
CHILD = "```python\nrlm_query('What?', 'x' * 1000)\n```"
TOOL = {"type": "function", "function": {"name": "look"}}
HELD = "```python\nlook()\nwhile True: pass\n```"


class Slow(ScriptedModel):
    """Its root LM replies at once, once; all other calls never end."""

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if len(self.requests) >= 1:
            self.requests.append(tuple(messages))
            await asyncio.Event().wait()
        return await super().query(messages, **options)


def body(path: str, stream: bool, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {"input": "Hello"}
    return {"model": "recursor", "stream": stream, **asked, **more}


async def sent(client: Client, path: str, asked: Any) -> asyncio.StreamWriter:
    """A request, on a connection of its own."""
    data = json.dumps(asked).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
    writer.write(b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode())
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
    return writer


async def stopped(client: Client, runs: int = 1) -> None:
    """Return when nothing is at work any more, and the run counts as stopped."""
    async with asyncio.timeout(60):
        await client.until("recursor_runs_in_flight 0")
        await client.until(f'recursor_runs_total{{key="anybody",outcome="stopped"}} {runs}')


async def at_work(client: Client, model: ScriptedModel, requests: int) -> None:
    await client.until("recursor_runs_in_flight 1")
    async with asyncio.timeout(60):
        while len(model.requests) < requests:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("reply", "requests"),
    [(CODE, 1), (SLEEP, 1), (CALLS, 20), (CHILD, 2), ("```python\n1\n```", 2)],
    ids=["in code", "asleep", "in 1,000 calls", "in a child", "in a call of the root"],
)
async def test_a_client_that_goes_away_ends_its_run(
    path: str, stream: bool, reply: str, requests: int, how: str
) -> None:
    model = Slow([reply])
    async with serving(model) as client:
        writer = await sent(client, path, body(path, stream))
        await at_work(client, model, requests)
        writer.transport.abort() if how == "abort" else writer.close()
        await stopped(client)


@pytest.mark.parametrize("stream", [False, True])
async def test_so_does_one_that_came_back_with_a_result(stream: bool) -> None:
    path = "/v1/chat/completions"
    model = ScriptedModel([HELD])
    async with serving(model) as client:
        asked = body(path, False, tools=[TOOL])
        _, reply, _ = await client.post(asked)
        [call] = reply["choices"][0]["message"]["tool_calls"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "seen"}
        asked["messages"] += [reply["choices"][0]["message"], result]
        writer = await sent(client, path, {**asked, "stream": stream})
        await client.until("recursor_runs_in_flight 1")
        writer.close()
        await stopped(client)


async def test_so_does_one_whose_body_has_just_come() -> None:
    async with serving(lambda _: CODE) as client:
        for _ in range(20):
            writer = await sent(client, "/v1/responses", body("/v1/responses", True))
            await writer.drain()
            writer.close()
        async with asyncio.timeout(60):
            await client.until("recursor_runs_in_flight 0")
            assert (await client.get("/healthz"))[0] == 200
            await client.until("recursor_runs_in_flight 0")


async def test_a_client_that_goes_before_its_stream_begins_is_no_mistake_of_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = asyncio.Event()
    prepare = aiohttp.web.StreamResponse.prepare

    async def late(self: aiohttp.web.StreamResponse, request: aiohttp.web.BaseRequest) -> Any:
        if self.content_type == "text/event-stream":
            assert request.transport is not None
            request.transport.abort()
            gone.set()
        return await prepare(self, request)

    async with serving(lambda _: "```python\nFINAL(1)\n```") as client:
        _, made, _ = await client.post(body("/v1/responses", False, background=True), "/v1/responses")
        monkeypatch.setattr(aiohttp.web.StreamResponse, "prepare", late)
        _, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(
            b"GET /v1/responses/%b?stream=true HTTP/1.1\r\nHost: localhost\r\n\r\n" % made["id"].encode()
        )
        async with asyncio.timeout(60):
            await gone.wait()
        assert (await client.get("/healthz"))[0] == 200
        writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
