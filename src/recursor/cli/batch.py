"""`recursor ask --batch`: many questions over the same paths, a line of JSON for each.

The store says what is answered, and the file of results follows it: whatever ends the command, at any moment, the same
command with --resume goes on from there. Without a store the file of results says it.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from recursor import config
from recursor.batch import new_name
from recursor.cli import contexts, dry, exits, options
from recursor.cli.lines import text_of
from recursor.cli.making import make_rlm
from recursor.cli.many import Many, Watch, said, watch
from recursor.cli.questions import Questions
from recursor.cli.results import Results
from recursor.cli.text import clean, count
from recursor.errors import ConfigError, LimitExceeded, RLMError
from recursor.limits import MAX_CONCURRENCY, Limits
from recursor.questions import Question, Shapes, asked
from recursor.rlm import RLM
from recursor.trajectory import view

F = TypeVar("F", bound=Callable[..., Any])
LOOKED_AT = 2_000
"""Runs, the newest, among which a batch is looked for."""
TRIED = 200
"""Questions that are looked for in each batch: the first ones."""
TICK = 1.0
"""Seconds between two looks at whether something is to be said."""
FLAGS = (
    click.option(
        "--batch", metavar="FILE|-", help="Answer each question of FILE (.jsonl, .csv, .txt), over all PATHs."
    ),
    click.option("--output", "-o", metavar="FILE", help="With --batch: where results go; else to stdout."),
    click.option("--resume", is_flag=True, help="With --batch: go on with the latest batch of these questions."),
    click.option("--name", metavar="NAME", help="With --batch: the batch to go on with, or its name if it is new."),
    click.option("--max-concurrency", type=click.IntRange(1), metavar="N",
                 help=f"With --batch: questions at once.  [default: {MAX_CONCURRENCY}]"),
    click.option("--max-total-cost", type=float, metavar="USD", help="With --batch: for all questions together."),
    click.option("--max-total-tokens", type=int, metavar="N", help="The same for tokens."),
    click.option("--max-total-calls", type=int, metavar="N", help="The same for model calls."),
    click.option("--max-total-time", type=float, metavar="SECONDS", help="The same for time."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the flags of a batch say."""

    file: str
    output: str | None
    resume: bool
    name: str | None
    max_concurrency: int
    total: Limits
    schema: dict[str, Any] | None = None
    """Of all answers."""


def flags(function: F) -> F:
    """Add the options of a batch."""
    for option in reversed(FLAGS):
        function = option(function)
    return function


def taken(given: dict[str, Any]) -> Asked | None:
    """Take the flags of a batch out of a command's; None when there is none.

    Raises:
        UsageError: one of them is there, and --batch is not.
    """
    names = ("batch", "output", "resume", "name", "max_concurrency")
    file, output, resume, name, at_once = (given.pop(each) for each in names)
    bounds = {f"max_{each}": given.pop(f"max_total_{each}") for each in ("cost", "tokens", "calls", "time")}
    if file is not None:
        return Asked(file, output, resume, name, at_once or MAX_CONCURRENCY, Limits(**bounds))
    alone = {"output": output, "resume": resume, "name": name, "max-concurrency": at_once}
    alone |= {f"max-total-{each.removeprefix('max_')}": value for each, value in bounds.items()}
    for each, value in alone.items():
        if value:
            raise click.UsageError(f"--{each} goes with --batch")
    return None


