"""How values look in a notebook. All text is data of models: it is escaped and clipped."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

MOST = 2000
"""Characters of one text."""
_STYLE = "text-align:left;vertical-align:top;white-space:pre-wrap"


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and texts, as HTML."""
    cells = "".join(
        f'<tr><th style="{_STYLE}">{_escaped(name)}</th><td style="{_STYLE}">{_escaped(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{_escaped(title)}</caption><tbody>{cells}</tbody></table>"


def counts(
    turns: int | None, calls: int, tokens: int, cost: float | None, duration: float | None
) -> list[tuple[str, str]]:
    """What a run took, as rows of a table."""
    return [
        ("took", f"{turns or 0:,} turns, {calls:,} calls, {tokens:,} tokens, {duration or 0.0:,.1f} s"),
        ("cost", "not known" if cost is None else f"${cost:,.4f}"),
    ]


def text(value: Any) -> str:
    """A value as text: a text itself, of all else JSON or what it says of itself."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a value of any class
        return f"<{type(value).__name__}>"


def _escaped(said: str) -> str:
    clipped = said if len(said) <= MOST else f"{said[:MOST]}... [{len(said) - MOST:,} characters left out]"
    visible = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in clipped)
    return html.escape(visible)
