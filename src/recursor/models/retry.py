"""Asking again: a Model that holds a Model.

Only what the inner model calls retryable is asked again: an error that was received, or a
connection that failed. A reply that may still come, and be paid for, is never asked for twice.
With `on_text`, a reply that was cut and asked for again is told from its beginning.

Waits follow "full jitter" (M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from recursor.errors import ModelError
from recursor.protocols import Model
from recursor.types import Message, Reply, Schema

OnRetry: TypeAlias = Callable[[int, ModelError, float], None]
"""Called with the attempt that failed, counted from 1, its error, and the seconds until the next."""


class Retrying:
    """A model that asks again when a call failed for a time."""

    def __init__(
        self,
        model: Model,
        *,
        attempts: int = 6,
        base: float = 0.5,
        longest: float = 60.0,
        on_retry: OnRetry | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Wrap a model.

        Args:
            attempts: calls in all, the first included.
            base: seconds; the first wait is at most this, and each next bound is twice the last.
            longest: seconds; no wait is longer. A provider that asks for more ends the call.
        """
        self.model = model
        self._attempts = attempts
        self._base = base
        self._longest = longest
        self._on_retry = on_retry
        self._sleep = sleep
        self._uniform = uniform

    def __repr__(self) -> str:
        return f"Retrying({self.model!r})"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def priced(self) -> bool:
        """Whether the cost of a call will be known."""
        # Not in the protocol: a model that says nothing is one whose price is unknown.
        return bool(getattr(self.model, "priced", False))

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
                return await self.model.query(messages, schema=schema, on_text=on_text)
            except ModelError as error:
                wait = self._wait(attempt, error)
                if wait is None:
                    raise
                if self._on_retry is not None:
                    self._on_retry(attempt, error, wait)
            await self._sleep(wait)
            attempt += 1

    def _wait(self, attempt: int, error: ModelError) -> float | None:
        """Return the seconds to wait; None when the error is final."""
        if not error.retryable or attempt >= self._attempts:
            return None
        asked = error.retry_after or 0.0
        if asked > self._longest:
            return None
        jitter = self._uniform(0.0, min(self._base * 2 ** (attempt - 1), self._longest))
        return min(asked + jitter, self._longest)
