"""Which kind a file on the host is of: what decides how it is read in the sandbox."""

from __future__ import annotations

import functools
from pathlib import Path

from recursor.errors import ConfigError
from recursor.files import Loader
from recursor.sandboxes.guest import kinds

GROUP = "recursor.loaders"


def kind_of(name: str, size: int, head: bytes | None = None) -> str:
    """The kind of a file, one of `guest.kinds`; or the import path of a loader for it. Empty for a text or bytes.

    Args:
        head: its first bytes; None leaves it open where the name does not tell (`kinds.UNKNOWN`).
    """
    lower = name.lower()
    for suffix, path in installed().items():
        if lower.endswith(suffix):
            return path
    kind = kinds.by_name(lower)
    if kind == kinds.UNKNOWN and head is not None:
        return kinds.by_content(head)
    return "" if kinds.stays_text(kind, size) else kind


def is_text(kind: str) -> bool:
    """Whether files of this kind are texts that a model can read as they stand."""
    return not kind or kind in kinds.TEXTS.values()


def head_of(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    with path.open("rb") as file:
        return file.read(kinds.HEAD)


@functools.cache
def installed() -> dict[str, str]:
    """Import paths of the loaders that are installed beside ours, by suffix.

    Raises:
        ConfigError: one of them is none.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms, and few contexts are files

    found: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        try:
            loader = point.load()
        except Exception as error:  # foreign code, run at its import
            raise ConfigError(
                f"the loader {point.name!r} ({point.value}) cannot be imported: {error}"
            ) from error
        if not isinstance(loader, Loader):
            raise ConfigError(f"the loader {point.name!r} ({point.value}) has no `suffixes` or no `load`")
        found.update(dict.fromkeys(loader.suffixes, point.value))
    return found
