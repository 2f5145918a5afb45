"""What is measured inside the process of one system. Imports the standard library alone.

A system is a function that makes an `Ask`; everything else is the same for all. Prints one JSON
object. The scripts beside this one are run by `core.py`, each with the interpreter of its environment.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

SIZE = 100_000_000
"""Characters of the large context."""
LINE = "2031-05-14 INFO worker-07 request served in 12 ms, cache hit, 1,024 bytes, no error to report.\n"

Ask: TypeAlias = Callable[[str, "str | None"], object]
"""Question, context -> answer."""


@dataclass(frozen=True)
class Options:
    measure: str
    url: str
    instant: bool
    """A model inside the process instead of HTTP; ours alone."""
    record: str | None
    """A folder to log to; None logs nothing."""
    variant: str
    """Of the system: which sandbox, which interpreter. Empty is its default."""
    count: int
    depth: int
    """At which a child is a plain call; with 1 all are."""


def main(make: Callable[[Options], Ask]) -> None:
    """Run the measure that the command line names and print what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=sorted(MEASURES))
    parser.add_argument("--url", default="")
    parser.add_argument("--instant", action="store_true")
    parser.add_argument("--record")
    parser.add_argument("--variant", default="")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--depth", type=int, default=1)
    options = Options(**vars(parser.parse_args()))
    began = time.monotonic()
    ask = make(options)
    made = time.monotonic() - began
    print(json.dumps({"made": made} | MEASURES[options.measure](ask, options)), flush=True)


def _turn(ask: Ask, options: Options) -> dict[str, Any]:
    """One-turn completions: the first of a process, and further ones."""
    rows = [_timed(ask, "hello") for _ in range(options.count)]
    return {"began": [row[0] for row in rows], "seconds": [row[1] for row in rows]}


def _calls(ask: Ask, options: Options) -> dict[str, Any]:
    return {"seconds": _number(ask(f"task=calls:{options.count}", None))}


def _batch(ask: Ask, options: Options) -> dict[str, Any]:
    return {"seconds": _number(ask(f"task=batch:{options.count}", None))}


def _children(ask: Ask, options: Options) -> dict[str, Any]:
    """Child RLMs one after another, each of which answers in its first turn; seconds for one."""
    return {"seconds": _number(ask(f"task=children:{options.count}", None))}


def _load(ask: Ask, options: Options) -> dict[str, Any]:
    """Completions with and without a large context, in turns: until code sees it, and in all."""
    context = _context()
    _seen(ask, "small")
    rows = [(*_seen(ask, context), *_seen(ask, "small")) for _ in range(options.count)]
    names = ("seen", "whole", "seen without", "whole without")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _memory(ask: Ask, options: Options) -> dict[str, Any]:
    """Complete over a small and over a large context, each when a line comes on standard input."""
    del options
    large = _context()
    _seen(ask, "small")
    for context in ("small", large):
        gc.collect()
        print("ready", flush=True)
        sys.stdin.readline()
        _seen(ask, context, "task=hold")
    return {"size": SIZE}


def _log(ask: Ask, options: Options) -> dict[str, Any]:
    """Three turns over a large context; what lies in the folder of logs then."""
    _expect(ask("task=turns", _context()), "three turns")
    files = Path(options.record or "/nonexistent").rglob("*")
    return {"bytes": sum(file.stat().st_size for file in files if file.is_file())}


MEASURES: dict[str, Callable[[Ask, Options], dict[str, Any]]] = {
    "turn": _turn,
    "calls": _calls,
    "batch": _batch,
    "children": _children,
    "load": _load,
    "memory": _memory,
    "log": _log,
}


def _context() -> str:
    return (LINE * (SIZE // len(LINE) + 1))[:SIZE]


def _seen(ask: Ask, context: str, question: str = "task=length") -> tuple[float, float]:
    """Seconds from the call until code in the REPL runs that sees the context, and until the answer."""
    began = time.time()
    length, _, seen = str(ask(question, context)).partition(" ")
    whole = time.time() - began
    _expect(length, len(context))
    return _number(seen) - began, whole


def _timed(ask: Ask, question: str) -> tuple[float, float]:
    began = time.monotonic()
    answer = ask(question, None)
    seconds = time.monotonic() - began
    _expect(answer, "done")
    return began, seconds


def _expect(answer: object, expected: object) -> None:
    if str(answer) != str(expected):
        raise SystemExit(f"answered {str(answer)[:500]!r} instead of {expected!r}")


def _number(answer: object) -> float:
    try:
        return float(str(answer))
    except ValueError:
        raise SystemExit(f"answered {str(answer)[:500]!r} instead of a number") from None
