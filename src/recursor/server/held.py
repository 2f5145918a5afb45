"""Runs that wait for what functions of their clients return."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from recursor.server.asked import Asked
from recursor.server.failures import ApiError
from recursor.server.functions import Call
from recursor.server.work import Work


class Held:
    """Keeps runs with their REPLs, by the ids of the calls that they wait for.

    Args:
        most: that wait at once; one more ends the oldest.
        seconds: after which one ends.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._works: dict[Work, tuple[frozenset[str], asyncio.TimerHandle]] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._works)

    def keep(self, work: Work, calls: tuple[Call, ...]) -> None:
        """Hold a run until its client comes back, or the time is up."""
        work.place.rest()
        if len(self._works) >= self._most:
            self._end(next(iter(self._works)))
        expiry = asyncio.get_running_loop().call_later(self._seconds, self._end, work)
        self._works[work] = (frozenset(call.id for call in calls), expiry)

    def take(self, name: str, asked: Asked, results: Mapping[str, str]) -> Work | None:
        """The run that waits for these results; None when there is none, or it is another client's.

        A run whose answer must be a call, and would not be asked for one now, or the other way round, ends.

        Raises:
            ApiError: results are missing, or it may not go on now.
        """
        for work, (wanted, expiry) in self._works.items():
            if work.place.name != name or work.model != asked.model or wanted.isdisjoint(results):
                continue
            if missing := sorted(wanted - results.keys()):
                raise ApiError(
                    400, f"tool_call_ids without a tool message: {', '.join(missing)}", param="messages"
                )
            if work.choice.forced != asked.choice.forced:
                self._end(work)
                return None
            work.place.resume()
            expiry.cancel()
            del self._works[work]
            return work
        return None

    def drop(self, work: Work) -> None:
        """End a run whose client was not told what to do, where it is still held."""
        if work in self._works:
            self._end(work)

    async def close(self) -> None:
        """End all."""
        for work in list(self._works):
            self._end(work)
        while self._closing:
            await asyncio.wait(self._closing)

    def _end(self, work: Work) -> None:
        _, expiry = self._works.pop(work)
        expiry.cancel()
        closing = asyncio.ensure_future(work.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
