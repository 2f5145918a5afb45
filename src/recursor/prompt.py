"""Values -> messages. Pure: the same values give the same bytes, so that prompt caches hit.

Whatever comes from a context, a model or a sandbox enters a message only clipped. What changes
from turn to turn (turns left, limits) stands at the end of the newest message, never earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recursor.ledger import Ledger
from recursor.types import ContextInfo, Execution, Message, Output, Turn

MAX_OUTPUT = 10_000
"""Characters shown of what one block printed."""
MAX_ERROR = 6_000
MAX_NOTE = 1_000
MAX_QUESTION = 4_000
"""Characters shown of the question; a longer one is whole in `question`."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Prompt text, code fence and answer form that a model family was trained on."""

    name: str
    system: str
    """Holds `{recursion}` and `{tools}`."""
    languages: tuple[str, ...]
    """The fence languages that are run."""


def opening(
    dialect: Dialect,
    question: str,
    contexts: Sequence[ContextInfo],
    *,
    tools: Sequence[str] = (),
    recursive: bool = False,
    expected: str = "",
) -> tuple[Message, ...]:
    """The first prompt.

    Args:
        tools: one line of documentation for each.
        recursive: whether `rlm_query` starts a child RLM; False when it is a plain call.
        expected: what the answer must look like; empty when anything will do.
    """
    recursion = (
        "a child RLM works on it in its own REPL" if recursive else "at this depth it is a plain `llm_query`"
    )
    listed = "".join(f"\n- {tool}" for tool in tools)
    system = dialect.system.replace("{recursion}", recursion).replace("{tools}", listed)
    parts = [f"Question: {clip(Output(question), MAX_QUESTION)}", *map(_described, contexts)]
    if not contexts:
        parts.append("No data was given beside the question.")
    if expected:
        parts.append(f"The answer must be a value of this form:\n{expected}")
    return Message("system", system), Message("user", printable("\n\n".join(parts)))


def observation(turn: Turn, dialect: Dialect, ledger: Ledger) -> tuple[Message, ...]:
    """What a turn adds to the prompt: the reply, and what came of it."""
    rows = [_executed(index, execution) for index, execution in enumerate(turn.executions, 1)]
    rows += [f"Note: {note}" for note in turn.notes]
    if not turn.executions and not turn.notes:
        fence = dialect.languages[0]
        rows.append(
            f"Your reply held no ```{fence} block, so nothing was run. Write code; submit with FINAL(value)."
        )
    rows.append(_status(ledger))
    return Message("assistant", turn.reply.text or "(empty reply)"), Message(
        "user", printable("\n\n".join(rows))
    )


def printable(text: str) -> str:
    """The text with lone surrogates spelt out: no provider takes them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def clip(output: Output, limit: int = MAX_OUTPUT) -> str:
    """Head and tail, with the number of characters left out between them."""
    if output.total <= limit:
        return output.head + output.tail
    tail_room = limit // 3
    head = output.head[: limit - tail_room]
    rest = output.tail or output.head[len(head) :]
    tail = rest[-tail_room:]
    return f"{head}\n... [{output.total - len(head) - len(tail):,} characters left out] ...\n{tail}"


def _described(info: ContextInfo) -> str:
    origin = f", from {info.source}" if info.source else ""
    return f"`{info.name}`: {info.type}, {info.size}{origin}\n{info.preview}"


def _executed(index: int, execution: Execution) -> str:
    parts = []
    if execution.output.total:
        parts.append(f"Output of block {index}:\n{clip(execution.output)}")
    if execution.error is not None:
        parts.append(f"Block {index} failed:\n{clip(Output(execution.error), MAX_ERROR)}")
    if not parts:
        parts.append(f"Block {index} ran and printed nothing.")
    parts += [f"Note: {clip(Output(note), MAX_NOTE)}" for note in execution.notes]
    return "\n".join(parts)


def _status(ledger: Ledger) -> str:
    turns = ledger.limits.max_turns
    if ledger.turns >= turns:
        return (
            f"[all {turns} turns are used: this is your last reply. In one block, submit the best answer you "
            "can give from what you have: FINAL(value)]"
        )
    status = [f"turn {ledger.turns + 1} of {turns}", *_near(ledger)]
    return f"[{'; '.join(status)}]"


def _near(ledger: Ledger) -> list[str]:
    """Limits of which less than a third is left."""
    limits, near = ledger.limits, []
    left = ledger.time_left()
    if left is not None and limits.max_time and left < limits.max_time / 3:
        near.append(f"{max(0, round(left))} s left")
    if limits.max_tokens and ledger.usage.total_tokens * 3 > limits.max_tokens * 2:
        near.append(f"{max(0, limits.max_tokens - ledger.usage.total_tokens):,} tokens left")
    if limits.max_cost and ledger.cost is not None and ledger.cost * 3 > limits.max_cost * 2:
        near.append(f"${max(0.0, limits.max_cost - ledger.cost):.4f} left")
    return near
