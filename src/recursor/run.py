"""One run, as its REPL sees it: what answers the sub-calls of its code, a recursive one by completing again.

What a call costs is counted, and what happened is emitted and flushed, before its result is used.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from recursor import direct, governance, loop, offered, prompt, record
from recursor.calls import Caller, Memory, Metered, digest
from recursor.errors import LimitExceeded, RLMError, SubcallError
from recursor.estimates import Call
from recursor.ledger import Ledger
from recursor.models.retry import RetryBudget
from recursor.policy import Kind, Request
from recursor.protocols import Model, Repl
from recursor.replay import Past, Replay, ReplayedRepl
from recursor.schema import shape
from recursor.shared import Shared
from recursor.slots import Own, Slots
from recursor.task import Task, flattened, limits_of_child, of_child, ordered
from recursor.threads import in_thread
from recursor.tools import AnyTool, Tool
from recursor.types import (
    Batch,
    BatchAnnounced,
    Completion,
    ContextInfo,
    Decided,
    Isolation,
    LlmQuery,
    Message,
    Output,
    Purpose,
    RlmQuery,
    RunStarted,
    StopReason,
    Subcall,
    ToolCall,
    ToolCalled,
)

MAX_CHILDREN = 64
"""Child runs of one tree that are at work at once, beside one of each run: each has a process of its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is in a tree of runs, and what the tree shares."""

    run_id: str
    parent: Run | None = None
    turn: int = 0
    """Of the parent, that asked for it; and the block of that turn, and how many children it had asked for."""
    block: int = 0
    number: int = 0
    past: Past = field(default_factory=Past)
    ledger: Ledger | None = None
    """Of the run; None makes one."""
    slots: Slots = field(default_factory=lambda: Slots(MAX_CHILDREN))


class Run:
    """One run of the loop, as its REPL sees it: implements `Subcalls`."""

    def __init__(self, engine: Shared, task: Task, at: Place) -> None:
        self.id = at.run_id
        self.engine = engine
        self.task = task
        self.at = at
        parent = at.parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.ledger: Ledger = (
            parent.ledger.child(engine.limits)
            if parent
            else at.ledger or Ledger(engine.limits, time.monotonic)
        )
        self.replay: Replay = Replay(at.past, at.run_id, self.ledger, engine.sink.emit)
        self.memory: Memory | None = (
            parent.memory if parent else Memory(engine.cache) if engine.cache else None
        )
        self.caller: Caller = Caller(
            self.id, self.ledger, self.replay, engine.sink, engine.stream, self.memory, engine.retries,
            parent.caller.budget if parent else RetryBudget(engine.retries.budget),
        )  # fmt: skip
        self._own_slot = Own()
        self._children = itertools.count(1)
        self._permitted: set[tuple[str, str]] = set()
        self.decisions: list[Decided] = []
        """On what it is to use, made before it began."""
        self.infos: dict[str, ContextInfo] = {}
        """Of what was loaded into its REPL."""
        self.model = self.choose("root", wanted=task.wanted)

    @property
    def window(self) -> int | None:
        """Tokens that the root LM takes; None when that is not known."""
        return getattr(self.model, "window", None)

    def offers(self) -> list[str]:
        """What the root LM is told that the REPL has beside what it always has."""
        tools = offered.told(self.engine.tools.values())
        tools += [
            f"`{place}` is a folder of files to read: use `open`, `os.listdir`, `pathlib`"
            for place in self.engine.mounts
        ]
        routes = self.engine.routes
        if not routes.capabilities and not routes.allow:
            return tools
        names = ", ".join(map(repr, (*routes.names, *routes.capabilities)))
        return [*tools, f"`model=` in these calls takes one of: {names}"]

    def choose(
        self,
        purpose: Purpose,
        *,
        depth: int | None = None,
        characters: int = 0,
        wanted: str | None = None,
        pictures: bool = False,
    ) -> Model:
        """The model for a call. Raises SubcallError when what code asked for is not to be had."""
        try:
            return self.engine.routes.choose(
                purpose, self.depth if depth is None else depth, characters=characters,
                spent=self.ledger.top.cost, wanted=wanted, pictures=pictures,
            )  # fmt: skip
        except LookupError as refused:
            raise SubcallError(str(refused)) from None

    @property
    def seed(self) -> int:
        """Of the randomness in its REPL: the same when it is resumed."""
        return int.from_bytes(digest(self.id, "seed")[:6])

    @property
    def may_recurse(self) -> bool:
        """Whether a child of this run gets a REPL; at the depth limit it is a plain call."""
        deepest = self.engine.limits.max_depth
        return deepest is None or self.depth + 1 < deepest

    def metered(self, model: Model, purpose: Purpose) -> Model:
        return Metered(model, self.caller, purpose)

    def replayed(self, repl: Repl) -> Repl:
        return ReplayedRepl(repl, self.replay, self.ledger) if self.replay.active else repl

    async def variables(self, repl: Repl) -> Output:
        """What shows the variables that a REPL has from before."""
        seen = await repl.execute(
            prompt.VARIABLES, self, max_time=loop.LOOK, max_wall=self.ledger.time_left()
        )
        return seen.output

    async def refuse_cycle(self) -> None:
        """Raise SubcallError when an ancestor has the same model, question and contexts: it would never end."""
        above = self.at.parent
        while above is not None:
            same_model = above.model.name == self.model.name
            if same_model and await in_thread(above.task.asks_as, self.task):
                raise SubcallError(
                    "this question over this context is being answered already, by the run that asks; "
                    "ask about a smaller part, ask something else, or answer it in code"
                )
            above = above.at.parent

    # Sub-calls ----------------------------------------------------------------------------------

    async def answer(self, subcall: Subcall) -> Any:
        match subcall:
            case LlmQuery():
                return await self._ask(subcall)
            case RlmQuery() if self.may_recurse:
                return await self._recurse(subcall)
            case RlmQuery():
                return await self._ask(await in_thread(flattened, subcall))
            case ToolCall():
                return await self._use(subcall)
            case Batch():
                return self._announced(subcall)

    async def _ask(self, query: LlmQuery) -> Any:
        expected = shape(query.schema, trusted=False)
        text = query.prompt
        if expected.json_schema is not None:
            text += f"\n\nReply with JSON alone, following this JSON Schema:\n{expected.text}"
        chosen = self.choose("sub", characters=len(text), wanted=query.model, pictures=bool(query.images))
        if query.images:
            direct.refuse_blind(chosen)
        await self._permit("model", chosen.name)
        model = self.metered(chosen, "sub")
        return await direct.ask([Message("user", text, query.images)], model, expected)

    async def _recurse(self, query: RlmQuery) -> Any:
        """The recursion: a child run, in a REPL of its own, paid for by this one."""
        asked = replace(
            self.at,
            parent=self,
            turn=self.ledger.turns,
            block=self.ledger.blocks,
            number=next(self._children),
        )
        engine = replace(
            self.engine,
            strategy="rlm",  # whose code asks for a child wants code of its own to work on it
            tools=self._passed_on(query.tools),
            limits=limits_of_child(query, self.engine.limits, self.depth),
        )
        await self._permit("model", self.choose("root", depth=self.depth + 1, wanted=query.model).name)
        task = await in_thread(of_child, query, self.task.values)
        if query.fork is not None:
            task = task.beginning_as(query.fork, self.task, self.infos)
        child_id = self.caller.place(await in_thread(task.identity, engine.tools, query.limits))
        child = self.replay.child(child_id, self.ledger.turns)
        if child is not None:
            await self._skip_requests(child_id)
        else:
            async with self.at.slots.place(self._own_slot):
                child = await engine.complete(task, replace(asked, run_id=child_id))
        if child.answer is None and child.stop_reason is not StopReason.ANSWERED:
            raise SubcallError(f"the child RLM ended without an answer: {child.stop_reason}")
        return child.answer

    async def _skip_requests(self, child_id: str) -> None:
        """Have the cache go on where a child that does not run again left it."""
        journal = self.at.past.journal
        if self.memory and journal:
            for request, count in (await in_thread(journal.requests, child_id)).items():
                self.memory.skip(request, count)

    async def _use(self, call: ToolCall) -> Any:
        tool = self.engine.tools.get(call.name)
        if not isinstance(tool, Tool):
            raise SubcallError(f"there is no tool {call.name[:200]!r}")
        tool.check_size(call.args, call.kwargs)  # before they are told, recorded, and named by a digest
        turn, block, began, started = self.ledger.turns, self.ledger.blocks, time.time(), time.monotonic()
        call_id = self.caller.place(digest("tool", call.name, ordered(call.args), ordered(call.kwargs)))
        found = self.replay.result(call_id, turn)
        if found is not None:
            result, error = found
            if error is not None:
                raise SubcallError(error)
            return result
        result, error, cut = None, "cancelled", True
        try:
            await self._permit("tool", call.name, call.args, call.kwargs)
            result, error = await tool.call(call.args, call.kwargs), None
        except RLMError as failure:
            error, cut = str(failure), False
            raise
        finally:
            self.engine.sink.emit(
                ToolCalled(
                    self.id, call_id, turn, call.name, call.args, call.kwargs, result, error, began,
                    time.monotonic() - started, cut and error is not None, block,
                )
            )  # fmt: skip
        await self.engine.sink.flush()
        return result

    async def _permit(
        self, kind: Kind, name: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Raise SubcallError when the policy, or who it asks, says no. What is always let through is said once."""
        policy = self.engine.policy
        if policy is None:
            return
        request = Request(kind, name, self.id, self.depth, args, kwargs or {})
        event, asked = await governance.decided(policy, request, self.ledger.turns)
        if kind == "tool" or not event.allowed or asked or (kind, name) not in self._permitted:
            self._permitted.add((kind, name))
            self.engine.sink.emit(event)
        if not event.allowed:
            raise SubcallError(f"the {kind} {name!r} may not be used here: the policy says no ({event.rule})")

    def _announced(self, batch: Batch) -> None:
        """Refuse a batch as a whole that cannot be paid for, while none of it is."""
        recursive = batch.recursive and self.may_recurse
        purpose: Purpose = "root" if recursive else "sub"
        model = self.choose(purpose, depth=self.depth + recursive, wanted=batch.model)
        turn = self.ledger.turns
        call_id = self.caller.place(digest("batch", f"{batch.count} {recursive}", model.name))
        refused = self.replay.refusal(call_id, turn)
        if refused is not None:
            raise refused
        if self.replay.reaches(turn):
            return  # some of it may be paid for
        try:
            self.ledger.refuse_batch(batch.count, Call(model.name, purpose, self.depth + recursive))
        except LimitExceeded as refusal:
            self.caller.refused(call_id, refusal)
            raise
        self.engine.sink.emit(BatchAnnounced(self.id, turn, batch.count, recursive, model.name))

    def _passed_on(self, names: Sequence[str]) -> dict[str, AnyTool]:
        unknown = [name for name in names if name not in self.engine.tools]
        if unknown:
            raise SubcallError(f"there is no tool {unknown[0]!r} to pass on")
        return {name: self.engine.tools[name] for name in names}

    # The record ---------------------------------------------------------------------------------

    def started(
        self,
        infos: Sequence[ContextInfo],
        isolation: Isolation | None,
        strategy: Literal["rlm", "direct"],
        reason: str,
    ) -> RunStarted:
        parent = self.at.parent
        return RunStarted(
            self.id, parent.id if parent else None, self.depth, self.task.question, tuple(infos), self.model.name,
            self.choose("sub").name, isolation, time.time(), strategy, reason, resumed=self.replay.active,
            limits=asdict(self.engine.limits), turn=self.at.turn, block=self.at.block, number=self.at.number,
            settings=self._settings(),
        )  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        if self.at.parent is None:
            return {**self.engine.settings, "schema": self.task.expected.json_schema}
        return {"fork": True} if self.task.start is not None else {}

    async def recorded(self, started: RunStarted, work: Callable[[], Awaitable[Completion]]) -> Completion:
        async def replayed() -> Completion:
            for decision in self.decisions:
                self.engine.sink.emit(decision)
            governance.refuse(self.decisions)
            done = await work()
            past, ledger = self.at.past, self.ledger
            if self.at.parent is None:
                past.close(ledger)
                done = replace(done, usage=ledger.usage, cost=ledger.cost)
            return replace(done, replayed=past.replayed, diverged_at=self.replay.diverged_at)

        hashed = self.task.own if self.at.parent else self.task.contexts
        known = self.task.start.digests if self.task.start is not None else {}
        return await record.recorded(self.engine.sink, started, hashed, replayed, known)
