"""`recursor resume`: a run that was cut off or that a limit ended goes on from its record."""

from __future__ import annotations

import shlex
from typing import Any

import click

from recursor.cli import ask, complete, contexts, options
from recursor.cli.making import make_rlm
from recursor.errors import ConfigError
from recursor.record import public_url
from recursor.trajectory import view
from recursor.types import StopReason


@click.command("resume")
@click.argument("run_id", metavar="RUN", shell_complete=complete.runs)
@click.argument("paths", nargs=-1, metavar="[PATH|-]...", shell_complete=complete.files)
@options.settings
@options.output
def command(run_id: str, paths: tuple[str, ...], **flags: Any) -> None:
    """Go on with RUN; nothing that it recorded is paid for twice.

    The run goes with the settings that it was made with, unless a flag says
    otherwise: --max-cost 5 lets a run go on that a lower limit ended. PATH is
    needed only where its file or folder moved, or was standard input.
    """
    output = options.output_of(flags)
    contexts.check(paths)
    if flags.get("no_store"):
        raise click.UsageError("a run is resumed from the store, and recorded there")
    again = options.Again.of(flags, paths)
    loaded = options.load(dict(flags))
    with view.open(loaded.store_path) as recorded:
        run = recorded.run(run_id)
        while run.parent_id is not None:
            run = recorded.run(run.parent_id)
    made = _dotted(run)
    if made.get("base_url") == public_url(loaded.settings.base_url):
        made.pop("base_url", None)  # it is recorded without the key that it may hold
    settings = options.load(flags, made)
    rlm = make_rlm(settings, output)
    context = contexts.read(paths)
    if run.session is not None and run.outcome != StopReason.ANSWERED:
        session, turn = run.session
        chat = rlm.session(session, contexts={turn: context} if paths else None)
        if chat.last_run_id != run.id:
            again_by = f"--session {shlex.quote(session)}"
            raise ConfigError(f"session {session!r} has gone on since: ask it again, {again_by}")
        ask.carry_out(settings, output, again, lambda: chat.stream(resume=True))
    ask.carry_out(settings, output, again, lambda: rlm.stream(context=context, resume=run.id))


def _dotted(run: view.RecordedRun) -> dict[str, Any]:
    """The settings of a run by dotted key."""
    made = dict(run.settings)
    if not made.get("routes"):
        raise ConfigError(f"run {run.id} does not say what it was made with")
    limits = made.pop("limits", {})
    return made | {f"limits.{name}": value for name, value in limits.items()}
