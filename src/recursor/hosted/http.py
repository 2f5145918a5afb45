"""`recursor mcp --http`: streamable HTTP on the loopback interface, for who knows the token."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import mcp
import uvicorn
from starlette.responses import PlainTextResponse

from recursor.errors import ConfigError
from recursor.hosted.logs import without_content
from recursor.hosted.mcp import Tools

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
MAX_BODY = 64 << 20
"""Bytes of a request."""
MAX_SESSIONS = 1_000
"""Hosts at once."""
IDLE = 1_800.0
"""Seconds after which a host that asks nothing, and waits for nothing, is taken to be gone; its runs end then."""


class Guard:
    """Lets requests through that bring the token. Names of other hosts and pages elsewhere are refused behind it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._knows(dict(scope["headers"]).get(b"authorization", b"")):
            refused = PlainTextResponse(
                "the token is missing or wrong", 401, headers={"WWW-Authenticate": "Bearer"}
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, header: bytes) -> bool:
        scheme, _, token = header.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def serve(tools: Tools, port: int, token: str, told: Callable[[str], None]) -> None:
    """Answer until a signal comes; runs that go on are stopped then.

    Args:
        port: 0 takes a free one.
        told: called with the address, once it can be asked.

    Raises:
        ConfigError: the port is taken.
    """
    without_content(mcp)
    app = tools.server().streamable_http_app(
        host=LOOPBACK, max_request_body_size=MAX_BODY, session_idle_timeout=IDLE, max_sessions=MAX_SESSIONS
    )
    settings = uvicorn.Config(
        Guard(app, token), log_config=None, access_log=False, lifespan="on", server_header=False,
        timeout_graceful_shutdown=1, ws="none",
    )  # fmt: skip
    listening = socket.socket(socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; --port 0 takes a free one"
        ) from error
    listening.listen(128)
    server = uvicorn.Server(settings)
    try:
        told(f"http://{LOOPBACK}:{listening.getsockname()[1]}/mcp")
        await server.serve(sockets=[listening])
    finally:
        await asyncio.shield(tools.jobs.close())
        listening.close()
