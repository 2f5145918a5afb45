"""The texts of the dialects, one Markdown file each."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources

from recursor.errors import ConfigError
from recursor.prompt import Dialect

_LANGUAGES = {"default": ("repl", "python", "py", "python3")}


@cache
def load(name: str) -> Dialect:
    """Return a dialect by name. Raises ConfigError naming those that exist."""
    if name not in _LANGUAGES:
        near = difflib.get_close_matches(str(name), _LANGUAGES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no dialect {name!r}, only: {', '.join(_LANGUAGES)}{hint}")
    text = resources.files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")
    return Dialect(name, text, _LANGUAGES[name])
