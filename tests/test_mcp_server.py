"""`recursor mcp`, asked by the client of the official package: in process, over stdio, and over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from recursor import RLM, ConfigError, Limits
from recursor.cli.runs import story
from recursor.errors import RLMError
from recursor.hosted import arguments
from recursor.hosted.folders import Folders
from recursor.hosted.mcp import CLIPPED, Tools
from recursor.testing import ModelServer, ScriptedModel
from recursor.testing.scripted import Scripted
from recursor.types import Message, Reply

LENGTH = "```repl\nFINAL(len(context))\n```"
SAY = "```repl\nFINAL(context.upper())\n```"
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}  # fmt: skip


class Stuck(ScriptedModel):
    """Replies to the first prompt of a run, and never to the second."""

    def __init__(self) -> None:
        super().__init__(lambda _: "```repl\nfound = 1\nprint(found)\n```")
        self.second = threading.Event()
        self.dropped = 0

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if sum(each.role == "assistant" for each in messages):
            self.second.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.dropped += 1
        return await super().query(messages, **options)


@asynccontextmanager
async def host(
    model: Any, tmp_path: Path, allow: Sequence[Path] = (), most: int = 4, **options: Any
) -> AsyncIterator[Client]:
    """A host of a server in this process."""
    store = tmp_path / "runs.db"
    scripted = model if isinstance(model, ScriptedModel) else ScriptedModel(model)
    tools = Tools(RLM(scripted, store=store, **options), Folders(allow), store, story, most)
    try:
        async with Client(tools.server()) as client:
            yield client
    finally:
        await tools.jobs.close()


async def said(client: Client, tool: str, **given: Any) -> str:
    """What a tool says, which must not fail."""
    done = await client.call_tool(tool, given)
    assert not done.is_error, done.content
    return text_of(done)


async def refused(client: Client, tool: str, **given: Any) -> str:
    done = await client.call_tool(tool, given)
    assert done.is_error, done.content
    return text_of(done)


def text_of(done: Any) -> str:
    text: str = done.content[0].text
    return text


# Answers --------------------------------------------------------------------------------------


async def test_a_text_is_asked_and_a_value_comes_as_structured_content(tmp_path: Path) -> None:
    async with host(lambda _: LENGTH, tmp_path) as client:
        done = await client.call_tool("ask", {"question": "How long?", "text": "x" * 300_000})
    assert not done.is_error
    assert text_of(done) == "300000"
    assert done.structured_content == {"answer": 300_000}
    assert done.meta is not None
    assert done.meta["recursor/run"]["calls"] == 1


async def test_a_text_comes_as_text_alone_with_what_no_json_carries_replaced(tmp_path: Path) -> None:
    async with host(lambda _: "```repl\nFINAL(context + '\\ud800')\n```", tmp_path) as client:
        done = await client.call_tool("ask", {"question": "What?", "text": "\x1b[31m<b>é</b>"})
    assert text_of(done) == "\x1b[31m<b>é</b>?"
    assert done.structured_content is None


async def test_a_schema_is_followed_and_a_hostile_one_is_refused(tmp_path: Path) -> None:
    script = [LENGTH, "```repl\nFINAL({'n': len(context)})\n```"]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with host(script, tmp_path) as client:
        done = await client.call_tool("ask", {"question": "How long?", "text": "abc", "schema": schema})
        why = await refused(client, "ask", question="?", schema={"type": "string", "pattern": "(a+)+$"})
    assert done.structured_content == {"answer": {"n": 3}}
    assert "pattern" in why


async def test_limits_are_never_above_the_servers_own(tmp_path: Path) -> None:
    model = ScriptedModel(lambda _: "```repl\nprint(1)\n```")
    async with host(model, tmp_path, limits=Limits(max_turns=3)) as client:
        why = await refused(client, "ask", question="?", limits={"max_turns": 1000})
        assert len(model.requests) == 4  # the last from what there is
        why_less = await refused(client, "ask", question="?", limits={"max_turns": 1.0})
    assert "max_turns" in why
    assert "max_turns" in why_less
    assert len(model.requests) == 6


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "missing required field `question`"),
        ({"question": " "}, "empty"),
        ({"question": 1}, "Expected `str`"),
        ({"question": "?", "file": "x"}, "unknown field `file`"),
        ({"question": "?", "text": "x", "paths": ["x"]}, "not both"),
        ({"question": "?", "limits": {"max_money": 1}}, "there is no limit 'max_money'"),
        ({"question": "?", "limits": {"max_turns": 0}}, "max_turns"),
        ({"question": "?", "schema": {"type": "strange"}}, "not a valid JSON Schema"),
    ],
)
async def test_wrong_arguments_are_told_to_the_model(given: dict[str, Any], why: str, tmp_path: Path) -> None:
    async with host(lambda _: LENGTH, tmp_path) as client:
        assert why in await refused(client, "ask", **given)
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("tell", {})


def test_what_is_described_is_what_is_taken() -> None:
    assert set(arguments.described(["/a"])["properties"]) == set(arguments.Ask.__struct_fields__)
    assert set(arguments.RESULT["properties"]) == set(arguments.Result.__struct_fields__)
    assert "paths" not in arguments.described([])["properties"]


async def test_a_failing_model_is_an_error_of_the_tool(tmp_path: Path) -> None:
    from recursor import ModelError

    async with host([ModelError("out of order")], tmp_path) as client:
        assert "out of order" in await refused(client, "ask", question="?")


# Files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may be read, beside what may not."""
    made = tmp_path / "open"
    made.joinpath("deep").mkdir(parents=True)
    made.joinpath("a.txt").write_text("hello")
    made.joinpath("deep", "b.txt").write_text("deep")
    tmp_path.joinpath("secret.txt").write_text("secret")
    return made


