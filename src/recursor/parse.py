"""A reply -> the code blocks and the textual answers in it. Pure; any text parses.

Fences as in CommonMark (backticks or tildes, three or more, closed by at least as many of the same
kind), at any indentation. A fence inside a triple-quoted string of the code closes nothing, unless
that string never ends. Takes time in proportion to the reply.

A textual answer is `FINAL(...)` or `FINAL_VAR(...)` at the start of a line, outside every block: not
within a line, in a quotation, a list or inline code.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?:[-*+>] +)?(?P<fence>`{3,}(?=[^`]*$)|~{3,})[ \t]*(?P<info>.*)$")
_MARK = re.compile(r'''\\.|#|"""|\'\'\'|["'()\[\]{}]''')
"""What tells strings, comments and brackets apart in a line of Python."""
MAX_CLOSINGS = 50
"""Closing fences tried for one block whose string does not end."""
_LANGUAGE = re.compile(r"[^\s{}.,:]+")
_THOUGHT = re.compile(r"\A\s*<(?P<tag>think|thinking)>.*?(?:</(?P=tag)>|\Z)", re.DOTALL)
_THOUGHT_END = re.compile(r"^[^`\"'\n]*</(?:think|thinking)>[ \t\r]*$", re.MULTILINE)
_ENDING = re.compile(r"^ {0,3}(?P<name>FINAL|FINAL_VAR)\(")
_LITERAL = re.compile(
    r'''\s*(?P<raw>[rR]?)(?:"""(?P<a>(?:\\.|[^\\])*?)"""|"(?P<b>(?:\\.|[^"\\\n])*)"'''
    r"""|'''(?P<c>(?:\\.|[^\\])*?)'''|'(?P<d>(?:\\.|[^'\\\n])*)')\s*\)""",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    """The first word after the fence, in lower case; empty when there is none."""
    code: str
    closed: bool
    """False when the reply ended before the fence did."""
    lines: range = field(default=range(0), compare=False)
    """Where it stands in the reply, fences included."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One textual answer."""

    text: str | None
    """What stands in the parentheses, without its quotes; None when they do not close."""
    variable: bool
    """Whether the text names a variable: `FINAL_VAR`."""
    quoted: bool
    """Whether the text was a string literal."""


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
        whole = range(position - 1, min(end + 1, len(lines)))
        found.append(Block(language[0].lower() if language else "", body, end < len(lines), whole))
        position = end + 1
    return found


def read(
    reply: str, languages: Sequence[str], submit: str, *, textual: bool = False, cut: bool = False
) -> tuple[list[str], list[str]]:
    """Return the codes of a reply that will run, and what to tell the root LM about the rest.

    Args:
        languages: of the fences that are run.
        submit: how an answer is submitted, in words.
        textual: whether a textual answer counts: then it becomes the last code. One that stands
            before a block, or around it, is a plan: the code comes first.
        cut: whether the reply ended at a length limit.
    """
    text = spoken(reply)
    every = blocks(text)
    run = [block for block in every if block.language in languages]
    final = ending(text, every, after=run[-1].lines.stop - 1 if textual and run else -1)
    notes = []
    if run and not run[-1].closed:
        if cut or not is_whole(run[-1].code):
            run.pop()
            notes.append(
                "your last block was cut off before its closing fence, so it did not run; write it again"
            )
        else:
            notes.append("your last block had no closing fence; it was run up to the end of your reply")
    elif every and not run:
        named = ", ".join(sorted({block.language or "no language" for block in every}))
        notes.append(f"blocks marked {named} do not run; mark code as ```{languages[0]}")
    if not text.strip():
        notes.append(f"your reply was empty; write code in a ```{languages[0]} block")
    codes = [block.code for block in run if block.code.strip()]
    if final is not None and not textual:
        notes.append(f"FINAL outside a code block submits nothing; to submit an answer: {submit}")
    elif final is not None and not final.text and not final.quoted:
        problem = "had no closing parenthesis" if final.text is None else "was empty"
        notes.append(f"your FINAL {problem}, so nothing was submitted; to submit an answer: {submit}")
    elif final is not None:
        codes.append(_submission(final))
    elif textual and ending(text, every) is not None:
        notes.append(
            "your FINAL stood before code, so it was taken as a plan; submit when you have seen the output"
        )
    return codes, notes


