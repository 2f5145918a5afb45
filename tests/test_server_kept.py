"""Responses that outlive their server: looked at, followed, gone on with, deleted; paid for once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recursor import RLM
from recursor.server import keys
from recursor.server.app import Server, Settings
from recursor.testing import ModelServer, ScriptedModel
from recursor.trajectory import garbage, responses
from recursor.types import Message, Reply, Usage
from serving import Client, by_turn, parsed, serving

PATH = "/v1/responses"
HELLO = {"model": "recursor", "input": "Hello"}
LATER = {**HELLO, "background": True}
ANSWER = "I see.\n```python\nx = 20\nFINAL('It is 42.')\n```"
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip


class Stuck(ScriptedModel):
    """Says nothing any more from the second turn on."""

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if sum(message.role == "assistant" for message in messages):
            self.requests.append(tuple(messages))
            await asyncio.Event().wait()
        return await super().query(messages, **options)


async def looked(client: Client, name: str, headers: Any = None) -> tuple[int, Any]:
    status, text = await client.get(f"{PATH}/{name}", headers)
    return status, json.loads(text)


async def ended(client: Client, name: str, headers: Any = None) -> Any:
    async with asyncio.timeout(60):
        while (found := (await looked(client, name, headers))[1])["status"] == "in_progress":
            await asyncio.sleep(0.01)
    return found


async def followed(client: Client, name: str, after: int = -1) -> list[Any]:
    url = f"{client.root}{PATH}/{name}?stream=true&starting_after={after}"
    async with client.session.get(url) as response:
        assert response.status == 200, await response.text()
        return parsed(await response.text())


async def delete(client: Client, name: str) -> int:
    async with client.session.delete(f"{client.root}{PATH}/{name}") as response:
        return response.status


@asynccontextmanager
async def ending(model: Any, store: Path, **settings: Any) -> AsyncIterator[Client]:
    """A server that stops its runs when it ends."""
    made = Server({"recursor": RLM(model, store=store)}, Settings(grace=0.0, **settings))
    async with aiohttp.ClientSession() as session, made.serving():
        yield Client(made, session)


async def asked(model: ScriptedModel, requests: int) -> None:
    async with asyncio.timeout(60):
        while len(model.requests) < requests:
            await asyncio.sleep(0.005)


# What has ended -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "streamed", "later"])
async def test_a_response_is_there_after_a_restart_as_it_was(how: str, tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with serving(by_turn(ANSWER), store=store) as client:
        if how == "streamed":
            done = (await client.events(HELLO, PATH))[-1]["response"]
        else:
            _, done, _ = await client.post(LATER if how == "later" else HELLO, PATH)
            done = await ended(client, done["id"])
        events = await followed(client, done["id"]) if how == "later" else []
        assert await looked(client, done["id"]) == (200, done)
    async with serving(lambda _: "```python\nFINAL(str(x))\n```", store=store) as client:
        assert await looked(client, done["id"]) == (200, done)
        status, _ = await client.get(f"{PATH}/{done['id']}?stream=true")
        if how == "later":
            assert await followed(client, done["id"]) == events
            assert await followed(client, done["id"], after=2) == events[3:]
            assert (await client.post({}, f"{PATH}/{done['id']}/cancel"))[:2] == (200, done)
        else:
            assert status == 400
        _, more, _ = await client.post({**HELLO, "previous_response_id": done["id"]}, PATH)
    assert more["output"][-1]["content"][0]["text"] == "20"


async def test_what_was_not_to_be_stored_is_in_no_store(tmp_path: Path) -> None:
    async with serving(by_turn(ANSWER), store=tmp_path / "r.db") as client:
        _, done, _ = await client.post({**HELLO, "store": False}, PATH)
        assert (await looked(client, done["id"]))[0] == 404
    async with serving(by_turn(ANSWER), store=tmp_path / "r.db") as client:
        assert (await looked(client, done["id"]))[0] == 404


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_deleted_response_is_gone_for_good_and_nobody_goes_on_from_it(
    recorded: bool, tmp_path: Path
) -> None:
    store = tmp_path / "r.db" if recorded else None
    async with serving(lambda _: ANSWER, store=store) as client:
        _, done, _ = await client.post(HELLO, PATH)
        assert [await delete(client, done["id"]) for _ in range(2)] == [200, 404]
        body = {**HELLO, "previous_response_id": done["id"]}
        status, refused, _ = await client.post(body, PATH)
        assert (status, refused["error"]["code"]) == (404, "previous_response_not_found")
        assert "deleted" in refused["error"]["message"]
    async with serving(lambda _: ANSWER, store=store) as client:
        assert (await looked(client, done["id"]))[0] == 404
        assert (await client.post(body, PATH))[0] == 404
    if store is not None:
        with closing(sqlite3.connect(store)) as connection:
            kept = connection.execute("SELECT request, document, events FROM response").fetchall()
        assert kept == [(None, None, None)]


async def test_nobody_sees_the_responses_of_another_key_after_a_restart(tmp_path: Path) -> None:
    file, store = tmp_path / "keys.toml", tmp_path / "r.db"
    alice, bob = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("alice", "bob"))
    async with serving(by_turn(ANSWER), Settings(key_file=file), store=store) as client:
        _, done, _ = await client.post(HELLO, PATH, alice)
    async with serving(by_turn(ANSWER), Settings(key_file=file), store=store) as client:
        assert (await looked(client, done["id"], alice))[0] == 200
        assert (await looked(client, done["id"], bob))[0] == 404
        assert (await client.post({}, f"{PATH}/{done['id']}/cancel", bob))[0] == 404
        async with client.session.delete(f"{client.root}{PATH}/{done['id']}", headers=bob) as response:
            assert response.status == 404


async def test_a_response_expires_and_goes_with_its_run(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with serving(lambda _: ANSWER, store=store) as client:
        names = [(await client.post(HELLO, PATH))[1]["id"] for _ in range(2)]
    with closing(sqlite3.connect(store)) as connection, connection:
        old = time.time() - (responses.KEPT + 1) * 86_400
        connection.execute("UPDATE response SET made = ? WHERE id = ?", (old, names[0]))
    async with serving(lambda _: ANSWER, store=store) as client:
        async with asyncio.timeout(60):
            while (await looked(client, names[0]))[0] == 200:
                await asyncio.sleep(0.01)
        assert (await looked(client, names[1]))[0] == 200
    garbage.collect(store, -1.0)
    async with serving(lambda _: ANSWER, store=store) as client:
        assert (await looked(client, names[1]))[0] == 404


async def test_a_store_that_cannot_be_written_costs_nobody_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "TABLES", "CREATE TABLE response (")
    async with serving(by_turn(ANSWER), store=tmp_path / "r.db") as client:
        status, done, _ = await client.post(HELLO, PATH)
        assert (status, done["status"]) == (200, "completed")
        assert (await looked(client, done["id"]))[0] == 503


# What was at work -----------------------------------------------------------------------------


async def test_a_background_response_goes_on_where_the_server_was_ended(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    first = Stuck([Reply("```python\ny = 41\n```", Usage(100, 10, calls=1), 0.5, "scripted", "stop")])
    async with ending(first, store) as client:
        _, begun, _ = await client.post({**LATER, "instructions": "Be short.", "metadata": {"a": "b"}}, PATH)
        following = await client.session.get(f"{client.root}{PATH}/{begun['id']}?stream=true")
        reading = asyncio.ensure_future(following.text())
        await asked(first, 2)
    before = parsed(await reading)
    assert not [event for event in before if event["type"] in ("response.failed", "response.completed")]
    last = Reply("```python\nFINAL(y + 1)\n```", Usage(7, 3, calls=1), 0.25, "scripted", "stop")
    second = ScriptedModel([last, "```python\nFINAL(y + 2)\n```"])
    async with serving(second, store=store) as client:
        done = await ended(client, begun["id"])
        assert 'recursor_cost_dollars_total{key="anybody"} 0.25' in (await client.get("/metrics"))[1]
        after = await followed(client, begun["id"], before[-1]["sequence_number"])
        _, more, _ = await client.post({**HELLO, "previous_response_id": begun["id"]}, PATH)
    assert done["status"] == "completed", done["error"]
    assert done["output"][-1]["content"][0]["text"] == "42"
    assert done["usage"]["total_tokens"] == 120
    assert {name: done[name] for name in ("id", "created_at", "metadata", "instructions", "background")} == {
        name: begun[name] for name in ("id", "created_at", "metadata", "instructions", "background")
    }
    assert len(second.requests) == 2
    assert "Be short." in str(second.requests[0])
    assert [event["type"] for event in after][:2] == ["response.created", "response.in_progress"]
    assert after[-1]["response"] == done
    numbers = [event["sequence_number"] for event in (*before, *after)]
    assert numbers == sorted(set(numbers))
    assert more["output"][-1]["content"][0]["text"] == "43"


async def test_a_background_response_goes_on_after_kill_9_and_is_paid_for_once(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    replies = by_turn("```python\nz = llm_query('part one')\nprint(z)\n```", "```python\nFINAL(z)\n```")

    asked_for: list[str] = []

    async def says(messages: Sequence[Message]) -> Any:
        asked_for.append(messages[-1].content)
        if len(asked_for) == 3:
            await asyncio.Event().wait()
        return replies(messages) if messages[0].role == "system" else "done once"

    with ModelServer(says) as models:
        command = [sys.executable, "-m", "recursor", "serve", "--model", "openai/m", "--base-url", models.url]
        command += ["--port", "0", "--store", str(store)]
        environment = {**os.environ, "OPENAI_API_KEY": "none", "XDG_CONFIG_HOME": str(tmp_path)}

        @asynccontextmanager
        async def server() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
            made = await asyncio.create_subprocess_exec(
                *command, stderr=asyncio.subprocess.PIPE, env=environment
            )
            assert made.stderr is not None
            line = b""
            while not line.startswith(b"serving"):
                line = await made.stderr.readline()
                assert line, "it ended"
            try:
                yield made, line.decode().split()[1]
            finally:
                if made.returncode is None:
                    made.send_signal(signal.SIGKILL)
                await made.wait()

        async with aiohttp.ClientSession() as session:
            async with server() as (process, url):
                async with session.post(f"{url}/responses", json=LATER) as response:
                    begun = await response.json()
                async with asyncio.timeout(60):
                    while len(asked_for) < 3:
                        await asyncio.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                await process.wait()
            async with server() as (_, url):
                async with asyncio.timeout(60):
                    done = begun
                    while done["status"] == "in_progress":
                        async with session.get(f"{url}/responses/{begun['id']}") as response:
                            done = await response.json()
                        await asyncio.sleep(0.01)
    assert done["status"] == "completed", done["error"]
    assert done["output"][-1]["content"][0]["text"] == "done once"
    assert asked_for.count("part one") == 1
    assert len(asked_for) == 4  # the third was cut off, and asked again


async def cut_off(store: Path, body: Any = LATER, headers: Any = None, **settings: Any) -> Any:
    """A response in the background whose server ended after its first turn."""
    model = Stuck(["```python\ny = 41\nprint(y)\n```"])
    async with ending(model, store, **settings) as client:
        _, begun, _ = await client.post(body, PATH, headers)
        await asked(model, 2)
    return begun


async def test_a_response_of_a_key_that_is_no_more_fails_and_says_why(tmp_path: Path) -> None:
    file, store = tmp_path / "keys.toml", tmp_path / "r.db"
    alice, bob = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("alice", "bob"))
    begun = await cut_off(store, headers=alice, key_file=file)
    both = file.read_text()
    file.write_text("[bob]" + both.partition("[bob]")[2])
    async with serving([], Settings(key_file=file), store=store) as client:
        async with asyncio.timeout(60):
            while responses.ResponseRecord(store).at_work():
                await asyncio.sleep(0.01)
        assert (await looked(client, begun["id"], bob))[0] == 404
        file.write_text(both)
        done = await ended(client, begun["id"], alice)
        assert done["id"] == begun["id"]
    assert (done["status"], done["error"]["type"]) == ("failed", "invalid_api_key")
    assert "its key may not ask any more" in done["error"]["message"]


async def test_a_response_of_a_model_that_is_no_more_fails_and_says_why(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    begun = await cut_off(store)
    server = Server({"other": RLM(ScriptedModel([]), store=store)})
    async with aiohttp.ClientSession() as session, server.serving():
        client = Client(server, session)
        done = await ended(client, begun["id"])
        events = await followed(client, begun["id"])
    assert (done["status"], done["error"]["type"]) == ("failed", "model_not_found")
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    assert events[-1]["response"] == done


async def test_a_response_whose_conversation_has_gone_on_without_it_fails_and_says_why(
    tmp_path: Path,
) -> None:
    store = tmp_path / "r.db"
    begun = await cut_off(store, {**LATER, "metadata": {"session": "s"}})
    rlm = RLM(ScriptedModel(["```python\nFINAL(1)\n```"]), store=store)
    async with rlm.session("anybody/session s") as chat:
        await chat.acompletion("Something else")
    async with serving([], store=store) as client:
        done = await ended(client, begun["id"])
    assert (done["status"], done["error"]["type"]) == ("failed", "run_superseded")


async def test_a_response_of_long_ago_is_gone_on_with_when_somebody_asks_for_that(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    begun = await cut_off(store)
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE response SET made = made - 90000")
    run_id = begun["id"].removeprefix("resp_")
    async with serving(["```python\nFINAL(y)\n```"], store=store) as client:
        done = await ended(client, begun["id"])
        _, again, _ = await client.post(HELLO, PATH, {"X-Recursor-Resume": run_id})
        assert await looked(client, begun["id"]) == (200, again)
    assert (done["status"], done["error"]["type"]) == ("failed", "run_stopped")
    assert run_id in done["error"]["message"]
    assert again["output"][-1]["content"][0]["text"] == "41"


async def test_responses_that_were_cut_off_wait_for_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recursor.server.accounts.AGAIN", 0.05)
    store = tmp_path / "r.db"
    model = Stuck(lambda _: "```python\ny = 41\n```")
    async with ending(model, store) as client:
        names = [(await client.post(LATER, PATH))[1]["id"] for _ in range(3)]
        await asked(model, 6)
    last = "```python\nFINAL(y)\n```"
    async with serving(ScriptedModel(lambda _: last), Settings(max_runs=1), store=store) as client:
        found = [await ended(client, name) for name in names]
    assert [each["output"][-1]["content"][0]["text"] for each in found] == ["41"] * 3


async def test_a_response_that_was_cut_off_can_be_cancelled_and_deleted(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    names = [(await cut_off(store))["id"] for _ in range(2)]
    model = ScriptedModel(lambda _: "```python\nwhile True: pass\n```")
    async with serving(model, store=store) as client:
        await asked(model, 2)
        status, done, _ = await client.post({}, f"{PATH}/{names[0]}/cancel")
        assert (status, done["status"]) == (200, "cancelled")
        assert await delete(client, names[1]) == 200
        await client.until("recursor_runs_in_flight 0")
    async with serving([], store=store) as client:
        assert (await looked(client, names[0]))[1] == done
        assert (await looked(client, names[1]))[0] == 404
    assert responses.ResponseRecord(store).at_work() == []


async def test_a_function_that_was_to_be_called_in_the_background_is_asked_for_after_a_restart(
    tmp_path: Path,
) -> None:
    store, body = tmp_path / "r.db", {**LATER, "tools": [TOOL]}
    begun = await cut_off(store, body)
    async with serving(
        by_turn("", "```python\nFINAL(get_weather('Oslo') + str(y))\n```"), store=store
    ) as client:
        done = await ended(client, begun["id"])
        [call] = [item for item in done["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "warm "}
        _, second, _ = await client.post(
            {**HELLO, "tools": [TOOL], "input": [result], "previous_response_id": begun["id"]}, PATH
        )
    assert second["output"][-1]["content"][0]["text"] == "warm 41"
    assert second["id"] == begun["id"] + "-2"


async def test_a_second_reply_of_a_run_goes_on_too(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    model = Stuck(["```python\ny = get_weather('Oslo')\n```"])
    async with ending(model, store) as client:
        _, first, _ = await client.post({**HELLO, "tools": [TOOL], "instructions": "Be short."}, PATH)
        [call] = [item for item in first["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "warm"}
        body = {**LATER, "input": [result], "previous_response_id": first["id"]}
        _, begun, _ = await client.post(body, PATH)
        await asked(model, 2)
    last = ScriptedModel(["```python\nFINAL(y)\n```"])
    async with serving(last, store=store) as client:
        done = await ended(client, begun["id"])
    assert begun["id"] == first["id"] + "-2"
    assert done["output"][-1]["content"][0]["text"] == "warm"
    assert len(last.requests) == 1


async def test_of_two_servers_over_one_store_one_goes_on_with_a_response(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    begun = await cut_off(store)
    model = ScriptedModel(lambda _: "```python\nFINAL(y + 1)\n```")
    async with serving(model, store=store) as one, serving(model, store=store) as other:
        both = await asyncio.gather(ended(one, begun["id"]), ended(other, begun["id"]))
    assert both[0] == both[1]
    assert both[0]["output"][-1]["content"][0]["text"] == "42"
    assert len(model.requests) == 1


async def test_another_server_over_the_store_says_what_there_is_and_stops_nothing(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with serving(by_turn("```python\nwhile True: pass\n```"), store=store) as one:
        _, begun, _ = await one.post(LATER, PATH)
        async with serving([], store=store) as other:
            assert (await looked(other, begun["id"]))[1]["status"] == "in_progress"
            status, refused, headers = await other.post({}, f"{PATH}/{begun['id']}/cancel")
            assert (status, refused["error"]["code"], headers["Retry-After"]) == (409, "busy", "5")
            assert (await other.get(f"{PATH}/{begun['id']}?stream=true"))[0] == 409
        assert (await one.post({}, f"{PATH}/{begun['id']}/cancel"))[1]["status"] == "cancelled"


CALLS = "```python\nfirst = get_weather('Oslo')\nsecond = get_weather('Rome')\nx = [first, second]\nFINAL(' '.join(x))\n```"


@pytest.mark.parametrize("how", ["whole", "streamed", "later"])
async def test_a_run_that_waited_for_its_client_goes_on_after_a_restart(how: str, tmp_path: Path) -> None:
    store, model = tmp_path / "r.db", ScriptedModel([CALLS, "```python\nFINAL(str(x))\n```"])
    body = {**HELLO, "tools": [TOOL], "instructions": "Be short."}

    async def asked(client: Client, more: dict[str, Any]) -> Any:
        if how == "streamed":
            return (await client.events({**body, **more}, PATH))[-1]["response"]
        _, done, _ = await client.post({**body, **more, "background": how == "later"}, PATH)
        return await ended(client, done["id"])

    def result(response: Any, text: str) -> dict[str, Any]:
        [call] = [item for item in response["output"] if item["type"] == "function_call"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": text}
        return {"input": [output], "previous_response_id": response["id"]}

    async with serving(model, store=store) as client:
        first = await asked(client, {})
    async with serving(model, store=store) as client:
        missing, refused, _ = await client.post(
            {
                **body,
                **result(first, "warm"),
                "input": [{"type": "function_call_output", "call_id": "call_x", "output": "?"}],
            },
            PATH,
        )
        second = await asked(client, result(first, "warm"))
    async with serving(model, store=store) as client:
        third = await asked(client, result(second, "hot"))
        _, more, _ = await client.post({**HELLO, "previous_response_id": third["id"]}, PATH)
        late, gone, _ = await client.post({**body, **result(second, "hot")}, PATH)
    assert (missing, refused["error"]["param"]) == (400, "input")
    assert [each["id"] for each in (second, third)] == [first["id"] + "-2", first["id"] + "-3"]
    assert third["output"][-1]["content"][0]["text"] == "warm hot"
    assert more["output"][-1]["content"][0]["text"] == "['warm', 'hot']"
    assert (late, gone["error"]["code"]) == (409, "run_superseded")
    assert len(model.requests) == 2


async def test_a_run_that_waited_too_long_goes_on_all_the_same(tmp_path: Path) -> None:
    model = ScriptedModel(["```python\nFINAL(get_weather('Oslo'))\n```"])
    async with serving(model, Settings(hold=0.01), store=tmp_path / "r.db") as client:
        _, first, _ = await client.post({**HELLO, "tools": [TOOL]}, PATH)
        await client.until("recursor_runs_held 0")
        await client.until('recursor_runs_total{key="anybody",outcome="stopped"} 1')
        [call] = first["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "warm"}
        status, done, _ = await client.post(
            {**HELLO, "input": [output], "previous_response_id": first["id"]}, PATH
        )
    assert (status, done["output"][-1]["content"][0]["text"]) == (200, "warm")
    assert len(model.requests) == 1
