"""`recursor view`: recorded runs in a browser."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import click

from recursor.cli import complete, options
from recursor.trajectory import view


@click.command("view")
@click.argument("run_id", metavar="[RUN]", default="", shell_complete=complete.runs)
@options.STORE
@options.FILE
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N", help="Default: a free one.")
@click.option("--no-browser", is_flag=True, help="Print the address and open nothing.")
def command(run_id: str, store: str | None, file: Path | None, port: int, no_browser: bool) -> None:
    """Show recorded runs in the browser; RUN is an id, or the first digits of it.

    It serves to this machine alone, until Ctrl-C. The address that it prints works once.
    """
    from recursor.viewer import server  # noqa: PLC0415 - brings the HTTP library

    path = options.in_force(file, {"store": store}).store_path
    if not path.exists() and store is None:
        raise click.ClickException(f"nothing is recorded yet in {path}: `recursor demo` makes a first run")
    with view.open(path) as recorded:
        found = recorded.run(run_id).id if run_id else ""

    def told(link: str) -> None:
        click.echo(f"{link}\n(for this machine, until Ctrl-C)", err=True)

    with suppress(KeyboardInterrupt):
        asyncio.run(server.serve(path, port, found, told, browser=not no_browser))
