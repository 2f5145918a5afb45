"""Runs for a host: each goes until it has ended, is cancelled, or the server ends. What it did is recorded."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from recursor.errors import ConfigError, RLMError, TrajectoryError
from recursor.hosted.arguments import Asked
from recursor.rlm import RLM
from recursor.trajectory.recorded import RecordedRun
from recursor.types import (
    BlockExecuted,
    Completion,
    Event,
    ModelCalled,
    RunEnded,
    RunStarted,
    StopReason,
    Usage,
)

KEPT = 16
"""Runs whose ends are remembered, beside the store."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run stands."""

    run_id: str
    state: str
    """"running", "answered" or another stop reason, "failed", "cancelled", "not ended"."""
    answer: Any = None
    error: str = ""
    turns: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    seconds: float = 0.0
    doing: str = ""
    """The first line of the code that ran last."""

    @property
    def running(self) -> bool:
        return self.state == "running"

    @staticmethod
    def of_recorded(run: RecordedRun) -> Outcome:
        """Of a run in the store."""
        state = "failed" if run.error is not None else str(run.stop_reason or "not ended")
        return Outcome(
            run.id, state, run.answer, run.error or "", run.turns or 0, run.usage or Usage(), run.cost,
            run.duration or 0.0,
        )  # fmt: skip

    def counts(self) -> dict[str, Any]:
        """What it took, as JSON has it."""
        return {
            "run_id": self.run_id, "state": self.state, "turns": self.turns, "calls": self.usage.calls,
            "tokens": self.usage.total_tokens, "cost": self.cost, "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def told(self) -> str:
        """What it took, in a line."""
        cost = "cost unknown" if self.cost is None else f"${self.cost:.4f}"
        return (
            f"{self.state} · {self.turns:,} turns · {self.usage.calls:,} model calls · "
            f"{self.usage.total_tokens:,} tokens · {cost} · {self.seconds:.0f} s"
        )


class Job:
    """One run. Made within the event loop that it is followed from."""

    def __init__(self, rlm: RLM, asked: Asked) -> None:
        self.run_id = ""
        self.events = 0
        """How many there were; grows while it goes."""
        self._rlm = rlm
        self._began = time.monotonic()
        self._turns = 0
        self._usage = Usage()
        self._cost: float | None = 0.0
        self._doing = ""
        self._completion: Completion | None = None
        self._error: RLMError | None = None
        self._seconds: float | None = None
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._go(asked))

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def begun(self) -> None:
        """Return when it has an id. Raises RLMError when it could not begin."""
        await self._begun.wait()
        if not self.run_id and self._error is not None:
            raise self._error

    async def wait(self, seconds: float) -> None:
        """Return when it has ended, or after some time."""
        await asyncio.wait([self._task], timeout=seconds)

    def cancel(self) -> None:
        """Stop it; nothing is left of it when it has ended."""
        self._task.cancel()

    async def close(self) -> None:
        """Stop it, and return when nothing is left of it."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def outcome(self) -> Outcome:
        """How it stands."""
        done = self._completion
        if done is not None:
            return Outcome(
                self.run_id, str(done.stop_reason), done.answer, "", done.turns, done.usage, done.cost, done.duration
            )  # fmt: skip
        spent = self._seconds if self._seconds is not None else time.monotonic() - self._began
        state = "running" if not self.ended else "cancelled" if self._error is None else "failed"
        error = "" if self._error is None else str(self._error)
        return Outcome(
            self.run_id, state, None, error, self._turns, self._usage, self._cost, spent, self._doing
        )

    async def _go(self, asked: Asked) -> None:
        try:
            rlm = self._rlm.with_changes(limits=asked.limits)
            async with aclosing(rlm.stream(asked.question, asked.context, schema=asked.expected)) as events:
                async for event in events:
                    self._follow(event)
        except TrajectoryError as error:  # the answer is not lost with its record
            self._error, self._completion = error, error.completion
        except RLMError as error:
            self._error = error
        except RecursionError:
            self._error = ConfigError("the arguments are nested too deep")
        finally:
            self._seconds = time.monotonic() - self._began
            self._begun.set()

    def _follow(self, event: Event) -> None:
        self.events += 1
        match event:
            case RunStarted() if not self.run_id:
                self.run_id = event.run_id
                self._begun.set()
            case RunEnded() if event.run_id == self.run_id:
                self._completion = event.completion
            case BlockExecuted() if event.run_id == self.run_id:
                self._turns = event.turn
                self._doing = next(iter(event.execution.code.strip().splitlines()), "")[:120]
            case ModelCalled(reply=reply) if reply is not None and not reply.cached:
                self._usage += reply.usage
                self._cost = None if self._cost is None or reply.cost is None else self._cost + reply.cost


class Jobs:
    """The runs of one server.

    Args:
        most: that are at work at once.
    """

    def __init__(self, rlm: RLM, most: int) -> None:
        self.rlm = rlm
        self._most = most
        self._jobs: dict[str, Job] = {}
        self._working: set[Job] = set()

    async def start(self, asked: Asked) -> Job:
        """Begin a run.

        Raises:
            RLMError: it could not begin, or there are too many.
        """
        self._working = {job for job in self._working if not job.ended}
        if len(self._working) >= self._most:
            raise ConfigError(
                f"{self._most} runs are at work, and no more may be; wait for one, or cancel it"
            )
        job = Job(self.rlm, asked)
        self._working.add(job)
        try:
            await job.begun()
        except asyncio.CancelledError:
            job.cancel()
            raise
        self._jobs[job.run_id] = job
        for run_id in [name for name, each in self._jobs.items() if each.ended][:-KEPT]:
            del self._jobs[run_id]
        return job

    def find(self, run_id: str) -> Job | None:
        """A run of this server that is at work, or ended not long ago."""
        return self._jobs.get(run_id)

    async def close(self) -> None:
        """Stop all."""
        await asyncio.gather(*(job.close() for job in list(self._working)))


def answered(outcome: Outcome) -> bool:
    """Whether the run came to its own end."""
    return outcome.state == StopReason.ANSWERED
