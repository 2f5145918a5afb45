"""Text of models, contexts and sandboxes made safe and short for a terminal.

A terminal obeys control characters, so none of them reaches it; nor do the marks that reorder text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from recursor.display import as_text, to_json

__all__ = [
    "NAME", "as_text", "cells", "clean", "count", "cut", "first_lines", "money", "preview", "seconds", "to_json",
]  # fmt: skip
NAME = 120
"""Columns of a model's name, or of another that should be short."""
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x1b\\|\x07|\x9c|\Z)"  # OSC, DCS, SOS, PM, APC: titles, links, clipboards
    r"|\x1b[ -/]*[0-~]?"  # two-character escapes and a bare ESC
    r"|\x9b[0-?]*[ -/]*[@-~]",  # CSI in one byte
    re.DOTALL,
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def clean(text: str) -> str:
    """Return text without escape sequences, control characters and lone surrogates."""
    plain = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    return plain.encode("utf-8", "replace").decode("utf-8")


def preview(text: str, width: int) -> str:
    """Return one line of at most `width` columns, cleaned."""
    return cut(" ".join(clean(text[: 20 * width]).split()), width)


def first_lines(text: str, lines: int, width: int) -> list[str]:
    """Return the first lines, cleaned and cut, and how many more there are."""
    every = clean(text).strip("\n").split("\n")
    shown = [cut(line.expandtabs(4), width) for line in every[:lines]]
    more = len(every) - lines
    return [*shown, cut(f"… {count(more, 'more line')}", width)] if more > 0 else shown


def cells(text: str) -> int:
    """Return the columns that a cleaned line takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(line: str, width: int) -> str:
    """Return a cleaned line that takes at most `width` columns, with "…" at the end where it was cut."""
    if len(line) <= width and (line.isascii() or cells(line) <= width):
        return line
    kept, taken = [], 0
    for char in line[: 4 * width]:  # marks that take no column have an end, too
        taken += _cells(char)
        if taken > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…" if width > 0 else ""


@lru_cache(maxsize=4096)
def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def money(cost: float | None) -> str:
    """Return US dollars as a person reads them; "cost unknown" when a price is."""
    if cost is None:
        return "cost unknown"
    return f"${cost:.2f}" if cost >= 0.1 or not cost else f"${cost:.4f}"


def seconds(duration: float) -> str:
    """Return a duration: 0.84 s, 12 s, 3 min 5 s."""
    if duration < 10:
        return f"{duration:.2f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    return f"{duration // 60:.0f} min {duration % 60:.0f} s"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 turn, 2 turns."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
