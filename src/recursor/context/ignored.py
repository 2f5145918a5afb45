"""What git ignores in a folder: `.gitignore` files and `.git/info/exclude`, as gitignore(5) says.

git itself is not asked: it runs what a repository's configuration names. Patterns are matched in time
that is the product of the lengths, whatever they are.
"""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_MOST = 1 << 20
"""Bytes of a file of patterns that are read."""


class Pattern(NamedTuple):
    """A line of a file of patterns."""

    parts: tuple[str, ...]
    keeps: bool
    """It began with "!"."""
    only_folders: bool


class Ignored:
    """The patterns that hold in a folder of a repository.

    Args:
        above: those of the folder that it is in, from the last to the first; each with how many steps down it is.
    """

    def __init__(self, above: Sequence[tuple[tuple[str, ...], Pattern]] = ()) -> None:
        self._rules = tuple(above)

    @classmethod
    def of(cls, folder: Path) -> Ignored | None:
        """Those of a folder; None where it is in no repository."""
        folder = folder.resolve()
        top = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
        if top is None:
            return None
        found = cls(tuple(((), each) for each in _read(top / ".git" / "info" / "exclude"))).within((), top)
        steps = folder.relative_to(top).parts
        for depth in range(1, len(steps) + 1):
            found = found.within((steps[depth - 1],), top.joinpath(*steps[:depth]))
        return found

    def within(self, steps: tuple[str, ...], folder: Path) -> Ignored:
        """Those of a folder inside, `steps` further down."""
        own = tuple(((), each) for each in _read(folder / ".gitignore"))
        return Ignored(own + tuple(((*above, *steps), each) for above, each in self._rules))

    def ignores(self, name: str, *, is_folder: bool) -> bool:
        """Whether a file or folder in this folder is ignored. What is in an ignored folder is, too."""
        for above, pattern in self._rules:
            if pattern.only_folders and not is_folder:
                continue
            if _matches(pattern.parts, (*above, name)):
                return not pattern.keeps
        return False


def _read(path: Path) -> list[Pattern]:
    """The patterns of a file, the last first, since that one decides."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            lines = file.read(_MOST).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    return [pattern for pattern in map(_parsed, reversed(lines)) if pattern is not None]


def _at_once(path: str, flags: int) -> int:
    """Open a file; a pipe by its name holds nobody up."""
    return os.open(path, flags | os.O_NONBLOCK)


def _parsed(line: str) -> Pattern | None:
    text = line.rstrip("\r\n")
    stripped = text.rstrip(" ")
    if len(stripped) < len(text) and stripped.endswith("\\"):
        stripped += " "
    keeps = stripped.startswith("!")
    body = stripped[keeps:]
    if not body or (body.startswith("#") and not keeps):
        return None
    only_folders = body.endswith("/")
    body = body.rstrip("/")
    parts = tuple(part for part in body.split("/") if part)
    if not parts:
        return None
    return Pattern(parts if "/" in body else ("**", *parts), keeps, only_folders)


def _matches(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a path matches; "**" stands for any number of steps, at the end for at least one."""
    reached = {0}
    for index, part in enumerate(pattern):
        if part == "**":
            least = 1 if index == len(pattern) - 1 else 0
            reached = set(range(min(reached) + least, len(path) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(path) and _fits(path[at], part)}
        if not reached:
            return False
    return len(path) in reached


def _fits(name: str, glob: str) -> bool:
    """Whether one name matches one glob: going back only to the last star."""
    tokens = _tokens(glob)
    at = token = 0
    star, after = -1, 0
    while at < len(name):
        if token < len(tokens) and tokens[token] == "*":
            star, after, token = token, at, token + 1
        elif token < len(tokens) and _one(name[at], tokens[token]):
            at, token = at + 1, token + 1
        elif star >= 0:
            after += 1
            at, token = after, star + 1
        else:
            return False
    return all(each == "*" for each in tokens[token:])


@functools.lru_cache(4096)
def _tokens(glob: str) -> tuple[str, ...]:
    """One for each character that is matched: "*", "?", "[...]", or itself after a backslash."""
    tokens: list[str] = []
    position = 0
    while position < len(glob):
        sign, step = glob[position], 1
        if sign == "\\" and position + 1 < len(glob):
            sign, step = glob[position : position + 2], 2
        elif sign == "[":
            end = glob.find(
                "]", position + 3 if glob[position + 1 : position + 2] in ("!", "^") else position + 2
            )
            if end > 0:
                sign, step = glob[position : end + 1], end + 1 - position
        if sign != "*" or not tokens or tokens[-1] != "*":
            tokens.append(sign)
        position += step
    return tuple(tokens)


def _one(character: str, sign: str) -> bool:
    if sign == "?":
        return True
    if len(sign) > 2:
        return fnmatch.fnmatchcase(character, sign.replace("[^", "[!", 1))
    return character == sign[-1] and (len(sign) == 1 or sign[0] == "\\")
