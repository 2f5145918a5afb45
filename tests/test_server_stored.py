"""Responses that go on by themselves, and responses looked at again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recursor import RLM
from recursor.errors import ModelError
from recursor.server import keys
from recursor.server.app import Server, Settings
from recursor.testing import ScriptedModel
from recursor.types import Message
from serving import Client, by_turn, parsed, serving

PATH = "/v1/responses"
HELLO = {"model": "recursor", "input": "Hello"}
LATER = {**HELLO, "background": True}
ANSWER = "I see.\n```python\nFINAL('It is 42.')\n```"
FOREVER = "```python\nwhile True: pass\n```"
CALL = "```python\nFINAL(get_weather('Oslo'))\n```"
TOOLS = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]  # fmt: skip


async def looked(client: Client, name: str, **more: Any) -> tuple[int, Any]:
    status, text = await client.get(f"{PATH}/{name}", **more)
    return status, json.loads(text)


async def ended(client: Client, name: str) -> Any:
    """A response, when it has ended."""
    async with asyncio.timeout(60):
        while True:
            _, found = await looked(client, name)
            if found["status"] != "in_progress":
                return found
            await asyncio.sleep(0.005)


async def delete(client: Client, name: str) -> tuple[int, Any]:
    async with client.session.delete(f"{client.root}{PATH}/{name}") as response:
        return response.status, await response.json()


async def events(client: Client, name: str, **query: str) -> list[Any]:
    url = f"{client.root}{PATH}/{name}"
    async with client.session.get(url, params={"stream": "true", **query}) as response:
        assert response.status == 200, await response.text()
        return parsed(await response.text())


async def test_a_response_in_the_background_is_there_at_once_and_answered_later() -> None:
    go_on = asyncio.Event()

    async def says(_: Sequence[Message]) -> str:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    async with serving(says) as client:
        _, first, headers = await client.post(LATER, PATH)
        _, meanwhile = await looked(client, first["id"])
        go_on.set()
        done = await ended(client, first["id"])
        await client.until("recursor_runs_in_flight 0")
    assert (first["status"], first["background"], first["output"]) == ("in_progress", True, [])
    assert first["id"] == f"resp_{headers['X-Recursor-Run']}" == meanwhile["id"] == done["id"]
    assert meanwhile["status"] == "in_progress"
    assert done["status"] == "completed"
    assert done["output"][-1]["content"][0]["text"] == "It is 42."
    assert done["usage"]["total_tokens"] > 0


async def test_a_client_that_goes_away_leaves_a_response_in_the_background_alone() -> None:
    async with serving(by_turn(FOREVER)) as client:
        body = json.dumps({**LATER, "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        head = await reader.readuntil(b"response.in_progress")
        writer.close()
        name = json.loads(head.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]
        for _ in range(20):
            assert (await looked(client, name))[1]["status"] == "in_progress"
        await client.post({}, f"{PATH}/{name}/cancel")
        await client.until("recursor_runs_in_flight 0")


async def test_a_response_in_the_background_is_cancelled_while_its_code_goes_on() -> None:
    async with serving(by_turn(FOREVER)) as client:
        _, first, _ = await client.post(LATER, PATH)
        status, done, _ = await client.post({}, f"{PATH}/{first['id']}/cancel")
        await client.until("recursor_runs_in_flight 0")
        _, again, _ = await client.post({}, f"{PATH}/{first['id']}/cancel")
        assert await looked(client, first["id"]) == (200, done)
        said = await events(client, first["id"])
    assert (status, done["status"]) == (200, "cancelled")
    assert again == done
    assert (said[-1]["type"], said[-1]["response"]["status"]) == ("response.incomplete", "cancelled")


async def test_events_of_the_background_are_followed_from_anywhere() -> None:
    async with serving(by_turn(ANSWER)) as client:
        streamed = await client.events(LATER, PATH)
        name = streamed[0]["response"]["id"]
        assert await events(client, name) == streamed
        assert await events(client, name, starting_after="3") == streamed[4:]
        assert await events(client, name, starting_after="999") == []
        status, _ = await client.get(f"{PATH}/{name}?stream=true&starting_after=x")
        _, whole = await looked(client, name)
    assert status == 400
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert streamed[-1]["response"] == whole


async def test_events_are_followed_while_they_come() -> None:
    go_on = asyncio.Event()

    async def says(_: Sequence[Message]) -> str:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    async with serving(says) as client:
        _, first, _ = await client.post(LATER, PATH)
        both = asyncio.gather(*(events(client, first["id"]) for _ in range(2)))
        await client.get("/healthz")
        go_on.set()
        one, other = await both
    assert one == other
    assert one[-1]["type"] == "response.completed"


async def test_a_function_called_in_the_background_is_done_by_the_next_request() -> None:
    async with serving(by_turn(CALL)) as client:
        _, first, _ = await client.post({**LATER, "tools": TOOLS}, PATH)
        done = await ended(client, first["id"])
        [call] = [item for item in done["output"] if item["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "warm"}
        body = {**LATER, "tools": TOOLS, "input": [{"role": "user", "content": "Hello"}, call, result]}
        _, second, _ = await client.post(body, PATH)
        last = await ended(client, second["id"])
    assert second["id"] != first["id"]
    assert last["output"][-1]["content"][0]["text"] == "warm"


async def test_a_failure_in_the_background_is_told() -> None:
    async with serving(lambda _: ModelError("down", 500, retryable=False)) as client:
        status, first, _ = await client.post(LATER, PATH)
        done = await ended(client, first["id"])
    assert status == 200
    assert (done["status"], done["error"]["type"]) == ("failed", "upstream_error")


async def test_what_is_wrong_with_a_request_is_said_at_once() -> None:
    async with serving(by_turn(ANSWER)) as client:
        wrongs: list[dict[str, Any]] = [{"store": False}, {"background": "yes"}, {"input": []}]
        for wrong in [*wrongs, {"metadata": {"max_cost": "x"}}]:
            assert (await client.post({**LATER, **wrong}, PATH))[0] == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_any_response_is_looked_at_again_unless_it_is_not_stored(stream: bool) -> None:
    async with serving(by_turn(ANSWER, ANSWER)) as client:

        async def asked(body: Any) -> Any:
            if stream:
                return (await client.events(body, PATH))[-1]["response"]
            return (await client.post(body, PATH))[1]

        done = await asked(HELLO)
        forgotten = await asked({**HELLO, "store": False})
        assert await looked(client, done["id"]) == (200, done)
        assert (await looked(client, forgotten["id"]))[0] == 404
        cancelled, _, _ = await client.post({}, f"{PATH}/{done['id']}/cancel")
        streamed, _ = await client.get(f"{PATH}/{done['id']}?stream=true")
    assert cancelled == streamed == 400


async def test_a_response_is_deleted() -> None:
    async with serving(by_turn(FOREVER)) as client:
        _, first, _ = await client.post(LATER, PATH)
        assert await delete(client, first["id"]) == (
            200,
            {"id": first["id"], "object": "response", "deleted": True},
        )
        await client.until("recursor_runs_in_flight 0")
        assert (await looked(client, first["id"]))[0] == (await delete(client, first["id"]))[0] == 404


async def test_nobody_sees_the_responses_of_another_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice, bob = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("alice", "bob"))
    async with serving(by_turn(ANSWER), Settings(key_file=file)) as client:
        _, done, _ = await client.post(HELLO, PATH, alice)
        path = f"{PATH}/{done['id']}"
        assert (await looked(client, done["id"], headers=alice))[0] == 200
        assert (await looked(client, done["id"], headers=bob))[0] == 404
        assert (await client.post({}, f"{path}/cancel", bob))[0] == 404
        async with client.session.delete(client.root + path, headers=bob) as response:
            assert response.status == 404
        assert (await looked(client, done["id"]))[0] == 401


async def test_old_responses_are_forgotten_and_those_at_work_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.stored.MOST", 2)
    async with serving(lambda messages: FOREVER if "forever" in str(messages) else ANSWER) as client:
        _, going, _ = await client.post({**LATER, "input": "forever"}, PATH)
        names = [(await client.post(HELLO, PATH))[1]["id"] for _ in range(3)]
        found = [(await looked(client, name))[0] for name in [going["id"], *names]]
        await client.post({}, f"{PATH}/{going['id']}/cancel")
    assert found == [200, 404, 404, 200]


async def test_the_end_of_the_server_gives_runs_in_the_background_their_time() -> None:
    go_on = asyncio.Event()

    async def says(_: Sequence[Message]) -> str:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    async def until_it_ends(client: Client) -> None:
        while (await client.get("/readyz"))[0] == 200:
            pass
        go_on.set()

    server = Server({"recursor": RLM(ScriptedModel(says))})
    async with aiohttp.ClientSession() as session:
        async with server.serving():
            client = Client(server, session)
            _, first, _ = await client.post(LATER, PATH)
            url = f"{client.root}{PATH}/{first['id']}?stream=true"
            following = await session.get(url)
            ending = asyncio.ensure_future(until_it_ends(client))
        said = parsed(await following.text())
        await ending
    assert said[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": {"a": "x" * 4_000}},
        {"text": {"format": {"type": "text", "x": "x" * 4_000}}},
        {"tools": [{**TOOLS[0], "description": "x" * 4_000}]},
        {"instructions": "x" * 4_000},
    ],
)
async def test_what_responses_repeat_of_their_requests_counts_as_kept(
    more: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recursor.server.stored.SIZE", 10_000)
    async with serving(by_turn(*[ANSWER] * 4)) as client:
        names = [(await client.post({**HELLO, **more}, PATH))[1]["id"] for _ in range(4)]
        assert [(await looked(client, name))[0] for name in names] == [404, 404, 200, 200]


async def test_what_is_long_in_the_background_takes_the_place_of_others_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recursor.server.stored.SIZE", 10_000)
    long = "```python\nFINAL('x' * 5_000)\n```"
    async with serving(lambda messages: long if "long" in str(messages) else ANSWER) as client:
        _, before, _ = await client.post(HELLO, PATH)
        _, later, _ = await client.post({**LATER, "input": "long"}, PATH)
        assert (await ended(client, later["id"]))["status"] == "completed"
        assert (await looked(client, before["id"]))[0] == 404


async def test_many_responses_of_one_key_do_not_displace_those_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recursor.server.stored.MOST", 3)
    file = tmp_path / "keys.toml"
    few, many = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("few", "many"))
    async with serving(lambda _: ANSWER, Settings(key_file=file)) as client:
        _, mine, _ = await client.post(HELLO, PATH, few)
        for _ in range(4):
            await client.post(HELLO, PATH, many)
        assert (await looked(client, mine["id"], headers=few))[0] == 200
