"""`recursor keys`: keys of providers, kept in a file that only the user can read. No key is ever printed."""

from __future__ import annotations

import sys
from getpass import getpass

import click

from recursor import config
from recursor.cli import complete, endpoints
from recursor.cli.text import clean, to_json
from recursor.config import keys
from recursor.errors import ConfigError


@click.group("keys")
def command() -> None:
    """Keep keys of providers, list their names, remove them."""


@command.command("set", short_help="Keep a key, or the command that prints it.")
@click.argument("name", metavar="PROVIDER", shell_complete=complete.key_names)
@click.argument("shown", nargs=-1, metavar="")
@click.option("--command", "program", metavar="COMMAND", help="What prints the key, in place of it.")
def put(name: str, shown: tuple[str, ...], program: str | None) -> None:
    """Keep a key: openai, anthropic, ..., or the name of an environment variable.

    It is read from the terminal without being shown, or from standard input: never from the command line,
    which other users and the shell's history can see.

    \b
      recursor keys set openai
      pass show openai | recursor keys set openai
      recursor keys set openai --command "pass show openai"
    """
    names = keys.names_of(name)
    if shown:
        raise ConfigError(
            "a key does not go on the command line, where other users and the shell's history see it: "
            "leave it out, and you are asked for it. Better have a new one made in place of this one"
        )
    keys.keep(name, None if program is not None else _read(names[0]), command=program)
    what = "the command" if program is not None else "the key"
    click.echo(clean(f"kept {what} of {names[0]} in {config.keys_file()}"), err=True)
    first = next((each for each in names if config.in_environment(each)), None)
    if first is not None:
        click.echo(f"{first} is set in the environment, and goes before it", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(as_json: bool) -> None:
    """Print which keys there are, and where each comes from. Never the keys, nor parts of them."""
    found = endpoints.all_keys()
    if as_json:
        click.echo(to_json(found, indent=2))
        return
    width = max(map(len, found), default=0)
    for name, where in found.items():
        click.echo(clean(f"{name:<{width}}  {where}"))
    if not found:
        click.echo("there are none: recursor keys set openai", err=True)


@command.command("remove")
@click.argument("name", metavar="PROVIDER", shell_complete=complete.stored_keys)
def drop(name: str) -> None:
    """Take a key out of the file."""
    keys.drop(name)
    click.echo(clean(f"removed the key of {name} from {config.keys_file()}"), err=True)
    still = endpoints.all_keys().get(keys.names_of(name)[0])
    if still:
        click.echo(clean(f"there is another one: {still}"), err=True)


def _read(name: str) -> str:
    if sys.stdin.isatty():
        try:
            return getpass(f"Key of {name} (not shown): ", stream=sys.stderr).strip()
        except EOFError:
            raise click.Abort from None
    text = sys.stdin.read(65536).strip()
    if "\n" in text:
        raise ConfigError("standard input has more than one line: it should be the key, and nothing else")
    return text
