"""A run that goes again as it was recorded, and goes on where the recording ends.

The code of each turn is executed anew, since only that makes the variables; its calls are
answered from the journal, its clocks and its randomness show what they showed. Whatever is
asked otherwise than recorded is asked for real: a divergence, which is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recursor.errors import ModelError
from recursor.ledger import Call, Ledger
from recursor.protocols import Journal, Repl, Source, Subcalls
from recursor.types import Completion, ContextInfo, Diverged, Execution, Isolation, Purpose, Reply, Usage


class Tally:
    """Counts the model calls of a whole tree of runs that were replayed."""

    replayed = 0


class Replay:
    """What earlier attempts at one run recorded, taken up as the run comes by.

    Args:
        journal: None when there is nothing to replay.
        tally: of the whole tree.
        ledger: of this run.
        diverge: called once, at the first sign that the run does not go as recorded.
        paid: whether all that was recorded of this run is counted already, since a run above diverged.
    """

    def __init__(
        self,
        journal: Journal | None,
        run_id: str,
        ledger: Ledger,
        tally: Tally,
        diverge: Callable[[Diverged], None],
        *,
        paid: bool = False,
    ) -> None:
        self._journal = journal
        self._run_id = run_id
        self._ledger = ledger
        self._tally = tally
        self._diverge = diverge
        self._recorded = journal.turns(run_id) if journal else 0
        self.diverged_at: int | None = None
        self.paid = paid

    @property
    def active(self) -> bool:
        return self._journal is not None

    def reply(self, call_id: str, call: Call, turn: int) -> Reply | ModelError | None:
        """The recorded reply, counted; or the recorded error of a sub-call; None to ask for real."""
        if self._journal is None:
            return None
        found = self._journal.reply(call_id)
        if isinstance(found, ModelError) and call.purpose != "sub":
            return None  # the error that ended the run is what a resumption is to overcome
        if found is None:
            self._missed(turn, call.purpose)
            return None
        self._tally.replayed += 1
        if not self.paid:
            failed = Reply("", Usage(calls=1), cost=0.0)
            self._ledger.count(call, failed if isinstance(found, ModelError) else found)
        return found

    def result(self, call_id: str, turn: int) -> tuple[Any, str | None] | None:
        """The recorded outcome of a tool: a tool that did its work once does not do it again."""
        found = self._journal.result(call_id) if self._journal else None
        if found is None:
            self._missed(turn, "sub")
        return found

    def child(self, run_id: str) -> Completion | None:
        """The completion of a child that answered, counted; it need not run again."""
        found = self._journal.child(run_id) if self._journal else None
        if found is not None:
            self._tally.replayed += found.usage.calls
            if not self.paid:
                self._ledger.count_run(found.usage, found.cost)
        return found

    def prompt_end(self, turn: int) -> str | None:
        """What the recorded prompt of a turn ended in; None when there is none, or the run does not go as recorded."""
        if self._journal is None or self.diverged_at is not None or turn > self._recorded:
            return None
        return self._journal.prompt_end(self._run_id, turn)

    def readings(self, turn: int, block: int) -> tuple[float, ...]:
        if self._journal is None or self.diverged_at is not None:
            return ()
        return self._journal.readings(self._run_id, turn, block)

    def _missed(self, turn: int, purpose: Purpose) -> None:
        """Something was asked that was not recorded: the end of the recording, or a divergence."""
        known = turn <= self._recorded if purpose == "root" else turn < self._recorded
        if self._journal is None or not known or self.diverged_at is not None:
            return
        self.diverged_at = turn
        if not self.paid:  # what was recorded beyond this point is paid for, and will not come by
            usage, cost = self._journal.spent(self._run_id)
            rest = None if cost is None else max(0.0, cost - (self._ledger.cost or 0.0))
            self._ledger.count_run(_beyond(usage, self._ledger.usage), rest)
            self.paid = True
        what = "the prompt of the root LM" if purpose == "root" else "a sub-call"
        self._diverge(Diverged(self._run_id, turn, f"{what} in turn {turn} is not the one that was recorded"))


class ReplayedRepl:
    """A REPL whose clocks show in each block what they showed when it was executed before."""

    def __init__(self, repl: Repl, replay: Replay, ledger: Ledger) -> None:
        self._repl = repl
        self._replay = replay
        self._ledger = ledger
        self._turn = 0
        self._block = 0

    @property
    def isolation(self) -> Isolation:
        return self._repl.isolation

    async def load(self, name: str, source: Source) -> ContextInfo:
        return await self._repl.load(name, source)

    async def execute(
        self,
        code: str,
        subcalls: Subcalls,
        *,
        max_time: float | None = None,
        max_wall: float | None = None,
        readings: Sequence[float] = (),
    ) -> Execution:
        if self._turn != self._ledger.turns:
            self._turn, self._block = self._ledger.turns, 0
        self._block += 1
        recorded = readings or self._replay.readings(self._turn, self._block)
        return await self._repl.execute(
            code, subcalls, max_time=max_time, max_wall=max_wall, readings=recorded
        )

    async def draft(self) -> Any:
        return await self._repl.draft()

    async def close(self) -> None:
        await self._repl.close()


def _beyond(recorded: Usage, counted: Usage) -> Usage:
    """What was recorded beyond what is counted."""
    return Usage(
        max(0, recorded.input_tokens - counted.input_tokens),
        max(0, recorded.output_tokens - counted.output_tokens),
        max(0, recorded.cached_tokens - counted.cached_tokens),
        max(0, recorded.cache_write_tokens - counted.cache_write_tokens),
        max(0, recorded.reasoning_tokens - counted.reasoning_tokens),
        max(0, recorded.calls - counted.calls),
    )
