"""`tool_choice`, custom tools, and calls one by one: by both APIs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recursor.testing import ScriptedModel
from serving import by_turn, serving

PATH = "/v1/responses"
WHERE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Say the weather.", "parameters": WHERE},
    },
    {"type": "function", "function": {"name": "ask_somebody"}},
]
ASKING = {
    "model": "recursor",
    "tools": TOOLS,
    "messages": [{"role": "user", "content": "Is it warm in Oslo?"}],
}
FLAT = [{"type": "function", **each["function"]} for each in TOOLS]  # type: ignore[dict-item]
ASKED = {"model": "recursor", "tools": FLAT, "input": "Is it warm in Oslo?"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
OSLO = "```python\nFINAL({'city': 'Oslo'})\n```"
BOTH = """```python
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    FINAL(' and '.join(sorted(pool.map(get_weather, ['Oslo', 'Rome']))))
```"""


def calls(reply: Any) -> list[dict[str, Any]]:
    [choice] = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    found: list[dict[str, Any]] = choice["message"]["tool_calls"]
    return found


def with_result(body: dict[str, Any], call: dict[str, Any], result: str) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    more = {"role": "tool", "tool_call_id": call["id"], "content": result}
    return {**body, "messages": [*body["messages"], said, more]}


async def test_a_function_that_must_be_called_is_called_with_what_its_schema_says() -> None:
    model = ScriptedModel(by_turn("```python\nFINAL('Oslo')\n```", OSLO))
    async with serving(model) as client:
        _, reply, _ = await client.post({**ASKING, "tool_choice": NAMED})
        await client.until("recursor_runs_held 0")
    [call] = calls(reply)
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert "Say the weather." in str(model.requests[0])
    assert reply["usage"]["completion_tokens"] > 0


async def test_what_a_forced_call_returned_begins_a_run_that_may_answer() -> None:
    answers = by_turn(
        "```python\nFINAL(messages[-1]['content'] if len(messages) > 1 else {'city': 'Oslo'})\n```"
    )
    async with serving(answers) as client:
        [call] = calls((await client.post({**ASKING, "tool_choice": NAMED}))[1])
        _, reply, _ = await client.post(with_result(ASKING, call, "warm"))
    assert reply["choices"][0]["message"]["content"] == "warm"


async def test_a_forced_call_comes_in_streams_as_others_do() -> None:
    async with serving(by_turn(OSLO)) as client:
        events = await client.events({**ASKING, "tool_choice": NAMED})
        items = await client.events(
            {**ASKED, "tool_choice": {"type": "function", "name": "get_weather"}}, PATH
        )
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    [[call]] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert (call["index"], call["function"]["arguments"]) == (0, '{"city": "Oslo"}')
    assert not any(delta.get("content") for delta in deltas)
    [item] = [item for item in items[-1]["response"]["output"] if item["type"] == "function_call"]
    assert (item["name"], item["arguments"]) == ("get_weather", '{"city": "Oslo"}')


async def test_required_takes_a_call_of_any_function_as_the_answer() -> None:
    wrong = "```python\nFINAL({'name': 'launch', 'arguments': {}})\n```"
    right = "```python\nFINAL({'name': 'get_weather', 'arguments': {'city': 'Rome'}})\n```"
    async with serving(by_turn("```python\nFINAL('warm')\n```", wrong, right)) as client:
        [call] = calls((await client.post({**ASKING, "tool_choice": "required"}))[1])
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}


async def test_required_takes_calls_that_code_makes_on_its_way() -> None:
    code = "```python\nsaid = get_weather('Oslo')\nFINAL({'name': 'ask_somebody', 'arguments': {'why': said}})\n```"
    async with serving(by_turn(code)) as client:
        [first] = calls((await client.post({**ASKING, "tool_choice": "required"}))[1])
        body = with_result({**ASKING, "tool_choice": "required"}, first, "warm")
        [second] = calls((await client.post(body))[1])
    assert first["function"]["name"] == "get_weather"
    assert second["function"] == {"name": "ask_somebody", "arguments": '{"why": "warm"}'}


async def test_a_run_that_must_answer_by_a_call_ends_when_its_client_wants_a_text() -> None:
    code = "```python\nFINAL(messages[-1]['content'] if len(messages) > 1 else get_weather('Oslo'))\n```"
    async with serving(by_turn(code)) as client:
        [first] = calls((await client.post({**ASKING, "tool_choice": "required"}))[1])
        _, reply, _ = await client.post(with_result(ASKING, first, "warm"))
        await client.until('recursor_runs_total{key="anybody",outcome="stopped"} 1')
    assert reply["choices"][0]["message"]["content"] == "warm"


async def test_a_limit_ends_a_run_that_must_call_without_a_call() -> None:
    body = {**ASKING, "tool_choice": NAMED, "metadata": {"max_turns": 1}}
    async with serving(by_turn(*["```python\nprint(1)\n```"] * 3)) as client:
        _, reply, _ = await client.post(body)
    assert reply["choices"][0]["finish_reason"] == "length"
    assert "tool_calls" not in reply["choices"][0]["message"]


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_functions_that_are_not_allowed_are_not_there(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    code = "```python\nFINAL({'city': str('ask_somebody' in globals())})\n```"
    async with serving(by_turn(code)) as client:
        _, reply, _ = await client.post(
            {**ASKING, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
        )
        flat = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "get_weather"}]}
        _, response, _ = await client.post({**ASKED, "tool_choice": flat}, PATH)
    if mode == "auto":
        assert json.loads(reply["choices"][0]["message"]["content"]) == {"city": "False"}
    else:
        assert calls(reply)[0]["function"]["arguments"] == '{"city": "False"}'
        assert response["output"][-1]["arguments"] == '{"city": "False"}'


@pytest.mark.parametrize(
    "choice",
    [
        "any", 7, [], {}, {"type": "web_search"}, {"type": "function"}, {"type": ["function"]},
        {"type": "function", "function": {"name": "launch"}}, {"type": "function", "function": 7},
        {"type": "allowed_tools"}, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": 7}},
        {"type": "allowed_tools", "allowed_tools": {"mode": {}, "tools": [{}, 7, {"type": {}}]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
    ],
)  # fmt: skip
async def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    model = ScriptedModel([])
    async with serving(model) as client:
        status, reply, _ = await client.post({**ASKING, "tool_choice": choice})
    assert (status, reply["error"]["param"]) == (400, "tool_choice")
    assert not model.requests


@pytest.mark.parametrize(
    "parameters", [{"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}, {"type": 7}, {}]
)
async def test_any_schema_of_a_function_may_be_forced(parameters: Any) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    async with serving(by_turn(OSLO)) as client:
        [call] = calls((await client.post({**ASKING, "tools": tools, "tool_choice": "required"}))[1])
    assert call["function"]["arguments"] == '{"city": "Oslo"}'


async def test_calls_come_one_by_one_where_the_client_wants_them_so() -> None:
    body: dict[str, Any] = {**ASKING, "parallel_tool_calls": False}
    async with serving(by_turn(BOTH)) as client:
        for _ in range(2):
            [call] = calls((await client.post(body))[1])
            body = with_result(body, call, json.loads(call["function"]["arguments"])["city"])
        _, reply, _ = await client.post(body)
    assert reply["choices"][0]["message"]["content"] == "Oslo and Rome"


async def test_a_custom_tool_takes_text_as_it_is() -> None:
    custom = {"name": "apply_patch", "description": "Change files.", "format": {"type": "grammar", "grammar": {"definition": "start: /x+/", "syntax": "lark"}}}  # fmt: skip
    body = {**ASKING, "tools": [{"type": "custom", "custom": custom}]}
    async with serving(by_turn("```python\nFINAL(apply_patch('*** \"Begin\"'))\n```")) as client:
        [call] = calls((await client.post(body))[1])
        _, reply, _ = await client.post(with_result(body, call, "done"))
    assert (call["type"], call["custom"]) == ("custom", {"name": "apply_patch", "input": '*** "Begin"'})
    assert reply["choices"][0]["message"]["content"] == "done"


async def test_the_responses_api_has_custom_tools_too() -> None:
    custom = {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}}  # fmt: skip
    body = {**ASKED, "tools": [custom]}
    model = ScriptedModel(
        by_turn("```python\nFINAL(apply_patch('xx') if 'apply_patch' in globals() else 'yy')\n```")
    )
    async with serving(model) as client:
        events = await client.events(body, PATH)
        [call] = [item for item in events[-1]["response"]["output"] if item["type"] == "custom_tool_call"]
        output = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "done"}
        _, reply, _ = await client.post(
            {**body, "input": [{"role": "user", "content": "Go"}, call, output]}, PATH
        )
        _, forced, _ = await client.post(
            {**body, "tool_choice": {"type": "custom", "name": "apply_patch"}}, PATH
        )
    assert "start: /x+/" in str(model.requests[0])
    assert call["input"] == "xx"
    kinds = [event["type"] for event in events]
    assert kinds.index("response.custom_tool_call_input.delta") < kinds.index(
        "response.custom_tool_call_input.done"
    )
    assert reply["output"][0]["content"][0]["text"] == "done"
    assert (forced["output"][0]["type"], forced["output"][0]["input"]) == ("custom_tool_call", "yy")


async def test_functions_in_a_namespace_are_called_by_it() -> None:
    spawn = {
        "type": "namespace",
        "name": "agents",
        "description": "x",
        "tools": [{"type": "function", "name": "spawn"}],
    }
    async with serving(by_turn("```python\nFINAL(spawn())\n```")) as client:
        _, reply, _ = await client.post({**ASKED, "tools": [*FLAT, spawn]}, PATH)
    [call] = reply["output"]
    assert (call["name"], call["namespace"]) == ("spawn", "agents")


async def test_calls_of_tools_that_others_have_are_data() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "Oslo"}}
    body = {
        **ASKED,
        "input": [{"role": "user", "content": "Search"}, search, {"role": "user", "content": "And?"}],
    }
    async with serving(by_turn("```python\nFINAL(messages[1]['content'])\n```")) as client:
        _, reply, _ = await client.post(body, PATH)
    assert json.loads(reply["output"][0]["content"][0]["text"]) == search
