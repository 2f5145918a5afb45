"""`recursor runs export`, `import` and `gc`: runs out of a store, into it, and away."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from recursor.cli import complete, options
from recursor.cli.text import count
from recursor.trajectory import view

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def of_store(function: F) -> F:
    """Add the options that say which store."""
    return options.STORE(options.FILE(function))


def store_path(store: str | None, file: Path | None) -> Path:
    """The store that is asked for, else the one of the settings."""
    return options.in_force(file, {"store": store}).store_path


@click.command("export", short_help="Write a run, with its children, as a file.")
@click.argument("run_id", metavar="RUN", shell_complete=complete.runs)
@of_store
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "html", "chrome", "otel", "parquet"]), default="jsonl",
    show_default=True, help="Events; a page; a trace for Perfetto; spans to a collector; tables.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
    help="Instead of stdout; for parquet a folder.",
)  # fmt: skip
@click.option("--endpoint", metavar="URL", help="For otel: where spans go. [http://localhost:4318/v1/traces]")
@click.option("--content", is_flag=True, help="For otel: send texts too.")
def export(
    run_id: str, *, store: str | None, file: Path | None, form: str, output: Path | None, endpoint: str | None,
    content: bool,
) -> None:  # fmt: skip
    """Write RUN and its children in one of several forms."""
    path = store_path(store, file)
    if (endpoint or content) and form != "otel":
        raise click.UsageError("--endpoint and --content are for --format otel")
    with view.open(path) as recorded:
        found = recorded.run(run_id).id
        if form == "otel":
            _send(recorded, found, output, endpoint, content)
        elif form == "parquet":
            _tables(recorded, found, output)
        else:
            _write(output, lambda out: _texts(form)(recorded, path, found, out))


@click.command("import", short_help="Put the runs of a log into the store.")
@click.argument("log", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@of_store
def load(log: Path, store: str | None, file: Path | None) -> None:
    """Put the runs of LOG into the store, and print their ids.

    LOG is JSONL of this or an older version, or a log of rlms or fast-rlm; - is stdin.
    """
    from recursor.trajectory import importing  # noqa: PLC0415 - one command needs it

    path = store_path(store, file)
    if str(log) == "-":
        ids = importing.load(sys.stdin.buffer, path)
    else:
        with log.open("rb") as lines:
            ids = importing.load(lines, path)
    click.echo("\n".join(ids))


@click.command("gc", short_help="Remove old runs that nobody works on.")
@of_store
@click.option("--older-than", metavar="AGE", required=True, help="30d, 12h, 2w: by when a run began.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def collect(store: str | None, file: Path | None, older_than: str, dry_run: bool) -> None:
    """Remove old runs that nobody works on, and messages that nothing refers to any more."""
    from recursor.trajectory import garbage  # noqa: PLC0415 - one command needs it

    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", older_than.strip())
    if age is None:
        raise click.UsageError(f"--older-than takes a number and s, m, h, d or w (30d), not {older_than!r}")
    freed = garbage.collect(store_path(store, file), float(age[1]) * _UNITS[age[2]], dry_run=dry_run)
    what = f"{count(freed.runs, 'run')}, {count(freed.calls, 'call')}, {count(freed.messages, 'message')}"
    click.echo(f"would remove {what}" if dry_run else f"removed {what}; {freed.bytes / 1e6:,.1f} MB are free")


def _texts(form: str) -> Callable[[view.Trajectories, Path, str, TextIO], None]:
    """What writes a form that is text."""
    if form == "html":
        from recursor.viewer import export as page  # noqa: PLC0415 - brings the viewer

        return page.write
    from recursor.trajectory import chrome, jsonl  # noqa: PLC0415 - one command needs it

    write = chrome.export if form == "chrome" else jsonl.export
    return lambda recorded, _path, run_id, out: write(recorded, run_id, out)


def _write(output: Path | None, write: Callable[[TextIO], None]) -> None:
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        write(sys.stdout)
        return
    try:
        with output.open("w", encoding="utf-8") as out:
            write(out)
    except OSError as error:
        raise click.UsageError(f"cannot write {output}: {error.strerror}") from error


def _tables(recorded: view.Trajectories, run_id: str, output: Path | None) -> None:
    from recursor.trajectory import parquet  # noqa: PLC0415 - needs an extra

    if output is None:
        raise click.UsageError("parquet is three files: say with -o in which folder")
    try:
        for path in parquet.export(recorded, run_id, output):
            click.echo(path)
    except OSError as error:
        raise click.UsageError(f"cannot write {output}: {error.strerror}") from error


def _send(
    recorded: view.Trajectories, run_id: str, output: Path | None, endpoint: str | None, content: bool
) -> None:
    from recursor.trajectory import otel  # noqa: PLC0415 - needs an extra

    if output is not None:
        raise click.UsageError("spans go to a collector (--endpoint), not to a file")
    click.echo(f"{count(otel.export(recorded, run_id, endpoint=endpoint, content=content), 'span')} sent")
