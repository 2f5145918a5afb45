"""Settings changed in the user's file: checked against the tree before, and the whole file after."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from recursor.config import edit, loading, paths, tree
from recursor.config.tree import Key
from recursor.errors import ConfigError


def put(path: Path, key: Key, text: str) -> str:
    """Set a key of a settings file, which is made where there is none.

    Args:
        text: the value as a person writes it; that of a string needs no quotation marks. Of a table, what is to
            be set in it: {input = 1, output = 2}.

    Returns:
        What is wrong with the file all the same, as it was before; empty when nothing is.

    Raises:
        ConfigError: the key is unknown, the value is wrong, or does not go with the rest of the file.
    """
    pairs = list(_pairs(key, text))

    def change(text: str) -> str:
        for each, value in pairs:
            text = edit.put(text, each, value)
        return text

    return _change(path, change)


def take(path: Path, key: Key) -> str:
    """Take a key out of a settings file, or a table; as `put`."""
    if not path.is_file():
        raise ConfigError(f"{tree.written(key)} is not set: there is no {path}")
    return _change(path, lambda before: edit.take(before, key))


def begin(path: Path, values: Mapping[Key, Any], *, force: bool = False) -> Path | None:
    """Write a settings file with every key in it, commented out but for those that are given.

    Args:
        force: whether one that is there is replaced; it is kept beside it.

    Returns:
        Where the old file is, if there was one.

    Raises:
        ConfigError: there is a file already, or a value is wrong.
    """
    text = starting(values)
    loading.merged(text, path)
    with paths.changing(path):
        there = path.is_symlink() or path.exists()
        if there and not force:
            raise ConfigError(
                f"{path} is there already: change it with `recursor config set`, or pass --force"
            )
        kept = path.with_name(path.name + ".old") if there else None
        if kept is not None:
            paths.replace(kept, paths.read(path))
        paths.replace(path, text)
    return kept


def starting(values: Mapping[Key, Any]) -> str:
    """The text of a first settings file."""
    text = importlib.resources.files("recursor.config").joinpath("template.toml").read_text("utf-8")
    for key, value in values.items():
        text = edit.put(text, key, value)
    return text


def _pairs(key: Key, text: str) -> Iterator[tuple[Key, Any]]:
    if not tree.is_table(tree.in_profile(key)):
        yield _checked(key, _value(key, text))
        return
    try:
        found = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError:
        found = {}
    table = found.get("v") if len(found) == 1 else None
    if not isinstance(table, dict) or not table:
        tree.kind_of(tree.in_profile(key), "config set")  # raises: it is a table
    yield from _inside(key, table or {})


def _inside(key: Key, table: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    for name, value in table.items():
        inner = (*key, name)
        if tree.is_table(tree.in_profile(inner)) and isinstance(value, dict):
            yield from _inside(inner, value)
        else:
            yield _checked(inner, value)


def _checked(key: Key, value: Any) -> tuple[Key, Any]:
    tree.checked(tree.in_profile(key), value, "config set")
    return key, value


def _value(key: Key, text: str) -> Any:
    _, expected = tree.kind_of(tree.in_profile(key))
    kinds = {expected} if get_origin(expected) is tuple else {expected, *get_args(expected)}
    is_text = str in kinds or any(get_origin(kind) is Literal for kind in kinds)
    if is_text and not (len(text) > 1 and text[0] == text[-1] == '"'):
        return text
    try:
        found = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["v"] if len(found) == 1 else text


def _change(path: Path, change: Callable[[str], str]) -> str:
    with paths.changing(path):
        before = paths.read(path) if path.is_file() else ""
        paths.table(before, path)
        try:
            after = change(before)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        wrong = _wrong(after, path)
        if wrong and not _wrong(before, path):
            raise ConfigError(wrong)
        paths.replace(path, after)
    return wrong


def _wrong(text: str, path: Path) -> str:
    try:
        loading.merged(text, path)
    except ConfigError as error:
        return str(error)
    return ""
