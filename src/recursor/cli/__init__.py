"""The command line: one file per command, each imported when it is called.

stdout carries what was asked for, stderr everything else. Exit codes are in `recursor.cli.exits`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

import click

from recursor.cli import standard

COMMANDS = {
    "acp": "An agent in editors such as Zed: questions over the folder that is open.",
    "ask": "Answer a question over files, folders or standard input.",
    "chat": "Ask question after question over files and folders, in one REPL.",
    "completion": "Print what makes bash, zsh or fish complete.",
    "config": "Show the settings in force and where they come from; change them.",
    "demo": "Three questions over 47 MB of text, offline and without a key.",
    "doctor": "Check this machine: sandbox, endpoints, keys, store.",
    "keys": "Keep keys of providers, list their names, remove them.",
    "man": "Show the manual page of a command.",
    "mcp": "Tools for MCP hosts: questions over files for Claude, Cursor, Zed.",
    "models": "List the models that can be had: local servers, providers, their prices.",
    "resume": "Go on with a run that was cut off, or that a limit ended.",
    "runs": "List, show, export, import and remove recorded runs.",
    "serve": "An OpenAI-compatible server: unlimited context for any client.",
    "view": "Show recorded runs in the browser.",
}
"""Name -> what `recursor --help` says; the command lies in the module of that name."""


class LazyGroup(click.Group):
    """A group whose commands are imported when one is called, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"recursor.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete from the table, without importing the commands."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for a shell

        named = [
            CompletionItem(name, help=said) for name, said in COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ' To ask something: recursor ask "..."'
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise  # `main` has a word for what the machine refuses
        except (Exception, KeyboardInterrupt) as error:  # each end has its exit code
            from recursor.cli import exits  # noqa: PLC0415 - late, as the commands are

            code = exits.report(error)
            if code is None:
                raise
            sys.exit(code)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="COMMAND ..."
)
@click.version_option(package_name="recursor", message="recursor %(version)s")
def cli() -> None:
    """Answer questions over inputs of any length, with code in an isolated REPL."""


def main() -> None:
    """Run the command line and exit."""
    standard.complete()
    if "_RECURSOR_COMPLETE" in os.environ:  # set by the script of `recursor completion` alone
        importlib.import_module("recursor.cli.complete")
    try:
        cli(prog_name="recursor")
    except (
        OSError
    ) as error:  # a full disk, a closed stdin; of `--help`, too, which is printed before a command is called
        from recursor.cli import exits  # noqa: PLC0415 - late, as the commands are

        standard.forget_output()
        sys.exit(exits.report(error))
