"""Ask, run the code, show: until the root LM answers or a limit is reached (Algorithm 1 of the paper).

Invariants: messages only grow at the end, so each prompt is a prefix of the next; what enters
them is clipped; a run ends in a `Completion` with a reason. No clock, no I/O, no provider here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recursor import parse, prompt
from recursor.errors import LimitExceeded
from recursor.ledger import Ledger
from recursor.protocols import Model, Repl, Sink, Subcalls
from recursor.types import (
    BlockExecuted,
    Completion,
    Execution,
    Message,
    Reply,
    StopReason,
    Submission,
    Turn,
)


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
    accept: Callable[[Any], Any]
    """Checks a submitted value and returns the answer; raises ValueError with what is wrong."""


async def run(messages: Sequence[Message], parts: Parts) -> Completion:
    """Run turns until the root LM answers or a limit is reached.

    Args:
        messages: the opening (see `prompt.opening`).
    """
    ledger = parts.ledger
    turn: Turn | None = None
    try:
        while ledger.turns < ledger.limits.max_turns:
            ledger.begin_turn()
            turn = await take_turn(messages, parts)
            if turn.submission is not None:
                return completion(turn.submission.value, StopReason.ANSWERED, parts)
            messages = [*messages, *prompt.observation(turn, parts.dialect, ledger)]
        ledger.begin_turn()
        turn = await take_turn(messages, parts)
        reason = StopReason.MAX_TURNS
    except LimitExceeded as exceeded:
        reason = StopReason(exceeded.reason)
    return completion(await best_answer(turn, reason, parts), reason, parts)


async def take_turn(messages: Sequence[Message], parts: Parts) -> Turn:
    """One reply and what its code did."""
    number = parts.ledger.turns
    reply = await parts.model.query(messages)
    blocks, notes = runnable(reply, parts.dialect)
    executions: list[Execution] = []
    for index, block in enumerate(blocks, 1):
        execution = await execute(block.code, parts)
        parts.sink.emit(BlockExecuted(parts.run_id, number, index, execution))
        executions.append(execution)
        if execution.submission is not None:
            break
        if execution.error is not None and index < len(blocks):
            notes.append(f"block {index} failed, so the {len(blocks) - index} after it did not run")
            break
    return Turn(number, reply, tuple(executions), tuple(notes))


async def execute(code: str, parts: Parts) -> Execution:
    """Run one block; an answer that is not accepted becomes an error that the model reads."""
    limits = parts.ledger.limits
    execution = await parts.repl.execute(
        code, parts.subcalls, max_time=limits.max_cell_time, max_wall=parts.ledger.time_left()
    )
    if execution.submission is None:
        return execution
    try:
        return replace(execution, submission=Submission(parts.accept(execution.submission.value)))
    except ValueError as problem:
        error = f"The answer was not accepted: {problem}"
        return replace(execution, submission=None, error=error)


def runnable(reply: Reply, dialect: prompt.Dialect) -> tuple[list[parse.Block], list[str]]:
    """The blocks of a reply that will run, and what to tell about the others."""
    blocks, others = parse.runnable(reply.text, dialect.languages)
    notes = []
    if blocks and not blocks[-1].closed:
        if reply.finish_reason == "length" or not parse.is_whole(blocks[-1].code):
            blocks.pop()
            notes.append(
                "your last block was cut off before its closing fence, so it did not run; write it again"
            )
        else:
            notes.append("your last block had no closing fence; it was run up to the end of your reply")
    if others and not blocks:
        languages = ", ".join(sorted({block.language or "no language" for block in others}))
        notes.append(f"blocks marked {languages} do not run; mark code as ```{dialect.languages[0]}")
    if not reply.text.strip():
        notes.append(f"your reply was empty; write code in a ```{dialect.languages[0]} block")
    return [block for block in blocks if block.code.strip()], notes


async def best_answer(turn: Turn | None, reason: StopReason, parts: Parts) -> Any:
    """What there is when a limit ended the run: submitted in the last turn, drafted, or said there."""
    if turn is not None and turn.submission is not None:
        return turn.submission.value
    draft = await parts.repl.draft()
    if draft is None and turn is not None and reason is StopReason.MAX_TURNS and not turn.executions:
        return turn.reply.text or None
    return draft


def completion(answer: Any, reason: StopReason, parts: Parts) -> Completion:
    ledger = parts.ledger
    return Completion(
        answer, reason, ledger.usage, ledger.cost, parts.run_id, ledger.turns, ledger.duration,
        parts.model.name, parts.repl.isolation,
    )  # fmt: skip
