"""`recursor ask`: one question, answered on stdout; and what `resume` shares with it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any, NoReturn

import click

from recursor import config
from recursor.cli import batch, complete, contexts, coverage, dry, exits, options, progress, standard
from recursor.cli.making import make_rlm
from recursor.cli.text import as_text, clean, money, seconds, to_json
from recursor.errors import RLMError
from recursor.limits import Limits
from recursor.types import Completion, Event, RunEnded, StopReason


@click.command("ask")
@click.argument("question", required=False)
@click.argument("paths", nargs=-1, metavar="[PATH|-]...", shell_complete=complete.files)
@options.settings
@options.output
@coverage.EVIDENCE
@click.option("--session", metavar="NAME", help="Begin, or go on with, a session: its variables are there.")
@click.option("--schema", "form", metavar="FILE", help="The JSON Schema that an answer must follow.")
@click.option("--raw", is_flag=True, help="Give files as they stand: tables, PDFs, archives are not read.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked, and what it may cost; send nothing.")
@batch.flags
def command(
    question: str | None,
    paths: tuple[str, ...],
    *,
    evidence: bool,
    session: str | None,
    form: str | None,
    raw: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Answer QUESTION over files, folders or standard input (-).

    stdout carries the answer only; progress goes to stderr. With --batch there
    is no QUESTION: those of a file are answered, and stdout carries a line of
    JSON for each as it ends.

    \b
    Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 a limit ended it (what
    there is of an answer is printed), 4 authentication, 5 provider down,
    6 sandbox, 124 the time was up, 130 interrupted.
    """
    output = options.output_of(flags)
    many = batch.taken(flags)
    if many is not None:
        if evidence or session is not None:
            raise click.UsageError("--evidence and --session go with one question")
        many = replace(many, schema=contexts.schema(form))
        carry = batch.dry_run if dry_run else batch.carry_out
        carry(many, batch.paths_of(question, paths), output, flags, raw=raw)
    if question is None:
        raise click.UsageError("Missing argument 'QUESTION'.")
    if not question.strip():
        raise click.UsageError("the question is empty")
    contexts.check(paths)
    schema = contexts.schema(form)
    again = options.Again.of(flags, paths)
    settings = options.load(flags)
    if session is not None and not settings.settings.record:
        raise click.UsageError("--session needs the store, from which it goes on")
    if dry_run:
        dry.show(settings, paths, question, raw=raw, as_json=output.as_json)
        return
    rlm = make_rlm(settings, output)
    context = contexts.read(paths, raw=raw)
    also = coverage.told(settings, output, context) if evidence else None
    if session is not None:
        chat = rlm.session(session)
        if not output.quiet:
            click.echo(f"session {clean(session)}, question {len(chat.history) + 1}", err=True)
        carry_out(settings, output, again, lambda: chat.stream(question, context, schema=schema), also)
    carry_out(settings, output, again, lambda: rlm.stream(question, context, schema=schema), also)


def carry_out(
    settings: config.Config,
    output: options.Output,
    again: options.Again,
    start: Callable[[], AsyncGenerator[Event, None]],
    also: Callable[[Completion], dict[str, Any]] | None = None,
) -> NoReturn:
    """Follow a run, print its answer, and exit with the code that says how it ended.

    Args:
        also: what the JSON has beside; None is nothing.
    """
    recorded = settings.settings.record
    display = progress.choose(settings.settings.limits, output.display, again.view if recorded else None)
    exits.end_by_termination()
    try:
        done = asyncio.run(follow(start, display))
    except (RLMError, KeyboardInterrupt) as error:
        display.close()
        run_id = display.tree.run_id if recorded else ""
        sys.exit(exits.report(error, again.command(run_id) if run_id else ""))
    finally:
        display.close()
    answered = done.stop_reason is StopReason.ANSWERED
    try:
        more = also(done) if also else {}
        show(done, more, as_json=output.as_json, events_on_stdout=output.jsonl == "-")
    except AnswerLost as error:
        sys.exit(exits.report(error, again.command(done.run_id, answered=answered) if recorded else ""))
    if not answered:
        _say_limit(done, settings.settings.limits, again if recorded else None)
    sys.exit(exits.of_completion(done))


class AnswerLost(RLMError):
    """There is an answer, and stdout does not take it."""


def show(done: Completion, more: dict[str, Any], *, as_json: bool, events_on_stdout: bool) -> None:
    """Print an answer. Raises AnswerLost."""
    if as_json:
        _write(to_json(_summary(done) | more))
    elif not events_on_stdout and (done.answer is not None or done.stop_reason is StopReason.ANSWERED):
        _write(as_text(done.answer))


async def follow(start: Callable[[], AsyncGenerator[Event, None]], display: progress.Progress) -> Completion:
    """Show a run while it goes; return what came of it."""
    done: Completion | None = None
    async with aclosing(start()) as events:
        async for event in events:
            display.show(event)
            if isinstance(event, RunEnded) and event.run_id == display.tree.run_id:
                done = event.completion
    assert done is not None, "a stream that raises nothing ends in a completion"
    return done


def _summary(done: Completion) -> dict[str, Any]:
    return {
        "answer": done.answer,
        "stop_reason": done.stop_reason,
        "usage": asdict(done.usage),
        "cost": done.cost,
        "run_id": done.run_id,
        "turns": done.turns,
        "duration": round(done.duration, 3),
        "model": done.model,
        "replayed": done.replayed,
        "diverged_at": done.diverged_at,
    }


def _write(text: str) -> None:
    """Print to stdout: bytes as they are into a pipe, cleaned onto a terminal."""
    if sys.stdout.isatty():
        click.echo(clean(text))
        return
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        standard.forget_output()
        raise AnswerLost(f"the answer cannot be written to stdout: {error.strerror}") from error


def _say_limit(done: Completion, limits: Limits, again: options.Again | None) -> None:
    bounds = {
        StopReason.MAX_TURNS: f"--max-turns {limits.max_turns}",
        StopReason.MAX_TIME: f"--max-time: {seconds(limits.max_time or 0)}",
        StopReason.MAX_TOKENS: f"--max-tokens {limits.max_tokens}",
        StopReason.MAX_COST: f"--max-cost: {money(limits.max_cost)}",
        StopReason.MAX_CALLS: f"--max-calls {limits.max_calls}",
        StopReason.MAX_ERRORS: f"--max-errors {limits.max_errors}",
    }
    what = "without an answer" if done.answer is None else "the answer is what there was"
    click.echo(f"a limit ended the run ({bounds[done.stop_reason]}); {what}", err=True)
    if again:
        flag = bounds[done.stop_reason].split()[0].strip(":")
        click.echo(f"to go on, with more: {again.command(done.run_id)} {flag} ...", err=True)
