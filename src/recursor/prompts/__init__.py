"""The dialects: a Markdown file with the system message of each, and how it words the rest."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from recursor.errors import ConfigError
from recursor.prompt import PLAIN, Dialect
from recursor.prompts.trained import PAPER, REFERENCE

_PYTHON = ("repl", "python", "py", "python3")
_IN_CODE = "in a ```repl block, FINAL(value)"
_ANSWER = 'in a ```repl block, set answer["content"] to it, then answer["ready"] = True'
_TEXTUAL = "outside code, on a line of its own, FINAL(your answer) or FINAL_VAR(variable_name)"

_DIALECTS: dict[str, Callable[[str], Dialect]] = {
    "default": lambda text: Dialect("default", text, _PYTHON, _IN_CODE, PLAIN),
    "async": lambda text: Dialect("async", text, _PYTHON, _IN_CODE, PLAIN, calls="await"),
    "reference": lambda text: Dialect("reference", text, ("repl",), _ANSWER, REFERENCE, calls="reference"),
    "paper": lambda text: Dialect("paper", text, ("repl",), _TEXTUAL, PAPER, textual=True, calls="reference"),
}


@cache
def load(name: str) -> Dialect:
    """Return a dialect by name. Raises ConfigError naming those that exist."""
    if name not in _DIALECTS:
        near = difflib.get_close_matches(str(name), _DIALECTS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no dialect {name!r}, only: {', '.join(_DIALECTS)}{hint}")
    return _DIALECTS[name](Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8"))
