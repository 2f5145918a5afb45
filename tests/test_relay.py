"""The port that a relay opens: who does not know the token gets nothing, and nothing stays when nobody comes."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys

import aiohttp
import pytest

from conftest import PLAIN
from recursor.errors import IsolationUnavailable
from recursor.sandboxes.daytona import checked
from recursor.sandboxes.inbox import relayed

TOKEN = secrets.token_hex(32)
ECHO = "import os\nwhile data := os.read(0, 1 << 16): os.write(1, data)"


@pytest.fixture
async def port() -> int:
    """A relay with a program behind it that says what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
    words = relayed(sys.executable, "port", str(number), sys.executable, "-c", ECHO)
    process = await asyncio.create_subprocess_exec(*words, env={**PLAIN, "RECURSOR_TOKEN": TOKEN})
    assert await process.wait() == 0, "it returns as soon as the port is open"
    return number


async def test_who_says_the_token_has_the_line_and_nobody_else(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        for first in (b"", TOKEN[:-1].encode(), b"x" * 64):
            async with session.ws_connect(f"http://127.0.0.1:{port}") as line:
                if first:
                    await line.send_bytes(first)
                    await line.send_bytes(b"hello")
                    message = await line.receive()
                    assert message.type is not aiohttp.WSMsgType.BINARY
        async with session.ws_connect(f"http://127.0.0.1:{port}") as line:
            await line.send_bytes(TOKEN.encode())
            sent = secrets.token_bytes(1_000_003)
            await line.send_bytes(sent)
            await line.ping()
            heard = b""
            while len(heard) < len(sent):
                heard += (await line.receive(10)).data
            assert heard == sent
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 20_000,
        b"",
        b"GET / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n\x81\x05hello",
    ],
)
async def test_what_is_no_websocket_is_turned_away_and_the_next_may_come(port: int, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    if not request_:
        writer.write_eof()
    assert b"hello" not in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}") as line:
        await line.send_bytes(TOKEN.encode())
        await line.send_bytes(b"hello")
        assert (await line.receive(10)).data == b"hello"


async def test_the_program_ends_with_the_line_and_the_line_with_the_program(port: int) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}") as line:
        await line.send_bytes(TOKEN.encode())
        await line.send_bytes(b"hello")
        assert (await line.receive(10)).data == b"hello"
        await line.close()
        assert line.close_code == aiohttp.WSCloseCode.OK


def test_an_address_without_tls_is_not_used() -> None:
    assert checked("https://8000-x.proxy.example") == "https://8000-x.proxy.example"
    assert checked("http://127.0.0.1:8000/") == "http://127.0.0.1:8000/"
    with pytest.raises(IsolationUnavailable, match="without TLS"):
        checked("http://8000-x.proxy.example")
