"""`recursor serve`: an OpenAI-compatible server that answers by an RLM."""

from __future__ import annotations

import asyncio
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recursor.cli import options
from recursor.cli.making import make_rlm
from recursor.errors import ConfigError

if TYPE_CHECKING:
    from recursor.server.app import Server


SETTINGS = ("host", "port", "max_runs", "max_held", "hold", "max_sessions", "session_idle", "grace")


@click.command("serve")
@options.settings
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Beyond this machine it needs --key-file."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--key-file", type=click.Path(path_type=Path), metavar="FILE", help="Who may ask, and how much."
)
@click.option("--add-key", metavar="NAME", help="Make a key, put its hash into the file, print it, and end.")
@click.option(
    "--name", metavar="NAME", help="The model's name for clients.", default="recursor", show_default=True
)
@click.option("--max-runs", type=click.IntRange(1), default=64, show_default=True, help="At work at once.")
@click.option(
    "--max-held",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="That wait for tools of clients.",
)
@click.option(
    "--hold",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long they wait.",
)
@click.option(
    "--max-sessions",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Conversations whose REPL waits for the next question.",
)
@click.option(
    "--session-idle",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it waits.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For runs at the end.",
)
def command(*, key_file: Path | None, add_key: str | None, name: str, **flags: Any) -> None:
    """Serve /v1/chat/completions and /v1/responses, so that any client of OpenAI's API has unlimited context.

    The messages of a request are data in a REPL; what the root LM does comes as reasoning, its answer
    as content. Limits and models are those of `recursor ask`. Ctrl-C or SIGTERM lets runs end within
    --grace, and stops them then; a second one stops them at once.
    """
    if add_key is not None:
        _add(key_file, add_key)
        return
    from recursor.server.app import Server, Settings  # noqa: PLC0415 - brings the HTTP library

    own = {key: flags.pop(key) for key in SETTINGS}
    settings = Settings(key_file=key_file, **own)
    rlm = make_rlm(options.load(flags), options.Output(as_json=False, jsonl=None, display="auto"))
    _take_descriptors()
    asyncio.run(_serve(Server({name: rlm}, settings)))


def _take_descriptors() -> None:
    """As many as this process may have: a run at work needs some ten, and 1,024 are the usual bound."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _add(key_file: Path | None, name: str) -> None:
    from recursor.server import keys  # noqa: PLC0415 - as above

    if key_file is None:
        raise ConfigError("--add-key needs --key-file: where its hash is kept")
    click.echo(keys.add(key_file, name))
    click.echo(
        f"the key of {name}; nothing keeps it, {key_file} has its hash and takes bounds for it", err=True
    )


async def _serve(server: Server) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    async with server.serving():
        click.echo(f"serving {server.url}  (Ctrl-C ends it)", err=True)
        await stop.wait()
        click.echo("runs end now; once more stops them", err=True)
