"""The responses API, from outside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from recursor.errors import ModelError
from recursor.testing import ScriptedModel
from recursor.types import Message
from serving import by_turn, parsed, serving

PATH = "/v1/responses"
ANSWER = "I see.\n```python\nFINAL('It is 42.')\n```"
HELLO = {"model": "recursor", "input": "Hello"}


async def test_a_text_is_answered_by_a_message() -> None:
    model = ScriptedModel(by_turn(ANSWER))
    async with serving(model) as client:
        status, reply, headers = await client.post(
            {**HELLO, "instructions": "Be short.", "metadata": {"a": "b"}}, PATH
        )
    assert status == 200
    assert (reply["object"], reply["status"], reply["metadata"]) == ("response", "completed", {"a": "b"})
    assert reply["id"] == f"resp_{headers['X-Recursor-Run']}"
    [message] = reply["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "It is 42.", "annotations": [], "logprobs": []}
    ]
    assert (
        reply["usage"]["total_tokens"] == reply["usage"]["input_tokens"] + reply["usage"]["output_tokens"] > 0
    )
    assert "Be short." in str(model.requests[0])


async def test_items_are_messages_in_the_repl() -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "One."}]},
        {"role": "user", "content": "And two?"},
    ]
    code = "```python\nFINAL([m['role'] for m in messages] + [messages[0]['content'][0]['text']])\n```"
    async with serving(by_turn(code)) as client:
        _, reply, _ = await client.post({"model": "recursor", "input": items}, PATH)
    assert json.loads(reply["output"][0]["content"][0]["text"]) == ["user", "assistant", "user", "One?"]


async def test_a_stream_has_the_events_of_the_api_in_their_order() -> None:
    async with serving(by_turn(ANSWER)) as client:
        events = await client.events(HELLO, PATH)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    once = list(dict.fromkeys(kinds))
    assert once == [
        "created", "in_progress", "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done", "content_part.added",
        "output_text.delta", "output_text.done", "content_part.done", "completed",
    ]  # fmt: skip
    told = "".join(event["delta"] for event in events if event["type"].endswith("summary_text.delta"))
    assert "I see." in told
    [delta] = [event for event in events if event["type"] == "response.output_text.delta"]
    assert (delta["delta"], delta["output_index"]) == ("It is 42.", 1)
    whole = events[-1]["response"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["summary"][0]["text"] == told
    assert whole["usage"]["output_tokens"] > 0


async def test_a_format_is_kept_to_and_limits_leave_it_incomplete() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    text = {"format": {"type": "json_schema", "name": "person", "schema": schema}}
    async with serving(
        by_turn("```python\nFINAL({'age': 'old'})\n```", "```python\nFINAL({'age': 7})\n```")
    ) as client:
        _, reply, _ = await client.post({**HELLO, "text": text}, PATH)
    assert json.loads(reply["output"][0]["content"][0]["text"]) == {"age": 7}
    async with serving(by_turn(*["```python\nprint(1)\n```"] * 9)) as client:
        _, cut, _ = await client.post({**HELLO, "metadata": {"max_turns": "1"}}, PATH)
        events = await client.events({**HELLO, "metadata": {"max_turns": "1"}}, PATH)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert events[-1]["type"] == "response.incomplete"


async def test_a_stream_that_fails_says_so() -> None:
    async with serving(lambda _: ModelError("down", 500)) as client:
        events = await client.events(HELLO, PATH)
        status, reply, _ = await client.post(HELLO, PATH)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["type"] == "upstream_error"
    assert (status, reply["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"instructions": 7}, "instructions"),
    ],
)
async def test_what_is_not_served_is_said(more: dict[str, Any], param: str) -> None:
    async with serving([]) as client:
        status, reply, _ = await client.post({**HELLO, **more}, PATH)
    assert (status, reply["error"]["param"]) == (400, param)


async def test_a_stream_in_which_nothing_happens_says_that_it_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recursor.server.work.SILENCE", 0.02)
    go_on = asyncio.Event()

    async def says(_: Sequence[Message]) -> str:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    chat = {"model": "recursor", "messages": [{"role": "user", "content": "Hello"}]}
    signs: dict[str, tuple[dict[str, Any], bytes, int]] = {
        PATH: (HELLO, b"event: response.in_progress", 2),
        "/v1/chat/completions": (chat, b": working\n\n", 1),
    }
    async with serving(says) as client:
        for path, (body, sign, times) in signs.items():
            go_on.clear()
            text = b""
            async with client.session.post(client.root + path, json={**body, "stream": True}) as response:
                async for piece in response.content.iter_any():
                    text += piece
                    if text.count(sign) >= times:
                        go_on.set()
            kinds = [event["type"] for event in parsed(text.decode()) if "type" in event]
            if kinds:
                assert kinds[:3] == ["response.created", "response.in_progress", "response.in_progress"]
                assert kinds[-1] == "response.completed"
