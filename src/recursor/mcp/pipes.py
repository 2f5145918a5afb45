"""A server as a process that is started, and its messages: lines of JSON on its stdin and stdout.

In place of the transport of the official package, which takes a line of any length, and any number of requests
that are not answered yet: here both have a bound, whatever a server sends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest, JSONRPCResponse, jsonrpc_message_adapter

from recursor.threads import in_thread

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

MAX_LINE = 32 << 20
"""Bytes of one message."""
MAX_ASKED = 64
"""Requests of a server that wait for their answer; while there are as many, no more is read."""
LARGE = 1 << 18
"""Bytes from which on a message is read in a thread."""
FLUSHING = 0.5
"""Seconds that what was sent has to get into the pipe."""
GRACE = 2.0
"""Seconds that a server has to end when its stdin is closed, and again when it is told to."""
_POLL = 0.01
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


@asynccontextmanager
async def started(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    stderr: TextIO,
    gone: Callable[[str], None],
) -> AsyncIterator[TransportStreams]:
    """Start a server; it is ended, with the processes of its group, when this is left.

    Args:
        gone: called when nothing more comes, with why where that is known.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=stderr, cwd=cwd, env=get_default_environment() | dict(env),
        start_new_session=True, limit=MAX_LINE,
    )  # fmt: skip
    pipes = _Pipes(process, gone)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pipes.read)
        tasks.start_soon(pipes.write)
        try:
            yield pipes.incoming, pipes.outgoing
        finally:
            with anyio.CancelScope(shield=True):
                await pipes.close()
            tasks.cancel_scope.cancel()


class _Pipes:
    def __init__(self, process: Process, gone: Callable[[str], None]) -> None:
        self._process = process
        self._gone = gone
        self._came, self.incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self.outgoing, self._sent = anyio.create_memory_object_stream[SessionMessage](0)
        self._asked = 0
        self._answered = asyncio.Event()
        self._flushed = asyncio.Event()

    async def read(self) -> None:
        """Hand on what comes, until it ends."""
        assert self._process.stdout is not None
        why = ""
        async with self._came:
            try:
                while line := await self._process.stdout.readline():
                    large = len(line) > LARGE
                    message = await in_thread(_message, line) if large else _message(line)
                    if message is None:
                        continue
                    if isinstance(message.message, JSONRPCRequest):
                        await self._room()
                    await self._came.send(message)
            except ValueError:
                why = f": it sent more than {MAX_LINE:,} bytes at once"
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            self._gone(why)

    async def write(self) -> None:
        """Send what is to be sent, until that ends or nobody reads it."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            async with self._sent:
                async for each in self._sent:
                    data = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                    stdin.write(data.encode("utf-8", "replace") + b"\n")
                    await stdin.drain()
                    if isinstance(each.message, JSONRPCResponse | JSONRPCError):
                        self._asked -= 1
                        self._answered.set()
        except (OSError, anyio.ClosedResourceError):
            await self._came.aclose()  # whoever waits for an answer is told
        finally:
            self._flushed.set()

    async def close(self) -> None:
        """End the process."""
        self.incoming.close()
        self.outgoing.close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._flushed.wait(), FLUSHING)
            if self._process.stdin is not None:
                self._process.stdin.close()
            for number in (signal.SIGTERM, signal.SIGKILL):
                if await self._ended():
                    return
                self._signal(number)
            await self._ended()
        except asyncio.CancelledError:
            if self._process.returncode is None:
                self._signal(signal.SIGKILL)
            raise
        finally:
            transport: Any = getattr(self._process, "_transport", None)
            if transport is not None:  # else a child that holds the pipes keeps it open
                with suppress(PermissionError):
                    transport.close()

    async def _room(self) -> None:
        """Wait until one more request can be taken."""
        while self._asked >= MAX_ASKED:
            self._answered.clear()
            await self._answered.wait()
        self._asked += 1

    async def _ended(self) -> bool:
        """Whether the process ends in time. Not by waiting for it: that waits for all who hold its pipes."""
        for _ in range(round(GRACE / _POLL)):
            if self._process.returncode is not None:
                return True
            await asyncio.sleep(_POLL)
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _message(line: bytes) -> SessionMessage | None:
    """The message of a line; None where it is none: programs print what they should not."""
    with suppress(ValueError):
        return SessionMessage(jsonrpc_message_adapter.validate_json(mended(line), by_name=False))
    return None


def mended(line: bytes) -> bytes:
    """A line of JSON with question marks for halves of signs: JavaScript writes them, and the package takes none."""
    if _HALF.search(line) is None:
        return line
    try:
        text = json.dumps(json.loads(line.decode("utf-8", "replace")), ensure_ascii=False)
    except (ValueError, RecursionError):
        return line
    return text.encode("utf-8", "replace")
