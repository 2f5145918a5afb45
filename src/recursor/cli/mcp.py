"""`recursor mcp`: tools for the hosts of MCP (Claude, Cursor, editors) that answer by an RLM."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recursor import config
from recursor.cli import options, runs, standard
from recursor.cli.making import make_rlm
from recursor.errors import ConfigError

if TYPE_CHECKING:
    from recursor.hosted.mcp import Tools

TOKEN = "RECURSOR_MCP_TOKEN"  # noqa: S105 - the name of a variable


@click.command("mcp")
@options.settings
@click.option(
    "--allow", type=click.Path(path_type=Path), metavar="DIR", multiple=True, help="A folder to read; more than one."
)  # fmt: skip
@click.option("--max-runs", type=click.IntRange(1), default=8, show_default=True, help="At work at once.")
@click.option("--http", is_flag=True, help="Streamable HTTP on this machine, in place of stdin and stdout.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="With --http; 0: a free one."
)  # fmt: skip
def command(*, allow: tuple[Path, ...], max_runs: int, http: bool, port: int, **flags: Any) -> None:
    """Offer runs as tools to a host of the Model Context Protocol.

    The host starts this command and speaks to it on stdin and stdout. It may ask over texts, and over files
    below the folders of --allow; limits and models are those of `recursor ask`. With --http each request
    needs a token: that of RECURSOR_MCP_TOKEN (or `mcp` in the keys file), or a new one, which is printed.
    """
    loaded = options.load(flags)
    tools = _tools(loaded, allow, max_runs)
    if http:
        _serve_http(tools, port)
        return
    from recursor.hosted import stdio  # noqa: PLC0415 - of the extra

    if not standard.has_input():
        raise ConfigError("standard input is closed: hosts start this command, and speak to it there")
    if sys.stdin.isatty():
        click.echo("waiting for a host on stdin; hosts start this command themselves, see --help", err=True)

    asyncio.run(stdio.serve(tools))


def _tools(loaded: config.Config, allow: tuple[Path, ...], max_runs: int) -> Tools:
    try:
        from recursor.hosted.mcp import Tools  # noqa: PLC0415 - of the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigError("the package of the protocol is missing: pip install 'recursor[mcp]'") from error
    from recursor.hosted.folders import Folders  # noqa: PLC0415 - as above

    folders = Folders(allow)
    rlm = make_rlm(loaded, options.Output(as_json=False, jsonl=None, display="none"))
    store = options.store_path(loaded) if loaded.settings.record else None
    return Tools(rlm, folders, store, runs.story, max_runs)


def _serve_http(tools: Tools, port: int) -> None:
    from recursor.hosted import http  # noqa: PLC0415 - brings the HTTP server

    token = config.secret(TOKEN, "mcp")
    shown = token is None
    token = token or secrets.token_urlsafe(32)

    def told(address: str) -> None:
        known = f"the token of {TOKEN}" if not shown else f"the token {token}"
        click.echo(f"serving {address} for who brings {known}  (Ctrl-C ends it)", err=True)

    asyncio.run(http.serve(tools, port, token, told))
