"""Options that several commands share: flags that override settings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import click

from recursor import config
from recursor.cli import complete
from recursor.errors import ConfigError

Display: TypeAlias = Literal["auto", "tree", "plain", "none"]
"""How progress is shown on stderr."""
F = TypeVar("F", bound=Callable[..., Any])

_PROFILE = "recursor.profile"


def FILE(function: F) -> F:  # noqa: N802 - beside the options
    """Add --config and --profile. The command gets `file`; `in_force` knows the profile."""
    file = click.option(
        "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings to read instead."
    )
    profile = click.option(
        "--profile", metavar="NAME", help="Settings of [profiles.NAME] in that file.", expose_value=False,
        shell_complete=complete.profiles,
        callback=lambda context, _, name: context.meta.update({_PROFILE: name}),
    )  # fmt: skip
    return file(profile(function))


STORE = click.option(
    "--store", metavar="PATH", help="Where runs are recorded.", shell_complete=complete.files
)
DISPLAY = click.option(
    "--display",
    type=click.Choice(["auto", "tree", "plain", "none"]),
    default="auto",
    help="Progress on stderr; auto: the tree on a terminal, plain lines elsewhere and in CI.",
)
SETTINGS = (
    click.option(
        "--model",
        "-m",
        metavar="SPEC",
        help="The root LM: openai/gpt-5, ollama/qwen3:8b, ...",
        shell_complete=complete.models,
    ),
    click.option(
        "--sub-model",
        metavar="SPEC",
        help="Answers sub-calls; without it the root LM does.",
        shell_complete=complete.models,
    ),
    click.option("--base-url", metavar="URL", help="Endpoint of both models."),
    click.option("--max-cost", type=float, metavar="USD", help="Stop before more money is spent."),
    click.option("--max-turns", type=int, metavar="N", help="Replies of the root LM."),
    click.option("--max-time", type=float, metavar="SECONDS", help="For the whole run."),
    click.option("--max-tokens", type=int, metavar="N", help="In and out, sub-calls included."),
    click.option("--max-calls", type=int, metavar="N", help="Model calls, sub-calls included."),
    click.option("--max-errors", type=int, metavar="N", help="Turns in a row in which nothing worked."),
    click.option("--max-subcalls-in-flight", type=int, metavar="N", help="Sub-calls that are out at once."),
    click.option("--max-depth", type=int, metavar="N", help="Levels of recursion; 2 gives sub-RLMs a REPL."),
    click.option(
        "--dialect",
        metavar="NAME",
        help="Prompt and answer form: default, reference, paper, async.",
        shell_complete=complete.dialects,
    ),
    click.option(
        "--strategy",
        metavar="NAME",
        help="rlm (default); direct, one plain call; auto, by size.",
        shell_complete=complete.strategies,
    ),
    click.option(
        "--cache",
        metavar="workspace",
        help="Take replies that recorded runs paid for.",
        shell_complete=complete.caches,
    ),
    click.option(
        "--sandbox",
        metavar="NAME",
        help="process (default), or a plugin's name.",
        shell_complete=complete.sandboxes,
    ),
    STORE,
    click.option("--no-store", is_flag=True, help="Do not record the run."),
    FILE,
)


OUTPUT = (
    click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object: answer, reason, usage, cost."
    ),
    click.option(
        "--jsonl",
        metavar="FILE|-",
        help="Write every event as a line of JSON while it happens.",
        shell_complete=complete.files,
    ),
    DISPLAY,
    click.option("--quiet", "-q", is_flag=True, help="No progress: --display none."),
)


@dataclass(frozen=True, slots=True)
class Output:
    """What a command that runs something writes where."""

    as_json: bool
    jsonl: str | None
    display: Display

    @property
    def quiet(self) -> bool:
        return self.display == "none"


@dataclass(frozen=True, slots=True)
class Again:
    """How to say a command once more."""

    paths: tuple[str, ...]
    flags: tuple[str, ...]

    @staticmethod
    def of(flags: Mapping[str, Any], paths: Sequence[str]) -> Again:
        """Keep what `resume` needs beside the run: where it is recorded, and paths that the record cannot name."""
        named = (("--store", flags.get("store")), ("--config", flags.get("file")), ("--profile", profile()))
        again = [part for flag, value in named if value is not None for part in (flag, str(value))]
        return Again(tuple(paths) if len(paths) > 1 or "-" in paths else (), tuple(again))

    def view(self, run_id: str) -> str:
        """The command that shows a run in the browser."""
        return shlex.join(["recursor", "view", run_id[:12], *self.flags])

    def command(self, run_id: str, *, answered: bool = False) -> str:
        """The command that goes on with a run, or gives the answer again that it has."""
        return shlex.join(["recursor", "resume", run_id, *(() if answered else self.paths), *self.flags])


def output(function: F) -> F:
    """Add the options of `Output`."""
    for option in reversed(OUTPUT):
        function = option(function)
    return function


def output_of(flags: dict[str, Any]) -> Output:
    """Take the flags of `output` out of a command's flags."""
    display: Display = flags.pop("display")
    if flags.pop("quiet"):
        display = "none"
    found = Output(flags.pop("as_json"), flags.pop("jsonl"), display)
    if found.jsonl == "-" and found.as_json:
        raise click.UsageError("--json and --jsonl - both want stdout")
    return found


def settings(function: F) -> F:
    """Add the options that change settings."""
    for option in reversed(SETTINGS):
        function = option(function)
    return function


def load(flags: dict[str, Any], recorded: Mapping[str, Any] | None = None) -> config.Config:
    """Return the settings in force under the flags of `settings`.

    Args:
        recorded: those that a run was made with, by dotted key; flags go before them.
    """
    file = flags.pop("file", None)
    given = {f"limits.{name}" if name.startswith("max_") else name: value for name, value in flags.items()}
    for key in (config.written(key) for key, _ in config.rows(config.Settings())):
        if recorded and given.get(key) is None:
            given[key] = recorded.get(key)
    if given.pop("no_store", False):
        given["record"] = False
    return in_force(file, given)


def profile() -> str | None:
    """The profile that was asked for."""
    name: str | None = click.get_current_context().meta.get(_PROFILE)
    return name


def in_force(file: Path | None, flags: Mapping[str, Any] | None = None) -> config.Config:
    """Return the settings of a file, or of the user's, with the profile that was asked for, under flags."""
    return config.load(file, flags, profile())


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
