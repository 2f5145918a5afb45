"""Runs that go on by themselves, whoever waits: what happens is kept as the events of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from recursor.server.failures import ApiError
from recursor.server.progress import Progress
from recursor.server.reply import begin, events_of, send
from recursor.server.response_form import Form
from recursor.server.work import Outcome, Work

Hold = Callable[[Work, Outcome], bool]
"""Has a run wait for what its client is to do."""


class Kept:
    """One response, as it was told.

    Args:
        events: of the whole stream, where that may be followed.
        first: the number of the first of these.

    Attributes:
        run_id: empty until it has begun.
        size: bytes, about.
        ended: set when nothing more comes.
    """

    def __init__(
        self, document: Mapping[str, Any] = MappingProxyType({}), events: Iterable[bytes] = (), first: int = 0
    ) -> None:
        self._document = document
        self._events = list(events)
        self._first = first
        self._news = asyncio.Event()
        self.run_id = ""
        self.size = 0
        self.ended = asyncio.Event()

    @property
    def document(self) -> Mapping[str, Any]:
        """What is known of it."""
        return self._document

    @property
    def background(self) -> bool:
        """Whether its run goes on by itself, and its events are kept."""
        return bool(self.document.get("background"))

    @property
    def events(self) -> bytes:
        """Those so far."""
        return b"".join(self._events)

    async def cancel(self) -> None:
        """Stop it, where it goes on."""

    async def follow(self, request: web.Request, after: int) -> web.StreamResponse:
        """Say what happens, from the event after a number on, until the end. Raises Gone."""
        response = events_of(self.run_id)
        await begin(request, response)
        place = max(0, after + 1 - self._first)
        while True:
            news, ended = self._news, self.ended.is_set()
            await send(request, response, self._events[place:])
            place = max(place, len(self._events))
            if ended:
                return response
            await news.wait()


def request_of(work: Work, form: Form) -> dict[str, Any]:
    """What is asked of a run that goes on, in plain values: enough to go on with it in another server."""
    return {
        "terms": msgspec.to_builtins(work.asked.terms),
        "instruction": work.asked.instruction,
        "replies": work.replies,
        "request": msgspec.to_builtins(form.request),
    }


class Background(Kept):
    """A run that goes on whether or not anybody waits.

    Args:
        leaves: whether the server ends, and leaves what it stops to the next one.

    Attributes:
        error: why it failed.
        left: whether it is another server's to go on with.
        waits: what was asked, where its run has ended in calls, and goes on when their results come; else None.
    """

    def __init__(self, work: Work, form: Form, hold: Hold, leaves: Callable[[], bool]) -> None:
        super().__init__(first=form.number)
        self.form = form
        self.begun = asyncio.Event()
        self.error: ApiError | None = None
        self.left = False
        self.waits: Any = None
        self._work = work
        self._hold = hold
        self._leaves = leaves
        self._cancelled = False
        self._task = asyncio.ensure_future(self._go())

    @property
    def document(self) -> Mapping[str, Any]:
        return self.form.response

    async def cancel(self) -> None:
        if not self.ended.is_set():
            self._cancelled = True
            await self._work.close()
            await self.ended.wait()

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.wait([self._task])

    async def _go(self) -> None:
        progress = Progress(self._work.run_id)
        try:
            self._begin()
            async for event in self._work.told():
                self._begin()
                if event is not None and (text := progress.told(event)):
                    self._say(self.form.reasoning(text))
            self._begin()
            outcome = self._work.outcome()
            if self._hold(self._work, outcome):
                self.waits = request_of(self._work, self.form)
            self._say(self.form.closing(outcome))
        except ApiError as error:
            self.error = error
            elsewhere = error.code == "conversation_locked" or (
                error.code == "run_stopped" and self._leaves()
            )
            if self._cancelled:
                self._say(self.form.cancelled())
            elif elsewhere and self.document:
                self.left = True
            else:
                self._say(self.form.failed(error))
        finally:
            self.ended.set()
            self.begun.set()
            self._say(())

    def _begin(self) -> None:
        if self._work.run_id and not self.begun.is_set():
            self.run_id = self._work.run_id
            self._say(self.form.opening(self._work.reply_id))
            self.begun.set()

    def _say(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self._events.append(chunk)
            self.size += len(chunk)
        self._news.set()
        self._news = asyncio.Event()
