"""Conversations over HTTP: a later request finds the variables of an earlier one, and nobody else's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from recursor.server import keys
from recursor.server.app import Settings
from recursor.trajectory.claim import claim
from recursor.types import Message
from serving import Client, serving

openai: Any = pytest.importorskip("openai")
T = TypeVar("T")
RESPONSES = "/v1/responses"
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip


def code_of(messages: Sequence[Message]) -> str:
    """The root LM of these tests: runs what it is asked."""
    asked = messages[1].content.partition("Question: ")[2].partition("\n")[0]
    return f"```python\n{asked.replace('; ', chr(10))}\n```"


async def by_openai(client: Client, ask: Callable[[Any], T], key: str = "none") -> T:
    def work() -> T:
        with openai.OpenAI(base_url=client.server.url, api_key=key, max_retries=0) as made:
            return ask(made)

    return await asyncio.to_thread(work)


def respond(made: Any, question: str, **options: Any) -> Any:
    return made.responses.create(model="recursor", input=question, **options)


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_response_goes_on_with_the_variables_of_the_one_before(
    recorded: bool, tmp_path: Path
) -> None:
    def ask(made: Any) -> None:
        first = respond(made, "x = 20; FINAL(str(x))")
        second = respond(made, "x += 1; FINAL(str(x))", previous_response_id=first.id)
        assert (second.output_text, second.previous_response_id) == ("21", first.id)
        with made.responses.stream(
            model="recursor", input="FINAL(str([x, len(history)]))", previous_response_id=second.id
        ) as stream:
            assert stream.get_final_response().output_text == "[21, 2]"

    async with serving(code_of, store=tmp_path / "r.db" if recorded else None) as client:
        await by_openai(client, ask)


async def test_an_older_response_is_gone_on_from_apart(tmp_path: Path) -> None:
    def ask(made: Any) -> None:
        first = respond(made, "x = ['a']; FINAL(str(x))")
        left = respond(made, "x.append('left'); FINAL(str(x))", previous_response_id=first.id)
        right = respond(made, "x.append('right'); FINAL(str(x))", previous_response_id=first.id)
        assert (left.output_text, right.output_text) == ("['a', 'left']", "['a', 'right']")
        for each in (left, right):
            again = respond(made, "FINAL(str(x))", previous_response_id=each.id)
            assert again.output_text == each.output_text

    async with serving(code_of, store=tmp_path / "r.db") as client:
        await by_openai(client, ask)


async def test_without_a_store_an_older_response_cannot_be_gone_on_from() -> None:
    def ask(made: Any) -> Any:
        first = respond(made, "x = 1; FINAL('1')")
        respond(made, "FINAL('2')", previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError, match="a branch needs the store"):
            respond(made, "FINAL('3')", previous_response_id=first.id)

    async with serving(code_of) as client:
        await by_openai(client, ask)


async def test_a_conversation_keeps_its_repl() -> None:
    def ask(made: Any) -> None:
        conversation = made.conversations.create()
        for expected in ("1", "2", "3"):
            done = respond(made, "n = globals().get('n', 0) + 1; FINAL(str(n))", conversation=conversation.id)
            assert done.output_text == expected
            assert done.conversation.id == conversation.id
        with pytest.raises(openai.NotFoundError, match="there is no conversation"):
            respond(made, "FINAL('')", conversation="conv_" + "0" * 32)
        with pytest.raises(openai.NotFoundError, match="there is no conversation"):
            respond(made, "FINAL('')", conversation="session x")
        with pytest.raises(openai.BadRequestError, match="not both"):
            respond(made, "FINAL('')", conversation=conversation.id, previous_response_id="resp_1")

    async with serving(code_of) as client:
        await by_openai(client, ask)


async def test_what_is_not_stored_cannot_be_gone_on_from(tmp_path: Path) -> None:
    def ask(made: Any) -> None:
        first = respond(made, "FINAL('CANARY')", store=False)
        assert first.store is False
        with pytest.raises(openai.NotFoundError) as raised:
            respond(made, "FINAL('')", previous_response_id=first.id)
        assert raised.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError):
            respond(made, "FINAL('')", previous_response_id="resp_x")

    async with serving(code_of, store=tmp_path / "r.db") as client:
        await by_openai(client, ask)


async def test_a_restarted_server_goes_on(tmp_path: Path) -> None:
    found: list[Any] = []

    def begin(made: Any) -> None:
        found.append(respond(made, "x = [len(messages)]; FINAL(str(x))").id)
        found.append(made.conversations.create().id)
        respond(made, "y = 5; FINAL(str(y))", conversation=found[1])

    def go_on(made: Any) -> None:
        assert respond(made, "FINAL(str(x))", previous_response_id=found[0]).output_text == "[1]"
        assert respond(made, "FINAL(str(y))", conversation=found[1]).output_text == "5"

    for each in (begin, go_on):
        async with serving(code_of, store=tmp_path / "r.db") as client:
            await by_openai(client, each)


async def test_chats_name_their_session_by_a_header_or_in_metadata() -> None:
    def chat(made: Any, question: str, **options: Any) -> str:
        rows = [{"role": "user", "content": question}]
        done = made.chat.completions.create(model="recursor", messages=rows, **options)
        return str(done.choices[0].message.content)

    def ask(made: Any) -> None:
        named: Any = {"metadata": {"session": "mine"}}
        assert chat(made, "x = 1; FINAL('set')", **named) == "set"
        assert chat(made, "FINAL(str(x))", extra_headers={"X-Recursor-Session": "mine"}) == "1"
        assert chat(made, "FINAL(str('x' in globals()))", metadata={"session": "other"}) == "False"
        assert chat(made, "FINAL(str('x' in globals()))") == "False"
        with pytest.raises(openai.BadRequestError, match="printable"):
            chat(made, "FINAL('')", metadata={"session": ""})

    async with serving(code_of) as client:
        await by_openai(client, ask)


async def test_clients_find_only_their_own_sessions(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    mine, yours = keys.add(file, "me"), keys.add(file, "you")

    def begin(made: Any) -> tuple[str, str]:
        conversation = made.conversations.create().id
        respond(made, "secret = 1; FINAL('')", conversation=conversation)
        respond(made, "secret = 1; FINAL('')", metadata={"session": "name"})
        return respond(made, "secret = 1; FINAL('')").id, conversation

    def pry(made: Any, response: str, conversation: str) -> None:
        with pytest.raises(openai.NotFoundError):
            respond(made, "FINAL(str(secret))", previous_response_id=response)
        with pytest.raises(openai.NotFoundError):
            respond(made, "FINAL(str(secret))", conversation=conversation)
        done = respond(made, "FINAL(str('secret' in globals()))", metadata={"session": "name"})
        assert done.output_text == "False"

    async with serving(code_of, Settings(key_file=file), store=tmp_path / "r.db") as client:
        response, conversation = await by_openai(client, begin, mine)
        await by_openai(client, lambda made: pry(made, response, conversation), yours)


async def test_functions_of_the_client_are_called_within_a_conversation() -> None:
    def ask(made: Any) -> None:
        first = respond(made, "x = 'It is '; FINAL(x)")
        called = respond(
            made, "x += get_weather('Oslo'); FINAL(x)", tools=[TOOL], previous_response_id=first.id
        )
        call = called.output[0]
        assert (call.type, call.name) == ("function_call", "get_weather")
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "warm"}]
        done = made.responses.create(
            model="recursor", input=result, tools=[TOOL], previous_response_id=called.id
        )
        assert done.output_text == "It is warm"
        again = respond(made, "FINAL(str([x, 'get_weather' in globals()]))", previous_response_id=done.id)
        assert again.output_text == "['It is warm', False]"
        with pytest.raises(openai.NotFoundError, match="is gone"):
            made.responses.create(model="recursor", input=result, previous_response_id=called.id)

    async with serving(code_of) as client:
        await by_openai(client, ask)


async def test_a_conversation_that_is_at_work_is_locked() -> None:
    async with serving(code_of) as client:
        _, made, _ = await client.post({}, "/v1/conversations")
        body = {"model": "recursor", "tools": [TOOL], "conversation": made["id"]}
        status, first, _ = await client.post({**body, "input": "FINAL(get_weather('Oslo'))"}, RESPONSES)
        assert (status, first["output"][0]["type"]) == (200, "function_call")
        status, second, _ = await client.post({**body, "input": "FINAL('')"}, RESPONSES)
        assert (status, second["error"]["code"]) == (409, "conversation_locked")
        result = {
            "type": "function_call_output",
            "call_id": first["output"][0]["call_id"],
            "output": "warm",
        }
        status, third, _ = await client.post({**body, "input": [result]}, RESPONSES)
        assert third["output"][0]["content"][0]["text"] == "warm"
        status, _, _ = await client.post({**body, "input": "FINAL('')"}, RESPONSES)
        assert status == 200


@pytest.mark.parametrize("settings", [Settings(max_sessions=1), Settings(session_idle=0.01)])
async def test_repls_of_conversations_are_few_and_end_and_come_back(
    settings: Settings, tmp_path: Path
) -> None:
    async with serving(code_of, settings, store=tmp_path / "r.db") as client:
        ids = []
        for number in range(3):
            _, done, _ = await client.post(
                {"model": "recursor", "input": f"x = {number}; FINAL('')"}, RESPONSES
            )
            ids.append(done["id"])
        sessions = client.server._runs.sessions
        while len(sessions) > settings.max_sessions * (settings.session_idle > 1):
            await asyncio.sleep(0.01)
        for number, before in enumerate(ids):
            body = {"model": "recursor", "input": "FINAL(str(x))", "previous_response_id": before}
            _, done, _ = await client.post(body, RESPONSES)
            assert done["output"][0]["content"][0]["text"] == str(number)


async def test_a_request_that_is_given_up_is_undone() -> None:
    async with serving(code_of) as client:
        _, made, _ = await client.post({}, "/v1/conversations")
        body = {"model": "recursor", "conversation": made["id"]}
        await client.post({**body, "input": "x = [1]; FINAL('')"}, RESPONSES)
        sleeps = {**body, "input": "x.append(2); import time; time.sleep(60)", "stream": True}
        async with client.session.post(client.root + RESPONSES, json=sleeps) as response:
            await response.content.readuntil(b"response.reasoning_summary_text.delta")
        status = 409
        while status == 409:
            status, done, _ = await client.post({**body, "input": "FINAL(str(x))"}, RESPONSES)
        assert done["output"][0]["content"][0]["text"] == "[1]"


async def test_conversations_begin_empty(tmp_path: Path) -> None:
    async with serving(code_of) as client:
        status, made, _ = await client.post({"metadata": {"a": "b"}}, "/v1/conversations")
        assert (status, made["object"], made["metadata"]) == (200, "conversation", {"a": "b"})
        items = [{"type": "message", "role": "user", "content": "x"}]
        status, refused, _ = await client.post({"items": items}, "/v1/conversations")
        assert (status, refused["error"]["param"]) == (400, "items")


def with_two_clients(tmp_path: Path) -> tuple[Path, dict[str, str], dict[str, str]]:
    file = tmp_path / "keys.toml"
    mine, yours = ({"Authorization": f"Bearer {keys.add(file, name)}"} for name in ("me", "you"))
    return file, mine, yours


async def test_what_others_ask_for_ends_no_conversation_of_a_client_that_has_fewer(tmp_path: Path) -> None:
    file, mine, yours = with_two_clients(tmp_path)
    async with serving(code_of, Settings(key_file=file, max_sessions=3)) as client:
        body = {"model": "recursor", "input": "x = 5; FINAL('')", "metadata": {"session": "s"}}
        await client.post(body, RESPONSES, mine)
        for _ in range(4):
            await client.post({"model": "recursor", "input": "FINAL('')"}, RESPONSES, yours)
        _, done, _ = await client.post({**body, "input": "FINAL(str(x))"}, RESPONSES, mine)
        assert done["output"][0]["content"][0]["text"] == "5"


async def test_requests_that_are_refused_end_no_conversation(tmp_path: Path) -> None:
    async with serving(code_of, Settings(max_sessions=2, max_runs=1)) as client:
        body = {"model": "recursor", "input": "x = 5; FINAL('')", "metadata": {"session": "s"}}
        await client.post(body, RESPONSES)
        _, going, _ = await client.post(
            {"model": "recursor", "input": "while True: pass", "background": True}, RESPONSES
        )
        for _ in range(3):
            status, _, _ = await client.post({"model": "recursor", "input": "FINAL('')"}, RESPONSES)
            assert status == 429
        await client.post({}, f"{RESPONSES}/{going['id']}/cancel")
        _, done, _ = await client.post({**body, "input": "FINAL(str(x))"}, RESPONSES)
        assert done["output"][0]["content"][0]["text"] == "5"


async def test_a_conversation_whose_first_question_was_refused_is_still_there() -> None:
    async with serving(code_of, Settings(max_runs=1)) as client:
        _, made, _ = await client.post({}, "/v1/conversations")
        _, going, _ = await client.post(
            {"model": "recursor", "input": "while True: pass", "background": True}, RESPONSES
        )
        body = {"model": "recursor", "input": "FINAL('here')", "conversation": made["id"]}
        assert (await client.post(body, RESPONSES))[0] == 429
        await client.post({}, f"{RESPONSES}/{going['id']}/cancel")
        _, done, _ = await client.post(body, RESPONSES)
        assert done["output"][0]["content"][0]["text"] == "here"


async def test_a_session_that_is_at_work_elsewhere_is_locked(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    body = {"model": "recursor", "input": "FINAL('here')", "metadata": {"session": "s"}}
    async with serving(code_of, store=store) as client:
        assert (await client.post(body, RESPONSES))[0] == 200
        with claim(store, hashlib.blake2b(b"anybody/session s", digest_size=16).hexdigest()):
            status, refused, headers = await client.post(body, RESPONSES)
        assert (status, refused["error"]["code"], headers["Retry-After"]) == (409, "conversation_locked", "5")
        assert (await client.post(body, RESPONSES))[0] == 200
