"""`recursor chat`: questions one after the other, in one REPL."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from recursor import config
from recursor.cli import ask, contexts, exits, options, progress
from recursor.cli.making import make_rlm
from recursor.cli.text import as_text, clean, count, money, preview
from recursor.errors import RLMError
from recursor.sessions.session import Session
from recursor.types import StopReason

HELP = """/files PATH...  give files or folders with the next question: the newest `context` from then on
/history        the questions and answers so far
/cost           what the session has taken
/help           this
/exit           end (also Ctrl-D)
Ctrl-C stops a question that is being answered, and undoes what its code did."""
SHOWN = 200
"""Characters of a question or an answer in a list."""


@click.command("chat")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--session", metavar="NAME", help="Begin, or go on with, a session of that name.")
@click.option("--raw", is_flag=True, help="Give files as they stand: tables, PDFs, archives are not read.")
@options.settings
@options.output
def command(paths: tuple[str, ...], *, session: str | None, raw: bool, **flags: Any) -> None:
    """Ask question after question over files and folders, in one REPL.

    What code leaves in variables is there for the next question. On a terminal
    it prompts; otherwise each line of standard input is a question. stdout
    carries the answers only. The session is recorded: --session NAME goes on
    with it.
    """
    output = options.output_of(flags)
    if "-" in paths:
        raise click.UsageError("standard input is where the questions come from: name a file")
    contexts.check(paths)
    models = (("--model", "model"), ("--sub-model", "sub_model"), ("--base-url", "base_url"))
    named = [part for flag, name in models if flags.get(name) for part in (flag, flags[name])]
    again = [*named, *options.Again.of(flags, ()).flags]
    loaded = options.load(flags)
    if session is not None and not loaded.settings.record:
        raise click.UsageError("--session needs the store, from which it goes on")
    rlm = make_rlm(loaded, output)
    context = contexts.read(paths, raw=raw)
    with rlm.session(session) as chat:
        code = _Talk(chat, loaded, output, raw).go_on(context)
        if chat.history and loaded.settings.record and sys.stdin.isatty():
            on = shlex.join(["recursor", "chat", "--session", chat.id, *again])
            click.echo(f"to go on: {clean(on)}", err=True)
    sys.exit(code)


class _Talk:
    """One conversation at a prompt."""

    def __init__(self, chat: Session, loaded: config.Config, output: options.Output, raw: bool) -> None:
        self._chat = chat
        self._loaded = loaded
        self._output = output
        self._raw = raw
        self._asks = sys.stdin.isatty()
        self._code = 0

    def go_on(self, context: Any) -> int:
        """Ask until there is no question any more; return the exit code."""
        if self._asks and not self._output.quiet:
            turns = len(self._chat.history)
            so_far = f"{count(turns, 'question')} so far; " if turns else ""
            click.echo(f"{so_far}/help says what there is", err=True)
        for line in self._lines():
            if line.startswith("/"):
                if line.split()[0] in ("/exit", "/quit"):
                    break
                context = self._told(line, context)
            elif self._asked(line, context):
                context = None
            elif not self._asks:
                break
        return 0 if self._asks else self._code

    def _lines(self) -> Iterator[str]:
        if self._asks:
            with suppress(ImportError):
                import readline  # noqa: F401, PLC0415 - lines can be edited then
        while True:
            try:
                line = self._typed() if self._asks else sys.stdin.readline()
            except (EOFError, KeyboardInterrupt):
                click.echo(err=True)
                return
            if not line and not self._asks:
                return
            if line.strip():
                yield line.strip()

    def _typed(self) -> str:
        """A line of a terminal. Raises EOFError at its end."""
        if sys.stdout.isatty():
            return input("> ")
        click.echo("> ", nl=False, err=True)  # stdout carries the answers only
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    def _told(self, line: str, context: Any) -> Any:
        """Do what a line with a slash says; return the context of the next question."""
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            click.echo(f"Error: {error}", err=True)
            return context
        match name:
            case "/files" if words:
                try:
                    contexts.check(tuple(words))
                    return contexts.read(tuple(words), raw=self._raw)
                except (RLMError, click.ClickException) as error:
                    click.echo(clean(f"Error: {error}"), err=True)
            case "/history":
                for each in self._chat.history:
                    answer = preview(as_text(each["answer"]), SHOWN)
                    click.echo(clean(f"> {preview(each['question'], SHOWN)}\n{answer}"), err=True)
            case "/cost":
                used = self._chat.usage
                click.echo(
                    f"{count(used.calls, 'call')}, {used.total_tokens:,} tokens, {money(self._chat.cost)}",
                    err=True,
                )
            case _:
                click.echo(HELP, err=True)
        return context

    def _ended(self, code: int) -> None:
        """Keep the first that went wrong."""
        self._code = self._code or code

    def _asked(self, question: str, context: Any) -> bool:
        """Ask, and print the answer; return whether the question, and what came with it, is one of the session."""
        limits, before = self._loaded.settings.limits, len(self._chat.history)
        display = progress.choose(limits, self._output.display, None)
        try:
            done = asyncio.run(ask.follow(lambda: self._chat.stream(question, context), display))
        except KeyboardInterrupt:
            display.close()
            self._ended(exits.INTERRUPTED)
            click.echo("stopped; what its code did is undone", err=True)
            return False
        except RLMError as error:
            display.close()
            self._ended(exits.report(error) or exits.FAILED)
            return len(self._chat.history) > before
        finally:
            display.close()
        self._ended(exits.of_completion(done))
        ask.show(done, {}, as_json=self._output.as_json, events_on_stdout=self._output.jsonl == "-")
        if done.stop_reason is not StopReason.ANSWERED:
            click.echo(f"a limit ended it ({done.stop_reason}); what its code did stays", err=True)
        return True