def paths_of(first: str | None, others: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of a batch, which has no QUESTION. Raises UsageError where the first looks like one."""
    if first is None:
        return others
    if first != "-" and not contexts.is_address(first) and not Path(first).exists() and " " in first.strip():
        raise click.UsageError(
            f"with --batch there is no QUESTION, and no file or folder is called {first!r}"
        )
    return (first, *others)


def carry_out(
    wanted: Asked, paths: tuple[str, ...], output: options.Output, given: dict[str, Any], *, raw: bool
) -> NoReturn:
    """Answer all questions, write what came of each, and exit with the code that says how it ended."""
    _check(wanted, paths)
    if output.jsonl == "-" and wanted.output is None:
        raise click.UsageError("--jsonl - and the results both want stdout: give one of them a file")
    settings = options.load(given)
    recorded = settings.settings.record
    if wanted.name is not None and not recorded:
        raise click.UsageError("--name is for the store to find the batch by, and there is none")
    if wanted.resume and not recorded and wanted.output is None:
        raise click.UsageError("without a store, --resume needs the --output that has the results")
    questions = Questions(wanted.file, raw=raw)
    questions.check()
    results = Results(wanted.output, questions, again=wanted.resume or wanted.name is not None)
    name = _name(wanted, settings, questions, results) if recorded else None
    rlm = make_rlm(settings, output)
    many = Many(questions.count, settings.settings.limits, wanted.total, time.monotonic())
    if not output.quiet:
        called = f"batch {clean(name)}: " if name else ""
        click.echo(
            f"{called}{count(questions.count, 'question')}, {wanted.max_concurrency} at once", err=True
        )
    again = _again(name) if name else _again(None) if wanted.output else ""
    display = watch(many, output.display)
    exits.end_by_termination()
    at = _Batch(wanted, name, questions, results, display)
    try:
        over = asyncio.run(at.follow(rlm.with_changes(sinks=[display]), contexts.read(paths, raw=raw)))
    except (RLMError, KeyboardInterrupt) as error:
        display.close()
        code = exits.report(error)
        if not isinstance(error, ConfigError):  # of which nothing was asked
            _say(many, again, quiet=output.quiet)
        sys.exit(code)
    finally:
        display.close()
        results.close()
    _say(many, again, quiet=output.quiet)
    if over is not None:
        click.echo(clean(f"{many.unasked:,} not asked: {over}"), err=True)
    sys.exit(_code(many, over))


def dry_run(
    wanted: Asked, paths: tuple[str, ...], output: options.Output, given: dict[str, Any], *, raw: bool
) -> NoReturn:
    """Say what would be asked; write and send nothing."""
    _check(wanted, paths)
    questions = Questions(wanted.file, raw=raw)
    questions.check()
    dry.show(
        options.load(given), paths, next(iter(questions)).text, raw=raw, as_json=output.as_json,
        questions=questions.count, total=wanted.total,
    )  # fmt: skip
    sys.exit(exits.ANSWERED)


def _check(wanted: Asked, paths: tuple[str, ...]) -> None:
    contexts.check(paths)
    if wanted.file == "-" and "-" in paths:
        raise click.UsageError("standard input is either the questions or the context")
    if wanted.file != "-" and not Path(wanted.file).is_file():
        raise click.UsageError(f"no such file: {wanted.file}")


@dataclass(frozen=True, slots=True)
class _Batch:
    """One that is at work."""

    wanted: Asked
    name: str | None
    questions: Questions
    results: Results
    display: Watch

    async def follow(self, rlm: RLM, context: Any) -> RLMError | None:
        """Have all questions answered. Return why some were not asked, if there were such."""
        results, over = self.results, None
        questions: Iterable[Question] = self.questions
        total = self.wanted.total
        if self.name is None and results.answered:
            questions = (each for each in questions if each.id.line not in results.answered)
            total = _less(total, results)
            self.display.many.before(len(results.answered), results.usage, results.cost)
        ticking = asyncio.ensure_future(_tick(self.display))
        at_once = self.wanted.max_concurrency
        try:
            async with aclosing(
                rlm.amap(
                    questions,
                    context,
                    schema=self.wanted.schema,
                    total=total,
                    max_concurrency=at_once,
                    name=self.name,
                )
            ) as outcomes:
                async for outcome in outcomes:
                    self.display.end(outcome)
                    if not outcome.asked:
                        over = outcome.error
                    elif not (outcome.recorded and outcome.question.id.line in results.answered):
                        results.write(outcome)
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking
        return over


async def _tick(display: Watch) -> None:
    while True:
        await asyncio.sleep(TICK)
        display.tick()


def _name(wanted: Asked, settings: config.Config, questions: Questions, results: Results) -> str:
    """The name of the batch: the one that was said, that of the latest with these questions, or a new one."""
    if wanted.name is not None or not wanted.resume:
        return wanted.name or new_name()
    path = settings.store_path
    found = _latest(path, questions, results.run_id, wanted.schema) if path.is_file() else None
    if found is None:
        raise ConfigError(
            f"no batch with questions of {questions.name} is recorded in {path}; --name NAME names one, "
            "and without --resume a new one begins"
        )
    return found


def _latest(store: Path, questions: Questions, run_id: str, schema: dict[str, Any] | None) -> str | None:
    """The name of the batch that has a run; where none is known, of the latest that has runs of these questions."""
    with view.open(store) as recorded:
        if run_id and (of := _batch_of(recorded.run(run_id))):
            return of
        tried: set[str] = set()
        for run in recorded.runs(LOOKED_AT):
            name = _batch_of(run)
            if name is None or name in tried:
                continue
            tried.add(name)
            for each in islice(asked(questions, Shapes(schema), name), TRIED):
                if recorded.row("SELECT 1 FROM run WHERE id = ?", each.run_id) is not None:
                    return name
    return None


def _batch_of(run: view.RecordedRun) -> str | None:
    of = run.settings.get("batch")
    return of["name"] if isinstance(of, dict) and isinstance(of.get("name"), str) else None


def _less(total: Limits, results: Results) -> Limits:
    """What is left of bounds for all together, when there are results that nothing else records."""
    cost, tokens, calls = total.max_cost, total.max_tokens, total.max_calls
    return replace(
        total,
        max_cost=None if cost is None else max(0.0, cost - (results.cost or 0.0)),
        max_tokens=None if tokens is None else max(1, tokens - results.usage.total_tokens),
        max_calls=None if calls is None else max(1, calls - results.usage.calls),
    )


def _again(name: str | None) -> str:
    """The command that goes on with a batch."""
    words = list(sys.argv[1:])
    for at, word in reversed(list(enumerate(words))):
        if word == "--resume" or word.startswith("--name="):
            del words[at]
        elif word == "--name":
            del words[at : at + 2]
    return shlex.join(["recursor", *words, *(["--resume"] if name is None else ["--name", name])])


def _say(many: Many, again: str, *, quiet: bool) -> None:
    """How it ended, and how to go on where something is left."""
    if not quiet:
        click.echo(text_of(said(many, time.monotonic())), err=True)
    if many.answered < many.total and again:
        click.echo(f"to go on with what has no answer: {clean(again)}", err=True)


def _code(many: Many, over: RLMError | None) -> int:
    if over is not None and not isinstance(over, LimitExceeded):
        return exits.of_error(over) or exits.FAILED
    if many.failed:
        return exits.FAILED
    return exits.LIMIT if many.answered < many.total else exits.ANSWERED
