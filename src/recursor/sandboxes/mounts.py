"""Folders of the host that code may read under a path of its own: which may be, and where."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from recursor.errors import ConfigError
from recursor.sandboxes.template import installed_packages

Mounts: TypeAlias = Mapping[str, str | Path]
"""Folders by the paths at which code sees them, {"/context": Path("papers")}."""

_TAKEN = frozenset(
    ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "packages", "proc", "root", "run")
).union(("sbin", "sys", "tmp", "usr", "var"))
_KERNEL = tuple(map(Path, ("/proc", "/sys", "/dev")))


def checked(mounts: Mounts | None) -> dict[str, str]:
    """Return the folders, resolved. Blocks while it looks through them.

    Raises:
        ConfigError: a path or a folder that cannot be mounted.
    """
    if mounts is not None and not isinstance(mounts, Mapping):
        raise ConfigError(f'mounts must be folders by path, {{"/context": folder}}, not {mounts!r}')
    given = dict(mounts or {})
    for place in given:
        _check_place(place, [other for other in given if other is not place])
    return {place: str(_folder(place, folder)) for place, folder in given.items()}


def check_again(mounts: Mapping[str, str]) -> None:
    """Raise ConfigError where a link has come between since `checked`: a policy has decided about another folder."""
    for place, folder in mounts.items():
        if os.path.realpath(folder) != folder:
            raise ConfigError(f"mounts: {place}: {folder} was a folder, and is or lies behind a link now")


def _check_place(place: object, others: list[str]) -> None:
    pure = PurePosixPath(place) if isinstance(place, str) else PurePosixPath()
    plain = str(pure) == place and pure.root == "/" and "\0" not in place
    if not plain or ".." in pure.parts or len(pure.parts) < 2:
        raise ConfigError(f'mounts: {place!r} is no plain absolute path such as "/context"')
    if pure.parts[1] in _TAKEN:
        raise ConfigError(f"mounts: /{pure.parts[1]} is the sandbox's own; use a path such as /context")
    for own in (sys.prefix, sys.base_prefix, *installed_packages()):
        if own != "/" and (pure.is_relative_to(own) or PurePosixPath(own).is_relative_to(pure)):
            raise ConfigError(f"mounts: {place}: Python is in {own}; use a path such as /context")
    for other in others:
        if pure.is_relative_to(other) or PurePosixPath(other).is_relative_to(pure):
            raise ConfigError(f"mounts: {place} and {other} lie in each other")


def _folder(place: str, folder: object) -> Path:
    try:
        path = Path(folder).expanduser().resolve(strict=True) if isinstance(folder, str | Path) else None
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"mounts: {place}: {folder} cannot be read: {error}") from error
    if path is None or not path.is_dir():
        raise ConfigError(f"mounts: {place}: {folder!r} is no folder")
    if path == Path("/") or any(path.is_relative_to(own) for own in _KERNEL):
        raise ConfigError(f"mounts: {place}: {path} holds files of the kernel, which are no data")
    odd = next(_irregular(path), None)
    if odd is not None:
        raise ConfigError(f"mounts: {place}: {odd} is no regular file: a pipe, a socket or a device")
    return path


def _irregular(folder: Path) -> Iterator[str]:
    """What is neither file nor folder nor link, in a folder and all below it."""
    waiting = [str(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # nor can the code read it
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                yield entry.path
