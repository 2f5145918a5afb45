"""`recursor ask`: one question, answered on stdout; and what `resume` shares with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from recursor import config
from recursor.cli import coverage, endpoints, exits, options, progress
from recursor.cli.text import as_text, clean, money, seconds, to_json
from recursor.errors import ConfigError, RLMError
from recursor.files import Content, Raw
from recursor.limits import Limits
from recursor.protocols import Sink
from recursor.rlm import RLM
from recursor.routing import Routes
from recursor.types import Completion, Event, RunEnded, StopReason

NO_MODEL = """no model was named and none was found on this machine
  name one:          recursor ask --model openai/gpt-5 "..."   (needs OPENAI_API_KEY)
  or make it stay:   model = "openai/gpt-5" in {file}
  or run one here:   ollama serve, LM Studio, llama.cpp or vLLM on its usual port is found by itself
  or look without:   recursor demo"""


@click.command("ask")
@click.argument("question")
@click.argument("paths", nargs=-1, metavar="[PATH|-]...")
@options.settings
@options.output
@coverage.EVIDENCE
@click.option("--raw", is_flag=True, help="Give files as they stand: tables, PDFs, archives are not read.")
def command(question: str, paths: tuple[str, ...], *, evidence: bool, raw: bool, **flags: Any) -> None:
    """Answer QUESTION over files, folders or standard input (-).

    stdout carries the answer only; progress goes to stderr.

    \b
    Exit codes: 0 answered, 1 failed, 2 wrong usage, 3 a limit ended it (what
    there is of an answer is printed), 4 authentication, 5 provider down,
    6 sandbox, 124 the time was up, 130 interrupted.
    """
    output = options.output_of(flags)
    if not question.strip():
        raise click.UsageError("the question is empty")
    check_paths(paths)
    again = options.Again.of(flags, paths)
    settings = options.load(flags)
    rlm = make_rlm(settings, output)
    context = read_context(paths, raw=raw)
    also = coverage.told(settings, output, context) if evidence else None
    carry_out(settings, output, again, lambda: rlm.stream(question, context), also)


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
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        done = asyncio.run(_follow(start, display))
    except (RLMError, KeyboardInterrupt) as error:
        display.close()
        run_id = display.tree.run_id if recorded else ""
        sys.exit(exits.report(error, again.command(run_id) if run_id else ""))
    finally:
        display.close()
    answered = done.stop_reason is StopReason.ANSWERED
    try:
        more = also(done) if also else {}
        _print(done, more, as_json=output.as_json, events_on_stdout=output.jsonl == "-")
    except AnswerLost as error:
        sys.exit(exits.report(error, again.command(done.run_id, answered=answered) if recorded else ""))
    if not answered:
        _say_limit(done, settings.settings.limits, again if recorded else None)
    sys.exit(exits.of_completion(done))


class AnswerLost(RLMError):
    """There is an answer, and stdout does not take it."""


def _print(done: Completion, more: dict[str, Any], *, as_json: bool, events_on_stdout: bool) -> None:
    if as_json:
        _write(to_json(_summary(done) | more))
    elif not events_on_stdout and (done.answer is not None or done.stop_reason is StopReason.ANSWERED):
        _write(as_text(done.answer))


async def _follow(start: Callable[[], AsyncGenerator[Event, None]], display: progress.Progress) -> Completion:
    done: Completion | None = None
    async with aclosing(start()) as events:
        async for event in events:
            display.show(event)
            if isinstance(event, RunEnded) and event.run_id == display.tree.run_id:
                done = event.completion
    assert done is not None, "a stream that raises nothing ends in a completion"
    return done


def make_rlm(loaded: config.Config, output: options.Output) -> RLM:
    """Return what the settings describe; looks for a model when they name none."""
    settings = loaded.settings
    routes = settings.routes if loaded.origins["model"] != "--model" else ()
    model: str | Routes[str]
    if routes:
        model = Routes.from_table({"routes": list(routes), "allow": list(settings.allow)})
    else:
        model = settings.model or _found(settings.base_url, output.quiet)
    return RLM(
        model,
        sub_model=None if routes else settings.sub_model,
        base_url=settings.base_url,
        sandbox=settings.sandbox,
        dialect=settings.dialect,
        strategy=settings.strategy,
        cache=settings.cache,
        limits=settings.limits,
        store=options.store_path(loaded) if settings.record else None,
        sinks=_sinks(output.jsonl),
    )


def _found(base_url: str | None, quiet: bool) -> str:
    """Look for a model when none was named, and say which it is."""
    if base_url:
        raise ConfigError("--base-url needs --model: what the endpoint calls it")
    choice = endpoints.choose()
    if choice is None:
        raise ConfigError(NO_MODEL.format(file=config.config_file()))
    if not quiet:
        click.echo(f"using {clean(choice.model)}: {clean(choice.reason)}", err=True)
    return choice.model


def _sinks(jsonl: str | None) -> list[Sink]:
    if jsonl is None:
        return []
    from recursor.trajectory.jsonl import JsonlSink  # noqa: PLC0415 - only with --jsonl

    try:
        target = os.dup(1) if jsonl == "-" else jsonl
        file = open(target, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - the sink's; Path takes no descriptor
    except OSError as error:
        raise ConfigError(f"cannot write {jsonl}: {error.strerror}") from error
    return [JsonlSink(file)]


def check_paths(paths: tuple[str, ...]) -> None:
    """Refuse what cannot be read, before a model is looked for."""
    if "-" in paths and len(paths) > 1:
        raise click.UsageError("- stands for standard input and cannot be mixed with paths")
    if "-" in paths and sys.stdin.isatty():
        raise click.UsageError("- reads standard input, which is a terminal: pipe something into it")
    for path in (Path(path) for path in paths if path != "-"):
        if not path.exists():
            raise click.UsageError(f"no such file or folder: {path}")
        if not (path.is_file() or path.is_dir()):
            raise click.UsageError(f"{path} is neither a file nor a folder; pipe it in and write - for it")
        if not os.access(path, os.R_OK):
            raise click.UsageError(f"not allowed to read {path}")


def read_context(paths: tuple[str, ...], *, raw: bool = False) -> Any:
    """Return what the paths of a command stand for: None, data of standard input, one Path or a list of them."""
    if not paths:
        return None
    if paths == ("-",):
        data = sys.stdin.buffer.read()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data if raw else Content(data)
    found = Path(paths[0]) if len(paths) == 1 else [Path(path) for path in paths]
    return Raw(found) if raw else found


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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the exit flushes stdout once more
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
