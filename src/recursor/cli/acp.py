"""`recursor acp`: recursor as an agent in an editor."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from recursor.cli import options, standard
from recursor.cli.making import make_rlm
from recursor.errors import ConfigError


@click.command("acp")
@options.settings
def command(**flags: Any) -> None:
    """Be an agent in an editor that speaks the Agent Client Protocol, such as Zed.

    The editor starts this command and speaks to it on stdin and stdout. Prompts are answered over the folder that it
    has open, as `recursor ask` does; nothing is written.
    """
    loaded = options.load(flags)
    try:
        from recursor.hosted import acp  # noqa: PLC0415 - of the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "acp":
            raise
        raise ConfigError("the package of the protocol is missing: pip install 'recursor[acp]'") from error
    rlm = make_rlm(loaded, options.Output(as_json=False, jsonl=None, display="none"))
    if not standard.has_input():
        raise ConfigError("standard input is closed: editors start this command, and speak to it there")
    if sys.stdin.isatty():
        click.echo(
            "waiting for an editor on stdin; editors start this command themselves, see --help", err=True
        )
    asyncio.run(acp.serve(rlm, recorded=loaded.settings.record))
