"""`recursor man`: the manual pages, made of the commands themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import click

from recursor.cli.text import clean
from recursor.errors import ConfigError

EXITS = (
    ("0", "answered; what was asked for is done"), ("1", "failed"),
    ("2", "wrong usage: an option, a path, a setting; nothing was sent"),
    ("3", "a limit ended the run; what there is of an answer is on standard output"),
    ("4", "authentication: the key is missing at the provider, wrong, or not allowed to use the model"),
    ("5", "the provider is down or cannot be reached, after retries"),
    ("6", "the sandbox failed, or its isolation cannot be had"),
    ("124", "the time was up; what there is of an answer is on standard output"),
    ("130", "interrupted"),
)  # fmt: skip
FILES = (
    ("$XDG_CONFIG_HOME/recursor/config.toml", "settings; $XDG_CONFIG_HOME is ~/.config unless it is set"),
    ("$XDG_CONFIG_HOME/recursor/keys.toml", "keys of providers, for the user alone"),
    ("$XDG_STATE_HOME/recursor/runs.db", "recorded runs; $XDG_STATE_HOME is ~/.local/state unless it is set"),
)


@click.command("man")
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), metavar="DIRECTORY",
              help="Write all pages there, as for ~/.local/share/man/man1.")  # fmt: skip
def command(names: tuple[str, ...], *, into: Path | None) -> None:
    """Show the manual page of recursor, or of one of its commands; into a pipe, its source.

    \b
      recursor man ask
      recursor man --into ~/.local/share/man/man1     then also: man recursor-ask
    """
    root = click.get_current_context().find_root()
    if into is not None:
        if names:
            raise click.UsageError("--into writes all pages")
        _write(root, into)
        return
    page = "\n".join(_page(_context(root, names))) + "\n"
    viewer = shutil.which("man") if sys.stdout.isatty() else None
    if viewer is None:
        click.echo(page, nl=False)
        return
    sys.exit(subprocess.run([viewer, "-l", "-"], input=page.encode(), check=False).returncode)  # noqa: S603 - man


def pages(root: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each page: of the group, its commands and theirs."""
    for context in _every(root):
        yield f"{_name(context)}.1", "\n".join(_page(context)) + "\n"


def _write(root: click.Context, into: Path) -> None:
    try:
        into.mkdir(parents=True, exist_ok=True)
        for name, page in pages(root):
            (into / name).write_text(page, "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write into {into}: {error.strerror}") from error


def _every(context: click.Context) -> Iterator[click.Context]:
    yield context
    for name, command in _commands(context):
        yield from _every(click.Context(command, parent=context, info_name=name))


def _commands(context: click.Context) -> list[tuple[str, click.Command]]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = ((name, group.get_command(context, name)) for name in group.list_commands(context))
    return [(name, command) for name, command in found if command is not None and not command.hidden]


def _context(context: click.Context, names: Sequence[str]) -> click.Context:
    for name in names:
        commands = dict(_commands(context))
        if name not in commands:
            raise click.UsageError(f"there is no command {' '.join(names)!r}")
        context = click.Context(commands[name], parent=context, info_name=name)
    return context


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context) -> Iterator[str]:
    command = context.command
    name = _name(context)
    about, _, rest = (command.help or "").partition("\n\n")
    yield f'.TH "{_escaped(name.upper())}" 1 "{time.strftime("%Y-%m-%d")}" "recursor {version("recursor")}" "recursor"'
    yield ".SH NAME"
    yield f"{_escaped(name)} \\- {_escaped(_line(about).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_escaped(context.command_path)}"
    yield _escaped(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from list(_paragraphs(f"{about}\n\n{rest}"))[1:]  # the heading begins the first one
    options = [
        each.get_help_record(context)
        for each in command.get_params(context)
        if isinstance(each, click.Option)
    ]
    yield from _list("OPTIONS", [record for record in options if record])
    yield from _list("COMMANDS", [(each, sub.get_short_help_str(400)) for each, sub in _commands(context)])
    if context.parent is None:
        yield from _list("EXIT STATUS", EXITS)
        yield from _list("FILES", FILES)
    others = [f"{name}\\-{each}" for each, _ in _commands(context)]
    above = [_name(context.parent)] if context.parent else []
    also = [f".BR {_escaped(each)} (1)" for each in [*above, *(each.replace("\\-", "-") for each in others)]]
    if also:
        yield ".SH SEE ALSO"
        yield from (f"{each} ," for each in also[:-1])
        yield also[-1]


def _list(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield f".SH {title}"
    for name, said in rows:
        yield ".TP"
        yield f".B {_escaped(name)}"
        yield _escaped(_line(said)) or "\\&"


def _paragraphs(text: str) -> Iterator[str]:
    r"""A help text: paragraphs are filled, those after \b stay as they are."""
    for paragraph in filter(str.strip, text.replace("\r", "").split("\n\n")):
        yield ".PP"
        if paragraph.lstrip(" \n").startswith("\b"):
            yield ".nf"
            yield from (
                _escaped(line) or "\\&" for line in paragraph.replace("\b", "").strip("\n").split("\n")
            )
            yield ".fi"
        else:
            yield _escaped(_line(paragraph))


def _line(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _escaped(text: str) -> str:
    """Text that roff takes for nothing else."""
    plain = clean(text).replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    plain = plain.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return re.sub(r"^(\s*)\.", r"\1\\&.", plain)
