"""Ask, run the code, show: until the root LM answers or a limit is reached (Algorithm 1 of the paper).

Invariants: between compactions messages only grow at the end, so each prompt is a prefix of the
next; what enters them is clipped; a run ends in a `Completion` with a reason. No clock, no I/O, no
provider here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from recursor import compaction, parse, prompt
from recursor.compaction import History
from recursor.errors import ContextOverflow, LimitExceeded, ModelError, SandboxError
from recursor.ledger import Ledger
from recursor.protocols import Model, Repl, Sink, Subcalls
from recursor.types import (
    BlockExecuted,
    Compacted,
    Completion,
    Execution,
    Message,
    Reply,
    StopReason,
    Submission,
    Turn,
)  # fmt: skip

LOOK = 5.0
"""Seconds that a look at the REPL may take."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one run works with."""

    run_id: str
    model: Model
    """Counts, records and bounds its calls by itself."""
    repl: Repl
    subcalls: Subcalls
    ledger: Ledger
    sink: Sink
    dialect: prompt.Dialect
    accept: Callable[[Any], Awaitable[Any]]
    """Checks a submitted value and returns the answer; raises ValueError with what is wrong."""
    compactor: Model
    """Summarises old turns. Counts, records and bounds its calls by itself."""
    remember: Callable[[str, Sequence[Message]], Awaitable[None]]
    """Binds a name in the REPL to messages."""
    bare: Repl
    """The same REPL, for looks at it that are no blocks of the run."""
    recorded: Callable[[int], str | None] = lambda _: None
    """What the prompt of a turn ended in when it was recorded by an earlier attempt at the run."""
    compact_at: int | None = None
    """Tokens of a prompt beyond which old turns give way to a summary; None: when a prompt was refused."""
    checkpoint: Callable[[], None] = lambda: None
    """Begins to keep the state of the REPL, for a block that has to be killed; waits for nothing."""


async def run(opening: Sequence[Message], parts: Parts) -> Completion:
    """Run turns until the root LM answers or a limit is reached. It begins with what `prompt.opening` says."""
    ledger = parts.ledger
    first = [*opening, *prompt.status(parts.dialect, ledger, parts.recorded(1))]
    history = compaction.begin(first, parts.compact_at)
    turn: Turn | None = None
    failures = 0
    try:
        while ledger.turns < ledger.limits.max_turns:
            ledger.begin_turn()
            history, turn = await take_turn(history, parts)
            if turn.submission is not None:
                return completion(turn.submission.value, StopReason.ANSWERED, parts)
            failures = 0 if any(execution.error is None for execution in turn.executions) else failures + 1
            if failures == ledger.limits.max_errors:
                raise LimitExceeded(f"nothing worked in {failures} turns in a row", StopReason.MAX_ERRORS)
            told = prompt.observation(turn, parts.dialect, ledger, parts.recorded(ledger.turns + 1))
            history = history.grown(told, turn.reply.usage)
            if bound := history.passed:
                history = await compact(history, parts, bound, history.tokens)
        ledger.begin_turn()
        history, turn = await take_turn(history, parts)
        reason = StopReason.MAX_TURNS
    except LimitExceeded as exceeded:
        reason = StopReason(exceeded.reason)
    return completion(await best_answer(turn, reason, parts), reason, parts)


async def take_turn(history: History, parts: Parts) -> tuple[History, Turn]:
    """One reply and what its code did."""
    number = parts.ledger.turns
    parts.checkpoint()  # while the model thinks
    history, reply = await ask(history, parts)
    dialect, cut = parts.dialect, reply.finish_reason == "length"
    textual = textual_counts(parts)
    codes, notes = parse.read(reply.text, dialect.languages, dialect.submit, textual=textual, cut=cut)
    executions: list[Execution] = []
    for index, code in enumerate(codes, 1):
        parts.ledger.blocks = index
        parts.checkpoint()
        execution = await execute(code, parts)
        parts.sink.emit(BlockExecuted(parts.run_id, number, index, execution))
        executions.append(execution)
        if execution.submission is not None:
            break
        if execution.error is not None and index < len(codes):
            notes.append(f"block {index} failed, so the {len(codes) - index} after it did not run")
            break
    return history, Turn(number, reply, tuple(executions), tuple(notes))


