"""`recursor serve`: an OpenAI-compatible server that answers by an RLM."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import click

from recursor.cli import ask, options
from recursor.errors import ConfigError


@click.command("serve")
@options.settings
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Beyond this machine it needs --key-file."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--key-file", type=click.Path(path_type=Path), metavar="FILE", help="Keys of clients, one a line."
)
@click.option(
    "--name", metavar="NAME", help="The model's name for clients; default: recursor.", default="recursor"
)
@click.option("--max-runs", type=click.IntRange(1), default=64, show_default=True, help="At work at once.")
def command(host: str, port: int, key_file: Path | None, name: str, max_runs: int, **flags: Any) -> None:
    """Serve /v1/chat/completions, so that any client of OpenAI's API has unlimited context.

    The messages of a request are data in a REPL; what the root LM does comes as reasoning, its answer
    as content. Limits and models are those of `recursor ask`.
    """
    from recursor.server.app import Server, Settings  # noqa: PLC0415 - brings the HTTP library

    settings = Settings(host, port, _keys(key_file), max_runs)
    rlm = ask.make_rlm(options.load(flags), options.Output(as_json=False, jsonl=None, display="auto"))
    asyncio.run(_serve(Server({name: rlm}, settings)))


async def _serve(server: Any) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.serving():
        click.echo(f"serving {server.url}  (Ctrl-C ends it)", err=True)
        await stop.wait()


def _keys(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        keys = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the keys in {file}: {error}") from error
    if not keys:
        raise ConfigError(f"{file} holds no key")
    return keys
