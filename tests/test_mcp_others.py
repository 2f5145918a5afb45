"""Hosts and servers of MCP that nobody here wrote: those of the TypeScript package, and others. Needs `make mcp`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM
from recursor.mcp import McpServer
from recursor.testing import ModelServer, ScriptedModel
from recursor.types import Message

HERE = Path(__file__).parent / "mcp_node"
PACKAGES = HERE / "node_modules" / "@modelcontextprotocol"
NODE = shutil.which("node")
node = pytest.mark.skipif(NODE is None or not PACKAGES.is_dir(), reason="needs Node.js and `make mcp`")


def answers(server: McpServer, *calls: str) -> list[Any]:
    """What calls in the REPL come to."""
    code = ["out = []"]
    for call in calls:
        code += [f"try: out.append({call})", "except SubcallError as error: out.append('! ' + str(error))"]
    model = ScriptedModel(["```repl\n" + "\n".join([*code, "FINAL(out)"]) + "\n```"])
    try:
        answer = RLM(model, tools=[server]).completion("?").answer
    finally:
        server.close()
    assert isinstance(answer, list)
    return answer


@pytest.fixture
def models() -> Iterator[ModelServer]:
    async def script(messages: Sequence[Message]) -> str:
        if "slow" in messages[-1].content:
            await asyncio.Event().wait()
        return "```repl\nFINAL(len(context))\n```"

    with ModelServer(script) as running:
        yield running


@pytest.fixture
def command(models: ModelServer, tmp_path: Path) -> list[str]:
    flags = [
        "--model",
        "m",
        "--base-url",
        models.url,
        "--store",
        str(tmp_path / "runs.db"),
        "--max-runs",
        "1",
    ]
    return [sys.executable, "-m", "recursor", "mcp", *flags]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "RECURSOR_MCP_TOKEN": "the-token"}


@pytest.fixture
async def url(command: list[str], environment: dict[str, str]) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *command, "--http", "--port", "0", stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    yield (await process.stderr.readline()).decode().split()[1]
    process.terminate()
    await process.wait()


async def hosted(environment: dict[str, str], **where: Any) -> None:
    """Let the host do what hosts do."""
    assert NODE is not None
    done = await asyncio.to_thread(
        subprocess.run, [NODE, str(HERE / "host.mjs"), json.dumps(where)], capture_output=True, text=True, timeout=60,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["tools"] == ["ask", "start", "status", "result", "cancel"]
    assert said["answer"]["structuredContent"] == {"answer": 3}
    assert said["progress"][0].startswith("running")
    assert said["aborted"]
    assert "FINAL(len(context))" in said["run"]


@node
async def test_a_host_of_the_typescript_package_asks_over_stdio(
    command: list[str], environment: dict[str, str]
) -> None:
    await hosted(environment, command=command)


@node
async def test_a_host_of_the_typescript_package_asks_over_http(url: str, environment: dict[str, str]) -> None:
    await hosted(environment, url=url, token="the-token")


@node
def test_the_filesystem_server_is_used_from_code(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    folder.joinpath("a.txt").write_text("hello")
    script = str(PACKAGES / "server-filesystem" / "dist" / "index.js")
    server = McpServer("files", command=[NODE or "", script, str(folder)], tools=["read_*", "list_directory"])
    read, refused, listed = answers(
        server, f"read_text_file({str(folder / 'a.txt')!r})['content']", "read_text_file('/etc/passwd')",
        f"list_directory({str(folder)!r})['content']",
    )  # fmt: skip
    assert read == "hello"
    assert refused.startswith("! read_text_file failed: Access denied")
    assert listed == "[FILE] a.txt"


@node
def test_the_server_with_everything_is_used_from_code() -> None:
    server = McpServer(
        "every", command=[NODE or "", str(PACKAGES / "server-everything" / "dist" / "index.js"), "stdio"]
    )
    said, total, picture, wrong, resources = answers(
        server,
        "echo('hi')",
        "get_sum(2, b=3)",
        "get_tiny_image()",
        "get_sum('x', 1)",
        "len(every_resources()) > 3",
    )
    assert said == "Echo: hi"
    assert "5" in total
    assert "[image: image/png, " in picture
    assert "is not of type 'number'" in wrong
    assert resources is True


@pytest.mark.skipif(importlib.util.find_spec("mcp_server_time") is None, reason="needs mcp-server-time")
def test_the_time_server_is_used_from_code() -> None:
    server = McpServer("time", command=[sys.executable, "-m", "mcp_server_time"])
    [found] = answers(server, "convert_time('Europe/Berlin', '12:00', 'Asia/Tokyo')")
    assert found["time_difference"] in ("+7.0h", "+8.0h")
