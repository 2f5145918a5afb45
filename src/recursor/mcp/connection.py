"""One connection to a server, over the official package: opened and closed by one task, used by many.

Everything here happens on one event loop. Errors of the package become SubcallError in one place.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from recursor.errors import ConfigError, SubcallError
from recursor.threads import in_thread

if TYPE_CHECKING:
    import mcp_types as types
    from mcp import Client
    from mcp.client._transport import Transport

_log = logging.getLogger("mcp")
T = TypeVar("T")
STARTING = 60.0
"""Seconds that a server has to start and shake hands: it may have to be fetched first."""
CLOSING = 8.0
"""Seconds until a server that does not end is left to itself."""
MAX_PAGES = 100
MAX_EVENT = 32 << 20
"""Bytes of one message over HTTP."""
TAIL = 2_000
"""Bytes kept of what a server writes to stderr."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is: a command to start, or a URL."""

    command: tuple[str, ...] = ()
    url: str = ""
    env: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None


class Connection:
    """A connection that opens at once, in a task of its own.

    Args:
        name: the server's, for messages.
        timeout: seconds of one request.
    """

    def __init__(self, name: str, address: Address, timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.dead = False
        """Whether the server is known to be gone."""
        self._why = ""
        self._name = name
        self._address = address
        self._timeout = timeout
        self._ready: asyncio.Future[Client] = self.loop.create_future()
        self._closing = asyncio.Event()
        self._stderr = _Stderr(self.loop)
        self._tools: list[types.Tool] | None = None
        self._task = asyncio.create_task(self._hold())

    async def opened(self) -> Client:
        """The client, once it is there. Raises ConfigError when it cannot be had."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._ready), STARTING)
        except TimeoutError:
            self.dead = True
            self._closing.set()
            self._task.cancel()
            raise ConfigError(
                f"the MCP server {self._name!r} did not answer within {STARTING:.0f} s{self._stderr.told()}"
            ) from None

    async def tools(self) -> list[types.Tool]:
        """The server's tools; asked for once, and again when it has said that they changed."""
        if self._tools is None:
            found: list[types.Tool] = []
            client, cursor = await self.opened(), None
            for _ in range(MAX_PAGES):
                page = await self.asked(client.list_tools(cursor=cursor, cache_mode="bypass"))
                found += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
            self._tools = found
        return self._tools

    async def has_resources(self) -> bool:
        """Whether the server has any that can be read."""
        return (await self.opened()).server_capabilities.resources is not None

    async def asked(self, request: Awaitable[T]) -> T:
        """What a request returns.

        Raises:
            SubcallError: it failed, took too long, or the server is gone.
        """
        from mcp import MCPError  # noqa: PLC0415 - of the extra
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT  # noqa: PLC0415

        try:
            return await request
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise SubcallError(
                    f"the MCP server {self._name!r} did not answer within {self._timeout:g} s"
                ) from error
            if error.code == CONNECTION_CLOSED or "Session terminated" in str(error):
                raise self._ended() from error
            raise SubcallError(f"the MCP server {self._name!r} refused: {str(error)[:2000]}") from error
        except (OSError, EOFError) as error:
            raise self._ended() from error
        except Exception as error:  # of the package, its transports and its validation
            if type(error).__module__.partition(".")[0] in ("anyio", "httpx2"):
                raise self._ended() from error
            raise SubcallError(
                f"the MCP server {self._name!r}: {type(error).__name__}: {str(error)[:2000]}"
            ) from error

    async def close(self) -> None:
        """End it, and the server that was started for it."""
        self.dead = True
        self._closing.set()
        _, late = await asyncio.wait([self._task], timeout=CLOSING)
        if late:
            self._task.cancel()

    def _ended(self) -> SubcallError:
        self.dead = True
        self._closing.set()
        return SubcallError(
            f"the MCP server {self._name!r} is gone{self._why}; the next call connects to it again"
        )

    def _gone(self, why: str = "") -> None:
        """Nothing more comes from its process."""
        self._why = why
        self.dead = True
        self._closing.set()

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(await self._client(stack))
                if self._address.command:
                    self._stderr.handed_over()
                self._ready.set_result(client)
                await self._closing.wait()
        except BaseException as error:  # it goes to who waits for the connection
            self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.dead = True
            self._stderr.close()

    def _fail(self, error: BaseException) -> None:
        if self._ready.done():
            return  # of the end of a connection that was there: whoever asks is told by their request
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        why = f"{type(error).__name__}: {error}"[:500]
        if isinstance(error, FileNotFoundError):
            why = f"there is no program {self._address.command[0]!r}"
        said = ConfigError(f"the MCP server {self._name!r} cannot be reached: {why}{self._stderr.told()}")
        said.__cause__ = error if isinstance(error, Exception) else None
        self._ready.set_exception(said)
        self._ready.exception()  # nobody may be waiting any more

    async def _client(self, stack: AsyncExitStack) -> Client:
        await in_thread(importlib.import_module, "mcp")  # a second, in which other runs go on
        if not _log.handlers:  # else what a server says wrong would come to the terminal, with tracebacks
            _log.addHandler(logging.NullHandler())
        from mcp import Client  # noqa: PLC0415 - of the extra
        from mcp_types import Implementation  # noqa: PLC0415

        transport = await self._transport(stack)
        return Client(
            transport,
            read_timeout_seconds=self._timeout,
            message_handler=self._noted,
            client_info=Implementation(name="recursor", version="1"),
        )

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        if self._address.command:
            from recursor.mcp import pipes  # noqa: PLC0415 - of the extra

            where = self._address
            return pipes.started(where.command, dict(where.env), where.cwd, self._stderr.file, self._gone)
        import httpx2  # noqa: PLC0415 - of the extra
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

        from recursor.mcp import bodies  # noqa: PLC0415 - as above

        limits = httpx2.Timeout(30.0, read=max(300.0, self._timeout))
        client = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", **dict(self._address.headers)}, timeout=limits,
            event_hooks={"response": [bodies.bounded]},
        )  # fmt: skip
        http = await stack.enter_async_context(client)
        return streamable_http_client(self._address.url, http_client=http, max_sse_event_size=MAX_EVENT)

    async def _noted(self, message: Any) -> None:
        if type(message).__name__ == "ToolListChangedNotification":
            self._tools = None


class _Stderr:
    """What a server writes to stderr: the end of it is kept, and none of it reaches the terminal."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._end = b""
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.file: TextIO = os.fdopen(writing, "w")
        loop.add_reader(self._reading, self._read)

    def handed_over(self) -> None:
        """Let the server alone hold the end that is written to."""
        self.file.close()

    def told(self) -> str:
        """Its last line, to be added to a message for a person."""
        lines = self._end.decode("utf-8", "replace").strip().splitlines()
        return f"; it said: {lines[-1][:300]}" if lines else ""

    def close(self) -> None:
        self.file.close()
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._reading, 1 << 16)
            self._end = (self._end + data)[-TAIL:]
            if not data:
                self._loop.remove_reader(self._reading)
