"""From a name to an object: a built-in or installed name, or an import path.

An extension point is an entry-point group. Built-in adapters are listed in the same groups as
foreign ones. Nothing is imported before it is asked for by name; a name is never guessed. Nothing that
is installed can take the place of the default sandbox.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from recursor.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

FIXED: Final[Mapping[str, Mapping[str, str]]] = {
    "recursor.sandboxes": {
        "process": "recursor.sandboxes.process:ProcessSandbox",
        "process:weak": "recursor.sandboxes.process:WeakProcessSandbox",
    }
}
"""Names that are looked up nowhere else: the default, and what has a colon, which no entry point can have."""


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
    if name in FIXED.get(group, {}):
        return _imported(FIXED[group][name], kind)
    points = {point.name: point for point in installed(group)}
    if name in points:
        return _imported(points[name].value, kind)
    if ":" in name:
        return _imported(name, kind)
    raise ConfigError(f"unknown {kind} {name!r}{nearest(name, names(group))}")


def names(group: str) -> tuple[str, ...]:
    """Return the names that an entry-point group holds, sorted."""
    return tuple(sorted({point.name for point in installed(group)} | set(FIXED.get(group, {}))))


def installed(group: str) -> EntryPoints:
    """Return the entry points of a group, of all packages that are installed."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms, and the default sandbox is no entry point

    return entry_points(group=group)


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
