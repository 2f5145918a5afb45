"""`recursor mcp --http` under what no host should do: refused in the protocol's words, nothing left behind, nothing told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

from recursor.testing import ModelServer
from recursor.types import Message

pytest.importorskip("mcp")
TOKEN = "the-secret-token"
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}  # fmt: skip
WRONG: dict[str, bytes] = {
    "nothing": b"", "half": b"{", "null": b"null", "a list": b"[]", "a batch": json.dumps([HELLO, HELLO]).encode(),
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 50_000, "bytes": b"\xff\xfe", "a text": b'"SECRET"',
    "no method": b'{"jsonrpc": "2.0", "id": 3}', "another version": b'{"jsonrpc": "1.0", "id": 3, "method": "ping"}',
    "an odd id": b'{"jsonrpc": "2.0", "id": {"SECRET": 1}, "method": "initialize", "params": []}',
    "half a sign": b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}', "no number": b'{"jsonrpc": "2.0", "id": NaN, "method": "SECRET"}',
    "a long id": b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "ping"}',
}  # fmt: skip


class Http:
    """A server as a process, and what a host sends it."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str) -> None:
        self.process = process
        self._session = session
        self._url = url

    def request(self, method: str, data: Any = None, **headers: str) -> Any:
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        allowed = {"Authorization": f"Bearer {TOKEN}", **accept, **headers}
        return self._session.request(method, self._url, data=body, headers=allowed)

    async def post(self, data: Any, **headers: str) -> tuple[int, str]:
        async with self.request("POST", data, **headers) as response:
            return response.status, await response.text()

    async def head(self, size: int) -> bytes:
        """What is said of a body of that size, before it is sent."""
        url = yarl.URL(self._url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            f"POST /mcp HTTP/1.1\r\nHost: {url.authority}\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
        )
        writer.write(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size)
        async with asyncio.timeout(60):
            line = await reader.readline()
        writer.close()
        return line

    async def begun(self) -> dict[str, str]:
        """The headers of a new session."""
        async with self.request("POST", HELLO) as response:
            assert response.status == 200, await response.text()
            named = response.headers["mcp-session-id"]
        headers = {"mcp-session-id": named, "mcp-protocol-version": "2025-06-18"}
        assert (await self.post(note("notifications/initialized"), **headers))[0] == 202
        return headers

    async def asked(self, session: dict[str, str], number: int = 2, question: str = "How long?") -> Any:
        """What a call of `ask` comes to."""
        status, text = await self.post(ask(number, question), **session)
        assert status == 200, text
        found = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        [reply] = [each for each in found if each.get("id") == number]
        return reply["result"]

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def note(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def ask(number: int, question: str) -> dict[str, Any]:
    given = {"name": "ask", "arguments": {"question": question, "text": "abc"}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": given}


def answered(result: Any) -> bool:
    """Whether there is an answer; else there was no place for the run."""
    if result.get("isError"):
        assert "no more may be" in result["content"][0]["text"], result
        return False
    assert result["structuredContent"] == {"answer": 3}
    return True


@asynccontextmanager
async def http(models: ModelServer, tmp_path: Path, *flags: str) -> AsyncIterator[Http]:
    """A server; when it has ended, nothing secret was told on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "recursor", "mcp", "--model", "m", "--base-url", models.url, "--store", str(tmp_path / "r.db"),
        "--http", "--port", "0", *flags, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"RECURSOR_MCP_TOKEN": TOKEN, "XDG_CONFIG_HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.stderr is not None
    url = (await process.stderr.readline()).decode().split()[1]
    telling = asyncio.ensure_future(process.stderr.read())
    timeout = aiohttp.ClientTimeout(total=100)
    try:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Http(process, session, url)
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await process.wait()
            said = (await telling).decode()
    assert not [each for each in (TOKEN, "SECRET", "Traceback") if each in said], said


async def script(messages: Sequence[Message]) -> str:
    if "SECRET" in messages[-1].content:
        await asyncio.Event().wait()
    return "```repl\nFINAL(len(context))\n```"


@pytest.fixture
def models() -> Any:
    with ModelServer(script) as running:
        yield running


async def test_what_is_no_message_is_refused(models: ModelServer, tmp_path: Path) -> None:
    async with http(models, tmp_path) as host:
        for name, data in WRONG.items():
            assert (await host.post(data))[0] == 400, name
        assert (await host.post(HELLO, **{"Content-Type": "text/plain"}))[0] == 400
        assert (await host.post(HELLO, Accept="text/html"))[0] == 406
        assert (await host.post(ask(2, "SECRET"), **{"mcp-session-id": "0" * 32}))[0] == 404
        assert b" 413 " in await host.head(65 << 20)
        assert answered(await host.asked(await host.begun()))


async def test_a_session_survives_what_makes_no_sense_in_it(models: ModelServer, tmp_path: Path) -> None:
    async with http(models, tmp_path) as host:
        session = await host.begun()
        assert (await host.post(HELLO, **session))[0] == 200
        for each in (
            note("notifications/initialized"),
            note("notifications/cancelled", requestId=99),
            note("notifications/cancelled", requestId=["SECRET"]),
            note("notifications/progress", progressToken=1, progress=5),
            note("notifications/none", a="SECRET"),
            {"jsonrpc": "2.0", "id": 77, "result": {"a": "SECRET"}},
        ):
            assert (await host.post(each, **session))[0] == 202, each
        assert (
            "Method not found"
            in (await host.post({"jsonrpc": "2.0", "id": 5, "method": "none"}, **session))[1]
        )
        assert answered(await host.asked(session))


async def test_a_session_that_is_dropped_in_the_middle_ends_its_runs(
    models: ModelServer, tmp_path: Path
) -> None:
    async with http(models, tmp_path, "--max-runs", "2") as host:
        session, other = await host.begun(), await host.begun()
        going = [asyncio.ensure_future(host.post(ask(number, "SECRET"), **session)) for number in (2, 3)]
        async with asyncio.timeout(60):
            while len(models.requests) < 2:
                await asyncio.sleep(0.01)
        assert not answered(await host.asked(other))
        async with host.request("DELETE", **session) as response:
            assert response.status == 200
        async with asyncio.timeout(60):
            number = 10
            while not answered(await host.asked(other, number)):
                number += 1
            await asyncio.wait(going)
        assert (await host.post(ask(4, "How long?"), **session))[0] == 404


async def test_many_hosts_at_once_leave_nothing_behind(models: ModelServer, tmp_path: Path) -> None:
    async def come_and_go(number: int) -> bool:
        session = await host.begun()
        if number % 5 == 0:
            going = asyncio.ensure_future(host.post(ask(2, "SECRET"), **session))
            await host.post(note("notifications/none"), **session)
            going.cancel()
            await asyncio.wait([going])
            found = False
        else:
            found = answered(await host.asked(session))
        async with host.request("DELETE", **session) as response:
            assert response.status == 200
        return found

    async with http(models, tmp_path) as host:
        assert await come_and_go(1)
        before = host.descriptors
        found = await asyncio.gather(*(come_and_go(number) for number in range(24)))
        assert any(found)
        async with asyncio.timeout(60):
            while not await come_and_go(1) or host.descriptors > before + 16:
                await asyncio.sleep(0.05)
