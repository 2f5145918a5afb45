"""What is said of a run when it is over: what it took, by model and depth. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from recursor.cli.costs import Cost
from recursor.cli.lines import Row
from recursor.cli.text import NAME, cells, cut, preview
from recursor.cli.tree import Tree
from recursor.types import Completion

NARROW = 72
"""Columns below which numbers are rounded and cached tokens left out."""
_HEADS = ("depth", "model", "calls", "input", "cached", "output", "cost")
_SHORT = ("d", "model", "calls", "in", "", "out", "cost")
_CACHED = 4


def table(tree: Tree, done: Completion, width: int) -> Iterator[Row]:
    """A row for each depth and model, and their sum."""
    costs = tree.costs.rows(done)
    if not costs:
        return
    narrow = width < NARROW
    places = 4 if any(cost.cost and cost.cost < 0.1 for cost in costs) else 2
    lines = [_HEADS, *(_line(cost, narrow, places) for cost in costs)]
    if len(costs) > 1:
        usage = done.usage
        total = Cost(
            0,
            "total",
            usage.calls,
            0,
            usage.input_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            done.cost,
        )
        lines.append(("", *_line(total, narrow, places)[1:]))
    if narrow:
        lines[0] = _SHORT
        lines = [(*line[:_CACHED], *line[_CACHED + 1 :]) for line in lines]
    columns = [max(cells(line[at]) for line in lines) for at in range(len(lines[0]))]
    gap = 1 if narrow else 2
    columns[1] = max(6, min(columns[1], width - sum(columns) + columns[1] - gap * (len(columns) - 1) - 2))
    for at, line in enumerate(lines):
        model = cut(line[1], columns[1])
        texts = [line[0].ljust(columns[0]), model + " " * (columns[1] - cells(model))]
        texts += [text.rjust(column) for text, column in zip(line[2:], columns[2:], strict=True)]
        style = "dim" if at == 0 else "bold" if at > len(costs) else ""
        yield [(style, cut("  " + (" " * gap).join(texts), width))]


def _line(cost: Cost, narrow: bool, places: int) -> tuple[str, ...]:
    number = _rounded if narrow else "{:,}".format
    tokens = (cost.input_tokens, cost.cached_tokens, cost.output_tokens)
    dollars = "unknown" if cost.cost is None else f"${cost.cost:,.{places}f}"
    return (str(cost.depth), preview(cost.model, NAME), number(cost.calls), *map(number, tokens), dollars)


def _rounded(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * size or (number >= size and unit != "k"):
            return f"{number / size:.1f}{unit}" if number < 10 * size else f"{number // size:,}{unit}"
    return str(number)
