"""Options that several commands share: flags that override settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from recursor import config
from recursor.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings to read instead."
)
STORE = click.option("--store", metavar="PATH", help="Where runs are recorded.")
SETTINGS = (
    click.option("--model", "-m", metavar="SPEC", help="The root LM: openai/gpt-5, ollama/qwen3:8b, ..."),
    click.option("--sub-model", metavar="SPEC", help="Answers sub-calls; without it the root LM does."),
    click.option("--base-url", metavar="URL", help="Endpoint of both models."),
    click.option("--max-cost", type=float, metavar="USD", help="Stop before more money is spent."),
    click.option("--max-turns", type=int, metavar="N", help="Replies of the root LM."),
    click.option("--max-time", type=float, metavar="SECONDS", help="For the whole run."),
    click.option("--max-tokens", type=int, metavar="N", help="In and out, sub-calls included."),
    click.option("--max-depth", type=int, metavar="N", help="Levels of recursion; 2 gives sub-RLMs a REPL."),
    click.option("--sandbox", metavar="NAME", help="process (default), or a plugin's name."),
    STORE,
    click.option("--no-store", is_flag=True, help="Do not record the run."),
    FILE,
)


def settings(function: F) -> F:
    """Add the options that change settings."""
    for option in reversed(SETTINGS):
        function = option(function)
    return function


def load(flags: dict[str, Any]) -> config.Config:
    """Return the settings in force under the flags of `settings`."""
    file = flags.pop("file", None)
    given = {f"limits.{name}" if name.startswith("max_") else name: value for name, value in flags.items()}
    if given.pop("no_store", False):
        given["record"] = False
    return config.load(file, given)


def store_path(loaded: config.Config) -> Path:
    """Return where runs are recorded, its folder made: a run should not fail after it was paid for.

    Raises:
        ConfigError: nothing can be written there.
    """
    path = loaded.store_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot make {path.parent}: {error.strerror}; see --store") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write the store {path}; see --store and --no-store")
    return path
