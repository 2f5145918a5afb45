"""A chat-completions server that costs as little CPU as it can, in a process of its own.

Sub-calls ("sub...", "sub50..." after 50 ms) get "ok" from bytes that are made once; root requests go to
`script`. It counts what it was asked. "control: stats" returns the counts as JSON, "control: reset"
forgets them. Takes whole HTTP/1.1 requests with a Content-Length, one at a time on each connection: what
the clients measured here send. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
from collections import Counter
from typing import Any

import msgspec
import script

from recursor.types import Message


class _Message(msgspec.Struct):
    role: str
    content: Any


class _Body(msgspec.Struct):
    messages: list[_Message]


def _response(text: str) -> bytes:
    message = {"role": "assistant", "content": text, "refusal": None}
    document = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "bench",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
    }  # fmt: skip
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


OK = _response("ok")
_decode = msgspec.json.Decoder(_Body).decode
_tasks: set[asyncio.Task[None]] = set()


class Counts:
    """What was asked since the last reset."""

    def __init__(self) -> None:
        self.prompts: Counter[str] = Counter()
        self.answered = self.open = self.most = self.roots = 0
        self._cpu = _cpu()

    def stats(self) -> dict[str, float]:
        """As "control: stats" returns it; `cpu` is this process's, in seconds."""
        return {
            "received": self.prompts.total(), "distinct": len(self.prompts), "answered": self.answered,
            "most at once": self.most, "roots": self.roots, "cpu": _cpu() - self._cpu,
        }  # fmt: skip


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


counts = Counts()


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        at = data.lower().find(b"content-length:", 0, end)
        size = int(data[at + 15 : data.find(b"\r\n", at)])
        if len(data) < end + 4 + size:
            self._buffer = data
            return
        self._buffer = b""
        self._request(data[end + 4 : end + 4 + size])

    def _request(self, body: bytes) -> None:
        messages = _decode(body).messages
        last = messages[-1].content
        if isinstance(last, str) and last.startswith("sub"):
            counts.prompts[last] += 1
            counts.open += 1
            counts.most = max(counts.most, counts.open)
            if last.startswith("sub50"):
                self._loop.call_later(0.05, self._answer, counts)
            else:
                self._answer(counts)
        else:
            task = self._loop.create_task(self._root(messages))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    def _answer(self, counted: Counts) -> None:
        counted.open -= 1
        if self._transport is not None and not self._transport.is_closing():
            counted.answered += 1
            self._transport.write(OK)

    async def _root(self, messages: list[_Message]) -> None:
        global counts
        found = [Message("user", _text(each.content)) for each in messages]
        last = found[-1].content
        if last == "control: stats":
            said = json.dumps(counts.stats())
        elif last == "control: reset":
            counts, said = Counts(), "{}"
        else:
            counts.roots += not last.startswith("control: ")
            said = await script.reply(found)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_response(said))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
