"""`recursor runs`: what was recorded."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from recursor.cli import complete, coverage, exports
from recursor.cli.text import as_text, clean, count, first_lines, money, preview, seconds, to_json
from recursor.errors import ConfigError
from recursor.trajectory import view
from recursor.types import Output, Usage

SHOWN_LINES = 20
SHOWN_WIDTH = 500


@click.group("runs")
def command() -> None:
    """List, show, export, import and remove recorded runs."""


for each in (exports.export, exports.load, exports.collect, coverage.command, coverage.evidence):
    command.add_command(each)


@command.command("list")
@exports.of_store
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--all", "every", is_flag=True, help="Child runs too, and no limit.")
@click.option("--session", metavar="ID", help="Those of a session, oldest first.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_runs(
    *, store: str | None, file: Path | None, limit: int, every: bool, session: str | None, as_json: bool
) -> None:
    """List runs, newest first."""
    path = exports.store_path(store, file)
    if not path.exists() and store is None:
        click.echo(f"nothing is recorded yet in {path}", err=True)
        found: list[view.RecordedRun] = []
    else:
        with view.open(path) as recorded:
            if session is not None:
                found = recorded.session(session)
            else:
                found = recorded.runs(None if every else limit, children=every)
    if session is not None and not found:
        raise ConfigError(f"there is no session {session!r} in {path}")
    if as_json:
        click.echo(to_json([_summary(run) for run in found], indent=2))
        return
    for run in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        turns = count(run.turns, "turn") if run.turns is not None else ""
        click.echo(
            f"{run.id[:12]}  {when}  {_end(run):<10}  {turns:>8}  {_cost(run):>12}  "
            f"{preview(run.model, 24):<24}  {_turn_of(run)}{preview(run.question, 60)}".rstrip()
        )


@command.command("show", short_help="Show a run: its turns, with code and output.")
@click.argument("run_id", metavar="RUN", shell_complete=complete.runs)
@exports.of_store
@click.option("--full", is_flag=True, help="All of every output and reply.")
def show(run_id: str, store: str | None, file: Path | None, full: bool) -> None:
    """Show RUN (its id, or the first digits of it): turns with code and output, sub-calls, cost."""
    with view.open(exports.store_path(store, file)) as recorded:
        for line in _story(recorded, recorded.run(run_id), sys.maxsize if full else SHOWN_LINES):
            click.echo(clean(line))


def story(store: Path, run_id: str) -> str:
    """What `show` prints of a run. Raises TrajectoryError when there is none."""
    with view.open(store) as recorded:
        return "\n".join(clean(line) for line in _story(recorded, recorded.run(run_id), SHOWN_LINES))


def _turn_of(run: view.RecordedRun) -> str:
    """Which turn of which session it is; empty for a run that stands alone."""
    return "" if run.session is None else f"[{preview(run.session[0], 20)} {run.session[1]}] "


def _end(run: view.RecordedRun) -> str:
    if run.error is not None:
        return "failed"
    return str(run.stop_reason) if run.stop_reason else "not ended"


def _cost(run: view.RecordedRun) -> str:
    return money(run.cost) if run.ended is not None else ""


def _summary(run: view.RecordedRun) -> dict[str, Any]:
    return {
        "run_id": run.id, "parent_id": run.parent_id, "question": run.question, "model": run.model,
        "started": run.started, "ended": run.ended, "stop_reason": run.stop_reason, "error": run.error,
        "turns": run.turns, "duration": run.duration, "cost": run.cost,
        "tokens": run.usage.total_tokens if run.usage else None, "session": run.session and run.session[0],
        "session_turn": run.session and run.session[1],
    }  # fmt: skip


def _story(recorded: view.Trajectories, run: view.RecordedRun, lines: int) -> Iterator[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
    sub = f", sub-calls by {run.sub_model}" if run.sub_model != run.model else ""
    yield f"run       {run.id}" + (f", child of {run.parent_id}" if run.parent_id else "")
    if run.session is not None:
        yield f"session   {preview(run.session[0], 100)}, turn {run.session[1]}"
    yield f"question  {preview(run.question, 400)}"
    where = f"sandbox {run.isolation.sandbox}" if run.isolation else "answered directly"
    yield f"by        {run.model}{sub}, {where}, {when}"
    for context in run.contexts:
        info = context.info
        source = f", from {info.source}" if info.source else ""
        yield f"given     {info.name}: {info.type}, {info.size}{source}"
    calls = recorded.calls(run.id)
    executions = recorded.executions(run.id)
    for turn in sorted({call.turn for call in calls} | {each.turn for each in executions}):
        yield ""
        yield from _turn(
            turn, [call for call in calls if call.turn == turn],
            [each for each in executions if each.turn == turn], lines,
        )  # fmt: skip
    yield ""
    for child in recorded.children(run.id):
        turns = count(child.turns or 0, "turn")
        yield f"child {child.id[:12]} · {_end(child)} · {turns} · {preview(child.question, 100)}"
    yield _outcome(run)


def _turn(
    number: int, calls: list[view.RecordedCall], executions: list[view.RecordedExecution], lines: int
) -> Iterator[str]:
    width = sys.maxsize if lines == sys.maxsize else SHOWN_WIDTH
    for call in (call for call in calls if call.purpose == "root"):
        yield f"turn {number} · {call.model} {_call(call)}"
        if call.reply is not None and not executions:
            yield from (f"  {line}" for line in first_lines(call.reply, lines, width))
    for each in executions:
        yield from (f"  │ {line}" for line in first_lines(each.execution.code, sys.maxsize, width))
        if each.execution.output.total:
            yield from (f"  → {line}" for line in first_lines(_printed(each.execution.output), lines, width))
        if each.execution.error is not None:
            yield from (f"  ! {line}" for line in first_lines(each.execution.error, lines, width))
        yield from (f"  note: {note}" for note in each.execution.notes)
        submitted = ", submitted the answer" if each.submitted else ""
        yield f"    ran {seconds(each.execution.duration)}{submitted}"
    subs = [call for call in calls if call.purpose == "sub"]
    if subs:
        yield f"    {_subs(subs)}"


def _printed(output: Output) -> str:
    left_out = f"\n… {output.omitted:,} characters left out …\n" if output.omitted else ""
    return output.head + left_out + output.tail


def _call(call: view.RecordedCall) -> str:
    if call.error is not None:
        return f"failed after {seconds(call.duration)}: {preview(call.error, 300)}"
    usage = call.usage or Usage()
    tokens = f"{usage.input_tokens:,} tokens in ({usage.cached_tokens:,} cached), {usage.output_tokens:,} out"
    return f"replied in {seconds(call.duration)} · {tokens} · {money(call.cost)}"


def _subs(calls: list[view.RecordedCall]) -> str:
    """Sub-calls of one turn, summed."""
    failed = sum(call.error is not None for call in calls)
    done = [call for call in calls if call.error is None]
    tokens = sum((call.usage or Usage()).total_tokens for call in done)
    costs = [call.cost for call in done]
    known = [cost for cost in costs if cost is not None]
    cost = money(sum(known) if len(known) == len(costs) else None)
    bad = f", {failed:,} failed" if failed else ""
    return f"{count(len(calls), 'sub-call')}{bad} · {tokens:,} tokens · {cost}"


def _outcome(run: view.RecordedRun) -> str:
    if run.error is not None:
        return f"failed: {run.error}"
    if run.ended is None or run.usage is None:
        return "not ended: it goes on, or was cut off"
    said = (
        f"{_end(run)} · {count(run.turns or 0, 'turn')} · {count(run.usage.calls, 'call')} · "
        f"{run.usage.total_tokens:,} tokens · {money(run.cost)} · {seconds(run.duration or 0)}"
    )
    return f"{said}\nanswer    {as_text(run.answer)}"
