"""The loopback server and the scripted model, seen by an HTTP client that is not ours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from recursor.errors import ModelError
from recursor.protocols import Model, Sink
from recursor.testing import ListSink, ModelServer, ScriptedModel, check_model
from recursor.types import Message, Reply, ReplyText, Usage

ASK = [Message("user", "How much?")]
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ANTHROPIC: dict[str, Any] = {**CHAT, "max_tokens": 9}
VERSION = {"anthropic-version": "2023-06-01"}


async def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        return response.status, await response.text(), dict(response.headers)


# Scripts ---------------------------------------------------------------------------------------


async def test_a_script_is_told_in_order_and_says_when_it_is_over() -> None:
    model = ScriptedModel(["one", Reply("two", cost=1.0), ValueError("three")])
    first = await model.query(ASK)
    assert (first.text, first.cost, first.usage) == ("one", 0.0, Usage(3, 1, calls=1))
    assert (await model.query(ASK)).cost == 1.0
    with pytest.raises(ValueError, match="three"):
        await model.query(ASK)
    with pytest.raises(ModelError, match="the script has 3 replies; this was call 4"):
        await model.query(ASK)
    assert model.requests == [tuple(ASK)] * 4


async def test_a_script_may_be_a_function_sync_or_async() -> None:
    async def later(messages: Any) -> str:
        await asyncio.sleep(0)
        return str(messages[-1]["content"])

    assert (await ScriptedModel(later).query(ASK)).text == "How much?"
    assert (await ScriptedModel(lambda messages: messages[-1].role).query(ASK)).text == "user"
    await check_model(ScriptedModel(later))


async def test_a_model_that_breaks_the_contract_is_told_how() -> None:
    with pytest.raises(AssertionError, match="must count one call, not 0"):
        await check_model(ScriptedModel(lambda messages: Reply("a", Usage())))
    with pytest.raises(AssertionError, match="must include those of the cache"):
        await check_model(ScriptedModel(lambda messages: Reply("a", Usage(1, 1, 2, calls=1))))


async def test_a_list_sink_keeps_events() -> None:
    sink: Sink = ListSink()
    event = ReplyText("run", 1, "text")
    sink.emit(event)
    await sink.flush()
    assert isinstance(sink, ListSink)
    assert sink.events == [event]


def test_a_scripted_model_is_a_model() -> None:
    assert isinstance(ScriptedModel([]), Model)


# The server ------------------------------------------------------------------------------------


async def test_the_chat_wire_streams_usage_in_an_event_of_its_own_only_when_asked() -> None:
    with ModelServer(lambda messages: "hello there", piece=6) as server:
        url = server.url + "/chat/completions"
        _, plain, headers = await post(url, {**CHAT, "stream": True})
        _, asked, _ = await post(url, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert headers["Content-Type"] == "text/event-stream"
    assert plain.endswith("data: [DONE]\n\n")
    assert "usage" not in plain
    events = [json.loads(line[6:]) for line in asked.split("\n\n") if line.startswith("data: {")]
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 4
    assert [event["choices"][0]["delta"].get("content") for event in events[1:3]] == ["hello ", "there"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


async def test_the_messages_wire_names_its_events_in_the_order_of_the_provider() -> None:
    with ModelServer([Reply("hi", Usage(5, 2, 1, 1, calls=1), reasoning="hm")]) as server:
        _, text, _ = await post(server.url + "/messages", {**ANTHROPIC, "stream": True}, VERSION)
    events = [part.split("\n") for part in text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in events]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert names == ["message_start", "ping", *block, *block, "message_delta", "message_stop"]
    assert [each["type"] for each in data] == names
    assert data[0]["message"]["usage"]["input_tokens"] == 3
    assert data[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 2},
    }


@pytest.mark.parametrize(
    ("path", "body", "headers", "said"),
    [
        ("/chat/completions", {"model": "m"}, {}, "messages"),
        ("/chat/completions", {**CHAT, "messages": [{"role": "robot", "content": ""}]}, {}, "role"),
        ("/messages", CHAT, VERSION, "max_tokens: Field required"),
        ("/messages", ANTHROPIC, {}, "anthropic-version"),
        (
            "/messages",
            {**ANTHROPIC, "messages": [{"role": "user", "content": " "}]},
            VERSION,
            "non-whitespace",
        ),
        ("/messages", {**ANTHROPIC, "messages": [{"role": "system", "content": "a"}]}, VERSION, "role"),
        ("/chat/completions", [], {}, "no JSON object"),
    ],
)
async def test_a_wrong_request_is_refused_as_the_provider_does(
    path: str, body: Any, headers: dict[str, str], said: str
) -> None:
    with ModelServer(lambda messages: "") as server:
        status, text, _ = await post(server.url + path, body, headers)
    assert status == 400
    assert said in json.loads(text)["error"]["message"]


async def test_a_key_is_asked_for_in_the_header_of_each_wire() -> None:
    with ModelServer(lambda messages: "", api_key="secret") as server:
        chat, messages = server.url + "/chat/completions", server.url + "/messages"
        assert (await post(chat, CHAT))[0] == 401
        assert (await post(chat, CHAT, {"Authorization": "Bearer secret"}))[0] == 200
        status, text, _ = await post(messages, ANTHROPIC, VERSION)
        assert (status, json.loads(text)["error"]["type"]) == (401, "authentication_error")
        assert (await post(messages, ANTHROPIC, {**VERSION, "x-api-key": "secret"}))[0] == 200
        assert len(server.requests) == 2


async def test_failures_come_when_they_are_asked_for_and_are_recorded() -> None:
    with ModelServer(["fine"]) as server:
        server.fail_next(2, 503, retry_after=7)
        url = server.url + "/chat/completions"
        answers = [await post(url, CHAT) for _ in range(3)]
        assert [status for status, _, _ in answers] == [503, 503, 200]
        assert answers[0][2]["Retry-After"] == "7"
        assert server.requests == [CHAT] * 3


async def test_an_error_of_the_model_becomes_an_error_of_the_server() -> None:
    with ModelServer([ModelError("overloaded", 529)]) as server:
        status, text, _ = await post(server.url + "/messages", ANTHROPIC, VERSION)
        assert (status, json.loads(text)["error"]["type"]) == (529, "overloaded_error")
        status, text, _ = await post(server.url + "/chat/completions", CHAT)
        assert status == 500
        assert "the script has 1 reply" in text


async def test_the_models_are_listed() -> None:
    with ModelServer(ScriptedModel([], name="tiny")) as server:
        async with aiohttp.ClientSession() as session, session.get(server.url + "/models") as response:
            assert (await response.json())["data"][0]["id"] == "tiny"


async def test_a_thousand_requests_at_once_are_answered() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    with ModelServer(lambda messages: "ok", latency=0.05) as server:
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask() -> int:
                async with session.post(server.url + "/chat/completions", json=CHAT) as response:
                    await response.read()
                    return response.status

            assert await asyncio.gather(*(ask() for _ in range(1000))) == [200] * 1000
        assert len(server.requests) == 1000


async def test_a_server_stops_while_a_request_hangs() -> None:
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang(messages: Any) -> str:
        loop.call_soon_threadsafe(arrived.set)
        await asyncio.Event().wait()
        return ""

    with ModelServer(hang) as server:
        call = asyncio.create_task(post(server.url + "/chat/completions", CHAT))
        await asyncio.wait_for(arrived.wait(), 5)
    with pytest.raises(aiohttp.ClientConnectionError):
        await asyncio.wait_for(call, 5)
