"""How values look: in a notebook, where all text is data of models, escaped and clipped; and as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
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


def as_text(answer: Any) -> str:
    """Return an answer as it is printed: a str as it is, every other value as JSON."""
    return answer if isinstance(answer, str) else to_json(answer)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return valid JSON for any plain value; what JSON lacks is written as text."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)


def plain(value: Any) -> Any:  # noqa: PLR0911 - one for each kind
    """Return the nearest value that JSON has: sets become lists, bytes base64, NaN and dates text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=lambda item: (type(item).__name__, str(item)))]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def _escaped(said: str) -> str:
    import html  # noqa: PLC0415 - for notebooks alone

    clipped = said if len(said) <= MOST else f"{said[:MOST]}... [{len(said) - MOST:,} characters left out]"
    visible = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in clipped)
    return html.escape(visible)
