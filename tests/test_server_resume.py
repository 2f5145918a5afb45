"""Going on, over HTTP, with a run that was cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recursor import RLM
from recursor.errors import TrajectoryError
from recursor.server import keys
from recursor.server.app import Server, Settings
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.types import Message, Reply, Usage
from serving import HELLO, Client, serving

COUNT = "```python\nn = len(messages)\nprint(n)\n```"
LAST = "```python\nFINAL(n + 41)\n```"


class Stuck(ScriptedModel):
    """Says nothing any more after its first reply."""

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if any(message.role == "assistant" for message in messages):
            await asyncio.Event().wait()
        return await super().query(messages, **options)


async def cut_off(store: Path, body: Any = HELLO, path: str = "/v1/chat/completions", **how: Any) -> str:
    """The id of a run that a server left when it ended, after its first turn."""
    settings = Settings(grace=0.0, **{name: how.pop(name) for name in list(how) if name == "key_file"})
    server = Server({"recursor": RLM(Stuck(how.pop("replies", [COUNT])), store=store)}, settings)
    async with aiohttp.ClientSession() as session:
        async with server.serving():
            run = asyncio.ensure_future(Client(server, session).post(body, path, **how))
            run_id = await executed(store)
        assert (await run)[1]["error"]["code"] == "run_stopped"
    return run_id


async def executed(store: Path) -> str:
    while True:
        await asyncio.sleep(0.005)
        with suppress(TrajectoryError), view.open(store) as recorded:
            if (found := recorded.runs()) and recorded.executions(found[0].id):
                return found[0].id


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_goes_on_where_it_was_cut_off_and_pays_nothing_twice(
    tmp_path: Path, stream: bool
) -> None:
    store = tmp_path / "runs.db"
    run_id = await cut_off(store)
    model = ScriptedModel([Reply(LAST, Usage(7, 3, calls=1), 0.25, "scripted", "stop")])
    async with serving(model, store=store) as client:
        headers = {"X-Recursor-Resume": run_id}
        if stream:
            events = await client.events(
                {**HELLO, "stream_options": {"include_usage": True}}, headers=headers
            )
            said = "".join(each["choices"][0]["delta"].get("content") or "" for each in events[:-2])
            usage = events[-2]["usage"]
        else:
            _, reply, told = await client.post(HELLO, headers=headers)
            said, usage = reply["choices"][0]["message"]["content"], reply["usage"]
            assert told["X-Recursor-Run"] == run_id
        assert 'recursor_cost_dollars_total{key="anybody"} 0.25' in (await client.get("/metrics"))[1]
        _, again, _ = await client.post(HELLO, headers=headers)
    assert said == again["choices"][0]["message"]["content"] == "42"
    assert usage["total_tokens"] == 10
    assert again["usage"]["total_tokens"] == 0
    assert len(model.requests) == 1


async def test_other_messages_are_refused(tmp_path: Path) -> None:
    run_id = await cut_off(tmp_path / "runs.db")
    async with serving(ScriptedModel([]), store=tmp_path / "runs.db") as client:
        body = {"model": "recursor", "messages": [{"role": "user", "content": "Something else"}]}
        status, reply, _ = await client.post(body, headers={"X-Recursor-Resume": run_id})
    assert status == 400
    assert run_id in reply["error"]["message"]


@pytest.mark.parametrize("run_id", ["1", "x" * 32, "../../etc", "0" * 32, "A" * 32])
async def test_a_run_that_is_not_there_is_refused(run_id: str, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    await cut_off(store)
    async with serving(ScriptedModel([]), store=store) as client:
        status, reply, _ = await client.post(HELLO, headers={"X-Recursor-Resume": run_id})
    assert 400 <= status < 500
    assert reply["error"]["type"] in ("invalid_request_error", "not_found_error")


async def test_without_a_store_nothing_is_resumed() -> None:
    async with serving(ScriptedModel([])) as client:
        status, _, _ = await client.post(HELLO, headers={"X-Recursor-Resume": "0" * 32})
    assert status == 400


async def test_what_a_run_has_cost_is_not_taken_from_the_budget_again(tmp_path: Path) -> None:
    file, store = tmp_path / "keys.toml", tmp_path / "runs.db"
    mine = {"Authorization": f"Bearer {keys.add(file, 'me')}"}
    with file.open("a") as text:
        text.write("max_cost = 1.0\n")
    first = Reply(COUNT, Usage(7, 3, calls=1), 0.45, "scripted", "stop")
    run_id = await cut_off(store, key_file=file, headers=mine, replies=[first])
    model = ScriptedModel([Reply(LAST, Usage(7, 3, calls=1), 0.25, "scripted", "stop")])
    async with serving(model, Settings(key_file=file), store=store) as client:
        status, done, _ = await client.post(HELLO, headers={**mine, "X-Recursor-Resume": run_id})
        assert (status, done["choices"][0]["finish_reason"]) == (200, "stop"), done
        assert client.server._accounts.spending.of("me")[1] == pytest.approx(0.7)


async def test_nobody_goes_on_with_the_run_of_another_key(tmp_path: Path) -> None:
    store, file = tmp_path / "runs.db", tmp_path / "keys.toml"
    alice, bob = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("alice", "bob"))
    run_id = await cut_off(store, headers=alice, key_file=file)
    async with serving(ScriptedModel([LAST]), Settings(key_file=file), store=store) as client:
        resume = {"X-Recursor-Resume": run_id}
        refused = await client.post(HELLO, headers={**bob, **resume})
        _, reply, _ = await client.post(HELLO, headers={**alice, **resume})
    assert (refused[0], refused[1]["error"]["code"]) == (404, "not_found")
    assert reply["choices"][0]["message"]["content"] == "42"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_others_may_go_on_from_is_resumed_too(tmp_path: Path, stream: bool) -> None:
    store, body, path = tmp_path / "runs.db", {"model": "recursor", "input": "Hello"}, "/v1/responses"
    run_id = await cut_off(store, body, path)
    async with serving(ScriptedModel([LAST, "```python\nFINAL(n)\n```"]), store=store) as client:
        headers = {"X-Recursor-Resume": run_id}
        if stream:
            done = (await client.events(body, path, headers))[-1]["response"]
        else:
            _, done, _ = await client.post(body, path, headers)
        _, again, _ = await client.post(body, path, headers)
        _, more, _ = await client.post({**body, "previous_response_id": done["id"]}, path)
        _, late, _ = await client.post(body, path, headers)
    assert done["id"] == f"resp_{run_id}"
    assert [each["output"][-1]["content"][0]["text"] for each in (done, again, late)] == ["42"] * 3
    assert more["output"][-1]["content"][0]["text"] == "1"
