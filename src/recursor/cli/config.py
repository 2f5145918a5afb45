"""`recursor config`: the settings in force, and changes to their file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from recursor import config
from recursor.cli import complete, init, options
from recursor.cli.text import as_text, clean, to_json
from recursor.config import changing, tree
from recursor.record import public_url


@click.group("config")
def command() -> None:
    """Show the settings in force and where they come from; change them."""


command.add_command(init.command)


@command.command("show")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.FILE
def show(origin: bool, as_json: bool, file: Path | None) -> None:
    """Print every setting. Keys of providers are no settings and are never shown."""
    loaded = options.in_force(file)
    values = {key: _shown(key, value) for key, value in _values(loaded).items()}
    if as_json:
        rows = {key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}
        click.echo(to_json(rows if origin else values, indent=2))
        return
    for key, value in values.items():
        shown = to_json(value) if value is not None else "(none)"
        click.echo(clean(f"{key} = {shown}" + (f"  # {loaded.origins[key]}" if origin else "")))
    if loaded.profiles:
        click.echo(clean(f"# profiles: {', '.join(loaded.profiles)}"))


@command.command("get", short_help="Print a value that is in force.")
@click.argument("key", shell_complete=complete.settings)
@options.FILE
def get(key: str, file: Path | None) -> None:
    """Print the value of KEY that is in force: a text as it is, all else as JSON; of a table, one object.

    Exit code 1, and nothing printed, where there is none.
    """
    wanted = tree.parsed(key)
    found = {tree.parsed(name): value for name, value in _values(options.in_force(file)).items()}
    below = {at[len(wanted) :]: value for at, value in found.items() if at[: len(wanted)] == wanted}
    if not below:
        tree.kind_of(wanted)
    value = below.get((), {tree.written(at): value for at, value in below.items() if at} or None)
    if value is None:
        sys.exit(1)
    click.echo(clean(as_text(value)))


@command.command("set", short_help="Change a setting in the file.")
@click.argument("key", shell_complete=complete.settings)
@click.argument("value")
@options.FILE
def put(key: str, value: str, file: Path | None) -> None:
    """Set KEY to VALUE in the settings file; the rest of it stays as it is, comments too.

    With --profile NAME it is set in that profile. Numbers, true, false, lists and tables are written as in
    TOML, texts as they are: recursor config set limits.max_cost 2.50
    """
    path = file or config.config_file()
    _warn(changing.put(path, _of_profile(tree.parsed(key)), value))


@command.command("unset", short_help="Take a setting out of the file.")
@click.argument("key", shell_complete=complete.settings)
@options.FILE
def take(key: str, file: Path | None) -> None:
    """Take KEY, or a whole table, out of the settings file; with --profile NAME, out of that profile."""
    _warn(changing.take(file or config.config_file(), _of_profile(tree.parsed(key))))


@command.command("path")
@click.option("--keys", is_flag=True, help="The file of keys instead.")
def path(keys: bool) -> None:
    """Print where the settings file is, or would be."""
    click.echo(config.keys_file() if keys else config.config_file())


def _values(loaded: config.Config) -> dict[str, Any]:
    values = {config.written(key): value for key, value in config.rows(loaded.settings)}
    return values | {"store": str(loaded.store_path)}


def _shown(key: str, value: Any) -> Any:
    """A value as it may be printed: an address without what a key may be in."""
    return public_url(value) if key.endswith(("base_url", ".url")) else value


def _of_profile(key: tree.Key) -> tree.Key:
    name = options.profile()
    return key if name is None else ("profiles", name, *key)


def _warn(wrong: str) -> None:
    if wrong:
        click.echo(clean(f"it is done, but the file is still wrong: {wrong}"), err=True)
