"""`McpServer`: a server whose tools code in the REPL may call."""

from __future__ import annotations

import asyncio
import atexit
import json
import re
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from recursor import background
from recursor.errors import ConfigError, RLMError, SubcallError
from recursor.mcp import results
from recursor.mcp.arguments import Arguments
from recursor.mcp.connection import MAX_PAGES, Address, Connection
from recursor.offered import Offer
from recursor.threads import in_thread

if TYPE_CHECKING:
    import mcp_types as types
    from mcp import Client

T = TypeVar("T")

MAX_TOOLS = 1_000
MAX_RESOURCES = 1_000
"""That are listed at once."""
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,31}")


class McpServer:
    """A server of the Model Context Protocol: `RLM(..., tools=[McpServer("files", command=[...])])`.

    It is started, or connected to, when the first run begins, and kept for others until `close` or the end of the
    process. Code calls its tools as functions; what they are sent is checked against their schemas, what they
    return is a Python value, and what fails is a SubcallError. A server that is gone is connected to again by
    the next call.

    Args:
        name: an identifier; stands before the names of tools that are taken.
        command: a program and its arguments, which speaks the protocol on stdin and stdout.
        url: of a server that is there already (streamable HTTP), in place of a command.
        tools: the names of those that code may call, with * and ?; None is all. "read_resource" and "resources" stand
            for those that read the server's resources.
        env: variables of the environment of a command, beside a few such as PATH and HOME.
        headers: of each request to a URL: {"Authorization": "Bearer ..."}.
        cwd: the folder in which a command runs.
        timeout: seconds that a call may take.

    Raises:
        ConfigError: any of these is wrong, or the package of the protocol is missing.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        tools: Iterable[str] | None = None,
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        cwd: str | PathLike[str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._name = name
        for argument, given in (("command", command), ("tools", tools)):
            if isinstance(given, str):
                raise ConfigError(f"mcp.{name}: {argument} must be a list of texts, not {given!r}")
        address = Address(
            tuple(command or ()), url or "", tuple((env or {}).items()), tuple((headers or {}).items()),
            None if cwd is None else str(cwd),
        )  # fmt: skip
        self._address = _checked(name, address)
        if not timeout > 0:
            raise ConfigError(f"mcp.{name}: timeout must be above 0, not {timeout!r}")
        if find_spec("mcp") is None:
            raise ConfigError("the package of the protocol is missing: pip install 'recursor[mcp]'")
        self._allowed = None if tools is None else tuple(tools)
        self._timeout = timeout
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return f"McpServer({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    async def offers(self) -> list[Offer]:
        """Its tools, as a run is offered them; connects where there is no connection.

        Raises:
            ConfigError: it cannot be reached, or lacks a tool that is allowed.
        """
        connection = self._current()
        try:
            found = [self._offer(tool) for tool in (await connection.tools())[:MAX_TOOLS]]
            if await connection.has_resources():
                found += self._resources()
        except SubcallError as error:
            raise ConfigError(str(error)) from error
        if self._allowed is None:
            return found
        for pattern in self._allowed:
            if not any(_allows(pattern, offer.name, self._name) for offer in found):
                known = ", ".join(offer.name for offer in found)
                raise ConfigError(
                    f"mcp.{self._name}: the server has no tool {pattern!r}; it has: {known[:1000]}"
                )
        return [
            offer for offer in found if any(_allows(each, offer.name, self._name) for each in self._allowed)
        ]

    def close(self) -> None:
        """End the connection, and a server that was started for it. A later run connects again."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is background.loop():
            background.run(connection.close)

    def _current(self) -> Connection:
        """The connection, or a new one where there is none, or where it is gone."""
        here = asyncio.get_running_loop()
        if self._connection is None or self._connection.dead or self._connection.loop is not here:
            self._connection = Connection(self._name, self._address, self._timeout)
            _open.add(self)
        return self._connection

    async def _ask(self, request: Callable[[Client], Awaitable[T]]) -> T:
        """Make a request of the client. Raises SubcallError."""
        connection = self._current()
        try:
            client = await connection.opened()
        except ConfigError as error:
            raise SubcallError(str(error)) from error
        return await connection.asked(request(client))

    def _offer(self, tool: types.Tool) -> Offer:
        arguments = Arguments(tool.name, tool.input_schema)
        output = tool.output_schema or {}
        wrapped = bool(output.get("x-fastmcp-wrap-result")) or set(output.get("properties", ())) == {"result"}

        async def call(*args: Any, **kwargs: Any) -> Any:
            given = await in_thread(arguments.bound, args, kwargs)
            result = await self._ask(partial(_called, name=tool.name, arguments=given))
            return results.value_of(tool.name, result, wrapped=wrapped)

        details = f"arguments, as a JSON Schema: {json.dumps(tool.input_schema, ensure_ascii=False)}"
        if output:
            details += f"\n\nresult: {json.dumps(output, ensure_ascii=False)}"
        return Offer(tool.name, arguments.signature, tool.description or tool.title or "", details, call)

    def _resources(self) -> list[Offer]:
        async def resources() -> list[dict[str, Any]]:
            found: list[types.Resource] = []
            cursor: str | None = None
            for _ in range(MAX_PAGES):
                page = await self._ask(partial(_page, cursor=cursor))
                found += page.resources
                cursor = page.next_cursor
                if cursor is None or len(found) >= MAX_RESOURCES:
                    break
            return results.listed(found[:MAX_RESOURCES])

        async def read_resource(uri: str) -> Any:
            read = await self._ask(lambda client: client.read_resource(uri, cache_mode="bypass"))
            return results.contents_of("read_resource", read)

        about = "What the server has to read: uri, name, description, type, size."
        return [
            Offer(f"{self._name}_resources", "() -> list[dict]", about, "", resources),
            Offer(
                f"{self._name}_read_resource",
                "(uri: str) -> str | bytes",
                "Read one of them.",
                "",
                read_resource,
            ),
        ]


async def _called(client: Client, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
    """What a tool returns. Its schema for that is not checked: it is a server's, and could keep the host busy."""
    from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult  # noqa: PLC0415 - of the extra

    request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
    return await client.session.send_request(request, CallToolResult)


async def _page(client: Client, cursor: str | None) -> types.ListResourcesResult:
    return await client.list_resources(cursor=cursor, cache_mode="bypass")


_open: weakref.WeakSet[McpServer] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """End the connections of this process, and the servers that were started for them."""
    for server in list(_open):
        with suppress(RLMError, OSError, RuntimeError):
            server.close()


def _allows(pattern: str, name: str, server: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{server}_{pattern}")


def _checked(name: str, address: Address) -> Address:
    """The address. Raises ConfigError when it is none."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"mcp: {name!r} is no name for a server: letters, digits and _, 32 at most")
    if bool(address.command) == bool(address.url):
        raise ConfigError(f"mcp.{name}: give a command or a url")
    if not all(isinstance(each, str) and each for each in address.command[:1]):
        raise ConfigError(f"mcp.{name}: the program of the command is missing")
    if address.url and not address.url.startswith(("http://", "https://")):
        raise ConfigError(f"mcp.{name}: url must begin with http:// or https://")
    if (address.env or address.cwd) and not address.command:
        raise ConfigError(f"mcp.{name}: env and cwd go with a command")
    if address.headers and not address.url:
        raise ConfigError(f"mcp.{name}: headers go with a url")
    return address
