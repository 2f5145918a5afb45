"""System messages of a client: instructions, told to the root LM whole, or with where they stand. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WHOLE = 16_000
"""Characters up to which the root LM is told instructions as they are."""
HEAD, TAIL = 4_000, 2_000
"""Characters of longer ones that it is told."""
NAMED = 8
"""Places of them that it is told; more than that are of one kind, and it finds the rest."""
ROLES = ("system", "developer")


def told(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the root LM is told of them; empty where there are none."""
    found = list(_texts(messages))
    whole = "\n\n".join(text for _, text in found)
    if len(whole) <= WHOLE:
        return whole
    places = ", ".join(f"`{place}`" for place, _ in found[:NAMED])
    more = f", and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    left = len(whole) - HEAD - TAIL
    return (
        f"The asker's instructions to you are long, {len(whole):,} characters: they stand whole in {places}{more}. "
        "They bind you as if they stood here, wherever you find them. Unless you see them whole already, read all of "
        "them before you do anything else, and in one reply: in several blocks, each of which prints at most 9,900 "
        "characters, since no more is shown of one.\n"
        f"They begin:\n{whole[:HEAD]}\n"
        f"[... {left:,} characters of the instructions are left out here ...]\n"
        f"They end:\n{whole[-TAIL:]}"
    )


def _texts(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The texts of system messages, and where each stands in the REPL."""
    for index, message in enumerate(messages):
        if message.get("role") not in ROLES:
            continue
        place, content = f"messages[{index}]['content']", message.get("content")
        if isinstance(content, str):
            yield place, content
        for number, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type")
            if kind in ("text", "refusal"):
                yield f"{place}[{number}]['{kind}']", str(part[kind])
