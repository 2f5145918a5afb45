"""What a server may send over HTTP: the package bounds events of a stream, and takes any other body whole, unpacked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

MAX_BODY = 32 << 20
"""Bytes of a reply that is no stream of events."""


async def bounded(response: httpx2.Response) -> None:
    """Give a reply a bound, before anything of it is read: a hook of the client.

    Raises:
        httpx2.DecodingError: it is packed, though it was asked for as it is.
    """
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise httpx2.DecodingError("the reply is packed, though it was asked for as it is")
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_BODY
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise httpx2.ReadError(f"the reply has more than {MAX_BODY:,} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
