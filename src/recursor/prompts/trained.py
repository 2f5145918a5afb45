"""The wording that published weights were trained on: what they see must be laid out as it was.

`REFERENCE` follows the harness `rlms` 0.1.3; `PAPER` follows the paper (arXiv 2512.24601, appendix)
and the first versions of that harness. What they do not have stands beside it: notes, limits that
come near, the end of the last block's output where that is long.
"""

from __future__ import annotations

from recursor.ledger import Ledger
from recursor.prompt import (
    MAX_ERROR,
    MAX_NOTE,
    Asked,
    Wording,
    clip,
    demanded,
    described,
    last_chance,
    near,
)
from recursor.types import ContextInfo, Execution, Output, Turn

MAX_SHOWN = 20_000
"""Characters shown of what one block printed."""
VARIABLES = """\
print("REPL variables:", [name for name, value in globals().items() if not name.startswith("_")
    and {"str", "int", "float", "list", "dict", "tuple"} & {kind.__name__ for kind in value.__class__.__mro__}])"""
"""By the names of types, since code may have bound `list` or `str` to something else."""


def _ask(asked: Asked) -> str:
    metadata = (
        "Your context is a {type} of {length}. Each sub-LLM call can handle roughly ~100k tokens at once."
    )
    return "\n\n".join([f"Answer the following: {asked.question}", *_told(asked, metadata), *demanded(asked)])


def _ask_as_in_the_paper(asked: Asked) -> str:
    metadata = "Your context is a {type} with {length}."
    return "\n\n".join(
        [f'The original prompt: "{asked.question}"', *_told(asked, metadata), *demanded(asked)]
    )


def _told(asked: Asked, metadata: str) -> list[str]:
    """What is told of the data: type and length of the context alone; other variables in our own words."""
    rows = [
        metadata.format(type=info.type, length=_length(info)) if info.name == "context" else described(info)
        for info in asked.contexts
    ]
    return rows or ["There is no `context`: no data was given beside the question."]


def _length(info: ContextInfo) -> str:
    number, _, unit = info.size.partition(" ")
    return f"{number.replace(',', '')} total characters" if unit == "characters" else info.size


def _show(turn: Turn) -> list[str]:
    """All outputs in one message, numbered when there are several."""
    several = len(turn.executions) > 1
    rows = [
        f"REPL output{f' (block {index})' if several else ''}:\n{_result(execution)}"
        for index, execution in enumerate(turn.executions, 1)
    ]
    return ["\n\n".join(rows)] if rows else []


def _show_with_code(turn: Turn) -> list[str]:
    """A message for each block, with its code."""
    return [
        f"Code executed:\n```python\n{clip(Output(execution.code), MAX_SHOWN)}\n```\n\n"
        f"REPL output:\n{_result(execution)}"
        for execution in turn.executions
    ]


def _result(execution: Execution) -> str:
    parts = []
    if execution.output.total:
        parts.append(f"\n{_head(execution.output)}")
    if execution.error is not None:
        parts.append(f"\n\n{clip(Output(execution.error), MAX_ERROR)}")
    parts += [f"{clip(Output(note), MAX_NOTE)}\n" for note in execution.notes]
    return "\n\n".join(parts) or "No output"


def _head(output: Output) -> str:
    shown = (output.head + output.tail)[:MAX_SHOWN]
    left = output.total - len(shown)
    return shown if left == 0 else f"{shown}... + [{left} chars...]"


def _status(ledger: Ledger, submit: str) -> str:
    turn = f"Turn {min(ledger.turns + 1, ledger.limits.max_turns)}/{ledger.limits.max_turns}:"
    if ledger.turns == 0:
        return (
            "You have not used the REPL or seen your context yet. Look at the context first; "
            f"do not give a final answer yet.\n\n{turn}"
        )
    return "\n\n".join([turn, *near(ledger), *filter(None, [last_chance(ledger, submit)])])


def _status_as_in_the_paper(ledger: Ledger, submit: str) -> str:
    if ledger.turns == 0:
        return (
            "You have not interacted with the REPL environment or seen your context yet. Your next action should "
            "be to look through it and to find out how to answer the prompt, so do not give a final answer yet. "
            "Your next action:"
        )
    if last := last_chance(ledger, submit):
        return f"The history before is your previous interactions with the REPL environment. Now {last}"
    left = "; ".join([f"turn {ledger.turns + 1} of {ledger.limits.max_turns}", *near(ledger)])
    return (
        "The history before is your previous interactions with the REPL environment. Continue using the REPL "
        "environment, which has the `context` variable, and querying sub-LLMs by writing to ```repl``` tags, and "
        f"determine your answer ({left}). Your next action:"
    )


REFERENCE = Wording(_ask, _show, _status, apart=True, variables=VARIABLES)
PAPER = Wording(
    _ask_as_in_the_paper, _show_with_code, _status_as_in_the_paper, apart=True, variables=VARIABLES
)
