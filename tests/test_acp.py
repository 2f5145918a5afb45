"""`recursor acp`, asked by the client of the official package over stdio, as an editor does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import pytest
from acp import schema

from recursor.testing import ModelServer
from recursor.testing.scripted import Scripted
from recursor.trajectory import view
from recursor.types import Message

SERVER = Path(__file__).parent / "standins" / "mcp_tools.py"
LOOK = "I look.\n```repl\nprint(sorted(context) if hasattr(context, 'keys') else context, '```')\n```"


class Editor:
    """Keeps what it is told; allows nothing."""

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.told = asyncio.Event()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        self.told.set()

    def of(self, kind: str) -> list[Any]:
        return [each for each in self.updates if each.session_update == kind]

    @property
    def answer(self) -> str:
        return "".join(each.content.text for each in self.of("agent_message_chunk"))


@asynccontextmanager
async def editing(models: ModelServer, tmp_path: Path, *flags: str) -> AsyncIterator[tuple[Editor, Any]]:
    """An editor, and the agent that it has started."""
    editor: Any = Editor()
    stored = () if "--store" in flags else ("--no-store",)
    command = ["-m", "recursor", "acp", "--model", "m", "--base-url", models.url, *stored, *flags]
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "none")}
    async with acp.spawn_agent_process(
        editor, sys.executable, *command, env=environment, transport_kwargs={"stderr": None, "limit": 1 << 24}
    ) as (agent, _):
        hello = await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        assert hello.agent_info is not None
        assert hello.agent_info.name == "recursor"
        yield editor, agent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    made.joinpath("a.py").write_text("a = 1\n")
    made.joinpath("b.py").write_text("b = 2\n")
    return made


def by_turn(*turns: Scripted) -> Any:
    def script(messages: Sequence[Message]) -> Scripted:
        if messages[0].role != "system":
            return "a sub-answer"
        return turns[sum(each.role == "assistant" for each in messages)]

    return script


async def test_a_prompt_is_answered_over_the_folder_with_what_is_done_meanwhile(
    folder: Path, tmp_path: Path
) -> None:
    batch = "```repl\nfound = llm_query_batched(['x'] * 60)\nFINAL({'files': len(context)})\n```"
    with ModelServer(by_turn(LOOK, batch)) as models:
        async with editing(models, tmp_path) as (editor, agent):
            session = await agent.new_session(cwd=str(folder), mcp_servers=[])
            done = await agent.prompt(
                session_id=session.session_id,
                prompt=[acp.text_block("How many files, beside "), acp.resource_link_block("a.py", f"file://{folder}/a.py")],
            )  # fmt: skip
    assert done.stop_reason == "end_turn"
    assert json.loads(editor.answer.removeprefix("```json\n").removesuffix("\n```")) == {"files": 2}
    thoughts = "".join(each.content.text for each in editor.of("agent_thought_chunk"))
    assert thoughts.startswith("I look.")
    calls = editor.of("tool_call")
    assert [each.kind for each in calls] == ["execute", "think", "execute"]
    assert calls[0].title.startswith("print(sorted")
    shown = calls[0].content[0].content.text
    assert "['a.py', 'b.py']" in shown
    assert shown.startswith("````python\n")
    counted = [each.title for each in editor.of("tool_call_update")]
    assert counted[0] == "25 sub-calls are answered"
    assert counted[-1] == "60 sub-calls"


async def test_variables_live_on_and_files_are_as_they_are_now(folder: Path, tmp_path: Path) -> None:
    def script(messages: Sequence[Message]) -> str:
        asked = [each for each in messages if each.role == "user"][-1].content
        if "First?" in asked:
            return "```repl\nseen = [context['a.py']]\nFINAL(messages[0]['content'])\n```"
        return (
            "```repl\nseen.append(context['a.py'])\nFINAL([seen, history[0]['question'], len(context)])\n```"
        )

    resource = schema.TextResourceContents(uri="file:///x/c.py", text="c = 3")
    answers = []
    with ModelServer(script) as models:
        async with editing(models, tmp_path) as (editor, agent):
            session_id = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
            block = schema.EmbeddedResourceContentBlock(type="resource", resource=resource)
            await agent.prompt(session_id=session_id, prompt=[acp.text_block("First? "), block])
            assert editor.answer == "file:///x/c.py:\nc = 3"
            for change in (None, "a = 5\n"):
                if change:
                    folder.joinpath("a.py").write_text(change)
                    folder.joinpath("c.py").write_text("new")
                editor.updates.clear()
                await agent.prompt(session_id=session_id, prompt=[acp.text_block("Next?")])
                answers.append(json.loads(editor.answer.removeprefix("```json\n").removesuffix("\n```")))
    assert answers[0] == [["a = 1\n", "a = 1\n"], "First? `/x/c.py`", 2]
    assert answers[1] == [["a = 1\n", "a = 1\n", "a = 5\n"], "First? `/x/c.py`", 3]


async def test_a_conversation_that_is_recorded_is_gone_on_with_after_a_restart(
    folder: Path, tmp_path: Path
) -> None:
    def script(messages: Sequence[Message]) -> str:
        asked = [each for each in messages if each.role == "user"][-1].content
        return "```repl\nx = 41\nFINAL('kept')\n```" if "First?" in asked else "```repl\nFINAL(x + 1)\n```"

    store = ["--store", str(tmp_path / "runs.db")]
    with ModelServer(script) as models:
        async with editing(models, tmp_path, *store) as (editor, agent):
            session_id = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
            await agent.prompt(session_id=session_id, prompt=[acp.text_block("First?")])
        async with editing(models, tmp_path, *store) as (editor, agent):
            with pytest.raises(acp.RequestError):
                await agent.load_session(cwd=str(folder), session_id="other", mcp_servers=[])
            await agent.load_session(cwd=str(folder), session_id=session_id, mcp_servers=[])
            assert [each.content.text for each in editor.of("user_message_chunk")] == ["First?"]
            assert editor.answer == "kept"
            editor.updates.clear()
            await agent.prompt(session_id=session_id, prompt=[acp.text_block("And one more?")])
            assert "42" in editor.answer
            await agent.close_session(session_id=session_id)
            with pytest.raises(acp.RequestError):
                await agent.prompt(session_id=session_id, prompt=[acp.text_block("?")])


async def test_a_prompt_that_is_cancelled_says_so_and_the_session_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    with ModelServer(by_turn("```repl\nFINAL('there')\n```")) as models:
        models.break_next(how="hang")
        async with editing(models, tmp_path) as (editor, agent):
            session_id = (await agent.new_session(cwd=str(folder), mcp_servers=[])).session_id
            asking = asyncio.create_task(agent.prompt(session_id=session_id, prompt=[acp.text_block("?")]))
            while not models.requests:
                await asyncio.sleep(0.01)
            with pytest.raises(acp.RequestError, match="Invalid params"):
                await agent.prompt(session_id=session_id, prompt=[acp.text_block("?")])
            await agent.cancel(session_id=session_id)
            assert (await asking).stop_reason == "cancelled"
            await agent.prompt(session_id=session_id, prompt=[acp.text_block("?")])
            assert editor.answer == "there"


async def test_servers_of_the_editor_are_tools_and_limits_are_told(folder: Path, tmp_path: Path) -> None:
    described = schema.McpServerStdio(name="my tools", command=sys.executable, args=[str(SERVER)], env=[])
    with ModelServer(
        by_turn("```repl\nprint(add(1))\nanswer['content'] = add(40)\n```", "No.", "No.")
    ) as models:
        async with editing(models, tmp_path, "--max-turns", "1") as (editor, agent):
            session = await agent.new_session(cwd=str(folder), mcp_servers=[described])
            done = await agent.prompt(session_id=session.session_id, prompt=[acp.text_block("?")])
    assert done.stop_reason == "max_turn_requests"
    assert "42" in editor.answer
    assert "A limit ended the run (max_turns)" in editor.answer


@pytest.mark.parametrize("cwd", ["relative", "/no/such/folder"])
async def test_what_cannot_be_is_refused(cwd: str, tmp_path: Path) -> None:
    with ModelServer([]) as models:
        models.fail_next(10, 401)
        async with editing(models, tmp_path) as (_, agent):
            with pytest.raises(acp.RequestError):
                await agent.new_session(cwd=cwd, mcp_servers=[])
            with pytest.raises(acp.RequestError):
                await agent.prompt(session_id="none", prompt=[acp.text_block("?")])
            session_id = (await agent.new_session(cwd=str(SERVER.parent), mcp_servers=[])).session_id
            with pytest.raises(acp.RequestError):
                await agent.prompt(session_id=session_id, prompt=[acp.text_block(" ")])
            with pytest.raises(acp.RequestError) as failed:
                await agent.prompt(session_id=session_id, prompt=[acp.text_block("?")])
            assert "401" in str(failed.value.data)


@asynccontextmanager
async def raw(models: ModelServer, tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """The process, and what sends it a message and returns the reply; None for a notification."""
    store = str(tmp_path / "runs.db")
    command = ["-m", "recursor", "acp", "--model", "m", "--base-url", models.url, "--store", store]
    pipe, environment = asyncio.subprocess.PIPE, os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "none")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, limit=1 << 24
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def ask(method: str, number: Any = None, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        stdin.write(json.dumps(message if number is None else {**message, "id": number}).encode() + b"\n")
        await stdin.drain()
        async with asyncio.timeout(60):
            while number is not None:
                line = await stdout.readline()
                assert line, "it ended"
                if (reply := json.loads(line)).get("id") == number:
                    return reply
        return None

    try:
        yield process, ask
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """The exit code of a process, and what it has said on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(60):
        said = await process.stderr.read()
        return await process.wait(), said.decode()


