"""The server, from outside, over HTTP: what is asked, what comes back, who may ask, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import RLM, Limits
from recursor.errors import AuthenticationError, ConfigError, ContextOverflow, ModelError, TrajectoryError
from recursor.server.app import Server, Settings
from recursor.testing import ModelServer, ScriptedModel
from recursor.trajectory import view
from recursor.types import Message, Reply, Usage
from serving import COUNT, HELLO, Client, by_turn, content, parsed, serving

ANSWER = "```python\nFINAL('It is 42.')\n```"
ASIDE = "```python\nprint('looked at', len(messages))\n```"


class Silent(ScriptedModel):
    """Says nothing any more when its script has ended."""

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if sum(message.role == "assistant" for message in messages):
            await asyncio.Event().wait()
        return await super().query(messages, **options)


async def executed(store: Path) -> str:
    """The id of the one run, once a block of it was executed."""
    while True:
        await asyncio.sleep(0.005)
        with suppress(TrajectoryError), view.open(store) as recorded:  # there is no store yet
            if (found := recorded.runs()) and recorded.executions(found[0].id):
                return found[0].id


async def begun(store: Path) -> None:
    """Return when the one run has begun."""
    while True:
        await asyncio.sleep(0.005)
        with suppress(TrajectoryError), view.open(store) as recorded:
            if recorded.runs():
                return


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "recursor", "messages": [{"role": "user", "content": text}], **more}


# Answers --------------------------------------------------------------------------------------


async def test_a_request_is_answered_by_a_run_over_its_messages() -> None:
    messages = [{"role": "user", "content": "x" * 300_000}, {"role": "assistant", "content": "Long."}]
    messages.append({"role": "user", "content": "How long was it?"})
    model = ScriptedModel(by_turn("```python\nFINAL(len(messages[0]['content']))\n```"))
    async with serving(model) as client:
        status, reply, headers = await client.post({"model": "recursor", "messages": messages})
    assert status == 200
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "recursor"
    [choice] = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": "300000", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert reply["id"] == f"chatcmpl-{headers['X-Recursor-Run']}"
    assert "xxxx" * 100 not in str(model.requests)
    assert "How long was it?" in model.requests[0][-1].content


async def test_a_stream_tells_what_is_done_as_reasoning_and_the_answer_as_content() -> None:
    async with serving(by_turn(f"I look.\n{ASIDE}", ANSWER)) as client:
        events = await client.events(HELLO)
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events[:-1]}) == 1
    assert content(events) == "It is 42."
    told = content(events, "reasoning_content")
    assert "I look." in told
    assert "looked at 1" in told
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]][-1] == "stop"
    assert not any("usage" in event for event in events[:-1])


async def test_the_usage_is_that_of_the_whole_tree() -> None:
    def says(messages: Sequence[Message]) -> Reply:
        text = "```python\nFINAL(llm_query_batched(['a', 'b', 'c'])[0])\n```"
        used = Usage(100, 10, cached_tokens=5, reasoning_tokens=2, calls=1)
        return Reply("yes" if messages[0].role == "user" else text, used, 0.0, "scripted", "stop")

    async with serving(says) as client:
        _, reply, _ = await client.post(HELLO)
        events = await client.events({**HELLO, "stream_options": {"include_usage": True}})
    assert reply["usage"] == {
        "prompt_tokens": 400, "completion_tokens": 40, "total_tokens": 440,
        "prompt_tokens_details": {"cached_tokens": 20}, "completion_tokens_details": {"reasoning_tokens": 8},
    }  # fmt: skip
    assert events[-2]["usage"] == reply["usage"]
    assert events[-2]["choices"] == []
    assert all(event["usage"] is None for event in events[:-2])


async def test_a_schema_is_kept_to() -> None:
    wrong, right = "```python\nFINAL({'age': 'old'})\n```", "```python\nFINAL({'age': 7})\n```"
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    async with serving(by_turn(wrong, right)) as client:
        _, reply, _ = await client.post(user("How old?", response_format=form))
        _, anything, _ = await client.post(user("How old?", response_format={"type": "json_object"}))
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"age": 7}
    assert json.loads(anything["choices"][0]["message"]["content"]) == {"age": "old"}


async def test_a_schema_that_could_keep_the_server_busy_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with serving(by_turn(ANSWER)) as client:
        status, reply, _ = await client.post(user("Hello", response_format=form))
    assert (status, reply["error"]["param"]) == (400, "response_format")


def told(text: Any, *others: Any) -> dict[str, Any]:
    """A question of somebody who instructs."""
    system = [{"role": "system", "content": text}, *HELLO["messages"]]
    return {
        "model": "recursor",
        "messages": [*system, *({"role": "developer", "content": each} for each in others)],
    }


async def test_system_messages_instruct() -> None:
    long = "Answer in Latin. " * 900
    model = ScriptedModel(lambda _: ANSWER)
    async with serving(model) as client:
        await client.post(told("Answer in French.", "Be short."))
        await client.post(told(long))
    assert "Answer in French.\n\nBe short." in model.requests[0][0].content
    assert long in model.requests[1][0].content


@pytest.mark.parametrize("strategy", ["auto", "rlm"])
async def test_of_long_instructions_the_root_lm_sees_the_ends_and_where_to_read_the_whole(
    strategy: str,
) -> None:
    long = "Answer in Latin. " + "Be kind. " * 4_000 + "Never say yes."
    parts = [{"type": "text", "text": "First part."}, {"type": "text", "text": "Second part."}]
    found: list[str] = []

    def says(messages: Sequence[Message]) -> str:
        places = re.findall(r"`(messages\[[^`]*)`", messages[0].content)
        found.extend(places)
        return f"```python\nFINAL('|'.join([{', '.join(places)}]))\n```"

    model = ScriptedModel(says)
    async with serving(model, strategy=strategy) as client:
        _, reply, _ = await client.post(
            told(long, parts) | {"tools": [{"type": "function", "function": {"name": "f"}}]}
        )
        await client.post(told(long * 10, parts))
    system = model.requests[0][0].content
    assert found[:3] == [
        "messages[0]['content']",
        "messages[2]['content'][0]['text']",
        "messages[2]['content'][1]['text']",
    ]
    assert reply["choices"][0]["message"]["content"] == f"{long}|First part.|Second part."
    assert "read all of them before you do anything else" in system
    assert "They begin:\nAnswer in Latin. Be kind." in system
    assert system.count("Be kind.") < 700
    assert system.endswith("Never say yes.\n\nFirst part.\n\nSecond part.")
    assert abs(len(model.requests[1][0].content) - len(system)) < 400


async def test_long_instructions_in_a_small_question_stand_in_the_one_prompt_there_is() -> None:
    long = "Answer in Latin. " + "Be kind. " * 3_000
    model = ScriptedModel(["Salve."])
    async with serving(model, strategy="auto") as client:
        _, reply, _ = await client.post(told(long))
    assert reply["choices"][0]["message"]["content"] == "Salve."
    assert "They bind you as if they stood here" in model.requests[0][0].content
    assert model.requests[0][1].content.count("Be kind.") == 3_000


async def test_parts_of_text_are_text() -> None:
    parts = [{"type": "text", "text": "How"}, {"type": "text", "text": "many?"}]
    model = ScriptedModel(by_turn(ANSWER))
    async with serving(model) as client:
        status, _, _ = await client.post(
            {"model": "recursor", "messages": [{"role": "user", "content": parts}]}
        )
    assert status == 200
    assert "How\nmany?" in model.requests[0][-1].content


async def test_lone_surrogates_come_and_go_as_json_spells_them() -> None:
    async with serving(by_turn("```python\nFINAL(messages[0]['content'][-1])\n```")) as client:
        body = b'{"model": "recursor", "messages": [{"role": "user", "content": "What is \\ud800"}]}'
        _, reply, _ = await client.post(body)
        events = await client.events(user("What is \ud800"))
    assert reply["choices"][0]["message"]["content"] == "\ud800"
    assert content(events) == "\ud800"


async def test_twenty_megabytes_are_a_question_like_any_other() -> None:
    async with serving(by_turn(COUNT)) as client:
        status, reply, _ = await client.post(user("y" * 20_000_000))
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "20000000")


async def test_the_models_are_listed() -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, listed = await client.get("/v1/models")
        one = await client.get("/v1/models/recursor")
        none = await client.get("/v1/models/gpt-5")
    assert status == 200
    assert [row["id"] for row in json.loads(listed)["data"]] == ["recursor"]
    assert json.loads(one[1])["object"] == "model"
    assert (none[0], json.loads(none[1])["error"]["code"]) == (404, "model_not_found")


# Limits ---------------------------------------------------------------------------------------


async def test_a_limit_of_the_client_ends_its_run() -> None:
    async with serving(by_turn(*[ASIDE] * 9)) as client:
        _, reply, _ = await client.post(user("Hello", metadata={"max_turns": "2"}))
        _, other, _ = await client.post(HELLO, headers={"X-Recursor-Max-Turns": "1"})
    assert reply["choices"][0]["finish_reason"] == other["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] > other["usage"]["completion_tokens"]


async def test_no_client_gets_more_than_the_server_has() -> None:
    model = ScriptedModel(by_turn(*[ASIDE] * 9))
    async with serving(model, limits=Limits(max_turns=2)) as client:
        _, reply, _ = await client.post(user("Hello", metadata={"max_turns": 30}))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert len(model.requests) == 3


@pytest.mark.parametrize(
    ("more", "headers"), [({"metadata": {"max_cots": "1"}}, {}), ({}, {"X-Recursor-Max-Cots": "1"})]
)
async def test_a_limit_whose_name_is_misspelt_is_refused(more: Any, headers: dict[str, str]) -> None:
    model = ScriptedModel([])
    async with serving(model) as client:
        status, reply, _ = await client.post({**HELLO, **more}, headers=headers)
    assert (status, reply["error"]["param"]) == (400, "metadata")
    assert "there is no limit 'max_cots'; did you mean 'max_cost'?" in reply["error"]["message"]
    assert model.requests == []


async def test_headers_of_others_set_no_limit() -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, _, _ = await client.post(HELLO, headers={"Max-Forwards": "10", "X-Max-Cots": "1"})
    assert status == 200


@pytest.mark.parametrize("value", ["many", "nan", "inf", "-1", "0", "1e400", "", True, None, [], 10**400])
async def test_a_limit_that_is_none_is_refused(value: Any) -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, reply, _ = await client.post(user("Hello", metadata={"max_turns": value}))
    if value is None or value is True:
        assert status == 200
    else:
        assert (status, reply["error"]["param"]) == (400, "metadata")


async def test_money_without_a_price_is_refused() -> None:
    class Unpriced(ScriptedModel):
        priced = False

    async with serving(Unpriced(by_turn(ANSWER))) as client:
        status, reply, _ = await client.post(HELLO, headers={"X-Recursor-Max-Cost": "0.50"})
    assert status == 400
    assert "known price" in reply["error"]["message"]


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b"\xff\xfe", None),
        (b'{"model": "recursor", "messages": [{"role": "user", "content": "\xff"}]}', None),
        (b"[" * 100_000, None),
        (b'{"model": "recursor", "messages": ' + b'[{"a":' * 5_000, None),
        (b'{"model": "recursor", "messages": NaN}', None),
        ({"messages": []}, None),
        ({"model": "recursor"}, None),
        ({"model": 1, "messages": []}, "model"),
        (user("Hello", model=None), "model"),
        ({"model": "recursor", "messages": []}, "messages"),
        ({"model": "recursor", "messages": {}}, "messages"),
        ({"model": "recursor", "messages": [1]}, "messages[0]"),
        ({"model": "recursor", "messages": [{}]}, "messages[0].role"),
        ({"model": "recursor", "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"model": "recursor", "messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"model": "recursor", "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"model": "recursor", "messages": [{"role": "user", "content": [7]}]}, "messages[0].content"),
        ({"model": "recursor", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"model": "recursor", "messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content"),
        ({"model": "recursor", "messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"model": "recursor", "messages": [{"role": "system", "content": "x"}]}, "messages"),
        (user("Hello", n=2), "n"),
        (user("Hello", stream="yes"), "stream"),
        (user("Hello", stream_options=7), "stream_options"),
        (user("Hello", response_format="json"), "response_format"),
        (user("Hello", response_format={"type": "xml"}), "response_format"),
        (user("Hello", response_format={"type": "json_schema"}), "response_format"),
        (user("Hello", response_format={"type": "json_schema", "json_schema": {"schema": {"type": 7}}}), "response_format"),
        (user("Hello", modalities=["audio"]), "modalities"),
        (user("Hello", functions=[{"name": "f"}]), "functions"),
        (user("Hello", tools=7), "tools"),
        (user("Hello", tools=[{"type": "function"}]), "tools[0].function"),
        (user("Hello", tools=[{"type": "function", "function": {"name": "a b"}}]), "tools[0]"),
        (user("Hello", tools=[{"type": "function", "function": {"name": "f", "parameters": 7}}]), "tools[0]"),
        (user("Hello", tool_choice="required"), "tool_choice"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_request_is_said(body: Any, param: str | None) -> None:
    model = ScriptedModel([])
    async with serving(model) as client:
        status, reply, _ = await client.post(body)
    assert status == 400
    assert reply["error"].keys() == {"message", "type", "param", "code"}
    assert reply["error"]["type"] == "invalid_request_error"
    assert reply["error"]["param"] == param
    assert not model.requests


async def test_other_errors_have_their_status() -> None:
    async with serving(by_turn(ANSWER), Settings(max_body=1_000)) as client:
        unknown = await client.post(user("Hello", model="gpt-5"))
        large = await client.post(user("y" * 2_000))
        nowhere = await client.post(HELLO, "/v1/embeddings")
        wrong = await client.get("/v1/chat/completions")
    assert (unknown[0], unknown[1]["error"]["code"], unknown[1]["error"]["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert (large[0], large[1]["error"]["code"]) == (413, "request_too_large")
    assert (nowhere[0], nowhere[1]["error"]["type"]) == (404, "not_found_error")
    assert (wrong[0], json.loads(wrong[1])["error"]["type"]) == (405, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelError("slow down", 429, retry_after=7.0, retryable=False), 429, "upstream_rate_limit"),
        (ModelError("down", 503, retryable=False), 502, "upstream_error"),
        (AuthenticationError("no key", 401), 502, "upstream_error"),
        (ContextOverflow("too long", 400), 400, "context_length_exceeded"),
    ],
)
async def test_failures_of_the_model_are_told_as_such(
    error: ModelError, status: int, code: str, stream: bool
) -> None:
    async with serving(lambda _: error) as client:
        if stream:
            told = (await client.events(HELLO))[-1]
        else:
            found, told, headers = await client.post(HELLO)
            assert found == status
            assert headers.get("Retry-After") == ("7" if status == 429 else None)
            assert len(headers["X-Recursor-Run"]) == 32
    assert told["error"]["code"] == code


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("model", "messages", "stream", "stream_options", "response_format", "metadata", "tools", "tool_choice", "n", "input", "instructions", "text", "previous_response_id")  # fmt: skip
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_call_id", "type", "output", "call_id"]), JSON | st.sampled_from(["user", "tool", "hello", "message", "function_call_output"]))  # fmt: skip
BODY = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(FIELDS, JSON),
        "model": st.just("recursor") | JSON,
        "messages": st.lists(MESSAGE, max_size=3) | JSON,
        "input": st.lists(MESSAGE, max_size=3) | JSON,
        "stream": st.booleans() | JSON,
    },
)
NAMES = ["X-Recursor-Max-Turns", "X-Recursor-Max-Cost", "X-Recursor-Max-Time", "Content-Type", "Origin", "Authorization", "Accept"]  # fmt: skip
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
HEADERS = st.fixed_dictionaries({}, optional={**dict.fromkeys(NAMES, VALUES), "Content-Encoding": st.sampled_from(["gzip", "br", "x", "identity", "Identity"])})  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_any_request_is_answered_or_refused_with_an_error_object(path: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(by_turn(ANSWER)) as client:

        async def ask(body: bytes, headers: dict[str, str]) -> tuple[int, str, str]:
            async with client.session.post(client.root + path, data=body, headers=headers) as response:
                return response.status, response.content_type, await response.text()

        @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.binary(max_size=60) | BODY.map(lambda body: json.dumps(body).encode()),
            HEADERS,
        )
        def holds(body: bytes, headers: dict[str, str]) -> None:
            found = asyncio.run_coroutine_threadsafe(ask(body, headers), loop).result(30)
            status, kind, text = found
            assert status < 500, text
            assert "Traceback" not in text
            if status >= 400:
                assert kind == "application/json"
                assert json.loads(text)["error"].keys() == {"message", "type", "param", "code"}

        await asyncio.to_thread(holds)
        await client.until("recursor_runs_in_flight 0")


# Whoever goes away ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", ["```python\nwhile True: pass\n```", ASIDE], ids=["in code", "in a call"])
async def test_a_client_that_goes_away_ends_its_run(tmp_path: Path, stream: bool, reply: str) -> None:
    store = tmp_path / "runs.db"
    async with serving(Silent([reply]), store=store) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        body = json.dumps({**HELLO, "stream": stream}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await begun(store)
        if stream:
            assert b"200 OK" in await reader.readline()
        writer.close()
        async with asyncio.timeout(60):
            await client.until("recursor_runs_in_flight 0")
        assert 'recursor_runs_total{key="anybody",outcome="stopped"} 1' in (await client.get("/metrics"))[1]
    with view.open(store) as recorded:
        [run] = recorded.runs()
        assert run.ended is not None


async def test_who_reads_slowly_holds_up_nobody() -> None:
    long = "```python\nFINAL('z' * 8_000_000)\n```"
    async with serving(by_turn(long)) as client:
        body = json.dumps({**HELLO, "stream": True}).encode()
        slow = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port, limit=1_000)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            slow.append((reader, writer))
        await client.until('recursor_runs_total{key="anybody",outcome="answered"} 3')
        async with asyncio.timeout(60):
            _, reply, _ = await client.post(HELLO)
        assert len(reply["choices"][0]["message"]["content"]) == 8_000_000
        text = b""
        while b"[DONE]" not in text[-100:]:
            text = text[-100:] + await slow[0][0].read(1 << 20)
        for _, writer in slow:
            writer.close()


async def test_at_the_end_runs_have_time_and_nobody_new_is_taken() -> None:
    go_on, reached = asyncio.Event(), asyncio.Event()
    here = asyncio.get_running_loop()

    async def says(messages: Sequence[Message]) -> str:
        future = asyncio.run_coroutine_threadsafe(_set(reached), here)
        await asyncio.wrap_future(future)
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    server = Server({"recursor": RLM(ScriptedModel(says))})
    async with aiohttp.ClientSession() as session:
        async with server.serving():
            client = Client(server, session)
            run = asyncio.ensure_future(client.post(HELLO))
            await reached.wait()
            end = asyncio.ensure_future(_refused(client, go_on))
        assert (await run)[1]["choices"][0]["message"]["content"] == "It is 42."
        assert await end == (503, 503, "shutting_down")


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _refused(client: Client, then: asyncio.Event) -> tuple[int, int, str]:
    while True:
        status, reply, headers = await client.post(HELLO)
        if status == 503:
            break
    assert headers["Retry-After"]
    ready, _ = await client.get("/readyz")
    then.set()
    return status, ready, reply["error"]["code"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_has_no_more_time_can_be_resumed(tmp_path: Path, stream: bool) -> None:
    store = tmp_path / "runs.db"
    count = "```python\nn = len(messages)\nprint(n)\n```"
    server = Server({"recursor": RLM(Silent([count]), store=store)}, Settings(grace=0.0))
    async with aiohttp.ClientSession() as session:
        async with server.serving():
            client = Client(server, session)
            run = asyncio.ensure_future(client.events(HELLO) if stream else client.post(HELLO))
            run_id = await executed(store)
        ended: Any = await run
    error = ended[-1]["error"] if stream else ended[1]["error"]
    assert error["code"] == "run_stopped"
    assert run_id in error["message"]
    again = RLM(ScriptedModel(["```python\nFINAL(n + 41)\n```"]), store=store)
    done = await again.aresume(run_id, messages=json.loads(json.dumps(HELLO))["messages"])
    assert (done.answer, done.replayed) == (42, 1)


# Who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:80"]
)
async def test_a_name_that_is_not_this_machines_is_refused(host: str) -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, reply, _ = await client.post(HELLO, headers={"Host": host})
    assert (status, reply["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
async def test_names_of_this_machine_are_taken(host: str) -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, _, _ = await client.post(HELLO, headers={"Host": host})
    assert status == 200


async def test_pages_of_browsers_may_not_ask() -> None:
    async with serving(by_turn(ANSWER)) as client:
        status, _, _ = await client.post(HELLO, headers={"Origin": "http://localhost:3000"})
    assert status == 403


def test_a_server_for_others_needs_keys() -> None:
    with pytest.raises(ConfigError, match="--key-file"):
        Settings(host="0.0.0.0")


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server({"recursor": RLM(ScriptedModel([]))}, Settings(port=taken.getsockname()[1]))
        with pytest.raises(ConfigError, match="cannot listen"):
            async with server.serving():
                pass


async def test_one_run_more_than_there_may_be_is_refused() -> None:
    async with serving(Silent([ASIDE]), Settings(max_runs=1)) as client:
        run = asyncio.ensure_future(client.post(HELLO))
        await client.until("recursor_runs_in_flight 1")
        status, reply, headers = await client.post(HELLO)
        run.cancel()
        await client.until("recursor_runs_in_flight 0")
    assert (status, reply["error"]["code"], headers["Retry-After"]) == (429, "busy", "5")


async def test_the_machine_is_told_that_the_server_lives() -> None:
    async with serving(by_turn(ANSWER)) as client:
        assert (await client.get("/healthz"))[0] == (await client.get("/readyz"))[0] == 200
    assert parsed("data: 1\n\n") == [1]


async def test_a_body_that_breaks_off_is_no_request() -> None:
    async with serving(by_turn(ANSWER)) as client:
        for headers, body in (
            (b"Content-Length: 100", b'{"model"'),
            (b"Transfer-Encoding: chunked", b"5\r\nabc"),
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n\r\n" + body
            )
            await writer.drain()
            writer.close()
        assert (await client.post(HELLO))[0] == 200
        assert "recursor_runs_in_flight 0" in (await client.get("/metrics"))[1]


@pytest.mark.parametrize("signals", [1, 2])
async def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path, signals: int) -> None:
    with ModelServer(by_turn(ASIDE, ANSWER)) as models:
        if signals == 2:
            models.break_next(100, "hang")
        command = [sys.executable, "-m", "recursor", "serve", "--model", "openai/m", "--base-url", models.url]
        command += ["--port", "0", "--store", str(tmp_path / "runs.db")]
        environment = {**os.environ, "OPENAI_API_KEY": "none", "PYTHONUNBUFFERED": "1"}
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        url = ""
        while not url:
            said = (await process.stderr.readline()).decode()
            url = said.split()[1] if said.startswith("serving") else ""
        async with aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(session.post(f"{url}/chat/completions", data=json.dumps(HELLO)))
            while not models.requests:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert b"runs end now" in await process.stderr.readline()
            if signals == 2:
                process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                async with await asking as response:
                    reply = await response.json()
                rest = await process.stderr.read()
                assert await process.wait() == 0
    assert b"Traceback" not in rest
    if signals == 1:
        assert reply["choices"][0]["message"]["content"] == "It is 42."
    else:
        assert reply["error"]["code"] == "run_stopped"
