"""Responses that are kept: to be looked at again, followed, cancelled and deleted; and those that go on by themselves.

They are kept in memory, for those that asked for them alone, and end with the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from aiohttp import web

from recursor.server.failures import ApiError
from recursor.server.form import Form
from recursor.server.keys import oldest_of_most
from recursor.server.progress import Progress
from recursor.server.reply import begin, events_of, send
from recursor.server.work import Outcome, Work

MOST = 1_000
"""Responses that are kept; one more forgets the oldest that has ended, of the client that has the most."""
SIZE = 64 << 20
"""Bytes of all, above which the same are forgotten."""
Hold = Callable[[Work, Outcome], bool]
"""Has a run wait for what its client is to do."""


class Kept:
    """One response, as it was told.

    Attributes:
        size: bytes, about.
        ended: set when nothing more comes.
    """

    def __init__(self, document: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._document = document
        self.size = 0
        self.ended = asyncio.Event()

    @property
    def document(self) -> Mapping[str, Any]:
        """What is known of it."""
        return self._document


class Background(Kept):
    """A run that goes on whether or not anybody waits: what happens is kept as the events of a stream."""

    def __init__(self, work: Work, form: Form, hold: Hold) -> None:
        super().__init__()
        self.form = form
        self.run_id = ""
        self.begun = asyncio.Event()
        self.error: ApiError | None = None
        self._work = work
        self._hold = hold
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self._cancelled = False
        self._task = asyncio.ensure_future(self._go())

    @property
    def document(self) -> Mapping[str, Any]:
        return self.form.response

    async def cancel(self) -> None:
        """Stop it, where it goes on."""
        if not self.ended.is_set():
            self._cancelled = True
            await self._work.close()
            await self.ended.wait()

    async def wait(self) -> None:
        """Return when it has ended."""
        await asyncio.wait([self._task])

    def then(self, work: Callable[[], object]) -> None:
        """Have something done when it has ended."""
        self._task.add_done_callback(lambda _: work())

    async def follow(self, request: web.Request, after: int) -> web.StreamResponse:
        """Say what happens, from the event after a number on, until the end."""
        response = events_of(self.run_id)
        await begin(request, response)
        place = after + 1
        while True:
            news, ended = self._news, self.ended.is_set()
            await send(request, response, self._events[place:])
            place = max(place, len(self._events))
            if ended:
                return response
            await news.wait()

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
            self._hold(self._work, outcome)
            self._say(self.form.closing(outcome))
        except ApiError as error:
            self.error = error
            self._say(self.form.cancelled() if self._cancelled else self.form.failed(error))
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


class Stored:
    """The responses of all clients, by the names of these and their own."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, client: str, form: Form) -> None:
        """Keep a response that is made, where its client may look at it again."""
        if not form.stored:
            return
        kept = Kept(form.response)
        kept.ended.set()
        kept.size = _size(form.response)
        self._add(client, kept)

    async def begin(self, client: str, work: Work, form: Form, hold: Hold) -> Background:
        """Have a run go on by itself. Raises ApiError where it fails before it has begun."""
        found = Background(work, form, hold)
        try:
            await found.begun.wait()
        except asyncio.CancelledError:  # the client went away without a name to ask by
            await found.cancel()
            raise
        if found.error is not None and not found.document:
            raise found.error
        self._add(client, found)
        found.then(lambda: self._trim(found))
        return found

    def find(self, client: str, name: str) -> Kept:
        """A response. Raises ApiError when there is none, or it is another client's."""
        found = self._kept.get((client, name))
        if found is None:
            raise ApiError(404, f"there is no response {name[:100]!r} here", "not_found", "response_id")
        return found

    async def cancel(self, client: str, name: str) -> Mapping[str, Any]:
        """Stop a response that goes on by itself; say what there is. Raises ApiError."""
        found = self.find(client, name)
        if not isinstance(found, Background):
            raise ApiError(400, "only responses that were asked for with background can be cancelled")
        await found.cancel()
        return found.document

    async def delete(self, client: str, name: str) -> Mapping[str, Any]:
        """Forget a response, and stop it where it goes on. Raises ApiError."""
        found = self.find(client, name)
        if isinstance(found, Background):
            await found.cancel()
        self._kept.pop((client, name), None)
        return {"id": name, "object": "response", "deleted": True}

    async def close(self) -> None:
        """Return when those that go on have ended; the runs are stopped elsewhere."""
        for kept in list(self._kept.values()):
            if isinstance(kept, Background):
                await kept.wait()

    def _add(self, client: str, kept: Kept) -> None:
        self._kept[client, kept.document["id"]] = kept
        self._trim(kept)

    def _trim(self, newest: Kept) -> None:
        """Forget what is too much, but not the newest."""
        ended = [key for key, each in self._kept.items() if each.ended.is_set() and each is not newest]
        size = sum(each.size for each in self._kept.values())
        while ended and (len(self._kept) > MOST or size > SIZE):
            key = ended.pop(oldest_of_most([client for client, _ in ended]))
            size -= self._kept.pop(key).size


def _size(value: Any) -> int:
    """Characters of all texts in a document."""
    if isinstance(value, Mapping):
        return sum(len(key) + _size(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 8
