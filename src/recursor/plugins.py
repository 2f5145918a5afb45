"""From a name to an object: a built-in or installed name, or an import path.

An extension point is an entry-point group. Built-in adapters are listed in the same groups as
foreign ones. Nothing is imported before it is asked for by name; a name is never guessed.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from recursor.errors import ConfigError

VARIANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "recursor.sandboxes": {"process:weak": "recursor.sandboxes.process:WeakProcessSandbox"}
}
"""Names with a colon, which an entry point cannot have."""


def load(group: str, name: str) -> Any:
    """Return the object that a name stands for.

    Args:
        group: the entry-point group, "recursor.sandboxes".
        name: an entry point of the group, or an import path such as "package.module:Object". A variant of a
            built-in one follows it after a colon: "process:weak".

    Raises:
        ConfigError: nothing has that name, or it cannot be imported.
    """
    kind = group.rpartition(".")[2].removesuffix("es" if group.endswith("xes") else "s")
    points = {point.name: point for point in entry_points(group=group)}
    if name in VARIANTS.get(group, {}):
        return _imported(VARIANTS[group][name], kind)
    if name in points:
        return _imported(points[name].value, kind)
    if ":" in name:
        return _imported(name, kind)
    raise ConfigError(f"unknown {kind} {name!r}{nearest(name, names(group))}")


def names(group: str) -> tuple[str, ...]:
    """Return the names that an entry-point group holds, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)} | set(VARIANTS.get(group, {}))))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the name that may have been meant, and the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def _imported(path: str, kind: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.strip().split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import the {kind} {path!r}: {error}") from error
    return found
