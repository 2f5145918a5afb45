"""A reply -> the code blocks in it. Pure; any text parses.

Fences as in CommonMark (backticks or tildes, three or more, closed by at least as many of the same
kind), at any indentation. A fence inside a string literal of the code closes nothing: where the
code up to it ends within a triple-quoted string, the next closing fence is tried.
"""

from __future__ import annotations

import io
import re
import textwrap
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?:[-*+>] +)?(?P<fence>`{3,}(?=[^`]*$)|~{3,})[ \t]*(?P<info>.*)$")
MAX_CLOSINGS = 50
"""Closing fences tried for one block whose string does not end."""
_LANGUAGE = re.compile(r"[^\s{}.,:]+")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    """The first word after the fence, in lower case; empty when there is none."""
    code: str
    closed: bool
    """False when the reply ended before the fence did."""


def blocks(text: str) -> list[Block]:
    """Return all fenced blocks, whatever their language, in order."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    found, position = [], 0
    while position < len(lines):
        opening = _OPENING.match(lines[position])
        position += 1
        if opening is None:
            continue
        end = _end(lines, position, opening["fence"])
        body = _dedent(lines[position:end], opening["indent"])
        language = _LANGUAGE.search(opening["info"])
        found.append(Block(language[0].lower() if language else "", body, end < len(lines)))
        position = end + 1
    return found


def runnable(text: str, languages: Sequence[str]) -> tuple[list[Block], list[Block]]:
    """Split the blocks of a reply into those to run and the others."""
    every = blocks(text)
    return [block for block in every if block.language in languages], [
        block for block in every if block.language not in languages
    ]


def is_whole(code: str) -> bool:
    """Whether the code could run as it stands, as far as brackets and quotes tell."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(code).readline):
            pass
    except (tokenize.TokenError, SyntaxError):
        return False
    return True


def _end(lines: Sequence[str], start: int, fence: str) -> int:
    """The index of the closing line; len(lines) when there is none."""
    closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    first = None
    tried = 0
    for index in range(start, len(lines)):
        if closing.match(lines[index]) is None:
            continue
        first = index if first is None else first
        if not _ends_in_string("\n".join(lines[start:index])):
            return index
        tried += 1
        if tried == MAX_CLOSINGS:
            break
    return len(lines) if first is None else first


def _ends_in_string(code: str) -> bool:
    """Whether the code stops within a triple-quoted string."""
    if "'''" not in code and '"""' not in code:
        return False
    try:
        for _ in tokenize.generate_tokens(io.StringIO(textwrap.dedent(code)).readline):
            pass
    except tokenize.TokenError as error:
        return "string" in str(error.args[0])
    except SyntaxError:
        return False
    return False


def _dedent(lines: Sequence[str], indent: str) -> str:
    """Remove the fence's own indentation; then, if the first line still has some, what all share."""
    code = "\n".join(line[len(indent) :] if line.startswith(indent) else line.lstrip(" \t") for line in lines)
    return textwrap.dedent(code) if code.lstrip("\n").startswith((" ", "\t")) else code
