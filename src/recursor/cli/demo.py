"""`recursor demo`: see what a run does, without a key or a network."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from recursor import config
from recursor.cli import exits, options, progress
from recursor.cli.text import as_text, count, preview, seconds, to_json
from recursor.demo.questions import questions, sub_model
from recursor.demo.texts import unpack
from recursor.limits import Limits
from recursor.rlm import RLM
from recursor.types import Completion, Event, ModelCalled

LIMITS = Limits(max_turns=8, max_time=120.0, max_depth=2)
"""Two levels: a child RLM gets a REPL of its own."""
NOTICE = (
    "The models of this demo are SCRIPTED: their replies were written beforehand, and no model is asked.",
    "All else is real: the sandbox, the code that runs in it, the sub-calls, the recursion, the recording.",
)


@click.command("demo")
@options.STORE
@click.option("--no-store", is_flag=True, help="Do not record the runs.")
@options.DISPLAY
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and show nothing else.")
def command(store: str | None, no_store: bool, display: options.Display, as_json: bool) -> None:
    """Answer three questions over 47 MB of text, offline: scripted models, everything else real.

    Exit codes: 0 all answers are right, 1 one is wrong.
    """
    path = None if no_store else options.store_path(config.load(flags={"store": store}))
    say = _Nothing() if as_json else _Printed()
    results = run(path, say, display="none" if as_json else display)
    if as_json:
        summaries = [result.summary() for result in results]
        click.echo(to_json({"scripted": True, "questions": summaries}, indent=2))
    else:
        _close(results, recorded=path is not None)
    sys.exit(exits.ANSWERED if all(result.right for result in results) else exits.FAILED)


@dataclass(frozen=True, slots=True)
class Result:
    """One question, answered."""

    title: str
    size: int
    """Bytes of the context."""
    done: Completion
    truth: Any
    sub_calls: int
    children: int
    largest_prompt: int
    """Characters of the longest prompt that any root LM saw."""

    @property
    def right(self) -> bool:
        return bool(self.done.answer == self.truth)

    def summary(self) -> dict[str, Any]:
        return {
            "title": self.title, "bytes": self.size, "answer": self.done.answer, "truth": self.truth,
            "right": self.right, "turns": self.done.turns, "sub_calls": self.sub_calls,
            "children": self.children, "largest_prompt": self.largest_prompt,
            "duration": round(self.done.duration, 3), "run_id": self.done.run_id,
        }  # fmt: skip


def run(store: Path | None, say: _Nothing, display: options.Display = "none") -> list[Result]:
    """Unpack the texts, ask the questions, compare."""
    for line in NOTICE:
        say.line("bold yellow", line)
    results: list[Result] = []
    again = options.Again((), () if store is None else ("--store", str(store)))
    with tempfile.TemporaryDirectory(prefix="recursor-demo-") as folder:
        began = time.monotonic()
        texts = unpack(Path(folder))
        total = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        say.line("dim", f"{total / 1e6:.0f} MB of text made in {seconds(time.monotonic() - began)}")
        for number, question in enumerate(questions(texts), 1):
            size = _size(question.context)
            say.line("bold", f"\n{number}. {question.title}: {question.text}")
            watcher = _Watcher(progress.choose(LIMITS, display, again.view if store else None))
            try:
                rlm = RLM(question.root(), sub_model=sub_model(), limits=LIMITS, store=store, sinks=[watcher])
                done = rlm.completion(question.text, question.context)
            finally:
                watcher.display.close()
            tree = watcher.display.tree
            result = Result(question.title, size, done, question.truth, tree.done, tree.children_ended,
                            watcher.largest)  # fmt: skip
            say.line("bold", f"   answer: {preview(as_text(done.answer), 300)}")
            verdict = "right" if result.right else f"WRONG: {preview(as_text(question.truth), 300)}"
            say.line("green" if result.right else "bold red", f"   truth, found by plain Python: {verdict}")
            results.append(result)
    return results


class _Nothing:
    def line(self, style: str, text: str) -> None:
        """Say nothing."""


class _Printed(_Nothing):
    """Prints lines, in colour on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import

        self._console = Console(no_color=not config.color_allowed(), highlight=False, soft_wrap=True)

    def line(self, style: str, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415 - slow to import

        self._console.print(Text(text, style=style))


class _Watcher:
    """A sink that shows events, and measures."""

    def __init__(self, display: progress.Progress) -> None:
        self.display = display
        self.largest = 0

    def emit(self, event: Event) -> None:
        if isinstance(event, ModelCalled) and event.purpose == "root":
            self.largest = max(self.largest, sum(len(message.content) for message in event.messages))
        self.display.show(event)

    async def flush(self) -> None:
        """What is shown need not be durable."""


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _close(results: list[Result], *, recorded: bool) -> None:
    say = _Printed()
    right = sum(result.right for result in results)
    say.line("bold", f"\n{right} of {len(results)} answers are right.")
    for result in results:
        say.line("", f"  {result.title}: {result.size / 1e6:.1f} MB, {count(result.done.turns, 'turn')}, "
                 f"{count(result.sub_calls, 'sub-call')}, {count(result.children, 'child RLM')}, "
                 f"{seconds(result.done.duration)}; the longest prompt had "
                 f"{count(result.largest_prompt, 'character')}")  # fmt: skip
    isolation = results[-1].done.isolation
    if isolation is not None:
        say.line("dim", f"\nWhere the code ran: {isolation}")
    say.line("", "\nNext:")
    if recorded:
        say.line("", f"  recursor runs show {results[1].done.run_id}")
    say.line("", '  recursor ask "Who is mentioned most?" books/ --model openai/gpt-5 --max-cost 0.50')
    say.line("", "  recursor doctor")