async def ask(history: History, parts: Parts) -> tuple[History, Reply]:
    """The next reply; a prompt that does not fit is compacted, and sent once more."""
    try:
        return history, await parts.model.query(history.prompt)
    except ContextOverflow:
        if not history.turns:
            raise
    history = await compact(history.refused(), parts, history.known)
    return history, await parts.model.query(history.prompt)


async def compact(history: History, parts: Parts, bound: int, tokens: int = 0) -> History:
    """Put a summary in the place of old turns; without a model, what the REPL shows."""
    plan = compaction.plan(history, bound)
    summary = ""
    if plan.request:
        with suppress(ModelError, LimitExceeded):
            if parts.ledger.calls_left() not in (1, 2):  # the root LM was told how many it has
                summary = (await parts.compactor.query(plan.request)).text
        summary = parse.spoken(summary).strip() or plan.mechanical(await look("SHOW_VARS()", parts))
    name = await remember(history, parts)
    parts.sink.emit(Compacted(parts.run_id, plan.replaced, tokens, summary))
    return plan.carried_out(summary, name)


async def remember(history: History, parts: Parts) -> str:
    """Put all messages into the REPL. Return their name there; empty when it does not take them."""
    taken = not history.name and await look(compaction.TAKEN, parts) != "False"
    name = history.name or compaction.NAMES[taken]
    try:
        await parts.remember(name, history.everything)
    except SandboxError:  # the code in it may have broken the REPL; the next block gets a new one
        return ""
    return name


async def execute(code: str, parts: Parts) -> Execution:
    """Run one block; an answer that is not accepted becomes an error that the model reads."""
    execution = await parts.repl.execute(
        code, parts.subcalls, max_time=parts.ledger.limits.max_cell_time, max_wall=parts.ledger.cell_time()
    )
    if execution.submission is not None:
        try:
            return replace(
                execution, submission=Submission(await accepted(execution.submission.value, parts))
            )
        except ValueError as problem:
            execution = replace(execution, submission=None, error=f"The answer was not accepted: {problem}")
    code = parts.dialect.wording.variables
    if code and (variables := await look(code, parts)):
        return replace(execution, notes=(*execution.notes, variables))
    return execution


async def look(code: str, parts: Parts) -> str:
    """What the REPL shows of itself; empty when it cannot, but for what that did to it."""
    seen = await parts.bare.execute(code, parts.subcalls, max_time=LOOK, max_wall=parts.ledger.time_left())
    return "\n".join(seen.notes) if seen.error else prompt.clip(seen.output, prompt.MAX_NOTE).strip()


def textual_counts(parts: Parts) -> bool:
    """Whether `FINAL(...)` outside code is an answer: in the last reply always, since no other follows."""
    ledger = parts.ledger
    return parts.dialect.textual or ledger.turns > ledger.limits.max_turns or ledger.calls_left() == 0


async def accepted(value: Any, parts: Parts) -> Any:
    """Check an answer; where text alone may say it, the text may be JSON."""
    try:
        return await parts.accept(value)
    except ValueError:
        if not (textual_counts(parts) and isinstance(value, str)):
            raise
        return await parts.accept(parse.value(value))


async def best_answer(turn: Turn | None, reason: StopReason, parts: Parts) -> Any:
    """What there is when a limit ended the run: submitted in the last turn, drafted, or said there."""
    if turn is not None and turn.submission is not None:
        return turn.submission.value
    draft = await parts.repl.draft()
    if draft is not None or turn is None or reason is StopReason.MAX_TIME:  # which nobody was told of
        return draft
    codes, _ = parse.read(turn.reply.text, parts.dialect.languages, parts.dialect.submit)
    return None if codes else parse.spoken(turn.reply.text).strip() or None


def completion(answer: Any, reason: StopReason, parts: Parts) -> Completion:
    ledger = parts.ledger
    return Completion(
        answer, reason, ledger.usage, ledger.cost, parts.run_id, ledger.turns, ledger.duration,
        parts.model.name, parts.repl.isolation,
    )  # fmt: skip
