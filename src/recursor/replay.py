"""A run that goes again as it was recorded, and goes on where the recording ends.

The code of each turn is executed anew, since only that makes the variables; its calls are
answered from the journal, its clocks and its randomness show what they showed. A turn that another
one followed is over: what failed in it, or was refused by a limit that is not larger now, is so again
without being asked. In the last one, what has no reply is asked for real. So is whatever is asked
otherwise than recorded: a divergence, which is told.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from recursor.errors import ContextOverflow, LimitExceeded, ModelError, RLMError, SubcallError
from recursor.estimates import Call
from recursor.ledger import Ledger
from recursor.protocols import Journal, Repl, Source, Subcalls
from recursor.types import Completion, ContextInfo, Diverged, Execution, Isolation, Purpose, Reply, Usage


class Past:
    """What earlier attempts at a tree of runs recorded, and how much of that came by again.

    Args:
        journal: None for a first attempt.
        root_id: the root of the tree.
        raised: limits, as the values of stop reasons, that are larger now than they were.
        alone: whether nothing is asked for real: what is not recorded fails.

    Attributes:
        replayed: model calls that came by.
        missing: what was asked that is not recorded, where nothing is asked for real.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        root_id: str = "",
        raised: Container[str] = (),
        *,
        alone: bool = False,
    ) -> None:
        self.journal = journal
        self.raised = raised
        self.alone = alone
        self.replayed = 0
        self.missing = 0
        self._usage, self._cost = journal.spent(root_id) if journal else (Usage(), 0.0)
        self._passed, self._passed_cost = Usage(), 0.0
        self._closed = False

    def count(self, ledger: Ledger, call: Call, reply: Reply) -> None:
        """Count a call that came by."""
        self.replayed += 1
        ledger.count(call, reply, in_root=not self._closed)
        if not reply.cached:
            self._pass(reply.usage, reply.cost)

    def count_run(self, ledger: Ledger, done: Completion) -> None:
        """Count a whole child."""
        self.replayed += done.usage.calls
        ledger.count_run(done.usage, done.cost, in_root=not self._closed)
        self._pass(done.usage, done.cost)

    def close(self, root: Ledger) -> None:
        """Count the rest in the ledger of the root: it is paid for, whether or not it comes by later."""
        if self.journal is None or self._closed:
            return
        self._closed = True
        rest = None if self._cost is None else max(0.0, self._cost - self._passed_cost)
        root.count_run(_beyond(self._usage, self._passed), rest)

    def _pass(self, usage: Usage, cost: float | None) -> None:
        self._passed += usage
        self._passed_cost += cost or 0.0


