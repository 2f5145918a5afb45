"""Functions of clients, that code calls: by both APIs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recursor.server import keys
from recursor.server.app import Settings
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.trajectory.claim import claimed
from serving import by_turn, serving

WEATHER = {
    "name": "get_weather",
    "description": "Say the weather\nat a place.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city"],
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]
ASKING = {"model": "recursor", "tools": TOOLS, "messages": [{"role": "user", "content": "Is it warm?"}]}
ONE = "```python\nseen = 7\nsaid = get_weather('Oslo', unit='C')\nFINAL(f'{said} {seen}')\n```"
BOTH = """```python
from concurrent.futures import ThreadPoolExecutor
cities = ['Oslo', 'Rome', 'Paris']
with ThreadPoolExecutor(3) as pool:
    said = list(pool.map(get_weather, cities))
FINAL(' '.join(said))
```"""


def called(reply: Any) -> list[dict[str, Any]]:
    [choice] = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls: list[dict[str, Any]] = choice["message"]["tool_calls"]
    return calls


def with_results(body: dict[str, Any], calls: Sequence[dict[str, Any]], *results: str) -> dict[str, Any]:
    """The next request: what was asked, the calls, and what they returned."""
    messages = [*body["messages"], {"role": "assistant", "content": None, "tool_calls": list(calls)}]
    for call, result in zip(calls, results, strict=True):
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return {**body, "messages": messages}


async def test_a_run_waits_for_a_function_of_the_client_and_goes_on_with_its_repl() -> None:
    model = ScriptedModel(by_turn(ONE))
    async with serving(model) as client:
        _, first, began = await client.post(ASKING)
        [call] = called(first)
        assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
        assert json.loads(call["function"]["arguments"]) == {"city": "Oslo", "unit": "C"}
        await client.until("recursor_runs_held 1")
        await client.until("recursor_runs_in_flight 0")
        _, second, ended = await client.post(with_results(ASKING, [call], "20 degrees"))
        await client.until("recursor_runs_held 0")
    assert second["choices"][0]["message"]["content"] == "20 degrees 7"
    assert began["X-Recursor-Run"] == ended["X-Recursor-Run"]
    assert len(model.requests) == 1
    assert "get_weather(city: str, unit: str = None) -> str" in str(model.requests[0])
    assert first["usage"]["prompt_tokens"] > 0
    assert second["usage"]["prompt_tokens"] == 0  # paid for, and told, before
    assert first["id"] != second["id"]


async def test_calls_that_code_makes_at_once_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.work.GATHER", 2.0)  # however late a thread is
    async with serving(by_turn(BOTH)) as client:
        _, first, _ = await client.post(ASKING)
        calls = called(first)
        cities = [json.loads(call["function"]["arguments"])["city"] for call in calls]
        assert sorted(cities) == ["Oslo", "Paris", "Rome"]
        _, missing, _ = await client.post(with_results(ASKING, calls[:2], "a", "b"))
        _, second, _ = await client.post(with_results(ASKING, calls, *(city.upper() for city in cities)))
    assert calls[2]["id"] in missing["error"]["message"]
    assert second["choices"][0]["message"]["content"] == "OSLO ROME PARIS"


async def test_functions_work_in_streams() -> None:
    async with serving(by_turn(ONE)) as client:
        events = await client.events(ASKING)
        [delta] = [
            event["choices"][0]["delta"]["tool_calls"][0]
            for event in events[:-1]
            if "tool_calls" in event["choices"][0]["delta"]
        ]
        assert delta["index"] == 0
        assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
        call = {key: delta[key] for key in ("id", "type", "function")}
        rest = await client.events(with_results(ASKING, [call], "warm"))
    said = "".join(event["choices"][0]["delta"].get("content") or "" for event in rest[:-1])
    assert said == "warm 7"
    assert rest[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_what_the_client_says_after_results_goes_to_the_code_with_them() -> None:
    async with serving(by_turn(ONE)) as client:
        _, first, _ = await client.post(ASKING)
        body = with_results(ASKING, called(first), "warm")
        body["messages"] += [{"role": "system", "content": "Hurry."}, {"role": "user", "content": "Really?"}]
        _, second, headers = await client.post(body)
    assert headers["X-Recursor-Run"] in first["id"]
    said = "warm\n\n[the asker says beside it: Hurry.]\n\n[the asker says beside it: Really?] 7"
    assert second["choices"][0]["message"]["content"] == said


async def test_the_responses_api_has_them_too() -> None:
    asking = {"model": "recursor", "input": "Is it warm?", "tools": [{"type": "function", **WEATHER}]}
    async with serving(by_turn(ONE)) as client:
        _, first, _ = await client.post(asking, "/v1/responses")
        [call] = first["output"]
        assert (call["type"], call["name"], first["status"]) == ("function_call", "get_weather", "completed")
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "warm"}
        asked = [{"role": "user", "content": "Is it warm?"}, call, result]
        events = await client.events({**asking, "input": asked}, "/v1/responses")
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == "warm 7"


@pytest.mark.parametrize("name", ["search", "class", "read-file", "llm_query"])
async def test_a_name_that_code_cannot_use_gets_another_there(name: str) -> None:
    python = name.replace("-", "_") + ("" if "-" in name else "_")
    tools = [{"type": "function", "function": {"name": name}}]
    async with serving(by_turn(f"```python\nFINAL({python}())\n```")) as client:
        _, first, _ = await client.post({**ASKING, "tools": tools})
        [call] = called(first)
        _, second, _ = await client.post(with_results(ASKING, [call], "done"))
    assert call["function"] == {"name": name, "arguments": "{}"}
    assert second["choices"][0]["message"]["content"] == "done"


async def test_arguments_that_are_no_names_are_passed_all_the_same() -> None:
    odd = {"name": "f", "parameters": {"type": "object", "properties": {"a-b": {"type": "integer"}}}}
    code = "```python\ntry:\n    f(x={1, 2})\nexcept SubcallError as error:\n    said = str(error)\nFINAL(f(**{'a-b': 1}) + said)\n```"
    async with serving(by_turn(code)) as client:
        _, first, _ = await client.post({**ASKING, "tools": [{"type": "function", "function": odd}]})
        [call] = called(first)
        _, second, _ = await client.post(with_results(ASKING, [call], "yes; "))
    assert json.loads(call["function"]["arguments"]) == {"a-b": 1}
    assert "cannot be sent as JSON" in second["choices"][0]["message"]["content"]


async def test_functions_that_may_not_be_called_are_not_there() -> None:
    model = ScriptedModel(by_turn("```python\nFINAL('get_weather' in globals())\n```"))
    async with serving(model) as client:
        _, reply, _ = await client.post({**ASKING, "tool_choice": "none"})
    assert reply["choices"][0]["message"]["content"] == "false"


async def test_results_for_a_run_that_is_gone_begin_anew_with_all_messages_as_data() -> None:
    code = "```python\nFINAL(messages[-1]['content'])\n```"
    async with serving(by_turn(code)) as client:
        call = {"id": "call_gone", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
        status, reply, _ = await client.post(with_results(ASKING, [call], "warm"))
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "warm")


async def test_a_held_run_ends_when_its_client_does_not_come_back() -> None:
    async with serving(by_turn(ONE), Settings(hold=0.05)) as client:
        called((await client.post(ASKING))[1])
        await client.until('recursor_runs_total{key="anybody",outcome="stopped"} 1')
        await client.until("recursor_runs_held 0")


async def test_one_held_run_more_than_there_may_be_ends_the_oldest() -> None:
    async with serving(by_turn(ONE), Settings(max_held=1)) as client:
        [first] = called((await client.post(ASKING))[1])
        [second] = called((await client.post(ASKING))[1])
        await client.until('recursor_runs_total{key="anybody",outcome="stopped"} 1')
        _, reply, _ = await client.post(with_results(ASKING, [second], "warm"))
        assert reply["choices"][0]["message"]["content"] == "warm 7"
        [again] = called((await client.post(with_results(ASKING, [first], "warm")))[1])
        assert again["id"] != first["id"]


async def test_nobody_goes_on_with_the_run_of_another_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice, bob = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("alice", "bob"))
    async with serving(by_turn(ONE), Settings(key_file=file)) as client:
        [call] = called((await client.post(ASKING, headers=alice))[1])
        [others] = called((await client.post(with_results(ASKING, [call], "hot"), headers=bob))[1])
        _, reply, _ = await client.post(with_results(ASKING, [call], "warm"), headers=alice)
    assert others["id"] != call["id"]
    assert reply["choices"][0]["message"]["content"] == "warm 7"


async def test_a_client_that_goes_away_from_a_run_that_went_on_ends_it() -> None:
    code = "```python\nget_weather('Oslo')\nwhile True: pass\n```"
    async with serving(by_turn(code)) as client:
        [call] = called((await client.post(ASKING))[1])
        again = asyncio.ensure_future(client.post(with_results(ASKING, [call], "warm")))
        await client.until("recursor_runs_in_flight 1")
        again.cancel()
        await client.until("recursor_runs_in_flight 0")
        await client.until('recursor_runs_total{key="anybody",outcome="stopped"} 1')


async def test_held_runs_end_with_the_server(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    async with serving(by_turn(ONE), store=store) as client:
        called((await client.post(ASKING))[1])
    with view.open(store) as recorded:
        [run] = recorded.runs()
    assert run.ended is not None
    assert not claimed(store, run.id)
