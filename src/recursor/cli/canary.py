"""Whether a prompt as long as a run's arrives whole: some servers cut it without a word.

Code words stand at the beginning, in the middle and at the end of a conversation that is padded to the length at
which a run would compact its own; the model is asked for all of them, and what the server counted is compared with
what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from recursor.compaction import DENSITY
from recursor.engine import COMPACT_AT, WINDOW
from recursor.errors import ContextOverflow
from recursor.protocols import Model
from recursor.types import Message, Reply, Usage

TURNS = 8
"""Pairs of messages of the padding: servers drop whole messages, old ones first."""
FEW = 4_000
"""Characters of the first prompt, which tells how many tokens a character is."""
PLAUSIBLE = (0.15, 0.6)
"""Tokens that a character of such a prompt may be; a server that counts otherwise leaves out what it has cached,
or may not have the prompt, and its price, made larger than was said."""
LACKING = 0.8
"""Of the tokens that were sent, what a server counts at least that has read them all."""
ANSWER = 300
"""Tokens of a reply, about."""
_WORDS = (
    "river", "stone", "window", "garden", "letter", "market", "winter", "candle", "bridge", "forest", "mirror",
    "silver", "kitchen", "harbour", "engine", "paper", "shadow", "island", "copper", "thunder", "meadow", "ladder",
)  # fmt: skip
_COLOURS = ("amber", "indigo", "scarlet", "teal", "ochre", "violet", "ivory", "crimson")
ASK = (
    "The messages above hold {count} code words, each after the words CODE WORD. Reply with all of them, "
    "separated by blanks, and with nothing else."
)
Verdict = Literal["whole", "cut", "refused", "unclear"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a long prompt."""

    verdict: Verdict
    sent: int
    """Tokens of it, about."""
    counted: int | None
    """Those that the server says it read; None when it does not say."""
    found: tuple[bool, ...]
    """Of each code word, in the order of the prompt, whether it came back."""
    able: bool = True
    """Whether all came back of a short prompt."""
    said: str = ""
    """Of a prompt that was refused, the server's words."""


def size_for(window: int | None) -> int:
    """Return the tokens of the longest prompt that a run sends a model."""
    return int(COMPACT_AT * (window or WINDOW))


def estimate(tokens: int) -> Usage:
    """What `examine` will take, about."""
    return Usage(round(tokens + FEW * DENSITY), 2 * ANSWER, calls=2)


async def examine(model: Model, tokens: int) -> Outcome:
    """Send a short prompt, and then one of so many tokens.

    Raises:
        ModelError: a call failed in another way than by the prompt's length.
    """
    draw = random.Random()  # noqa: S311 - no secrets; a proxy must not answer from its cache
    short, words = prompt(FEW, draw)
    first = await model.query(short)
    able = all(_found(words, first))
    density = (_counted(first) or 0) / _characters(short)
    if not PLAUSIBLE[0] <= density <= PLAUSIBLE[1]:
        density = DENSITY
    messages, words = prompt(round(tokens / density), draw)
    sent = round(_characters(messages) * density)
    try:
        reply = await model.query(messages)
    except ContextOverflow as error:
        return Outcome("refused", sent, None, (), able, str(error))
    found = _found(words, reply)
    return Outcome(_judged(sent, _counted(reply), found, able=able), sent, _counted(reply), found, able)


def prompt(characters: int, draw: random.Random) -> tuple[list[Message], list[str]]:
    """Return a conversation of about so many characters, and the code words in it, in their order."""
    words = [f"{colour}-{draw.randrange(1000, 10_000)}" for colour in draw.sample(_COLOURS, 4)]
    ask = ASK.format(count=len(words))
    each = max(200, (characters - len(ask) - 300) // (2 * TURNS))
    padding = [_padding(each, draw) for _ in range(2 * TURNS)]
    messages = [Message("system", f"You repeat code words. CODE WORD {words[0]}.")]
    for turn in range(TURNS):
        before = {0: f"CODE WORD {words[1]}.\n", TURNS // 2: f"CODE WORD {words[2]}.\n"}.get(turn, "")
        messages.append(Message("user", before + padding[2 * turn]))
        messages.append(Message("assistant", padding[2 * turn + 1]))
    return [*messages, Message("user", f"{ask}\nCODE WORD {words[3]}.")], words


def _padding(characters: int, draw: random.Random) -> str:
    return "".join(_lines(characters, draw))[:characters]


def _lines(characters: int, draw: random.Random) -> Iterator[str]:
    written = 0
    while written < characters:
        line = f"{draw.randrange(1000)}: the {' '.join(draw.choices(_WORDS, k=10))}.\n"
        written += len(line)
        yield line


def _found(words: Sequence[str], reply: Reply) -> tuple[bool, ...]:
    return tuple(word in reply.text.lower() for word in words)


def _judged(sent: int, counted: int | None, found: Sequence[bool], *, able: bool) -> Verdict:
    if counted is not None and counted < LACKING * sent:
        return "cut"
    if all(found):
        return "whole"
    # What is lost of a prompt that is cut is its beginning, or its middle; never what stands last.
    return "cut" if counted is None and able and found[-1] else "unclear"


def _counted(reply: Reply) -> int | None:
    return reply.usage.input_tokens or None


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
