"""Conversations of clients: which session a request goes on with, and how long its REPL stays.

A client finds its own sessions alone: their ids begin with its name.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recursor.errors import RLMError
from recursor.rlm import RLM
from recursor.server.failures import ApiError, of_error
from recursor.server.keys import oldest_of_most
from recursor.sessions.session import Session
from recursor.trajectory.sessions import SessionRecord, session_of

MAX_NAME = 100
MOST_BEGUN = 10_000
"""Conversations without a record that may have been begun; one more forgets the oldest."""
_CONVERSATION = re.compile(r"conv_[0-9a-f]{32}")
_RESPONSE = re.compile(r"resp_([0-9a-f]{32})(-\d+)?")


@dataclass(frozen=True, slots=True)
class Going:
    """What a request says of the conversation that it is a part of."""

    kind: Literal["new", "named", "conversation", "response"]
    """One that later requests may go on with; that of a name, or of an id that was made here; what a response ended."""
    id: str = ""


def named(metadata: Mapping[str, Any] | None, header: str | None) -> Going | None:
    """The session that a request names: `X-Recursor-Session: NAME`, or `metadata: {"session": NAME}`."""
    name = header if header is not None else (metadata or {}).get("session")
    if name is None:
        return None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ApiError(
            400, f"the name of a session has {MAX_NAME} printable characters at most", param="metadata"
        )
    return Going("named", name)


class Sessions:
    """The sessions of all clients.

    Args:
        most: REPLs that wait for another question; one more ends that which has waited longest, of those of
            the client that has the most.
        seconds: after which one ends. A session that is recorded has it made again.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._open: dict[tuple[str, str], tuple[Session, asyncio.TimerHandle | None]] = {}
        """By model and id, those that were asked last at the end; without a timer while they are."""
        self._runs: dict[str, str] = {}
        """The session of a run, where nothing is recorded."""
        self._made: dict[str, None] = {}
        """Conversations that were begun, oldest first, where nothing is recorded."""
        self._closing: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def begin(self, client: str, rlm: RLM) -> str:
        """Begin a conversation; return its id for the client."""
        name = f"conv_{uuid.uuid4().hex}"
        if rlm.store is None:
            self._made[_id(client, name)] = None
            while len(self._made) > MOST_BEGUN:
                del self._made[next(iter(self._made))]
        else:
            await asyncio.to_thread(SessionRecord(rlm.store, _id(client, name)).create)
        return name

    async def take(self, client: str, model: str, rlm: RLM, going: Going) -> Session:
        """The session that a request goes on with; nobody else gets it until it is given back. Raises ApiError."""
        try:
            match going.kind:
                case "new":
                    session = f"response {uuid.uuid4().hex}"
                case "named":
                    session = f"session {going.id}"
                case "conversation":
                    session = going.id
                    if not _CONVERSATION.fullmatch(session) or not await self._is_there(
                        _id(client, session), rlm
                    ):
                        raise _unknown("conversation", going.id)
                case "response":
                    return await self._after(client, model, rlm, going.id)
            return await self._taken(model, _id(client, session), rlm)
        except RLMError as error:
            raise of_error(error) from error

    async def of_run(self, client: str, model: str, rlm: RLM, run_id: str) -> Session | None:
        """The session whose last turn is a run; None where it is a turn of none. Raises ApiError."""
        if rlm.store is None:
            return None
        try:
            for session in await self._of(run_id, rlm):
                turns = await asyncio.to_thread(SessionRecord(rlm.store, session).turns)
                if session.startswith(_id(client, "")) and turns[-1].run_id == run_id:
                    return await self._taken(model, session, rlm)
        except RLMError as error:
            raise of_error(error) from error
        return None

    def give(self, model: str, session: Session, run_id: str = "") -> None:
        """Give a session back, to wait for the next question.

        Args:
            run_id: of the run that it was taken for; empty when there was none.
        """
        key = (model, session.id)
        if key not in self._open:  # the server ends
            return
        del self._open[key]
        if not session.open and not session.run_ids:  # its first question was refused
            return
        timer = asyncio.get_running_loop().call_later(self._seconds, self._end, key)
        self._open[key] = session, timer
        if run_id:
            self._runs[run_id] = session.id
        waiting = [each for each, (_, expiry) in self._open.items() if expiry is not None]
        while len(waiting) > self._most:
            oldest = oldest_of_most([_client(each) for each in waiting])
            self._end(waiting.pop(oldest))

    async def close(self) -> None:
        """End all."""
        for key in list(self._open):
            self._end(key)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _taken(self, model: str, session: str, rlm: RLM) -> Session:
        key = (model, session)
        found, timer = self._open.get(key, (None, None))
        if found is not None and timer is None:
            raise ApiError(
                409,
                "this conversation is at work: wait for its reply",
                "conversation_locked",
                param="conversation",
            )
        if timer is not None:
            timer.cancel()
        if found is None:
            found = await asyncio.to_thread(rlm.session, session)
            if key in self._open:  # meanwhile
                return await self._taken(model, session, rlm)
        self._open[key] = found, None
        return found

    async def _after(self, client: str, model: str, rlm: RLM, response: str) -> Session:
        """The session that a response ended in; another one, that begins as it did, where it has gone on since."""
        match = _RESPONSE.fullmatch(response)
        run_id = match[1] if match else ""
        sessions = [session for session in await self._of(run_id, rlm) if session.startswith(_id(client, ""))]
        for session in sessions:
            found = await self._taken(model, session, rlm)
            if found.run_ids[-1:] == [run_id]:
                return found
            try:
                if run_id in found.run_ids and session == sessions[-1]:
                    turns = found.run_ids.index(run_id) + 1
                    branched = await found.abranch(turns, id=_id(client, f"response {uuid.uuid4().hex}"))
                    self._open[model, branched.id] = branched, None
                    return branched
            finally:
                self.give(model, found)
        raise _unknown("response", response, "previous_response_not_found", "previous_response_id")

    async def _of(self, run_id: str, rlm: RLM) -> list[str]:
        if rlm.store is not None:
            return [session for session, _ in await asyncio.to_thread(session_of, rlm.store, run_id)]
        return [self._runs[run_id]] if run_id in self._runs else []

    async def _is_there(self, session: str, rlm: RLM) -> bool:
        if rlm.store is None:
            return session in self._made
        return await asyncio.to_thread(SessionRecord(rlm.store, session).exists)

    def _end(self, key: tuple[str, str]) -> None:
        session, timer = self._open.pop(key)
        if timer is not None:
            timer.cancel()
        for run_id in [run_id for run_id, owner in self._runs.items() if owner == session.id]:
            del self._runs[run_id]
        self._made.pop(session.id, None)
        closing = asyncio.ensure_future(session.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _id(client: str, session: str) -> str:
    """The id of a client's session: no name of a client holds a slash."""
    return f"{client}/{session}"


def _client(key: tuple[str, str]) -> str:
    return key[1].partition("/")[0]


def _unknown(what: str, named: str, code: str = "not_found", param: str = "conversation") -> ApiError:
    return ApiError(404, f"there is no {what} {named[:MAX_NAME]!r} here to go on with", code, param)
