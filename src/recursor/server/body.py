"""Bodies of requests: how they are read, how slowly they may come, and how much of them is held at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from aiohttp import web

from recursor.server.failures import ApiError
from recursor.server.listening import check_length

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds that a body may take, and more the more has come of it."""
SLOWEST = 16_384
"""Bytes a second that a body must come with beyond that."""
AT_ONCE = 8
"""How many bodies of the largest size are held at once; all that are being read count by what has come of them."""
AGAIN = 5.0
"""Seconds after which a client may try again."""


class Bodies:
    """Reads bodies.

    Args:
        most: bytes of one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    async def read(self, request: web.Request, convert: Callable[[bytes], T]) -> T:
        """What a body is. The request does not keep it beside.

        Args:
            convert: called in a thread.

        Raises:
            ApiError: it is encoded or too large, comes too slowly, or `convert` refused it.
        """
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise ApiError(415, f"send the body as it is, not as {encoding[:40]}")
        check_length(request, self._most)
        pieces, size = [], 0
        try:
            async for piece in _pieces(request):
                pieces.append(piece)
                size += len(piece)
                self._held += len(piece)
                self._check(size)
            body = b"".join(pieces)
            pieces.clear()
            return await asyncio.to_thread(convert, body)
        finally:
            self._held -= size

    def _check(self, size: int) -> None:
        if size > self._most:
            raise ApiError(413, f"the body has more than {self._most:,} bytes", "request_too_large")
        if self._held > AT_ONCE * self._most:
            raise ApiError(429, "too many large requests come at once", "busy", retry_after=AGAIN)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """A body as it comes. Raises ApiError when that takes too long."""
    until = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            async with asyncio.timeout_at(until):
                piece = await request.content.readany()
        except TimeoutError:
            raise ApiError(408, "the body comes too slowly") from None
        if not piece:
            return
        until += len(piece) / SLOWEST
        yield piece
