"""What the server sends and takes, by the types of the `openai` package: strictly, with nothing beside what they name."""

from __future__ import annotations

import ast
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from recursor.errors import ModelError
from recursor.server import chat, response_form, responses
from recursor.types import Reply, Usage
from serving import Client, by_turn, serving

openai: Any = pytest.importorskip("openai")
pydantic: Any = pytest.importorskip("pydantic")
conversations: Any = pytest.importorskip("openai.types.conversations")

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Say the weather.", "parameters": SCHEMA, "strict": True}
FUNCTIONS = [{"type": "function", **WEATHER}, {"type": "custom", "name": "patch", "description": "Patch."}]
NESTED = [{"type": "function", "function": WEATHER}, {"type": "custom", "custom": {"name": "patch"}}]
USED = Usage(100, 10, cached_tokens=5, cache_write_tokens=3, reasoning_tokens=2, calls=1)
BESIDE = {"reasoning_content", "store"}
"""What is there beside: reasoning in chunks, as several providers send it; `store`, as the API itself says it."""


def says(code: str) -> Any:
    return by_turn(Reply(f"I look.\n```python\n{code}\n```", USED, 0.0, "scripted", "stop"))


def beyond(value: Any, given: Any, where: str = "") -> list[str]:
    """Fields that a validated value has beside what its types name, and those that it lost."""
    found: list[str] = []
    if isinstance(value, pydantic.BaseModel):
        named = {field.alias or name: name for name, field in type(value).model_fields.items()}
        found += [f"{where}.{name}" for name in given.keys() - named.keys() - BESIDE]
        for name in given.keys() & named.keys():
            found += beyond(getattr(value, named[name]), given[name], f"{where}.{name}")
    elif isinstance(value, list):
        for index, (one, other) in enumerate(zip(value, given, strict=True)):
            found += beyond(one, other, f"{where}[{index}]")
    return found


def checked(kind: Any, value: Any) -> Any:
    """A value as the package has it; it must be exactly that."""
    made = pydantic.TypeAdapter(kind).validate_python(value, strict=True)
    assert beyond(made, value) == []
    return made


def whole_chat(value: Any) -> Any:
    return checked(openai.types.chat.ChatCompletion, value)


def chunk(value: Any) -> None:
    if value != "[DONE]":
        checked(openai.types.chat.ChatCompletionChunk, value)


def whole_response(value: Any) -> Any:
    return checked(openai.types.responses.Response, value)


def events(found: list[Any]) -> None:
    """Events of one response, in the order and with the numbers of the API."""
    places: dict[int, str] = {}
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    for event in found:
        checked(openai.types.responses.ResponseStreamEvent, event)
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(places)
            places[event["output_index"]] = event["item"]["id"]
        elif "item_id" in event:
            assert places[event["output_index"]] == event["item_id"]
    last = found[-1]["response"]
    assert [item["id"] for item in last["output"]] == list(places.values())
    assert len({event["response"]["id"] for event in found if "response" in event}) == 1


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("FINAL('It is 42.')", {}),
        ("FINAL({'city': 'Oslo'})", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
        ("FINAL(get_weather('Oslo'))", {"tools": NESTED[:1]}),
        ("FINAL({'city': 'Oslo'})", {"tools": NESTED, "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}),
        ("print(1)", {"metadata": {"max_turns": "1"}, "service_tier": "flex", "user": "me", "store": True}),
    ],
)  # fmt: skip
async def test_chat_completions_are_what_the_package_names(code: str, more: dict[str, Any]) -> None:
    body = {"model": "recursor", "messages": [{"role": "user", "content": "Hello"}], **more}
    async with serving(lambda messages: says(code)(messages[:1])) as client:
        status, reply, _ = await client.post(body)
        for options in (None, {"include_usage": True}):
            for each in await client.events({**body, "stream_options": options}):
                chunk(each)
    assert status == 200, reply
    assert whole_chat(reply).service_tier == ("default" if "service_tier" in more else None)


async def test_a_custom_tool_in_chat_completions_is_called_as_the_package_names_it() -> None:
    body = {"model": "recursor", "messages": [{"role": "user", "content": "Hello"}], "tools": NESTED}
    async with serving(says("FINAL(patch('x'))")) as client:
        _, reply, _ = await client.post(body)
    assert whole_chat(reply).choices[0].message.tool_calls[0].custom.input == "x"


FULL = {
    "model": "recursor", "input": "Hello", "instructions": "Be short.", "metadata": {"a": "b", "max_turns": "2"},
    "temperature": 0.5, "top_p": 1.0, "max_output_tokens": 100, "max_tool_calls": 3, "prompt_cache_key": "k", "user": "u",
    "safety_identifier": "s", "service_tier": "flex", "truncation": "auto", "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "low"}, "include": ["reasoning.encrypted_content"], "stream_options": {"include_obfuscation": False},
    "top_logprobs": 0, "prompt": None, "conversation": None, "parallel_tool_calls": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("FINAL('It is 42.')", {}),
        ("FINAL('x' * 5_000)", FULL),
        ("FINAL({'city': 'Oslo'})", {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}}),
        ("FINAL(get_weather('Oslo'))", {"tools": FUNCTIONS}),
        ("FINAL(patch('x'))", {"tools": [*FUNCTIONS, {"type": "web_search"}]}),
        ("FINAL(get_weather('Oslo'))", {"tools": [{"type": "namespace", "name": "n", "description": "N.", "tools": FUNCTIONS[:1]}]}),
        ("FINAL({'city': 'Oslo'})", {"tools": FUNCTIONS, "tool_choice": {"type": "function", "name": "get_weather"}}),
        ("from concurrent.futures import ThreadPoolExecutor as T\nFINAL(list(T(3).map(get_weather, 'abc')))", {"tools": FUNCTIONS}),
        ("print(1)", {"metadata": {"max_turns": 1, "odd": [1]}}),
        ("FINAL('')", {"store": False, "conversation": None}),
    ],
)  # fmt: skip
async def test_responses_are_what_the_package_names(code: str, more: dict[str, Any]) -> None:
    body = {"model": "recursor", "input": "Hello", **more}
    async with serving(lambda messages: says(code)(messages[:1])) as client:
        status, reply, _ = await client.post(body, RESPONSES)
        streamed = await client.events(body, RESPONSES)
    assert status == 200, reply
    made = whole_response(reply)
    events(streamed)
    for name in response_form.REPEATED:
        if name in more and name != "reasoning":
            assert getattr(made, name) == more[name]
    assert streamed[-1]["response"].keys() == reply.keys()