def spoken(text: str) -> str:
    """The reply without reasoning that its server left at the head of it: what is thought is not said.

    Where the template of a model opens the reasoning, the reply has its end alone.
    """
    end = _THOUGHT_END.search(text)
    if end is not None and "<think" not in text[: end.start()]:
        return text[end.end() :]
    return _THOUGHT.sub("", text, 1)


def ending(text: str, found: Sequence[Block], after: int = -1) -> Ending | None:
    """Return the first textual answer outside the blocks that were found, below the line `after`."""
    fenced = {line for block in found for line in block.lines}
    position = 0
    for number, line in enumerate(text.split("\n")):
        tag = _ENDING.match(line)
        if tag is not None and number > after and number not in fenced:
            content, quoted = _parenthesised(text, position + tag.end())
            return Ending(content, tag["name"] == "FINAL_VAR", quoted)
        position += len(line) + 1
    return None


def _submission(final: Ending) -> str:
    """The code that submits a textual answer."""
    text = final.text or ""
    if final.variable:
        return f"FINAL_VAR({text.strip('`')!r})"
    if final.quoted or not text.isidentifier():
        return f"FINAL({text!r})"
    advice = f"{text} is a variable: FINAL_VAR({text}) submits its value, FINAL({text!r}) this word"
    return f"if {text!r} in globals():\n    raise NameError({advice!r})\nFINAL({text!r})"


def value(text: str) -> Any:
    """What a textual answer spells out: JSON where it is some, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def is_whole(code: str) -> bool:
    """Whether the code could run as it stands, as far as brackets and quotes tell.

    Not by the standard tokenizer: of some lines its time is the square of their length.
    """
    quote, depth = "", 0
    for line in code.split("\n"):
        quote, opened = _scanned(line, quote if len(quote) > 1 else "")
        depth += opened
    return not quote and depth <= 0


def _end(lines: Sequence[str], start: int, fence: str) -> int:
    """The index of the closing line; len(lines) when there is none."""
    closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    quote = ""
    tried: list[int] = []
    for index in range(start, len(lines)):
        if closing.match(lines[index]) is not None:
            if not quote:
                return index
            tried.append(index)
            if len(tried) == MAX_CLOSINGS:
                break
        quote, _ = _scanned(lines[index], quote)
        quote = quote if len(quote) > 1 else ""  # other strings end with their line
    return tried[0] if tried else len(lines)


def _scanned(line: str, quote: str) -> tuple[str, int]:
    """What is open after a line of Python: the quotation mark, as `quote` was before it, and brackets in sum."""
    position = depth = 0
    while found := _MARK.search(line, position):
        mark, position = found[0], found.end()
        if quote:
            if mark.startswith(quote):  # three close one, and leave two
                quote, position = "", found.start() + len(quote)
        elif mark == "#":
            break
        elif mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif mark[0] != "\\":
            quote = mark
    return quote, depth


def _dedent(lines: Sequence[str], indent: str) -> str:
    """Remove the fence's own indentation; then, if the first line still has some, what all share."""
    code = "\n".join(line[len(indent) :] if line.startswith(indent) else line.lstrip(" \t") for line in lines)
    return textwrap.dedent(code) if code.lstrip("\n").startswith((" ", "\t")) else code


def _parenthesised(text: str, start: int) -> tuple[str | None, bool]:
    """What stands between the parenthesis before `start` and the one that closes it; whether it is a literal.

    In a text that is no literal, parentheses count and quotation marks do not: they may be apostrophes.
    """
    literal = _LITERAL.match(text, start)
    if literal is not None:
        said = next(literal[group] for group in "abcd" if literal[group] is not None)
        return said if literal["raw"] else re.sub(r"\\(.)", _unescaped, said, flags=re.DOTALL), True
    end = _balanced(text, start, len(text))
    if end is None:
        return None, False
    line_end = text.find("\n", end)
    while True:  # a face such as :) in the answer closes too early; then the line has one more to close
        later = _balanced(text, end + 1, len(text) if line_end < 0 else line_end)
        if later is None:
            return text[start:end].strip(), False
        end = later


def _balanced(text: str, start: int, stop: int) -> int | None:
    """The index of the first parenthesis from `start` on that closes more than was opened."""
    depth = 0
    for parenthesis in re.compile(r"[()]").finditer(text, start, stop):
        depth += 1 if parenthesis[0] == "(" else -1
        if depth < 0:
            return parenthesis.start()
    return None


def _unescaped(escape: re.Match[str]) -> str:
    return _ESCAPES.get(escape[1], escape[0])