def below(pid: int) -> list[int]:
    """The children of a process."""
    return [
        int(each)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for each in path.read_text().split()
    ]


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_when_its_runs_are_stopped_and_recorded(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    server = {"name": "own", "command": sys.executable, "args": [str(SERVER)], "env": []}
    with ModelServer(by_turn("```repl\nx = 1\nprint(x)\n```")) as models:
        async with raw(models, tmp_path) as (process, ask):
            await ask("initialize", 1, protocolVersion=1)
            made = await ask("session/new", 2, cwd=str(folder), mcpServers=[server])
            session = made["result"]["sessionId"]
            models.break_next(how="hang")
            asking = asyncio.ensure_future(
                ask("session/prompt", 3, sessionId=session, prompt=[{"type": "text", "text": "?"}])
            )
            async with asyncio.timeout(60):
                while not models.requests:
                    await asyncio.sleep(0.01)
            children = below(process.pid)
            assert children
            process.send_signal(number)
            code, said = await ended(process)
            asking.cancel()
    assert (code, said) == (128 + number, "")
    async with asyncio.timeout(60):
        while any(map(there, children)):
            await asyncio.sleep(0.01)
    with view.open(tmp_path / "runs.db") as recorded:
        [run] = recorded.runs()
        assert run.ended is not None
        assert "Cancelled" in (run.error or ""), run.error


async def test_what_no_editor_should_send_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("session/prompt", {"sessionId": "none", "prompt": [{"type": "text", "text": "SECRET"}]}),
        ("session/prompt", {"sessionId": 7, "prompt": "SECRET"}),
        ("session/new", {"cwd": 3}),
        ("session/load", {"sessionId": "none", "cwd": str(folder), "mcpServers": []}),
        ("session/none", {}),
    ]
    with ModelServer(lambda _: "```repl\nFINAL('there')\n```") as models:
        async with raw(models, tmp_path) as (process, ask):
            assert process.stdin is not None
            hello = [await ask("initialize", number, protocolVersion=1) for number in (1, 2)]
            assert hello[0]["result"] == hello[1]["result"]
            for number, (method, params) in enumerate(wrong, 10):
                assert "error" in await ask(method, number, **params), method
            await ask("session/cancel", sessionId="none")
            await ask("session/cancel", sessionId=["SECRET"])
            await ask("$/cancel_request", requestId=99)
            process.stdin.write(b'{"jsonrpc": "2.0", "id": 30, "method": "' + b"x" * (65 << 20) + b'"}\n')
            process.stdin.write(b'{"jsonrpc": "2.0", "id": 31, "result": {}}\n')
            sessions = []
            for number in range(100, 120):
                made = await ask("session/new", number, cwd=str(folder), mcpServers=[])
                sessions.append(made["result"]["sessionId"])
            done = await ask(
                "session/prompt", 200, sessionId=sessions[0], prompt=[{"type": "text", "text": "?"}]
            )
            assert done["result"]["stopReason"] == "end_turn"
            for number, session in enumerate(sessions * 2, 300):
                assert "error" not in await ask("session/close", number, sessionId=session)
            process.stdin.close()
            code, said = await ended(process)
    assert code == 0
    assert "SECRET" not in said
    assert "Traceback" not in said


