"""`recursor config`: the settings in force."""

from __future__ import annotations

from pathlib import Path

import click

from recursor import config
from recursor.cli import options
from recursor.cli.text import clean, to_json


@click.group("config")
def command() -> None:
    """Show the settings in force and where they come from."""


@command.command("show")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.FILE
def show(origin: bool, as_json: bool, file: Path | None) -> None:
    """Print every setting. Keys of providers are no settings and are never shown."""
    loaded = options.in_force(file)
    values = {config.written(key): value for key, value in config.rows(loaded.settings)}
    values |= {"store": str(loaded.store_path)}
    if as_json:
        rows = {key: {"value": value, "origin": loaded.origins[key]} for key, value in values.items()}
        click.echo(to_json(rows if origin else values, indent=2))
        return
    for key, value in values.items():
        shown = to_json(value) if value is not None else "(none)"
        click.echo(clean(f"{key} = {shown}" + (f"  # {loaded.origins[key]}" if origin else "")))


@command.command("path")
@click.option("--keys", is_flag=True, help="The file of keys instead.")
def path(keys: bool) -> None:
    """Print where the settings file is, or would be."""
    click.echo(config.keys_file() if keys else config.config_file())
