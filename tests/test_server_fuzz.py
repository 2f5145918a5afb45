"""The HTTP surface under what no client should send: refused in the API's words, never a failure, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import yarl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import Limits
from recursor.server.app import Settings
from recursor.testing import ScriptedModel
from serving import HELLO, Client, serving

ANSWER = "```python\nFINAL({'city': 'Oslo'})\n```"
BODY = json.dumps(HELLO).encode()
HOST = b"Host: localhost\r\n"
SIZE = b"Content-Length: %d\r\n" % len(BODY)
POST = b"POST /v1/chat/completions HTTP/1.1"
SECRET = b"rk-secret"

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Say the weather.", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
PICTURE = "data:image/png;base64,iVBORw0KGgo="
CHAT = {
    "model": "recursor", "stream": False, "stream_options": {"include_usage": True},
    "messages": [
        {"role": "developer", "content": "Be short.", "name": "me"},
        {"role": "user", "content": [{"type": "text", "text": "How is it?"}, {"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "file", "file": {"filename": "a.txt", "file_data": "YQ=="}}]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "warm"}]},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}, {"type": "custom", "custom": {"name": "patch", "format": {"type": "grammar", "grammar": {"definition": "x", "syntax": "lark"}}}}],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
    "metadata": {"max_turns": "2", "max_cost": "0.5", "a": "b"}, "n": 1, "temperature": 0.5, "stop": ["x"],
    "modalities": ["text"], "functions": [], "function_call": "none", "audio": None, "user": "u", "logit_bias": {"1": 2},
}  # fmt: skip
RESPONSES = {
    "model": "recursor", "stream": False, "instructions": "Be short.", "store": True, "include": ["reasoning.encrypted_content"],
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "How is it?"}, {"type": "input_file", "filename": "a.txt", "file_data": "YQ=="}, {"type": "input_image", "image_url": PICTURE, "detail": "auto"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}], "encrypted_content": None},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "warm"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "patch", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "web_search_call", "id": "ws_1", "action": {"query": "x"}},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "patch"}, {"type": "web_search"}, {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}, "verbosity": "low"},
    "metadata": {"max_turns": "2"}, "reasoning": {"effort": "low", "summary": "auto"}, "parallel_tool_calls": True,
    "previous_response_id": None, "conversation": None, "background": False, "prompt": None, "max_output_tokens": 100,
}  # fmt: skip
CONVERSATION = {"items": None, "metadata": {"a": "b"}}
WHOLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/conversations": CONVERSATION,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in a document."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


PLACES = {path: list(places(whole)) for path, whole in WHOLE.items()}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 2**64, -(10**40), 1e308, 0.1, "", " ", "x", "\0", "\ud800", "\U0001f600", "9" * 400, "null",
    [], {}, [None], [[]], {"": None}, {"type": None}, {"type": []}, {"type": "x"}, {"type": "text"}, ["user"], {"role": "user"},
    "none", "auto", "required", "json_object", {"$ref": "#"}, {"pattern": "(a+)+$"}, {"enum": []}, {"__class__": 1}, "x" * 10_000,
]  # fmt: skip


def changed(whole: Any, place: tuple[Any, ...], value: Any, how: str) -> Any:
    """A document with something else at a place, or without it, or twice."""
    made = copy.deepcopy(whole)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    if how == "remove":
        del inner[place[-1]]
    elif how == "wrap":
        for _ in range(120):
            inner[place[-1]] = [inner[place[-1]]]
    elif how == "repeat" and isinstance(inner, list):
        inner.extend(inner * 3)
    else:
        inner[place[-1]] = value
    return made


def refused(status: int, kind: str, text: str) -> None:
    """An answer, or an error of the API that says nothing of the inside."""
    assert status < 500, text
    assert "Traceback" not in text
    assert kind == "application/json"
    if status >= 400:
        assert json.loads(text)["error"].keys() == {"message", "type", "param", "code"}
        assert len(text) < 2_000


@pytest.mark.parametrize("path", WHOLE)
async def test_a_request_with_anything_anywhere_is_answered_or_refused(path: str) -> None:
    loop = asyncio.get_running_loop()
    json_like = st.recursive(
        st.sampled_from(ODD) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=6,
    )
    change = st.tuples(
        st.sampled_from(PLACES[path]),
        json_like,
        st.sampled_from(["set", "set", "set", "remove", "repeat", "wrap"]),
    )
    async with serving(lambda _: ANSWER, limits=Limits(max_turns=2)) as client:

        async def ask(body: bytes) -> tuple[int, str, str]:
            async with client.session.post(client.root + path, data=body) as response:
                return response.status, response.content_type, await response.text()

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(change, min_size=1, max_size=2))
        def holds(changes: list[tuple[Any, Any, str]]) -> None:
            whole: Any = WHOLE[path]
            for place, value, how in changes:
                try:
                    whole = changed(whole, place, value, how)
                except (KeyError, IndexError, TypeError):  # the first change took the second's place
                    continue
            body = json.dumps(
                {**whole, "stream": False if whole.get("stream") is True else whole.get("stream")}
            ).encode()
            refused(*asyncio.run_coroutine_threadsafe(ask(body), loop).result(30))

        assert (await ask(json.dumps(WHOLE[path]).encode()))[0] == 200
        await asyncio.to_thread(holds)
        await client.until("recursor_runs_in_flight 0")


NAMES = st.text(max_size=40) | st.sampled_from(
    ["resp_" + "0" * 32, "resp_", "..", "%00", "resp_0/input_items", "x" * 9_000]
)
QUERY = st.dictionaries(
    st.sampled_from(["stream", "starting_after", "include"]),
    st.sampled_from(["true", "-1", "1", "9" * 99, "\u0663", "x", ""]),
)


async def test_any_response_that_is_asked_for_is_there_or_not() -> None:
    loop = asyncio.get_running_loop()
    async with serving(ScriptedModel([])) as client:

        async def ask(method: str, name: str, query: dict[str, str]) -> tuple[int, str, str]:
            url = yarl.URL(f"{client.root}/v1/responses/{urllib.parse.quote(name, safe='')}", encoded=True)
            async with client.session.request(method, url, params=query) as response:
                return response.status, response.content_type, await response.text()

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(["GET", "DELETE", "POST", "PUT"]), NAMES, QUERY)
        def holds(method: str, name: str, query: dict[str, str]) -> None:
            found = asyncio.run_coroutine_threadsafe(ask(method, name, query), loop).result(30)
            assert 400 <= found[0] < 500
            refused(*found)

        await asyncio.to_thread(holds)


# What is hardly HTTP ----------------------------------------------------------------------------


def request(first: bytes = POST, head: bytes = HOST + SIZE, body: bytes = BODY) -> bytes:
    return first + b"\r\n" + head + b"\r\n" + body


def chunked(body: bytes, coding: bytes = b"chunked") -> bytes:
    return request(head=HOST + b"Transfer-Encoding: " + coding + b"\r\n", body=body)


WHOLE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
RAW = {
    **{f"method {m!r}": request(m + b" /v1/chat/completions HTTP/1.1") for m in (b"PUT", b"TRACE", b"BREW", b"get", b"", b"P@T", b"\xff", b"A" * 9_000)},
    **{f"path {p[:30]!r}": request(b"GET " + p + b" HTTP/1.1", HOST, b"") for p in (
        b"/", b"//v1/models", b"/v1/../v1/models", b"/v1/%2e%2e/models", b"/v1/models/%00", b"/v1/models/%zz", b"/v1/models/%ff",
        b"/v1/models/../../etc/passwd", b"/" + b"a" * 100_000, b"/v1/models/\0", b"/v1/models/\xff", b"*", b"\\v1\\models",
        b"/v1/models/a%0d%0aSet-Cookie:x", b"http://[::1/v1/models", b"http://a:99999999/v1/models", b"[::1", b"?", b"/v1/responses/%00",
    )},
    **{f"version {v!r}": request(POST.replace(b"HTTP/1.1", v)) for v in (b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"", b"http/1.1", b"FTP/1.1", b"HTTP/1.1 x")},
    **{f"length {n[:30]!r}": request(head=HOST + b"Content-Length: " + n + b"\r\n") for n in (
        b"-1", b"+5", b"1e3", b"0x10", b"", b"9" * 30, b"1_0", b"5, 5", b"0", b"1", b"1.5", b"\xd9\xa1", b"18446744073709551616", b"999999999999",
    )},
    "two lengths": request(head=HOST + b"Content-Length: 5\r\n" + SIZE),
    "length and chunks": request(head=HOST + SIZE + b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n"),
    **{f"coding {c!r}": chunked(WHOLE_CHUNK, c) for c in (b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"identity", b"x", b"", b"chunked;q=1", b"deflate")},
    **{f"chunks {c[:20]!r}": chunked(c) for c in (
        b"zz\r\nabc", b"-5\r\nabc\r\n", b"f" * 20 + b"\r\nabc", b"5\r\nabcdefgh\r\n0\r\n\r\n", b"5\nabcde\n0\n\n", b"5 \r\nabcde\r\n", b"0x5\r\nabcde\r\n",
        b"0\r\n" + b"T: x\r\n" * 5_000 + b"\r\n", b"5" + b";" * 100_000 + b"\r\nabcde\r\n", b"\r\n\r\n", b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
    )},
    **{f"head {name}": request(head=head + SIZE) for name, head in {
        "without a host": b"", "two hosts": HOST + b"Host: evil.example\r\n", "another host": b"Host: \xff\r\n", "half an address": b"Host: [\r\n",
        "a name after an address": b"Host: [::1]evil.example:80\r\n", "folded": HOST + b"X-A: a\r\n b\r\n", "no colon": HOST + b"garbage\r\n",
        "no name": HOST + b": x\r\n", "nul": HOST + b"X-A: a\0b\r\n", "cr": HOST + b"X-A: a\rb\r\n", "5,000": HOST + b"X-A: y\r\n" * 5_000,
        "long value": HOST + b"X-A: " + b"y" * 100_000 + b"\r\n", "long name": HOST + b"X" * 100_000 + b": y\r\n",
        "a limit in other digits": HOST + "X-Recursor-Max-Turns: \u0663\r\n".encode(), "a limit with _": HOST + b"X-Recursor-Max-Turns: 1_0\r\n",
        "a long limit": HOST + b"X-Recursor-Max-Turns: " + b"9" * 5_000 + b"\r\n", "encoded": HOST + b"Content-Encoding: \xff\r\n",
        "another expectation": HOST + b"Expect: 200-ok\r\n", "a page": HOST + b"Origin: null\r\n",
    }.items()},
    "only line feeds": request().replace(b"\r\n", b"\n"),
    "only carriage returns": request().replace(b"\r\n", b"\r"),
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(range(256)),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "nothing but zeros": b"\0" * 2_000,
}  # fmt: skip


async def answered(client: Client, sent: bytes) -> tuple[int, str, str]:
    """Status, type and body of the reply to some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port, limit=1 << 20)
    try:
        async with asyncio.timeout(60):
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            text = (await reader.readexactly(int(fields["content-length"]))).decode()
        return int(head.split()[1]), fields["content-type"].partition(";")[0], text
    finally:
        writer.close()


