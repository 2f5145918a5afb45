"""Modules that are made in a REPL: its own namespace, and that of each tool that is defined in it."""

from __future__ import annotations

import linecache
import types
from collections.abc import Callable
from typing import Any


def make_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    return module


def defined(name: str, source: str, offered: dict[str, Any]) -> Callable[..., Any]:
    """The function of this name that a source defines, in a module of its own.

    Args:
        offered: what it has as builtins: these, and what the REPL offers.

    Raises:
        RuntimeError: the source ended in what is no Exception.
    """
    filename = f"<tool {name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = make_module("__main__")
    module.__builtins__ = offered  # type: ignore[attr-defined]
    try:
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - given by the caller
    except Exception:
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    function: Callable[..., Any] = getattr(module, name)
    return function
