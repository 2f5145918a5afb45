"""Results -> Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Medians: TypeAlias = Mapping[str, Mapping[str, float]]
Values: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
Goal: TypeAlias = tuple[str, str, str, float | None, str]
"""Figure, column, title, the most it should be, unit. Without HTTP in the title: a model in the process."""

PEERS: dict[str, tuple[str, str]] = {
    "import": ("`from ... import RLM`, CPU beyond Python's own", "s"),
    "started": ("from the start of a process to its first model request", "s"),
    "made": ("making the RLM, import excluded", "s"),
    "request cold": ("from the call to the first model request, first in a process, RLM made before", "s"),
    "made, request cold": ("these two together", "s"),
    "request warm": ("from the call to the first model request, later in a process", "s"),
    "prompt": ('first prompt for the question "hello"', "B"),
    "cold": ("one-turn completion, first in a process, RLM made before", "s"),
    "warm": ("one-turn completion, later in a process", "s"),
    "calls": ("one `llm_query`, in the REPL, of 300 in a loop", "s"),
    "batch": ("`llm_query_batched` of 1,000 prompts that take 50 ms each", "s"),
    "load seen": ("100 MB text: what it adds until code sees it", "s"),
    "load whole": ("100 MB text: what it adds to a one-turn completion", "s"),
    "copies": ("100 MB text: most memory beyond the caller's own text", "x"),
    "log": ("log of three turns over a 100 MB text", "B"),
}
"""Figure -> title and unit."""

GOALS: list[Goal] = [
    ("import", "recursor", "`from ... import RLM`, CPU beyond Python's own", 0.15, "s"),
    ("help", "recursor", "`recursor --help`, CPU in all", None, "s"),
    ("cold", "instant", "one-turn completion, first in a process", None, "s"),
    ("warm", "instant", "one-turn completion, later in a process", 0.02, "s"),
    ("warm", "instant, store", "the same with a store", None, "s"),
    ("request cold", "recursor", "call to first request over HTTP, first, RLM made before", 0.15, "s"),
    ("made, request cold", "recursor", "making the RLM, and call to first request over HTTP", None, "s"),
    ("request warm", "recursor", "call to first request over HTTP, later", 0.15, "s"),
    ("prompt", "recursor", 'first prompt for "hello"', 4000, "B"),
    ("calls", "instant", "one `llm_query`", 0.00015, "s"),
    ("calls", "instant, store", "one `llm_query` with a store", None, "s"),
    ("calls", "recursor", "one `llm_query` over HTTP", None, "s"),
    ("calls", "store", "one `llm_query` over HTTP with a store", None, "s"),
    ("batch", "instant", "1,000 prompts at 50 ms", 0.15, "s"),
    ("batch", "instant, store", "1,000 prompts at 50 ms with a store", None, "s"),
    ("batch", "recursor", "1,000 prompts at 50 ms over HTTP", None, "s"),
    ("batch", "store", "1,000 prompts at 50 ms over HTTP with a store", None, "s"),
    ("load seen", "instant", "100 MB text, until code sees it", None, "s"),
    ("load whole", "instant", "100 MB text, added to a completion", 0.2, "s"),
    ("copies", "recursor", "100 MB text, memory beyond the caller's own", 1.0, "x"),
    ("log", "recursor", "log of three turns over 100 MB", 1_000_000, "B"),
]


def core(
    medians: Medians,
    values: Values,
    missing: Mapping[str, Mapping[str, str]],
    facts: Mapping[str, str],
    repeats: int,
    why: str,
) -> str:
    """Return the report of `core.py`."""
    parts = [
        "# Core costs",
        facts_of(facts),
        f"Medians of {repeats} processes for each value, systems in turns. See docs/benchmarks.md.",
        "## Beside peers",
        "All over HTTP to one scripted server on the same machine; in brackets, times recursor's. recursor "
        "runs code in its isolated process, rlms in the caller's own process. " + _dspy(why),
        table(["", "recursor", "rlms", "dspy"], [_peer_row(figure, medians, missing) for figure in PEERS]),
        "## Goals",
        "recursor alone, with a model inside its process where the row does not say HTTP.",
        table(
            ["", "median", "least to most", "goal", ""], [goal_row(each, medians, values) for each in GOALS]
        ),
    ]
    reasons = [
        f"- {figure}, {column}: {reason}" for figure, row in missing.items() for column, reason in row.items()
    ]
    if reasons:
        parts += ["## Not run", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def facts_of(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: float, unit: str) -> str:
    """A number with its unit, three digits; without a unit a count."""
    if unit == "x":
        return f"{value:.2f} x"
    if not unit:
        return f"{value:,.0f}"
    seconds, sizes = [(1.0, "s"), (1e-3, "ms"), (0.0, "µs")], [(1e6, "MB"), (1e3, "kB"), (0.0, "B")]
    scales = seconds if unit == "s" else sizes
    least, name = next(scale for scale in scales if abs(value) >= scale[0])
    divisor = {"µs": 1e-6, "B": 1.0}.get(name, least)
    scaled = value / divisor
    return f"{scaled:,.{max(0, 2 - len(str(int(abs(scaled)))) + 1)}f} {name}"


def _dspy(why: str) -> str:
    if not why:
        return "dspy runs it in Pyodide under Deno."
    return (
        f"dspy's default interpreter, Pyodide under Deno, was not run ({why}); its LocalInterpreter was, a "
        "subprocess without isolation."
    )


def _peer_row(figure: str, medians: Medians, missing: Mapping[str, Mapping[str, str]]) -> list[str]:
    title, unit = PEERS[figure]
    found = medians.get(figure, {})
    ours = found.get("recursor")
    cells = []
    for column in ("recursor", "rlms", "dspy"):
        value = found.get(column)
        if value is None:
            cells.append("not run" if missing.get(figure, {}).get(column) else "-")
        elif column == "recursor" or not ours or ours < 0:
            cells.append(shown(value, unit))
        else:
            digits = ".2g" if value / ours < 10 else ",.0f"
            cells.append(f"{shown(value, unit)} ({value / ours:{digits}})")
    return [title, *cells]


def goal_row(goal: Goal, medians: Medians, values: Values) -> list[str]:
    """Median, spread, goal, and whether it is met."""
    figure, column, title, bound, unit = goal
    median = medians.get(figure, {}).get(column)
    wanted = "-" if bound is None else shown(bound, unit)
    if median is None:
        return [title, "not run", "", wanted, ""]
    found = values[figure][column]
    spread = f"{shown(min(found), unit)} to {shown(max(found), unit)}"
    verdict = "" if bound is None else "met" if median <= bound else "missed"
    return [title, shown(median, unit), spread, wanted, verdict]