@pytest.mark.parametrize("case", RAW)
async def test_what_is_hardly_http_is_refused_and_told_to_nobody(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = ScriptedModel([])
    sent = RAW[case].replace(b"Hello", SECRET)
    async with serving(model) as client:
        status, kind, text = await answered(client, sent)
        assert (await client.get("/healthz"))[0] == 200
        await client.until("recursor_runs_in_flight 0")
    assert 400 <= status < 500
    refused(status, kind, text)
    assert SECRET.decode() not in text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not model.requests


async def test_what_follows_a_request_is_not_taken_for_one_silently() -> None:
    async with serving(lambda _: ANSWER) as client:
        status, kind, text = await answered(client, request(body=BODY + b"GARBAGE\r\n\r\n"))
    refused(status, kind, text)


async def test_requests_in_a_row_on_one_connection_are_answered_in_their_order() -> None:
    async with serving(lambda _: ANSWER) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(
            b"".join(b"GET /v1/models/%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(300))
        )
        async with asyncio.timeout(60):
            for number in range(300):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                assert f"'{number}'" in (await reader.readexactly(size)).decode()
        writer.close()


# What comes slowly ------------------------------------------------------------------------------


async def test_a_head_that_comes_too_slowly_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.listening.IDLE", 0.1)
    async with serving(ScriptedModel([])) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        async with asyncio.timeout(60):
            writer.write(POST + b"\r\n")
            with contextlib.suppress(ConnectionResetError):  # it may end while another line is sent
                while not reader.at_eof():
                    writer.write(b"X-A: b\r\n")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            assert await reader.read(1) == b""
        writer.close()


async def test_a_body_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.body.PATIENCE", 0.1)
    async with serving(ScriptedModel([])) as client:
        status, kind, text = await answered(client, request(body=BODY[:-5]))
    assert status == 408
    refused(status, kind, text)


async def test_a_body_that_comes_steadily_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.body.PATIENCE", 0.1)
    monkeypatch.setattr("recursor.server.body.SLOWEST", 1)
    async with serving(lambda _: ANSWER) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(POST + b"\r\n" + HOST + SIZE + b"\r\n" + BODY[:30])
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            assert (await client.get("/healthz"))[0] == 200
        writer.write(BODY[30:])
        assert b"200 OK" in await reader.readline()
        writer.close()


async def test_many_large_bodies_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.server.body.AT_ONCE", 2)
    async with serving(lambda _: ANSWER, Settings(max_body=100_000)) as client:
        head = HOST + b"Content-Length: 90000\r\n"
        waiting = [await asyncio.open_connection("127.0.0.1", client.server.port) for _ in range(2)]
        for _, writer in waiting:
            writer.write(request(head=head, body=b" " * 89_000))
        async with asyncio.timeout(60):
            while (found := await answered(client, request(head=head, body=b" " * 90_000)))[0] == 400:
                pass
        refused(*found)
        for _, writer in waiting:
            writer.close()
        async with asyncio.timeout(60):
            while (await answered(client, request(head=head, body=b" " * 90_000)))[0] == 429:
                pass
    assert (found[0], json.loads(found[2])["error"]["code"]) == (429, "busy")


async def test_a_body_that_would_be_refused_is_not_asked_for() -> None:
    async with serving(lambda _: ANSWER, Settings(max_body=1_000)) as client:
        large = await answered(
            client, request(head=HOST + b"Content-Length: 2000\r\nExpect: 100-continue\r\n", body=b"")
        )
        said = await answered(client, request(head=HOST + b"Content-Length: 2000\r\n", body=b""))
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(request(head=HOST + SIZE + b"Expect: 100-continue\r\n", body=b""))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert b"200 OK" in await reader.readline()
        writer.close()
    assert large[0] == said[0] == 413
