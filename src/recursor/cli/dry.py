"""`recursor ask --dry-run`: says what a run would be. Nothing is sent, and nothing recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from recursor import config
from recursor.cli import contexts
from recursor.cli.planned import NOT_TRIED, Context, Plan, plan
from recursor.cli.text import clean, count, money, to_json
from recursor.limits import Limits

SHOWN = 12
"""Files that are listed."""


def show(
    loaded: config.Config,
    paths: tuple[str, ...],
    question: str,
    *,
    raw: bool,
    as_json: bool,
    questions: int = 1,
    total: Limits | None = None,
) -> None:
    """Print what would be done.

    Args:
        question: one of those that would be asked.
    """
    found = plan(loaded, contexts.read(paths, raw=raw), question, questions, total)
    if as_json:
        click.echo(to_json(asdict(found), indent=2))
        return
    for line in _lines(found):
        click.echo(clean(line))


def _lines(found: Plan) -> Iterator[str]:
    if found.questions > 1:
        yield f"questions  {found.questions:,}"
    if found.context is not None:
        yield from _context_lines(found.context)
    yield f"strategy   {found.strategy}"
    for model in found.models:
        price = "" if model.priced else "; its price is not known"
        yield f"{model.purpose:<9}  {model.name} at {model.endpoint}, {model.reachable}; key: {model.key}{price}"
    if not found.models:
        yield "models     none is named: a run looks for a server on this machine, then for a key; not tried"
    if found.servers:
        yield f"tools      of the MCP servers {', '.join(found.servers)}, not started"
    yield from _cost_lines(found)
    yield from _sandbox_lines(found)
    yield "limits     " + ", ".join(
        f"{name} {each['value']} ({each['origin']})"
        for name, each in found.limits.items()
        if each["value"] is not None
    )
    together = [f"{name} {value}" for name, value in found.total.items() if value is not None]
    if together:
        yield "together   " + ", ".join(together)
    yield f"record     {found.store or 'none'}"
    yield "nothing was sent, and nothing was recorded"


def _context_lines(context: Context) -> Iterator[str]:
    size = "" if context.bytes is None else f", {context.bytes:,} bytes"
    yield f"context    {count(len(context.files), 'file')}{size}"
    for file in context.files[:SHOWN]:
        size = "" if file.bytes is None else f"{file.bytes:,}"
        yield f"           {file.name}  {size}  {file.read_as}"
    more = len(context.files) - SHOWN
    if more > 0:
        yield f"           and {count(more, 'more', 'more')}"
    if context.tokens is not None:
        whence = "as recorded runs of the root LM tell" if context.learned else "until recorded runs tell"
        left = f", without {count(context.uncounted, 'file')} that are no text" if context.uncounted else ""
        yield f"tokens     about {context.tokens:,}{left} ({context.bytes_per_token:.1f} bytes each, {whence})"


def _cost_lines(found: Plan) -> Iterator[str]:
    cost, each = found.cost, " each" if found.questions > 1 else ""
    if cost.least is None:
        yield "cost       not known ahead: a price is not, or what is to be read"
    else:
        yield f"cost       at least {money(cost.least)}, for one short reply{each}"
    if found.strategy == "rlm" and cost.reading_once is not None and cost.reading_once != cost.least:
        yield f"           about {money(cost.reading_once)}, if sub-calls read all text once{each}"
    most = (
        f"at most {money(cost.most)}" if cost.most is not None else "no bound in money; --max-cost sets one"
    )
    yield f"           {most}"


def _sandbox_lines(found: Plan) -> Iterator[str]:
    if found.isolation is None:
        yield f"sandbox    {found.sandbox}: {found.problem or NOT_TRIED + ', it is not on this machine alone'}"
        return
    kept = (
        "tried here, and kept from files, network and processes"
        if found.isolation.isolated
        else "NOT ISOLATED"
    )
    yield f"sandbox    {found.sandbox}: {kept}"
    yield f"           by {', '.join(each.partition(' (')[0] for each in found.isolation.mechanisms)}"
    for weakness in found.isolation.weaknesses:
        yield f"           weaker: {weakness}"
