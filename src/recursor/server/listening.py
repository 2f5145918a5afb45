"""The HTTP side of connections: how long they may be idle, and what is said to what is no HTTP.

The library's own handler repeats what it could not read, in the reply and in the log, where keys and
messages have no place.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from recursor.errors import ConfigError
from recursor.server.failures import ApiError
from recursor.server.keys import Client

IDLE = 75.0
"""Seconds that a connection may take to bring the head of a request, its first or the next one."""
BACKLOG = 1024
CLIENT = web.RequestKey("client", Client)
"""Who sends a request."""
NOTHING: Any = None
"""Is logged of requests. The library takes it, and its annotations do not."""


class _Handler(RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - has what came
    ) -> web.StreamResponse:
        """Answer what could not be read as a request; the connection ends then."""
        if request.writer.output_size > 0:
            raise ConnectionError("a reply has begun")
        if status >= 500:
            self.log_exception("a request failed by a mistake of the server", exc_info=exc)
            response = error_response(ApiError(500, "the server made a mistake", "internal_error"))
        else:
            kind = type(exc).__name__ if exc is not None else "no HTTP"
            response = error_response(ApiError(status, f"the request cannot be read as HTTP/1.1: {kind}"))
        response.force_close()
        return response


def error_response(error: ApiError) -> web.Response:
    """An error as a reply."""
    return web.Response(
        status=error.status,
        body=json.dumps(error.body()).encode("ascii"),
        content_type="application/json",
        headers=error.headers(),
    )


async def listen(runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Take connections. Raises ConfigError when the port cannot be had."""
    loop, server = asyncio.get_running_loop(), runner.server
    assert server is not None, "it is set up"
    made = partial(
        _Handler, server, loop=loop, access_log=NOTHING, auto_decompress=False, keepalive_timeout=IDLE
    )
    try:
        return await loop.create_server(made, host, port, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def go_on(request: web.Request, most: int) -> None:
    """Have a client that waits for it send its body. Raises ApiError where it would be refused.

    Args:
        most: bytes of a body.
    """
    if request.headers["Expect"].strip().lower() != "100-continue":
        raise ApiError(417, "what is expected of this server, it does not do")
    check_length(request, most)
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def check_length(request: web.BaseRequest, most: int) -> None:
    """Raise ApiError for a body that says it is too large."""
    if (request.content_length or 0) > most:
        raise ApiError(413, f"the body has more than {most:,} bytes", "request_too_large")


def check_version(request: web.BaseRequest) -> None:
    """Raise ApiError for what this server does not speak."""
    if request.version not in ((1, 0), (1, 1)):
        raise ApiError(400, "this server speaks HTTP/1.1")
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise ApiError(400, "send the body in chunks or whole, not by another transfer encoding")