async def test_files_and_folders_below_what_is_allowed_are_read(folder: Path, tmp_path: Path) -> None:
    async with host(lambda _: "```repl\nFINAL(str(context))\n```", tmp_path, [folder]) as client:
        assert await said(client, "ask", question="?", paths=["a.txt"]) == "hello"
        assert await said(client, "ask", question="?", paths=[str(folder / "deep" / "b.txt")]) == "deep"
        whole = await said(client, "ask", question="?", paths=["."])
        both = await said(client, "ask", question="?", paths=["a.txt", "deep"])
    assert "deep/b.txt" in whole
    assert "b.txt" in both


@pytest.mark.parametrize(
    "path", ["../secret.txt", "/etc/passwd", "deep/../../secret.txt", "out.txt", "out/secret.txt"]
)
async def test_paths_that_lead_out_are_refused_with_what_is_allowed(
    path: str, folder: Path, tmp_path: Path
) -> None:
    folder.joinpath("out.txt").symlink_to(tmp_path / "secret.txt")
    folder.joinpath("out").symlink_to(tmp_path)
    async with host([], tmp_path, [folder]) as client:
        why = await refused(client, "ask", question="?", paths=[path])
        not_there = await refused(client, "ask", question="?", paths=["/etc/passwd-that-is-not"])
    assert why.endswith(f"is not below a folder that may be read: {folder}")
    assert not_there.endswith(f"is not below a folder that may be read: {folder}")


async def test_a_folder_with_a_link_that_leads_out_is_refused_and_one_within_is_read(
    folder: Path, tmp_path: Path
) -> None:
    folder.joinpath("deep", "c.txt").symlink_to(folder / "a.txt")
    async with host(lambda _: "```repl\nFINAL(len(context))\n```", tmp_path, [folder]) as client:
        assert await said(client, "ask", question="?", paths=["."]) == "3"
        folder.joinpath("deep", "d.txt").symlink_to(tmp_path / "secret.txt")
        why = await refused(client, "ask", question="?", paths=["."])
    assert "d.txt is a link that leads out" in why