class Replay:
    """What earlier attempts at one run recorded, taken up as the run comes by.

    Args:
        past: of the whole tree.
        ledger: of this run.
        diverge: called once, at the first sign that the run does not go as recorded.
    """

    def __init__(self, past: Past, run_id: str, ledger: Ledger, diverge: Callable[[Diverged], None]) -> None:
        self._past = past
        self._journal = past.journal
        self._run_id = run_id
        self._ledger = ledger
        self._diverge = diverge
        self._recorded = self._journal.turns(run_id) if self._journal else 0
        self.diverged_at: int | None = None

    @property
    def active(self) -> bool:
        return self._journal is not None

    @property
    def known(self) -> bool:
        """Whether there is anything recorded of the run."""
        return self._recorded > 0 or (
            self._journal is not None and self._journal.ended(self._run_id) is not None
        )

    def reaches(self, turn: int) -> bool:
        """Whether some of a turn is recorded, and the run has come to it as it did then."""
        return self.diverged_at is None and turn <= self._recorded

    def reply(self, call_id: str, call: Call, turn: int) -> Reply | RLMError | None:
        """The recorded reply, counted; or the error that the call ended in; None to ask for real."""
        if self._journal is None:
            return None
        found = self._journal.reply(call_id)
        if isinstance(found, Reply):
            self._past.count(self._ledger, call, found)
            return found
        if isinstance(found, ModelError) and (call.purpose == "sub" or self._over(turn, call.purpose)):
            self._past.count(self._ledger, call, Reply("", Usage(calls=1), cost=0.0))
            # A run goes on from one error of its root LM alone.
            return ContextOverflow(str(found)) if call.purpose == "root" else found
        if found is not None:
            return None  # the error that ended the run is what a resumption is to overcome
        refused = self.refusal(call_id, turn)
        if refused is None:
            self.miss(turn, call.purpose)
        return refused or (self._absent() if self._past.alone else None)

    def refusal(self, call_id: str, turn: int) -> LimitExceeded | None:
        """The refusal of a call or a batch in a turn that is over, by a limit that is not larger now."""
        found = self._journal.refusal(self._run_id, call_id) if self._journal and self._over(turn) else None
        return None if found is None or found.reason in self._past.raised else found

    def result(self, call_id: str, turn: int) -> tuple[Any, str | None] | None:
        """The recorded outcome of a tool: a tool that did its work once does not do it again."""
        found = self._journal.result(call_id) if self._journal else None
        if found is None:
            self.miss(turn, "sub")
            return (None, str(self._absent())) if self._past.alone else None
        return found

    def child(self, run_id: str, turn: int) -> Completion | None:
        """The completion of a child that answered, or in a turn that is over ended otherwise, counted.

        Raises:
            SubcallError: what such a child ended in.
        """
        found = self._journal.ended(run_id) if self._journal else None
        if isinstance(found, Completion) and (
            found.stop_reason == "answered"
            or (self._over(turn) and found.stop_reason not in self._past.raised)
        ):
            self._past.count_run(self._ledger, found)
            return found
        if isinstance(found, RLMError) and self._over(turn):
            raise SubcallError(str(found))
        if self._past.alone:
            raise SubcallError(str(self._absent()))
        return None

    def prompt_end(self, turn: int) -> str | None:
        """What the recorded prompt of a turn ended in; None when there is none, or the run does not go as recorded."""
        if self._journal is None or not self.reaches(turn):
            return None
        return self._journal.prompt_end(self._run_id, turn)

    def readings(self, turn: int, block: int) -> tuple[float, ...]:
        if self._journal is None or self.diverged_at is not None:
            return ()
        return self._journal.readings(self._run_id, turn, block)

    def miss(self, turn: int, purpose: Purpose) -> None:
        """Note that something was asked that is not recorded: the end of the recording, or a divergence."""
        if self._journal is None:
            return
        self._past.close(self._ledger.top)
        if not self._past.alone and self._over(turn, purpose):
            self.diverged_at = turn
            what = "the prompt of the root LM" if purpose == "root" else "a sub-call"
            reason = f"{what} in turn {turn} is not the one that was recorded"
            self._diverge(Diverged(self._run_id, turn, reason))

    def _over(self, turn: int, purpose: Purpose = "sub") -> bool:
        """Whether all that a turn asked is recorded: another one followed, or for a root LM its own reply."""
        return self._past.alone or self.reaches(turn if purpose == "root" else turn + 1)

    def _absent(self) -> ModelError:
        self._past.missing += 1
        return ModelError(
            "what this asks for is not in the record, and the code runs for its variables alone"
        )


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


def _beyond(recorded: Usage, passed: Usage) -> Usage:
    """What was recorded beyond what came by."""
    return Usage(
        max(0, recorded.input_tokens - passed.input_tokens),
        max(0, recorded.output_tokens - passed.output_tokens),
        max(0, recorded.cached_tokens - passed.cached_tokens),
        max(0, recorded.cache_write_tokens - passed.cache_write_tokens),
        max(0, recorded.reasoning_tokens - passed.reasoning_tokens),
        max(0, recorded.calls - passed.calls),
    )
