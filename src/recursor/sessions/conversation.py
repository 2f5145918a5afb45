"""What a session has been through, and what the root LM is told of it: no more, however long it becomes.

Pure. Questions and answers enter a prompt clipped, and only the last few of them; the rest is data in the REPL.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Any

from recursor.prompt import MAX_NOTE, clip
from recursor.types import ContextInfo, Output

ANSWERED = "answered"
SHOWN = 3
"""Earlier questions and answers that are shown."""
MAX_SHOWN = 300
"""Characters of each."""
MAX_CONTEXTS = 5
"""Earlier contexts that are named."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN
_BEGINS = (
    "This begins a conversation. The REPL stays as you leave it: questions that follow find your variables, so keep "
    "under good names what may be of use again. `history` will list questions and answers."
)
_GOES_ON = (
    "This is question {number} of a conversation in one REPL: variables, functions and imports of earlier turns are "
    'there. `history` lists the questions and answers before, oldest first: dicts with "question" and "answer" (and '
    '"ended" where none was given). The last of {count}, clipped:'
)
REBUILT = (
    "The REPL was made anew since, by running the code of earlier turns again, and some of it went otherwise than "
    "before (first in turn {turn}): look at variables before you rely on them."
)
LOST = (
    "The REPL was started anew since: variables of earlier turns are lost; contexts and `history` are there."
)
UNDONE = "A question before this one was stopped, and what its code did to variables is undone."


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and what came of it."""

    number: int
    """Of the turn, from 1. A turn that was undone leaves a gap."""
    run_id: str
    question: str
    answer: Any
    """A plain value."""
    ended: str = ANSWERED
    """The stop reason; the error, where it ended in one."""

    @property
    def plain(self) -> dict[str, Any]:
        """As code finds it in `history`."""
        found = {"question": self.question, "answer": self.answer}
        return found if self.ended == ANSWERED else {**found, "ended": self.ended}


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is in the REPL of a session."""

    exchanges: tuple[Exchange, ...] = ()
    contexts: tuple[ContextInfo, ...] = ()
    """All that were given as `context`, oldest first."""
    notes: tuple[str, ...] = ()
    """What has happened since the last question; told once."""

    def grown(self, exchange: Exchange) -> Conversation:
        return replace(self, exchanges=(*self.exchanges, exchange), notes=())

    def given(self, info: ContextInfo) -> Conversation:
        return replace(self, contexts=(*self.contexts, info))

    def noted(self, note: str) -> Conversation:
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, note))))

    @property
    def next_context(self) -> str:
        """The name of the next context, beside `context`."""
        return f"context_{len(self.contexts)}"

    def history(self) -> list[dict[str, Any]]:
        """What `history` is in the REPL."""
        return [exchange.plain for exchange in self.exchanges]

    def told(self, variables: Output, *, fresh: bool) -> str:
        """What is said of the REPL before a question.

        Args:
            variables: what shows them.
            fresh: whether a context comes with the question; it is the last of `contexts` then.
        """
        if not self.exchanges:
            return "\n".join([_BEGINS, *self.notes])
        rows = [_GOES_ON.format(number=len(self.exchanges) + 1, count=len(self.exchanges))]
        for each in self.exchanges[-SHOWN:]:
            rows.append(f"- asked: {_clipped(each.question)}")
            end = "" if each.ended == ANSWERED else f" (ended: {_clipped(each.ended)})"
            rows.append(f"  answered: {_clipped(each.answer)}{end}")
        rows += self._contexts(fresh)
        rows.append(f"Variables:\n{clip(variables, MAX_NOTE).strip()}")
        return "\n".join([*rows, *self.notes])

    def _contexts(self, fresh: bool) -> list[str]:
        if not self.contexts:
            return []
        newest, others = self.contexts[-1], self.contexts[:-1]
        came = "which came with this question" if fresh else "which came earlier"
        rows = [f"`context` is `{newest.name}`, {came}."]
        if others:
            named = ", ".join(f"`{each.name}` ({each.type}, {each.size})" for each in others[-MAX_CONTEXTS:])
            more = len(others) - MAX_CONTEXTS
            before = f"`{others[0].name}` to `{others[more - 1].name}`, " if more > 0 else ""
            rows.append(f"Earlier contexts: {before}{named}.")
        return rows


def _clipped(value: Any) -> str:
    """A value in one line of bounded length."""
    try:
        text = value[: 2 * MAX_SHOWN] if isinstance(value, str) else _SHORT.repr(value)
    except ValueError:  # a number with more digits than Python writes
        text = f"({type(value).__name__})"
    line = " ".join(text.split())
    cut = len(line) > MAX_SHOWN or (isinstance(value, str) and len(value) > 2 * MAX_SHOWN)
    return f"{line[:MAX_SHOWN]}..." if cut else line
