"""`recursor completion`: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_RECURSOR_COMPLETE"
"""By it the script in the shell asks for completions."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete: commands, options, models, runs, profiles, sandboxes, keys.

    \b
      bash   recursor completion bash > ~/.local/share/bash-completion/completions/recursor
             (or: eval "$(recursor completion bash)" in ~/.bashrc)
      zsh    recursor completion zsh > DIRECTORY/_recursor, in a directory of $fpath, before compinit
      fish   recursor completion fish > ~/.config/fish/completions/recursor.fish
    """
    from recursor.cli import cli, complete  # noqa: PLC0415 - this is one of its commands

    del complete  # importing it is what counts: Bash completes in a way of ours
    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    click.echo(kind(cli, {}, "recursor", VARIABLE).source(), nl=False)
