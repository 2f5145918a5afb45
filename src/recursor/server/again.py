"""Responses in the background that were at work when their server ended: the next one goes on with them.

What their runs have recorded is taken again, and nothing is paid twice. A client finds them by the same ids; their
streams begin anew, with higher numbers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from recursor.errors import TrajectoryError
from recursor.rlm import RLM
from recursor.server.asked import Asked
from recursor.server.failures import ApiError
from recursor.server.keys import Client
from recursor.server.response_form import Form, ResponsesRequest
from recursor.server.runs import Runs
from recursor.server.stored import AGAIN, STEP, asked_again
from recursor.server.work import Work
from recursor.trajectory.responses import RecordedResponse

OLD = 86_400.0
"""Seconds after which a response is not gone on with unasked: nobody may wait for it, and it costs."""
log = logging.getLogger(__name__)


class Again:
    """Goes on with all of them.

    Args:
        named: the client of a name; None when it may not ask any more.
        rlms: what answers, by the names of models.
    """

    def __init__(self, runs: Runs, named: Callable[[str], Client | None], rlms: Mapping[str, RLM]) -> None:
        self._runs = runs
        self._named = named
        self._rlms = rlms

    async def go(self) -> None:
        """Begin each as soon as there is a place for it."""
        try:
            found = await self._runs.stored.cut_off()
        except TrajectoryError as error:
            log.error("responses that were cut off cannot be read: %s", error)
            return
        await asyncio.gather(*(self._one(response) for response in found))

    async def _one(self, response: RecordedResponse) -> None:
        stored = self._runs.stored
        try:
            if not await stored.again(response):
                return
            request = msgspec.convert(response.request["request"], ResponsesRequest)
            form = Form.again(request, response.document, response.begun * STEP)
            try:
                client, rlm, asked = self._asked(response)
                work = await self._begun(client, rlm, asked)
            except ApiError as error:
                await stored.fail(response, form, error)
            else:
                stored.go_on(client.name, work, form, self._runs.hold)
        except (TrajectoryError, msgspec.ValidationError, KeyError) as error:
            log.error("the response %s cannot be gone on with: %s", response.id, error)

    async def _begun(self, client: Client, rlm: RLM, asked: Asked) -> Work:
        """Wait for a place, and for who asks in the same conversation. Raises ApiError."""
        while True:
            try:
                return await self._runs.of(client, asked, rlm)
            except ApiError as error:
                if error.status != 429 and error.code != "conversation_locked":
                    raise
                await asyncio.sleep(error.retry_after or AGAIN)

    def _asked(self, response: RecordedResponse) -> tuple[Client, RLM, Asked]:
        """Who asked for a response, and what. Raises ApiError."""
        if time.time() - response.made > OLD:
            raise ApiError(
                503,
                "its server ended, and it was begun more than a day ago: the request that asked for it goes on with it "
                f"where it brings X-Recursor-Resume: {response.run_id}",
                "run_stopped",
            )
        asked = asked_again(response)
        client, rlm = self._named(response.client), self._rlms.get(asked.model)
        if client is None:
            raise ApiError(401, "its key may not ask any more", "invalid_api_key")
        if rlm is None:
            raise ApiError(404, f"there is no model {asked.model[:200]!r} any more", "model_not_found")
        return client, rlm, asked
