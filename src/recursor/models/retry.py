"""Asking again: a Model that holds a Model.

Only what the inner model calls retryable is asked again: an error that was received, or a
connection that failed. A reply that may still come, and be paid for, is never asked for twice.
With `on_text`, a reply that was cut and asked for again is told from its beginning.

Waits follow "full jitter" (M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
The budget is a retry throttle as gRPC has it (proposal A6): what is often refused is asked less.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from recursor.errors import ConfigError, ModelError
from recursor.models.around import Around
from recursor.protocols import Model
from recursor.types import Message, Reply, Schema

OnRetry: TypeAlias = Callable[[int, ModelError, float], None]
"""Called with the attempt that failed, counted from 1, its error, and the seconds until the next."""

RETURNED = 0.1
"""What each answered call gives back to the budget."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a call that failed for a time is made again.

    Attributes:
        attempts: calls in all, the first included; 1 asks never again.
        base: seconds; the first wait is at most this, and each next bound is twice the last.
        longest: seconds; no wait is longer. A provider that asks for more ends the call.
        budget: retries of one run, children included, beyond one for each ten calls that were
            answered; None is no bound.

    Raises:
        ConfigError: a value that makes no sense.
    """

    attempts: int = 6
    base: float = 0.5
    longest: float = 60.0
    budget: int | None = 1_000

    def __post_init__(self) -> None:
        if not _whole(self.attempts, 1):
            raise ConfigError(f"Retries.attempts must be a whole number of at least 1, not {self.attempts!r}")
        if self.budget is not None and not _whole(self.budget, 0):
            raise ConfigError(f"Retries.budget must be a whole number of at least 0, not {self.budget!r}")
        for name in ("base", "longest"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"Retries.{name} must be seconds, 0 or more, not {value!r}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class RetryBudget:
    """Retries that all models of a run share.

    Attributes:
        limit: how many there are; None is no bound.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._left = math.inf if limit is None else float(limit)

    def __repr__(self) -> str:
        return f"RetryBudget({self.limit!r}, left={self._left:g})"

    def take(self) -> bool:
        """Use one retry; False when they are used up."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Note a call that was answered."""
        if self.limit is not None:
            self._left = min(self._left + RETURNED, float(self.limit))


class Retrying(Around):
    """A model that asks again when a call failed for a time."""

    def __init__(
        self,
        model: Model,
        retries: Retries = Retries(),
        *,
        budget: RetryBudget | None = None,
        on_retry: OnRetry | None = None,
        time_left: Callable[[], float | None] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Wrap a model.

        Args:
            budget: what all models of a run share; None takes no part. `retries.budget` is only
                what whoever makes the budget reads.
            time_left: seconds until nobody waits for the reply any more; None is no deadline. An
                error whose wait would end later is raised at once.
        """
        super().__init__(model)
        self._retries = retries
        self._budget = budget
        self._on_retry = on_retry
        self._time_left = time_left
        self._sleep = sleep
        self._uniform = uniform

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt; see `recursor.protocols.Model`."""
        attempt = 1
        while True:
            try:
                reply = await self.model.query(messages, schema=schema, on_text=on_text)
            except ModelError as error:
                wait = self._wait(attempt, error)
                if wait is None:
                    raise
                self._permit(wait, error)
                if self._on_retry is not None:
                    self._on_retry(attempt, error, wait)
            else:
                if self._budget is not None:
                    self._budget.give()
                return reply
            await self._sleep(wait)
            attempt += 1

    def _wait(self, attempt: int, error: ModelError) -> float | None:
        """Return the seconds to wait; None when the error is final."""
        if not error.retryable or attempt >= self._retries.attempts:
            return None
        longest, asked = self._retries.longest, max(0.0, error.retry_after or 0.0)  # 0 for NaN, too
        if asked > longest:
            return None
        jitter = self._uniform(0.0, min(self._retries.base * 2 ** min(attempt - 1, 32), longest))
        return min(asked + jitter, longest)

    def _permit(self, wait: float, error: ModelError) -> None:
        """Raise the error as final when there is no time or no budget left to ask again."""
        left = self._time_left()
        if left is not None and wait >= left:
            raise _final(error, f"the next attempt, in {wait:.3g} s, would come too late") from error
        if self._budget is not None and not self._budget.take():
            raise _final(error, f"the retries of the run are used up: {self._budget.limit:,}") from error


def _final(error: ModelError, reason: str) -> ModelError:
    return ModelError(f"{error}; not asked again: {reason}", error.status, error.retry_after, error.retryable)