async def looked(client: Client, path: str) -> Any:
    return json.loads((await client.get(path))[1])


async def test_responses_that_fail_are_cancelled_or_wait_are_what_the_package_names() -> None:
    async with serving(lambda _: ModelError("down", 500, retryable=False)) as client:
        failed = await client.events({"model": "recursor", "input": "Hello"}, RESPONSES)
    events(failed)
    error = failed[-1]["response"]["error"]
    assert (error["code"], error["type"]) == ("server_error", "upstream_error")
    async with serving(says("while True: pass")) as client:
        _, first, _ = await client.post(
            {"model": "recursor", "input": "Hello", "background": True}, RESPONSES
        )
        assert whole_response(first).status == "in_progress"
        path = f"{RESPONSES}/{first['id']}"
        _, done, _ = await client.post({}, f"{path}/cancel")
        assert whole_response(done).status == "cancelled"
        async with client.session.get(f"{client.root}{path}?stream=true") as response:
            found = [
                json.loads(line[6:]) for line in (await response.text()).split("\n") if line[:5] == "data:"
            ]
        events(found)
        checked(conversations.Conversation, (await client.post({}, "/v1/conversations"))[1])
        for row in (await looked(client, "/v1/models"))["data"]:
            checked(openai.types.Model, row)


# Requests -------------------------------------------------------------------------------------


def fields_of(kind: Any) -> set[str]:
    """Fields that a request of the package may have, but for those that choose how it is read."""
    [tree] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        each.target.id
        for each in tree.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def told_without_effect() -> str:
    text = Path(__file__).parent.parent.joinpath("docs", "server.md").read_text()
    return text.partition("## Fields without effect")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("params", "request_kind"),
    [
        ("openai.types.chat.completion_create_params:CompletionCreateParamsBase", chat.ChatRequest),
        ("openai.types.responses.response_create_params:ResponseCreateParamsBase", response_form.ResponsesRequest),
    ],
)  # fmt: skip
def test_each_field_of_a_request_has_an_effect_or_is_refused_or_is_said_to_have_none(
    params: str, request_kind: Any
) -> None:
    module, _, name = params.partition(":")
    known = fields_of(getattr(__import__(module, fromlist=[name]), name))
    assert len(known) > 30
    read = set(request_kind.__struct_fields__) - {*response_form.REPEATED, "service_tier", "truncation"}
    told = told_without_effect()
    without = set(re.findall(r"`(\w+)`", told.partition("\nRefused")[0]))
    assert known - read - without == set()
    refused = chat.REFUSED.keys() | responses.REFUSED.keys()
    assert refused <= set(re.findall(r"`(\w+)`", told.partition("\nRefused")[2]))


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *((CHAT, name, value) for name, value in {
            "audio": {"voice": "alloy", "format": "wav"}, "function_call": "auto", "functions": [{"name": "f"}], "logprobs": True,
            "modalities": ["text", "audio"], "moderation": {"model": "m"}, "n": 2, "top_logprobs": 3, "web_search_options": {},
            "stop": ["a", "b", "c", "d", "e"],
        }.items()),
        *((RESPONSES, name, value) for name, value in {
            "moderation": {"model": "m"}, "prompt": {"id": "p"}, "top_logprobs": 3, "include": ["message.output_text.logprobs"],
            "temperature": "hot", "truncation": "some", "max_output_tokens": "x", "previous_response_id": 7,
        }.items()),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_refused_by_name(path: str, field: str, value: Any) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if path == CHAT else {"input": "Hello"}
    async with serving([]) as client:
        status, reply, _ = await client.post({"model": "recursor", **asked, field: value}, path)
    assert (status, reply["error"]["param"]) == (400, field)


def test_what_is_refused_is_a_field_of_the_package() -> None:
    for kind, refused in (
        (chat.ChatRequest, chat.REFUSED),
        (response_form.ResponsesRequest, responses.REFUSED),
    ):
        assert refused.keys() <= set(kind.__struct_fields__)
    assert typing.get_type_hints(response_form.ResponsesRequest)["truncation"]


@pytest.mark.parametrize(
    ("stop", "said"), [("b", "a"), (["z", "c", "b"], "a"), ("a", ""), ("x", "abc"), ([], "abc")]
)
async def test_an_answer_ends_before_the_first_text_that_is_to_stop_it(stop: Any, said: str) -> None:
    body = {"model": "recursor", "messages": [{"role": "user", "content": "Hello"}], "stop": stop}
    async with serving(lambda messages: says("FINAL('abc')")(messages[:1])) as client:
        _, reply, _ = await client.post(body)
        streamed = await client.events(body)
    assert reply["choices"][0]["message"]["content"] == said
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in streamed[:-1]) == said
