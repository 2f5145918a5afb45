"""What of a run stays on the screen: the lines that an event of the root run is worth. Pure.

Everything that came from a model or a context is cleaned and cut here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TypeAlias

from recursor.cli.text import NAME, cells, clean, count, cut, first_lines, money, preview, seconds
from recursor.cli.tree import Tree, Work
from recursor.types import (
    BlockExecuted,
    CallRefused,
    Compacted,
    Completion,
    Diverged,
    Event,
    Execution,
    ModelCalled,
    RunEnded,
    RunStarted,
)

Row: TypeAlias = list[tuple[str, str]]
"""A line: styles (as `recursor.cli.region` knows them) and texts."""
CODE_LINES = 12
OUTPUT_LINES = 5
BESIDE = 100
"""Columns from which on output stands beside its code."""
WIDEST = 140


def text_of(row: Row) -> str:
    """A line without its styles."""
    return "".join(text for _, text in row).rstrip()


def describe(event: Event, tree: Tree, width: int, *, beside: bool = True) -> Iterator[Row]:
    """The lines that an event of the root run is worth; none for a child's. To be called after `tree.take`.

    Args:
        width: columns that a line may take.
        beside: whether output may stand beside its code.
    """
    if event.run_id != tree.run_id:
        return
    match event:
        case RunStarted():
            yield from _started(event, width)
        case ModelCalled(purpose="root"):
            yield []
            yield _asked(event, width)
        case BlockExecuted():
            work = tree.root.last_block if tree.root else Work()
            yield from _block(event.execution, work, min(width, WIDEST), beside and width >= BESIDE)
        case CallRefused():
            yield [("red", cut(f"  ! {preview(event.error, 300)}", width))]
        case Compacted():
            yield [("dim", cut(f"  older turns, up to turn {event.turn}, gave way to a summary", width))]
        case Diverged():
            yield [
                (
                    "dim",
                    cut(f"  from here on it does not go as recorded: {preview(event.reason, 300)}", width),
                )
            ]
        case RunEnded() if event.completion is not None:
            yield []
            yield _ended(event.completion, tree, width)
        case _:
            pass


def fit(parts: list[str], width: int) -> str:
    """As many of the parts, the first ones, as a line takes; the first is cut where it is too long."""
    text, *rest = [part for part in parts if part] or [""]
    for part in rest:
        if cells(text) + 3 + cells(part) > width:
            break
        text += f" · {part}"
    return cut(text, width)


def headed(head: str, style: str, parts: list[str], width: int) -> Row:
    """A line whose first words stand out."""
    head = cut(head, width)
    rest = fit(parts, width - cells(head) - 3) if parts else ""
    return [(style, head), ("dim", f" · {rest}" if rest else "")]


def _started(event: RunStarted, width: int) -> Iterator[Row]:
    where = f"sandbox {event.isolation.sandbox}" if event.isolation else "answered directly"
    yield headed(
        f"run {preview(event.run_id, NAME)}",
        "bold",
        [preview(event.model, NAME), preview(where, NAME)],
        width,
    )
    for info in event.contexts:
        source = f" from {info.source}" if info.source else ""
        yield [("dim", preview(f"{info.name}: {info.type}, {info.size}{source}", width))]


def _asked(event: ModelCalled, width: int) -> Row:
    if event.reply is None:
        why = preview(f"{event.model} failed: {event.error}", 300)
        return [("bold", f"turn {event.turn}"), ("red", cut(f" · {why}", width - 8))]
    usage = event.reply.usage
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    tokens = f"{usage.input_tokens:,} tokens in{cached}, {usage.output_tokens:,} out"
    return headed(
        f"turn {event.turn}", "bold", [preview(event.model, NAME), seconds(event.duration), tokens], width
    )


def _block(execution: Execution, work: Work, width: int, beside: bool) -> Iterator[Row]:
    output = _shown(execution)
    if beside and output:
        yield from _side_by_side(execution, output, width)
    else:
        yield from (
            [("dim", "  │ "), ("cyan", line)] for line in first_lines(execution.code, CODE_LINES, width - 4)
        )
        for line in _output(execution, OUTPUT_LINES, width - 4):
            yield [("dim", "  → "), line]
    parts = [f"ran {seconds(execution.duration)}", *made(work)]
    yield [("dim", "  ╰ " + fit(parts, width - 4))]


def _side_by_side(execution: Execution, output: str, width: int) -> Iterator[Row]:
    room = width - 7
    wanted = _widest(execution.code)
    code_width = min(wanted, max(room * 11 // 20, room - _widest(output)))
    code = first_lines(execution.code, CODE_LINES, code_width)
    lines = list(_output(execution, max(OUTPUT_LINES, len(code)), room - code_width))
    for left, right in zip_longest(code, lines, fillvalue=None):
        padded = (left or "") + " " * (code_width - cells(left or ""))
        yield [("dim", "  │ "), ("cyan", padded), ("dim", " │ "), *([right] if right else [])]


def _widest(text: str) -> int:
    """Columns of the widest of its first lines."""
    return max(map(cells, first_lines(text, 4 * CODE_LINES, WIDEST)))


def _shown(execution: Execution) -> str:
    return "\n".join(text for _, text in _output(execution, CODE_LINES, WIDEST))


def _output(execution: Execution, lines: int, width: int) -> Iterator[tuple[str, str]]:
    output = execution.output
    error = execution.error.strip().splitlines()[-1] if execution.error and execution.error.strip() else ""
    if output.total:
        printed = output.head if not output.omitted else f"{output.head}\n… {output.omitted:,} characters"
        printed = "\n".join(line for line in clean(printed).split("\n") if line.strip())
        for line in first_lines(printed, max(1, lines - bool(error)), width):
            yield "", line
    if error:
        yield "red", cut("! " + preview(error, 300), width)


def made(work: Work) -> list[str]:
    """What a block asked for, in words."""
    calls, children = work.calls, work.children
    parts = [f"{count(calls.ended, 'sub-call')}" + failures(calls.failed)] if calls.ended else []
    if children.ended:
        parts.append(f"{count(children.ended, 'child RLM')}" + failures(children.failed))
    if work.tools:
        parts.append(count(work.tools, "tool call"))
    if work.retried:
        parts.append(f"{work.retried:,} retried")
    return parts


def failures(number: int) -> str:
    """In parentheses, "" for none."""
    return f" ({number:,} failed)" if number else ""


def _ended(done: Completion, tree: Tree, width: int) -> Row:
    answered = done.stop_reason == "answered"
    reason = "answered" if answered else f"stopped by {done.stop_reason}"
    calls = (
        count(tree.done + tree.failed, "sub-call") + failures(tree.failed) if tree.done + tree.failed else ""
    )
    children = count(tree.children_ended, "child RLM") if tree.children_ended else ""
    parts = [
        count(done.turns, "turn"), seconds(done.duration), money(done.cost), calls, children,
        f"{done.usage.total_tokens:,} tokens",
    ]  # fmt: skip
    return headed(reason, "bold green" if answered else "bold red", [part for part in parts if part], width)
