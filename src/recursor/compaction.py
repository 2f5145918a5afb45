"""The messages of a run, and how old ones give way to a summary when the window fills. Pure.

The opening stays byte for byte; between compactions messages only grow at the end. What was
replaced is kept: `History.everything` is what the root LM finds in its REPL, as `history`. Tokens are
estimated from what the model reported of its last prompt: there is no tokenizer here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recursor.prompt import clip
from recursor.types import Message, Output, Usage

DENSITY = 0.3
"""Tokens of a character, until a model has reported."""
LEAST_ROOM = 1_000
"""Tokens beside the opening below which a summary would gain nothing."""
SHARE = 4
"""The summary, and what is kept as it was, get this part of the room each."""
LEAST_SHARE = 1_000
"""Characters that are left of a text in any case: what it ends in, the state of the run, is in them."""
MAX_SUMMARY = 20_000
"""Characters."""
REFUSED = 0.6
"""Of the size of a prompt that was refused, what later prompts may have."""
OUTPUTS = 3
"""Messages that stand in for a summary where none can be had."""

ASK = (
    "Before you go on: to save room, the conversation from your first reply to here will be replaced by a summary. "
    "Write that summary now, as plain text; code in it does not run. Say what is known so far, with exact figures, "
    "names and short quotations; which variables in the REPL hold what; what was tried and did not work; and what "
    "remains to be done, with the next step. Be brief, and leave out nothing that you would have to find out again."
)
RESUME = (
    "Your earlier messages were replaced by the summary above. Your variables are as you left them (`SHOW_VARS()` "
    "lists them).{history} Go on from there; do not repeat what is done."
)
KEPT = (
    ' The messages themselves are in the REPL as `{name}`: a list of {count:,} dicts with "role" and "content", '
    "oldest first."
)
NAMES = ("history", "history_of_messages")
"""What the messages are called in the REPL, and what else where code has a `history` of its own."""
TAKEN = f"print({NAMES[0]!r} in globals())"


@dataclass(frozen=True, slots=True)
class History:
    """The messages of one run."""

    opening: tuple[Message, ...]
    everything: tuple[Message, ...]
    """All messages there have been, each once, in order."""
    summary: tuple[Message, ...] = ()
    """What stands for the turns that were replaced."""
    turns: tuple[tuple[Message, ...], ...] = ()
    """The messages that each later turn added."""
    replaced: int = 0
    """Turns that the summary stands for."""
    tokens: int = 0
    """Of the next prompt, about; 0 before the first reply."""
    known: int = 0
    """Tokens that fitted: of the last prompt and its reply."""
    density: float = DENSITY
    bound: int | None = None
    """Tokens of a prompt beyond which old turns give way; None where nothing is known."""
    name: str = ""
    """What `everything` is called in the REPL; empty as long as it is not there."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        return (*self.opening, *self.summary, *(message for turn in self.turns for message in turn))

    def grown(self, messages: Sequence[Message], usage: Usage) -> History:
        """The history with what a turn added.

        Args:
            usage: of the reply in it; without input tokens, they are estimated.
        """
        sent = _characters(self.prompt)
        density = usage.input_tokens / max(1, sent) if usage.input_tokens > 0 else self.density
        known = round(sent * density) + max(0, usage.output_tokens - usage.reasoning_tokens)
        added = _characters(messages if usage.output_tokens == 0 else messages[1:])
        return replace(
            self, everything=(*self.everything, *messages), turns=(*self.turns, tuple(messages)),
            tokens=known + round(added * density), known=known, density=density,
        )  # fmt: skip

    @property
    def passed(self) -> int | None:
        """The bound, when the next prompt would pass it and a compaction would help; else None."""
        full = self.bound is not None and self.tokens > self.bound and _room(self, self.bound) >= LEAST_ROOM
        return self.bound if full else None

    def refused(self) -> History:
        """The history whose prompt did not fit: the window is between what fitted before and this."""
        learned = max(self.known, round(self.tokens * REFUSED))
        return replace(self, bound=learned if self.bound is None else min(self.bound, learned))


def begin(opening: Sequence[Message], bound: int | None = None) -> History:
    return History(tuple(opening), tuple(opening), bound=bound)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which turns give way, and the prompt that asks for their summary."""

    history: History
    kept: tuple[tuple[Message, ...], ...]
    """The newest turns, clipped where they would fill the room."""
    room: int
    """Characters for the summary."""

    @property
    def replaced(self) -> int:
        """Turns, counted from the first, that the summary stands for."""
        return self.history.replaced + len(self.history.turns) - len(self.kept)

    @property
    def request(self) -> tuple[Message, ...]:
        """The prompt that asks for the summary; empty when there is nothing to summarise.

        It holds nothing newer than what a model has taken already, and begins with it.
        """
        gone = self.history.turns[: len(self.history.turns) - len(self.kept)]
        if not gone and not self.history.summary:
            return ()
        *before, last = replace(self.history, turns=gone).prompt
        if last.role != "user":
            return (*before, last, Message("user", ASK))
        return (*before, Message("user", f"{last.content}\n\n{ASK}"))  # no two messages of a role in a row

    def mechanical(self, variables: str) -> str:
        """What can be said without a model: the variables, and what was seen last."""
        limit = self.room // (OUTPUTS + 1)
        outputs = [
            message.content
            for turn in self.history.turns[: len(self.history.turns) - len(self.kept)]
            for message in turn
            if message.role == "user"
        ]
        rows = [clip(Output(text), limit) for text in outputs[-OUTPUTS:]]
        known = clip(Output(variables), limit)
        return "\n\n".join([f"My variables:\n{known}", "What I saw last:", *(rows or ["(nothing)"])])

    def carried_out(self, summary: str, name: str) -> History:
        """The history that goes on with a summary, clipped to its room.

        Args:
            summary: empty when nothing was to be summarised.
            name: what all messages are called in the REPL; empty when it does not have them.
        """
        history = self.history
        kept = KEPT.format(name=name, count=len(history.everything)) if name else ""
        standing: tuple[Message, ...] = ()
        if summary:
            standing = (
                Message("assistant", clip(Output(summary), self.room)),
                Message("user", RESUME.format(history=kept)),
            )
        later = replace(
            history, everything=(*history.everything, *standing), summary=standing, turns=self.kept,
            replaced=self.replaced, name=name,
        )  # fmt: skip
        return replace(later, tokens=round(_characters(later.prompt) * history.density))


def plan(history: History, bound: int) -> Plan:
    """Decide what is kept as it is: the newest turns that take up no more than their share.

    Args:
        bound: tokens that no prompt should pass.
    """
    room = max(LEAST_ROOM, _room(history, bound))
    share = max(LEAST_SHARE, int(room / SHARE / history.density))
    left, first = share, len(history.turns)
    while first and (left := left - _characters(history.turns[first - 1])) >= 0:
        first -= 1
    kept = history.turns[first:]
    if not kept and history.turns:
        kept = (_shortened(history.turns[-1], share),)
    return Plan(history, kept, min(MAX_SUMMARY, share))


def _shortened(turn: Sequence[Message], share: int) -> tuple[Message, ...]:
    """A turn in so many characters: its longest messages are clipped."""
    limit = share
    for number, message in enumerate(sorted(turn, key=lambda message: len(message.content))):
        left = limit // (len(turn) - number)
        if len(message.content) > left:
            return tuple(Message(each.role, clip(Output(each.content), left)) for each in turn)
        limit -= len(message.content)
    return tuple(turn)


def _room(history: History, bound: int) -> int:
    """Tokens of a bound that the opening leaves."""
    return bound - round(_characters(history.opening) * history.density)


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
