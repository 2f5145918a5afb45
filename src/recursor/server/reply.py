"""A reply while it is made: whole at the end, or as a stream of what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from aiohttp import web

from recursor.server.form import Form, encoded
from recursor.server.progress import Progress
from recursor.server.work import Outcome, Work

STALLED = 60.0
"""Seconds that a client may take none of a stream; it has gone then."""


class Gone(Exception):
    """The client does not read any more."""


class Whole:
    """One document, when all is done."""

    def __init__(self, work: Work, form: Form) -> None:
        self.response = web.Response()
        self._work = work
        self._form = form

    async def follow(self) -> None:
        """Return when the client is to be told something. Raises ApiError."""
        async for _ in self._work.told():
            pass

    async def end(self, outcome: Outcome) -> None:
        """Say it."""
        self.response = web.Response(
            body=await asyncio.to_thread(lambda: encoded(self._form.document(outcome))),
            content_type="application/json",
            headers={"X-Recursor-Run": self._work.run_id},
        )

    async def fail(self, _: Iterable[bytes]) -> None:
        """Never called: nothing is sent before the end."""


class Streamed:
    """Server-sent events. What fails before the run has begun has a status of its own.

    Sending raises Gone when nobody reads.
    """

    def __init__(self, request: web.Request, work: Work, form: Form) -> None:
        self.response = events_of()
        self._request = request
        self._work = work
        self._form = form

    async def follow(self) -> None:
        """Say what happens, until the client is to be told something else. Raises ApiError."""
        progress = Progress(self._work.run_id)
        await self._begin()
        async for event in self._work.told():
            await self._begin()
            if event is None:
                await self._send(self._form.waiting() if self.response.prepared else [])
            elif text := progress.told(event):
                await self._send(self._form.reasoning(text))

    async def end(self, outcome: Outcome) -> None:
        """Say the answer, or what the client has to do."""
        await self._begin()
        await self._send(self._form.closing(outcome))

    async def fail(self, chunks: Iterable[bytes]) -> None:
        """Say what went wrong, in a stream that has begun."""
        with suppress(Gone):
            await self._send(chunks)

    async def _begin(self) -> None:
        if self._work.run_id and not self.response.prepared:
            self.response.headers["X-Recursor-Run"] = self._work.run_id
            await begin(self._request, self.response)
            await self._send(self._form.opening(self._work.reply_id))

    async def _send(self, chunks: Iterable[bytes]) -> None:
        await send(self._request, self.response, chunks)


def events_of(run_id: str = "") -> web.StreamResponse:
    """A stream that is yet to begin."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return web.StreamResponse(headers={**headers, "X-Recursor-Run": run_id} if run_id else headers)


async def begin(request: web.Request, response: web.StreamResponse) -> None:
    """Send the head of a stream. Raises Gone when nobody reads."""
    try:
        await response.prepare(request)
    except ConnectionError as error:
        raise Gone from error


async def send(request: web.Request, response: web.StreamResponse, chunks: Iterable[bytes]) -> None:
    """Send some of a stream. Raises Gone when nobody reads."""
    try:
        for chunk in chunks:
            async with asyncio.timeout(STALLED):
                await response.write(chunk)
    except (ConnectionError, TimeoutError) as error:
        if request.transport is not None:
            request.transport.abort()  # without waiting for what was to be sent
        raise Gone from error
