"""Files and pictures in messages, by both APIs."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from recursor.testing import ScriptedModel
from serving import by_turn, serving

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
TABLE = b"city,degrees\nOslo,7\nRome,21\n"
DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def asking(api: str, *files: Any, text: str = "What is in it?") -> dict[str, Any]:
    """A question with files, each of them given by its fields."""
    if api == "chat":
        parts = [{"type": "text", "text": text}, *({"type": "file", "file": file} for file in files)]
        return {"model": "recursor", "messages": [{"role": "user", "content": parts}]}
    items = [{"type": "input_text", "text": text}, *({"type": "input_file", **file} for file in files)]
    return {"model": "recursor", "input": [{"role": "user", "content": items}]}


def file(name: str, data: bytes, kind: str = "data:application/octet-stream;base64,") -> dict[str, Any]:
    return {"filename": name, "file_data": kind + base64.b64encode(data).decode()}


def said(api: str, reply: Any) -> str:
    text: str = (
        reply["choices"][0]["message"]["content"]
        if api == "chat"
        else reply["output"][-1]["content"][0]["text"]
    )
    return text


@pytest.mark.parametrize("api", PATHS)
async def test_a_file_in_a_message_is_the_context_read_as_what_it_is(api: str) -> None:
    model = ScriptedModel(by_turn("```python\nFINAL(str(sum(int(row['degrees']) for row in context)))\n```"))
    async with serving(model) as client:
        _, reply, _ = await client.post(asking(api, file("t.csv", TABLE)), PATHS[api])
        _, bare, _ = await client.post(asking(api, file("t.csv", TABLE, "")), PATHS[api])
    assert said(api, reply) == said(api, bare) == "28"
    assert "the file 't.csv' is in the variable `context`" in model.requests[0][-1].content
    assert "b2ljZ" not in str(model.requests)


@pytest.mark.parametrize("api", PATHS)
async def test_several_files_are_found_by_their_names(api: str) -> None:
    files = [
        file("t.csv", TABLE),
        file("../../notes.txt", b"Cold."),
        file("t.csv", b"a\n1\n"),
        file("", b"plain"),
    ]
    async with serving(
        by_turn("```python\nFINAL(' '.join(sorted(context)) + ' ' + context['notes.txt'])\n```")
    ) as client:
        _, reply, _ = await client.post(asking(api, *files), PATHS[api])
    assert said(api, reply) == "2-t.csv file notes.txt t.csv Cold."


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    "wrong",
    [{}, {"file_id": "file-1"}, {"file_url": "http://127.0.0.1/x"}, {"file_data": "***"}, {"file_data": 7}, {"file_data": "YQ==", "filename": 7}],
)  # fmt: skip
async def test_a_file_without_its_data_is_refused(api: str, wrong: Any) -> None:
    model = ScriptedModel([])
    async with serving(model) as client:
        status, reply, _ = await client.post(asking(api, wrong), PATHS[api])
    param = "messages[0].content" if api == "chat" else "input[0].content"
    assert (status, reply["error"]["param"]) == (400, param)
    assert not model.requests


async def test_a_damaged_file_is_refused_by_its_name() -> None:
    model = ScriptedModel([])
    async with serving(model) as client:
        status, reply, _ = await client.post(asking("chat", file("x.pdf", b"%PDF-1.4 nonsense")))
    assert status == 400
    assert reply["error"]["message"].startswith("x.pdf: it cannot be read as PDF")
    assert not model.requests


async def test_a_result_that_is_a_picture_is_said_to_be_one() -> None:
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    body = {"model": "recursor", "input": [{"role": "user", "content": "Look."}], "tools": tools}
    async with serving(by_turn("```python\nFINAL(look())\n```")) as client:
        _, first, _ = await client.post(body, "/v1/responses")
        [call] = first["output"]
        output = [{"type": "input_text", "text": "Here."}, {"type": "input_image", "image_url": DOT}]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
        _, second, _ = await client.post({**body, "input": [*body["input"], call, result]}, "/v1/responses")
    assert said("responses", second) == "Here.\n[pictures that cannot be shown here: 1]"
