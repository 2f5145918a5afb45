"""The runs of a server: which one a request goes on with, or a new one; and how they end."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from recursor.errors import RLMError
from recursor.rlm import RLM
from recursor.server.accounts import Accounts
from recursor.server.asked import Asked, asks
from recursor.server.failures import ApiError, of_error
from recursor.server.held import Held
from recursor.server.keys import Client
from recursor.server.metrics import Metrics
from recursor.server.sessions import Sessions
from recursor.server.stored import Stored
from recursor.server.work import Outcome, Work
from recursor.sessions.session import Session
from recursor.trajectory.journal import StoreJournal


class Runs:
    """All runs.

    Attributes:
        held: those that wait for functions of their clients.
        sessions: the conversations that runs are turns of.
        stored: responses that are kept, and their runs that go on by themselves.
    """

    def __init__(
        self, accounts: Accounts, metrics: Metrics, held: Held, sessions: Sessions, stored: Stored
    ) -> None:
        self.held = held
        self.sessions = sessions
        self.stored = stored
        self._accounts = accounts
        self._metrics = metrics
        self._works: set[Work] = set()

    async def of(self, client: Client, asked: Asked, rlm: RLM) -> Work:
        """The run that waits for what a request brings, or a new one. Raises ApiError."""
        if results := asked.results:
            work = self.held.take(client.name, asked, results)
            if work is not None:
                work.bring(results)
                return work
            if (again := await self.stored.waiting(client.name, asked, results)) is not None:
                asked = again
            elif not asks(asked.messages):
                raise ApiError(
                    404,
                    "the run that waited for these results is gone",
                    "previous_response_not_found",
                    "input",
                )
        limits = asked.bounded(rlm.limits)
        session, before = await self._before(client, asked, rlm)
        try:
            place = self._accounts.place(client, limits, before)
            try:
                work = Work(session or rlm, asked, place, self._metrics)
            except RLMError as error:
                place.close()
                raise of_error(error) from error
        except BaseException:
            if session is not None:
                self.sessions.give(asked.model, session)
            raise
        self._works.add(work)
        work.ended(self._works.discard)
        if session is not None:
            work.ended(partial(self._give_back, session))
        return work

    async def _before(self, client: Client, asked: Asked, rlm: RLM) -> tuple[Session | None, float]:
        """The session that a run is a turn of, and what it has cost where it is gone on with. Raises ApiError."""
        if asked.resume:
            self._accounts.check_own(client, asked.resume)
            before = await _cost_of(rlm, asked.resume) if client.has_budget else 0.0
            session = await self.sessions.of_run(client.name, asked.model, rlm, asked.resume)
            if session is None and asked.replies is not None:
                raise ApiError(409, "its conversation has gone on without it", "run_superseded")
            return session, before
        if asked.going is None:
            return None, 0.0
        if asked.going.kind == "response":
            await self.stored.check_going(client.name, asked.going.id)
        return await self.sessions.take(client.name, asked.model, rlm, asked.going), 0.0

    def hold(self, work: Work, outcome: Outcome) -> bool:
        """Have a run wait for what its client is to do; return whether it does."""
        if outcome.waits:
            self.held.keep(work, outcome.calls)
        return outcome.waits

    async def end(self, grace: float, hurry: asyncio.Event) -> None:
        """Let runs end, or stop them, so that `resume` goes on with what they have recorded.

        Args:
            grace: seconds that they have.
            hurry: ends that time when it is set.
        """
        self.stored.leave()
        await self.held.close()
        hurried = asyncio.ensure_future(hurry.wait())
        ends = asyncio.gather(*(work.wait() for work in self._works))
        either: list[asyncio.Future[Any]] = [hurried, ends]
        await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        await asyncio.gather(*(work.close() for work in list(self._works)))
        await ends
        await self.stored.close()
        await self.sessions.close()

    def _give_back(self, session: Session, work: Work) -> None:
        self.sessions.give(work.model, session, work.run_id)


async def _cost_of(rlm: RLM, run_id: str) -> float:
    """US dollars that a recorded run has cost so far. Raises ApiError."""
    if rlm.store is None:
        return 0.0

    def cost(store: Path) -> float:
        with StoreJournal(store) as journal:
            return journal.spent(run_id)[1] or 0.0

    try:
        return await asyncio.to_thread(cost, rlm.store)
    except RLMError as error:
        raise of_error(error) from error