async def test_a_session_that_is_closed_ends_the_servers_of_its_tools(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = {"name": "own", "command": sys.executable, "args": [str(SERVER), str(log)], "env": []}
    with ModelServer(by_turn("```repl\nFINAL(add(1))\n```")) as models:
        async with raw(models, tmp_path) as (process, ask):
            await ask("initialize", 1, protocolVersion=1)
            made = await ask("session/new", 2, cwd=str(folder), mcpServers=[server])
            session = made["result"]["sessionId"]
            await ask("session/prompt", 3, sessionId=session, prompt=[{"type": "text", "text": "?"}])
            pid = int(log.read_text().split()[1])
            assert pid in below(process.pid)
            await ask("session/close", 4, sessionId=session)
            assert pid not in below(process.pid)


@pytest.fixture
def silent() -> Iterator[ModelServer]:
    with ModelServer([]) as models:
        yield models


def test_garbage_does_not_end_it(silent: ModelServer, tmp_path: Path) -> None:
    hello = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {"protocolVersion": 1}}
    lines = [b"", b"{", b"3", b"[1]", b"[" * 50_000, b"\xff\xfe", b'{"id": {}}', b'{"id": 1, "method": 3}',
             b'{"id": 1, "method": "session/prompt", "params": 3}', b'{"method": "none"}', json.dumps(hello).encode(), b""]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "recursor",
        "acp",
        "--model",
        "m",
        "--base-url",
        silent.url,
        "--no-store",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n".join(lines))
        process.stdin.flush()
        replies = iter(json.loads(line) for line in process.stdout)
        assert any(each.get("id") == 7 and "result" in each for each in replies)
        process.stdin.close()
    assert process.returncode == 0


def test_without_the_package_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['acp'] = None; from recursor.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "acp", "--model", "openai/x"], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'recursor[acp]'" in done.stderr
