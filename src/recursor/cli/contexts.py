"""Paths of a command line, and the contexts that they stand for."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from recursor.files import Content, Raw, Url


def check(paths: tuple[str, ...]) -> None:
    """Refuse what cannot be read, before a model is looked for."""
    if "-" in paths and len(paths) > 1:
        raise click.UsageError("- stands for standard input and cannot be mixed with paths")
    if "-" in paths and sys.stdin.isatty():
        raise click.UsageError("- reads standard input, which is a terminal: pipe something into it")
    for name in (path for path in paths if path != "-" and not is_address(path)):
        path = Path(name)
        if not name:
            raise click.UsageError("a path is empty: a variable of the shell that is not set?")
        if not path.exists():
            raise click.UsageError(f"no such file or folder: {name}{_hint(name)}")
        if not (path.is_file() or path.is_dir()):
            raise click.UsageError(f"{path} is neither a file nor a folder; pipe it in and write - for it")
        if not os.access(path, os.R_OK):
            raise click.UsageError(f"not allowed to read {path}")


def _hint(name: str) -> str:
    """What may have been meant by a path that is not there."""
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.I):
        return " (an address begins with https:// or http://)"
    try:
        beside = os.listdir(os.path.dirname(name) or ".")  # noqa: PTH120, PTH208 - to say it as it was written
    except OSError:
        return ""
    near = difflib.get_close_matches(os.path.basename(name), beside, 1, 0.8)  # noqa: PTH119
    return f"; did you mean {os.path.join(os.path.dirname(name), near[0])}?" if near else ""  # noqa: PTH118, PTH120


def read(paths: tuple[str, ...], *, raw: bool = False) -> Any:
    """Return what the paths of a command stand for: None, data of standard input, one Path or Url or a list of them."""
    if not paths:
        return None
    if paths == ("-",):
        data = sys.stdin.buffer.read()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data if raw else Content(data)
    found = [Url(path, raw=raw) if is_address(path) else Path(path) for path in paths]
    if any(isinstance(each, Url) for each in found):
        return found[0] if len(found) == 1 else found
    given: Any = found[0] if len(found) == 1 else found
    return Raw(given) if raw else given


def schema(path: str | None) -> dict[str, Any] | None:
    """Read a JSON Schema; None when there is none to read."""
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"{path} is no JSON Schema, which is an object")
    return found


def is_address(path: str) -> bool:
    """Whether it is to be fetched. A file of that name is ./http://..."""
    return path.lower().startswith(("http://", "https://"))