@pytest.mark.parametrize("asked", ["a.txt", "."])
async def test_a_link_that_comes_after_the_look_leads_nowhere(
    asked: str, folder: Path, tmp_path: Path
) -> None:
    secret, read = tmp_path / "secret.txt", folder / "a.txt"
    found = secret.stat()
    read.write_bytes(b"x" * found.st_size)
    os.utime(read, ns=(found.st_atime_ns, found.st_mtime_ns))
    source = Folders([folder]).context([asked])
    read.unlink()
    read.symlink_to(secret)
    with pytest.raises(RLMError, match="leads out of what may be read"):
        await RLM(ScriptedModel([])).acompletion("?", source)


async def test_a_pipe_that_comes_after_the_look_holds_nobody_up(folder: Path) -> None:
    source = Folders([folder]).context(["a.txt"])
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    with pytest.raises(RLMError):
        await asyncio.wait_for(RLM(ScriptedModel([])).acompletion("?", source), 20)


async def test_without_an_allowed_folder_no_paths_are_offered_or_taken(tmp_path: Path) -> None:
    async with host([], tmp_path) as client:
        [ask, *_] = (await client.list_tools()).tools
        assert "paths" not in ask.input_schema["properties"]
        assert "--allow" in await refused(client, "ask", question="?", paths=["/etc/passwd"])
    async with host([], tmp_path, [tmp_path]) as client:
        tmp_path.joinpath("circle").symlink_to("circle")
        for path in ("a\0b", "circle", "a" * 300, "a/" * 3000):
            assert "cannot be read" in await refused(client, "ask", question="?", paths=[path])
        assert "there is no 'x'" in await refused(client, "ask", question="?", paths=["x"])
    with pytest.raises(ConfigError, match="no folder"):
        Folders([tmp_path / "x"])


# Long runs ------------------------------------------------------------------------------------


async def test_a_run_in_the_background_is_looked_at_and_its_result_taken(tmp_path: Path) -> None:
    async with host(lambda _: SAY, tmp_path) as client:
        begun = await client.call_tool("start", {"question": "?", "text": "abc"})
        run_id = begun.structured_content["run_id"]
        assert await said(client, "result", run_id=run_id, wait_seconds=60) == "ABC"
        status = await client.call_tool("status", {"run_id": run_id})
        assert status.structured_content["state"] == "answered"
        assert status.structured_content["turns"] == 1
        assert "there is no run" in await refused(client, "status", run_id="beef")
        assert "no run" in await refused(client, "cancel", run_id="beef")


async def test_a_run_is_cancelled_and_nothing_of_it_goes_on(tmp_path: Path) -> None:
    model = Stuck()
    async with host(model, tmp_path) as client:
        begun = await client.call_tool("start", {"question": "?"})
        run_id = begun.structured_content["run_id"]
        assert await asyncio.to_thread(model.second.wait, 60)
        assert "has no answer yet (running" in await refused(client, "result", run_id=run_id)
        assert "its code: found = 1" in await said(client, "status", run_id=run_id)
        assert "cancelled" in await said(client, "cancel", run_id=run_id)
        assert model.dropped == 1


async def test_a_request_that_is_cancelled_ends_its_run(tmp_path: Path) -> None:
    model = Stuck()
    async with host(model, tmp_path) as client:
        asking = asyncio.create_task(client.call_tool("ask", {"question": "?"}))
        assert await asyncio.to_thread(model.second.wait, 60)
        asking.cancel()
        await asyncio.wait([asking], timeout=60)
        while not model.dropped:
            await asyncio.sleep(0.01)


async def test_no_more_runs_are_at_work_than_may_be(tmp_path: Path) -> None:
    model = Stuck()
    async with host(model, tmp_path, most=1) as client:
        begun = await client.call_tool("start", {"question": "?"})
        assert "no more may be" in await refused(client, "start", question="?")
        await client.call_tool("cancel", {"run_id": begun.structured_content["run_id"]})
        await client.call_tool("start", {"question": "?"})


