"""What the responses API has beside asking: looking at responses again, stopping and deleting them; conversations."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from recursor.rlm import RLM
from recursor.server.body import Bodies
from recursor.server.failures import ApiError
from recursor.server.keys import Client
from recursor.server.reply import Gone
from recursor.server.request import decoded
from recursor.server.runs import Runs
from recursor.server.stored import check_here


class Conversation(msgspec.Struct):
    """A request for a conversation."""

    items: list[Any] | None = None
    metadata: dict[str, Any] | None = None


class Responding:
    """Answers these requests.

    Args:
        admitted: says who asks; raises ApiError when they ask too often.
        rlm: whose store has conversations.
    """

    def __init__(
        self, runs: Runs, bodies: Bodies, admitted: Callable[[web.Request], Client], rlm: RLM
    ) -> None:
        self._runs = runs
        self._bodies = bodies
        self._admitted = admitted
        self._rlm = rlm

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        name = "/v1/responses/{name}"
        return [
            web.post("/v1/conversations", self._begin),
            web.get(name, self._look),
            web.delete(name, self._delete),
            web.post(f"{name}/cancel", self._cancel),
        ]

    async def _begin(self, request: web.Request) -> web.Response:
        client = self._admitted(request)
        asked = await self._bodies.read(request, lambda body: decoded(body or b"{}", Conversation))
        if asked.items:
            raise ApiError(
                400, "items are not served here: send them as input", "unsupported_parameter", "items"
            )
        named = await self._runs.sessions.begin(client.name, self._rlm)
        told = {"id": named, "object": "conversation", "created_at": int(time.time())}
        return web.json_response({**told, "metadata": asked.metadata or {}})

    async def _look(self, request: web.Request) -> web.StreamResponse:
        client = self._admitted(request)
        found = await self._runs.stored.find(client.name, request.match_info["name"])
        if request.query.get("stream", "").lower() != "true":
            return web.json_response(found.document)
        if not found.background:
            raise ApiError(
                400, "only responses that were asked for with background are streamed", param="stream"
            )
        check_here(found)
        try:
            return await found.follow(request, _number(request.query.get("starting_after", "-1")))
        except Gone:
            return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        client = self._admitted(request)
        return web.json_response(await self._runs.stored.cancel(client.name, request.match_info["name"]))

    async def _delete(self, request: web.Request) -> web.Response:
        client = self._admitted(request)
        return web.json_response(await self._runs.stored.delete(client.name, request.match_info["name"]))


def _number(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or len(text) > 18:
        raise ApiError(400, "starting_after must be the number of an event", param="starting_after")
    return max(-1, int(text))
