"""Responses that are kept: to be looked at again, followed, cancelled and deleted.

With a store they are kept there, and outlive the server: those that were at work are gone on with by the next one.
Without one they are kept in memory, as many as there may be, and end with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from recursor.errors import TrajectoryError
from recursor.server.asked import Asked, Brought, Terms
from recursor.server.failures import ApiError
from recursor.server.keys import oldest_of_most
from recursor.server.later import Background, Hold, Kept, request_of
from recursor.server.request import on_terms
from recursor.server.response_form import Form
from recursor.server.work import Work
from recursor.trajectory.claim import claimed
from recursor.trajectory.responses import RecordedResponse, ResponseRecord

MOST = 1_000
"""Responses that are kept in memory; one more forgets the oldest that has ended, of the client that has the most."""
SIZE = 64 << 20
"""Bytes of all, above which the same are forgotten."""
STEP = 1_000_000
"""By which the numbers of events are higher in each server that goes on with a response than in the one before."""
AGAIN = 5.0
"""Seconds after which a client may try again."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Stored:
    """The responses of all clients, by the names of these and their own.

    Args:
        store: None keeps them in memory.
    """

    def __init__(self, store: Path | None) -> None:
        self._record = None if store is None else ResponseRecord(store)
        self._kept: dict[tuple[str, str], Kept] = {}
        """Without a store all; with one those that are at work, or have just ended."""
        self._gone: dict[tuple[str, str], None] = {}
        """Those that were deleted, oldest first, where nothing is recorded."""
        self._writing: set[asyncio.Future[None]] = set()
        self._leaving = False

    def __len__(self) -> int:
        return len(self._kept)

    async def keep(self, client: str, document: Mapping[str, Any], waits: Any = None) -> None:
        """Keep a reply as it is about to be told.

        Args:
            waits: see `Background`.
        """
        if self._record is not None:
            run_id = document["id"].removeprefix("resp_").partition("-")[0]
            write = partial(self._record.end, request=waits)
            await self._written(write, client, document["id"], run_id, document)
            return
        kept = Kept(document)
        kept.ended.set()
        kept.size = _size(document)
        self._kept[client, document["id"]] = kept
        self._trim(kept)

    async def begin(self, client: str, work: Work, form: Form, hold: Hold) -> Background:
        """Have a run go on by itself. Raises ApiError where it fails before it has begun."""
        asked = request_of(work, form)
        found = Background(work, form, hold, self._leaves)
        try:
            await found.begun.wait()
            if found.error is not None and not found.document:
                raise found.error
            name = found.document["id"]
            self._kept[client, name] = found
            if self._record is not None:
                await self._written(self._record.begin, client, name, work.run_id, asked, found.document)
        except asyncio.CancelledError:  # the client went away without a name to ask by
            await found.cancel()
            raise
        self._follow(client, found)
        return found

    def go_on(self, client: str, work: Work, form: Form, hold: Hold) -> None:
        """Have a run of an earlier server go on by itself."""
        found = Background(work, form, hold, self._leaves)
        self._kept[client, form.response["id"]] = found
        self._follow(client, found)

    async def cut_off(self) -> list[RecordedResponse]:
        """Those that were at work when their server ended. Raises TrajectoryError."""
        record = self._record
        if record is None:
            return []

        def read() -> list[RecordedResponse]:
            record.expire()
            return [each for each in record.at_work() if not claimed(record.path, each.run_id)]

        return await asyncio.to_thread(read)

    async def again(self, response: RecordedResponse) -> bool:
        """Take a response that was cut off; return whether it is still to be gone on with. Raises TrajectoryError."""
        assert self._record is not None, "there are responses of earlier servers in a store alone"
        return await asyncio.to_thread(self._record.again, response.client, response.id)

    async def fail(self, response: RecordedResponse, form: Form, error: ApiError) -> None:
        """Keep that a response that was cut off cannot be gone on with."""
        assert self._record is not None, "as above"
        events = b"".join([*form.opening(response.id.removeprefix("resp_")), *form.failed(error)])
        write = partial(self._record.end, events=events)
        await self._written(write, response.client, response.id, response.run_id, form.response)

    async def find(self, client: str, name: str) -> Kept:
        """A response. Raises ApiError when there is none, or it is another client's."""
        found = self._kept.get((client, name))
        if found is None and self._record is not None:
            row = await self._read(self._record.find, client, name)
            if row is not None and row.state != "deleted":
                found = _kept(row)
        if found is None:
            raise ApiError(404, f"there is no response {name[:100]!r} here", "not_found", "response_id")
        return found

    async def waiting(self, client: str, asked: Asked, results: Mapping[str, str]) -> Asked | None:
        """How the run goes on that ended a response in calls, and is not held any more, with what they returned.

        None where a request is no answer to such a response. Raises ApiError.
        """
        if self._record is None or asked.going is None or asked.going.kind != "response":
            return None
        row = await self._read(self._record.find, client, asked.going.id)
        if row is None or row.state != "ended" or row.request is None:
            return None
        calls = [item for item in row.document["output"] if "call_id" in item]
        if missing := sorted({call["call_id"] for call in calls} - results.keys()):
            raise ApiError(400, f"call_ids without an output: {', '.join(missing)}", param="input")
        brought = [
            Brought(
                call.get("namespace", ""), call["name"], call.get("arguments", call.get("input", "")),
                results[call["call_id"]],
            )
            for call in calls
        ]  # fmt: skip
        return asked_again(row, brought)

    async def check_going(self, client: str, name: str) -> None:
        """Raise ApiError for a response that was deleted: nobody goes on from it."""
        gone = (client, name) in self._gone
        if self._record is not None and not gone:
            row = await self._read(self._record.find, client, name)
            gone = row is not None and row.state == "deleted"
        if gone:
            raise ApiError(
                404, f"the response {name[:100]!r} was deleted", "previous_response_not_found", "previous_response_id"
            )  # fmt: skip

    async def cancel(self, client: str, name: str) -> Mapping[str, Any]:
        """Stop a response that goes on by itself; say what there is. Raises ApiError."""
        found = await self.find(client, name)
        if not found.background:
            raise ApiError(400, "only responses that were asked for with background can be cancelled")
        await self._stop(found)
        return (await self.find(client, name)).document

    async def delete(self, client: str, name: str) -> Mapping[str, Any]:
        """Forget a response, and stop it where it goes on. Raises ApiError."""
        await self._stop(await self.find(client, name))
        if self._record is not None:
            await self._read(self._record.delete, client, name)
        else:
            self._gone[client, name] = None
            while len(self._gone) > MOST:
                del self._gone[next(iter(self._gone))]
        self._kept.pop((client, name), None)
        return {"id": name, "object": "response", "deleted": True}

    def leave(self) -> None:
        """The server ends: what is stopped from now on is left to the next one, where there is a store."""
        self._leaving = True

    async def close(self) -> None:
        """Return when those that go on have ended, and are written; the runs are stopped elsewhere."""
        for kept in list(self._kept.values()):
            if isinstance(kept, Background):
                await kept.wait()
        while self._writing:
            await asyncio.wait(self._writing)

    def _leaves(self) -> bool:
        return self._leaving and self._record is not None

    async def _stop(self, found: Kept) -> None:
        """Raises ApiError for one that another server works on."""
        check_here(found)
        await found.cancel()

    def _follow(self, client: str, found: Background) -> None:
        """Keep what comes of it when it has ended."""
        writing = asyncio.ensure_future(self._end(client, found))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _end(self, client: str, found: Background) -> None:
        await found.wait()
        name = found.document["id"]
        if self._record is None:
            self._trim(found)
            return
        if not found.left:
            write = partial(self._record.end, events=found.events, request=found.waits)
            await self._written(write, client, name, found.run_id, found.document)
        if self._kept.get((client, name)) is found:
            del self._kept[client, name]

    def _trim(self, newest: Kept) -> None:
        """Forget what is too much, but not the newest."""
        ended = [key for key, each in self._kept.items() if each.ended.is_set() and each is not newest]
        size = sum(each.size for each in self._kept.values())
        while ended and (len(self._kept) > MOST or size > SIZE):
            key = ended.pop(oldest_of_most([client for client, _ in ended]))
            size -= self._kept.pop(key).size

    async def _written(self, write: Callable[..., None], *values: Any) -> None:
        """Write what is told anyway."""
        try:
            await asyncio.to_thread(write, *values)
        except TrajectoryError as error:
            log.error("a response cannot be kept: %s", error)

    async def _read(self, read: Callable[..., T], *values: str) -> T:
        """Raises ApiError."""
        try:
            return await asyncio.to_thread(read, *values)
        except TrajectoryError as error:
            log.error("responses cannot be read: %s", error)
            raise ApiError(503, "responses cannot be read now", retry_after=AGAIN) from None


def asked_again(response: RecordedResponse, brought: Sequence[Brought] = ()) -> Asked:
    """What the run of a response goes on with. Raises ApiError."""
    request = response.request
    return on_terms(
        msgspec.convert(request["terms"], Terms),
        (),
        request["instruction"],
        resume=response.run_id,
        replies=request["replies"],
        brought=brought,
    )


def check_here(found: Kept) -> None:
    """Raise ApiError for a response that goes on, and not in this server."""
    if not found.ended.is_set() and not isinstance(found, Background):
        raise ApiError(
            409, "another server works on this response, or will: try again", "busy", retry_after=AGAIN
        )


def _kept(row: RecordedResponse) -> Kept:
    events = [each + b"\n\n" for each in row.events.split(b"\n\n")[:-1]]
    first = json.loads(events[0].partition(b"data: ")[2])["sequence_number"] if events else 0
    found = Kept(row.document, events, first)
    found.run_id = row.run_id
    if row.state == "ended":
        found.ended.set()
    return found


def _size(value: Any) -> int:
    """Characters of all texts in a document."""
    if isinstance(value, Mapping):
        return sum(len(key) + _size(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 8