async def test_what_happens_is_told_meanwhile(tmp_path: Path) -> None:
    told: list[tuple[float, str | None]] = []

    async def follow(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with host(lambda _: SAY, tmp_path) as client:
        await client.call_tool("ask", {"question": "?", "text": "abc"}, progress_callback=follow)
    assert [each for each, _ in told] == sorted({each for each, _ in told})
    assert re.fullmatch(r"answered · 1 turns · 1 model calls · .* tokens · .* s", told[-1][1] or "")


# Trajectories ---------------------------------------------------------------------------------


async def test_a_long_answer_is_clipped_and_linked_to_and_can_be_paged(tmp_path: Path) -> None:
    async with host(lambda _: "```repl\nFINAL('ab' * 50_000)\n```", tmp_path) as client:
        done = await client.call_tool("ask", {"question": "?"})
        assert len(text_of(done)) == CLIPPED
        link = next(each for each in done.content if each.type == "resource_link")
        assert link.size == 100_000
        [whole] = (await client.read_resource(str(link.uri))).contents
        run_id = str(link.uri).split("/")[3]
        rest = await said(client, "result", run_id=run_id, offset=CLIPPED * 2)
    assert getattr(whole, "text", "") == "ab" * 50_000
    assert rest == "ab" * 10_000


async def test_recorded_runs_are_resources(tmp_path: Path) -> None:
    async with host(lambda _: LENGTH, tmp_path) as client:
        await client.call_tool("ask", {"question": "How long\nis it?", "text": "abc"})
        listed = (await client.list_resources()).resources
        assert listed[0].uri == "recursor://runs"
        uri = str(listed[1].uri)
        assert listed[1].description == "answered: How long is it?"
        story_of, summary, answer, runs = [
            getattr((await client.read_resource(each)).contents[0], "text", "")
            for each in (uri, f"{uri}/json", f"{uri}/answer", "recursor://runs")
        ]
        assert "FINAL(len(context))" in story_of
        assert json.loads(summary)["answer"] == 3
        assert json.loads(answer) == 3
        assert json.loads(runs)[0]["run_id"] == uri.rpartition("/")[2]
        assert len((await client.list_resource_templates()).resource_templates) == 3
        for wrong in ("recursor://runs/../x", "recursor://runs/beef", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(wrong)


# As a process ---------------------------------------------------------------------------------


def replies(messages: Sequence[Message]) -> Scripted:
    return LENGTH if messages[0].role == "system" else "a sub-answer"


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with ModelServer(replies) as running:
        yield running


@pytest.fixture
def command(models: ModelServer, tmp_path: Path) -> list[str]:
    return [
        sys.executable, "-m", "recursor", "mcp", "--model", "m", "--base-url", models.url,
        "--store", str(tmp_path / "runs.db"), "--allow", str(tmp_path),
    ]  # fmt: skip


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_host_starts_it_and_asks_over_stdio(
    mode: str, command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    tmp_path.joinpath("a.txt").write_text("hello")
    started = StdioServerParameters(command=command[0], args=command[1:], env=environment)
    async with Client(started, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "ask", "start", "status", "result", "cancel",
        ]  # fmt: skip
        done = await client.call_tool("ask", {"question": "How long?", "paths": ["a.txt"]})
    assert done.structured_content == {"answer": 5}


def test_half_a_sign_in_a_request_is_a_question_mark(command: list[str], environment: dict[str, str]) -> None:
    asked = {"name": "ask", "arguments": {"question": "How long?", "text": "ab\ud83d"}}
    messages = [
        HELLO,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": asked},
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write(b"".join(json.dumps(each).encode() + b"\n" for each in messages))
        started.stdin.flush()
        replies = (json.loads(line) for line in started.stdout)
        reply = next(each for each in replies if each.get("id") == 2)
        started.stdin.close()
    assert reply["result"]["structuredContent"] == {"answer": 3}


def test_garbage_on_stdin_does_not_end_it_and_stdout_is_json_lines(
    command: list[str], environment: dict[str, str]
) -> None:
    chance = random.Random(7)
    lines = [
        b"", b"{", b"null", b"[]", b"[1, 2]", b'"x"', b"\x00\xff\xfe", b"[" * 50_000, b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "method": "tools/call", "id": 3}', b'{"jsonrpc": "1.0", "id": 4, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "initialize", "params": []}',
        b'{"jsonrpc": "2.0", "id": 5, "result": {}}', b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": []}}',
        b'{"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": {"name": "ask", "arguments": 3}}',
        *(chance.randbytes(chance.randrange(1, 200)).replace(b"\n", b"") for _ in range(200)),
    ]  # fmt: skip
    valid = json.dumps(HELLO).encode()
    for _ in range(200):
        broken = bytearray(valid)
        broken[chance.randrange(len(broken))] = chance.randrange(256)
        lines.append(bytes(broken).replace(b"\n", b"").replace(b'"id"', b'"Id"'))
    ping = json.dumps({**HELLO, "id": 99}).encode()
    done = subprocess.run(
        command, input=b"\n".join([*lines, ping, b""]), capture_output=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    replied = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    [answer] = [each for each in replied if each.get("id") == 99]
    assert answer["result"]["serverInfo"]["name"] == "recursor"
    assert b"Traceback" not in done.stderr


@asynccontextmanager
async def started(
    command: list[str], environment: dict[str, str]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable[..., None]]]:
    """The process, past its handshake, and what sends it a message."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def send(method: str, **more: Any) -> None:
        stdin.write(json.dumps({"jsonrpc": "2.0", "method": method, **more}).encode() + b"\n")

    stdin.write(json.dumps(HELLO).encode() + b"\n")
    await stdout.readline()
    send("notifications/initialized")
    try:
        yield process, send
    finally:
        stdin.close()
        assert await asyncio.wait_for(process.wait(), 60) in (0, 128 + signal.SIGTERM)


async def test_a_signal_ends_it_and_its_runs(
    command: list[str], environment: dict[str, str], models: ModelServer
) -> None:
    models.break_next(how="hang")
    async with started(command, environment) as (process, send):
        send("tools/call", id=2, params={"name": "start", "arguments": {"question": "?"}})
        while not models.requests:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 128 + signal.SIGTERM


async def test_a_host_that_cancels_a_request_ends_its_run(
    command: list[str], environment: dict[str, str], models: ModelServer
) -> None:
    models.break_next(how="hang")
    ask = {"name": "ask", "arguments": {"question": "How long?", "text": "abc"}}
    async with started([*command, "--max-runs", "1"], environment) as (process, send):
        assert process.stdout is not None
        send("tools/call", id=2, params=ask)
        while not models.requests:
            await asyncio.sleep(0.01)
        send("notifications/cancelled", params={"requestId": 2})
        for number in itertools.count(3):
            send("tools/call", id=number, params=ask)
            while (reply := json.loads(await process.stdout.readline())).get("id") != number:
                pass
            if not reply["result"].get("isError"):
                break
            assert "no more may be" in reply["result"]["content"][0]["text"]
        assert reply["result"]["structuredContent"] == {"answer": 3}


async def test_over_http_who_has_the_token_may_ask_and_nobody_else(
    command: list[str], environment: dict[str, str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, "--http", "--port", "0", stderr=asyncio.subprocess.PIPE,
        env=environment | {"RECURSOR_MCP_TOKEN": "the-token"},
    )  # fmt: skip
    assert process.stderr is not None
    line = (await process.stderr.readline()).decode()
    url = line.split()[1]
    try:
        assert "the-token" not in line
        right = {"Authorization": "Bearer the-token"}
        async with (
            create_mcp_http_client(headers=right) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            done = await client.call_tool("ask", {"question": "How long?", "text": "abc"})
            assert done.structured_content == {"answer": 3}
        json_only = {"Accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient(headers=json_only) as http:

            async def status(**headers: str) -> int:
                return (await http.post(url, json=HELLO, headers=headers)).status_code

            assert await status() == 401
            assert await status(Authorization="Bearer the-tokem") == 401
            assert await status(**right) == 200
            assert await status(**right, Host="evil.example") == 421
            assert await status(**right, Origin="https://evil.example") == 403
            assert (await http.post(url, content=b"{" * 100_000, headers=right)).status_code == 400
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 60)


def test_without_the_package_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['mcp_types'] = None; from recursor.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp", "--model", "openai/x"], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'recursor[mcp]'" in done.stderr
    assert done.stdout == ""
