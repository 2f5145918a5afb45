"""What clients may use, and have used: requests per minute, runs at once, money.

Money is reserved before a run begins, as much as the run may spend at most, so that runs at once do not
overshoot a budget together; its limit is never more than that.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

from recursor.limits import Limits
from recursor.server.failures import ApiError
from recursor.server.keys import ANYBODY, Client
from recursor.server.spending import Spending, until_tomorrow

AGAIN = 5.0
"""Seconds after which a client may try again that was refused since others are at work."""
WRITE_EVERY = 1.0
"""Seconds between two records of what a run has spent so far."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Account:
    """One client, while the server runs."""

    tokens: float
    """Requests that it may make at once."""
    filled: float
    runs: int = 0
    reserved: float = 0.0


class Accounts:
    """Admits requests and runs.

    Args:
        max_runs: at work at once, of all clients.
    """

    def __init__(self, spending: Spending, max_runs: int) -> None:
        self.spending = spending
        self.max_runs = max_runs
        self.working = 0
        self._accounts: dict[str, _Account] = {}

    def request(self, client: Client) -> None:
        """Count a request. Raises ApiError when there were too many."""
        per_minute = client.requests_per_minute
        if per_minute is None:
            return
        now, account = time.monotonic(), self._account(client)
        account.tokens = min(float(per_minute), account.tokens + (now - account.filled) * per_minute / 60)
        account.filled = now
        if account.tokens < 1:
            wait = (1 - account.tokens) * 60 / per_minute
            raise ApiError(
                429, f"{per_minute} requests a minute are the most", "rate_limit_exceeded", retry_after=wait
            )
        account.tokens -= 1

    def place(self, client: Client, limits: Limits, before: float = 0.0) -> Place:
        """A place for a run, and the limits that it has there. Raises ApiError when there is none.

        Args:
            before: what one has cost that is gone on with; its limits count that, and the client has paid for it.
        """
        self.enter(client)
        try:
            left = self._left(client)
        except BaseException:
            self.leave(client)
            raise
        if left == math.inf:
            return Place(self, client, limits, 0.0)
        most = min(left + before, math.inf if limits.max_cost is None else limits.max_cost)
        reserved = max(0.0, most - before)
        self._account(client).reserved += reserved
        return Place(self, client, replace(limits, max_cost=most), reserved)

    def check_own(self, client: Client, run_id: str) -> None:
        """Raise ApiError unless a run is this client's. Without keys there is nobody else."""
        if client is ANYBODY:
            return
        try:
            owner = self.spending.owner(run_id)
        except OSError as error:
            log.error("whose runs are cannot be read: %s", error)
            raise ApiError(503, "whose run that is cannot be read now", retry_after=AGAIN) from None
        if owner != client.name:
            raise ApiError(404, f"there is no run {run_id} of this key", "not_found")

    def enter(self, client: Client) -> None:
        """Count a run that is at work. Raises ApiError when there are too many."""
        account = self._account(client)
        if self.working >= self.max_runs:
            raise ApiError(
                429, f"{self.working} runs are at work, which is the most", "busy", retry_after=AGAIN
            )
        if client.max_runs is not None and account.runs >= client.max_runs:
            raise ApiError(
                429,
                f"{account.runs} runs of this key are at work, which is the most",
                "busy",
                retry_after=AGAIN,
            )
        self.working += 1
        account.runs += 1

    def leave(self, client: Client) -> None:
        self.working -= 1
        self._account(client).runs -= 1

    def free(self, client: Client, reserved: float) -> None:
        account = self._account(client)
        account.reserved = max(0.0, account.reserved - reserved)

    def _left(self, client: Client) -> float:
        """US dollars that a client may still spend, what its runs have reserved aside. Raises ApiError for none."""
        if not client.has_budget:
            return math.inf
        try:
            day, total = self.spending.of(client.name)
        except OSError as error:
            log.error("what clients have spent cannot be read: %s", error)
            raise ApiError(503, "what this key has spent cannot be read now", retry_after=AGAIN) from None
        of_day = math.inf if client.max_cost_per_day is None else client.max_cost_per_day - day
        in_all = math.inf if client.max_cost is None else client.max_cost - total
        if in_all <= 0:
            raise ApiError(
                402, f"the budget of this key, ${client.max_cost:g}, is spent", "insufficient_quota"
            )
        if of_day <= 0:
            raise ApiError(
                402, f"the budget of this key for a day, ${client.max_cost_per_day:g}, is spent",
                "insufficient_quota", retry_after=until_tomorrow(),
            )  # fmt: skip
        left = min(of_day, in_all) - self._account(client).reserved
        if left <= 0:
            raise ApiError(
                429, "runs at work have reserved what is left of this key's budget; a max_cost of their own "
                "would leave room for others", "busy", retry_after=AGAIN,
            )  # fmt: skip
        return left

    def _account(self, client: Client) -> _Account:
        if client.name not in self._accounts:
            self._accounts[client.name] = _Account(float(client.requests_per_minute or 0), time.monotonic())
        return self._accounts[client.name]


class Place:
    """One run's: what it may use, and what of that it has.

    Attributes:
        name: of the client.
        limits: of the run.
    """

    def __init__(self, accounts: Accounts, client: Client, limits: Limits, reserved: float) -> None:
        self.name = client.name
        self.limits = limits
        self._accounts = accounts
        self._client = client
        self._reserved = reserved
        self._spent = 0.0
        self._written = 0.0
        self._next = 0.0
        self._working = True
        self._closed = False

    def spent(self, cost: float) -> None:
        """Say what the run has cost so far; it is written down now and then, and when the place is closed."""
        self._spent = max(self._spent, cost)
        if time.monotonic() >= self._next:
            self._write()

    def began(self, run_id: str) -> None:
        """Note whose run this is, where there are others."""
        if self._client is ANYBODY:
            return
        try:
            self._accounts.spending.began(run_id, self.name)
        except OSError as error:  # it cannot be resumed then
            log.error("whose run %s is cannot be written: %s", run_id, error)

    def rest(self) -> None:
        """The run waits for its client, and counts for none at work; its money stays reserved."""
        if self._working:
            self._working = False
            self._accounts.leave(self._client)

    def resume(self) -> None:
        """The run goes on. Raises ApiError when too many are at work."""
        if not self._working and not self._closed:
            self._accounts.enter(self._client)
            self._working = True

    def close(self) -> None:
        """Give it back."""
        self._closed = True
        self._write()
        self.rest()
        self._accounts.free(self._client, self._reserved)
        self._reserved = 0.0

    def _write(self) -> None:
        cost = self._spent - self._written
        if cost <= 0:
            return
        self._next = time.monotonic() + WRITE_EVERY
        try:
            self._accounts.spending.add(self.name, cost)
        except OSError as error:  # it is tried again with the next call that costs
            log.error("what %s has spent cannot be written: %s", self.name, error)
        else:
            self._written = self._spent
            self._accounts.free(self._client, min(cost, self._reserved))
            self._reserved = max(0.0, self._reserved - cost)
