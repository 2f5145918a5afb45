"""Large contexts: loading, memory and helpers over 100 MB and 1 GB, ten REPLs over one of them, a folder.

The text is made of words of a skewed distribution, with a sentence that is there once. Every REPL is
one of the default sandbox. Memory is that of this process and its descendants by proportional share,
file pages that are mapped included. Writes benchmarks/results/text.json and text.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import environments as env
from memory import held

from recursor.context import prepare
from recursor.protocols import Repl
from recursor.sandboxes.process import ProcessSandbox

CHILDREN = 10
FILES, LINES = 100_000, 200
SEARCHED = 200_000_000
"""Bytes up to which a search is measured: the index of more takes a minute and as much memory as the text."""
ONCE = "\nthe golden zebra sings opera\n"
MEASURES = {
    "`find`, to the end": "context.find('golden gnu')",
    "`count` of a word": "context.count('golden')",
    "`re.findall`, to the end": "len(re.findall(r'golden z\\w+', context))",
    "`grep`, a regex": "len(grep(r'golden z\\w+ sings', context))",
    "`chunk`, 100,000 characters": "len(chunk(context))",
    "a pass over those chunks": "sum(map(len, chunk(context)))",
    "`search`, first": "search('zebras singing', context)[0]",
    "`search`, again": "search('zebras singing', context)[0]",
}


class Refuser:
    """A host that has no sub-calls to answer."""

    async def answer(self, subcall: Any) -> Any:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", default="100,1000", help="Megabytes, with commas.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        many = asyncio.run(documents(Path(folder)))
        for size in map(int, options.sizes.split(",")):
            path = Path(folder, f"{size}.txt")
            path.write_text(made(size * 1_000_000))
            columns[f"file, {size} MB"] = asyncio.run(measured(path))
            columns[f"`str`, {size} MB"] = asyncio.run(measured(path.read_text()))
            path.write_text("\u20ac" + path.read_text())
            columns[f"file, not ASCII, {size} MB"] = asyncio.run(measured(path))
            path.unlink()
    report(columns, many, options.out)


def made(size: int) -> str:
    """A text of this many characters."""
    chance = random.Random(1)
    words = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(30_000)
    ]
    lines = [
        " ".join(words[int(chance.paretovariate(0.7)) % len(words)] for _ in range(12))
        for _ in range(100_000)
    ]
    base = "\n".join(lines) + "\n"
    text = (base * (size // len(base) + 1))[: size - len(ONCE)]
    return text[: len(text) // 2] + ONCE + text[len(text) // 2 :]


async def measured(context: Any) -> dict[str, str]:
    before = held(os.getpid())
    began = time.perf_counter()
    source = prepare(context)
    figures = {"before the run": seconds(time.perf_counter() - began)}
    sandbox = ProcessSandbox()
    repls: list[Repl] = []
    loads = []
    for _ in range(CHILDREN):
        repls.append(await sandbox.open(context_size=source.size))
        began = time.perf_counter()
        await repls[-1].load("context", source)
        loads.append(time.perf_counter() - began)
    figures |= {"load, first REPL": seconds(loads[0]), "load, each of the next": seconds(sorted(loads)[5])}
    for name, code in MEASURES.items():
        searched = name.startswith("`search`") and source.size > SEARCHED
        figures[name] = "not measured" if searched else await timed(repls[0], code)
    await asyncio.gather(*(run(repl, "context.count('golden')") for repl in repls[1:]))
    await repls.pop(0).close()  # and its index
    figures[f"memory, {CHILDREN - 1} REPLs that have read it all"] = (
        f"{(held(os.getpid()) - before) / 1e6:,.0f} MB"
    )
    for repl in repls:
        await repl.close()
    return figures


async def documents(folder: Path) -> dict[str, str]:
    """A folder of many small files."""
    for number in range(FILES):
        path = folder / "many" / f"{number // 1000}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number} of many\n" * LINES)
    before = held(os.getpid())
    began = time.perf_counter()
    source = prepare(folder / "many")
    figures = {"before the run": seconds(time.perf_counter() - began)}
    repl = await ProcessSandbox().open(context_size=source.size)
    began = time.perf_counter()
    await repl.load("context", source)
    figures["load"] = seconds(time.perf_counter() - began)
    figures["memory then"] = f"{(held(os.getpid()) - before) / 1e6:,.0f} MB"
    for name, code in {
        "one document": "context['50/50500.txt']",
        "all documents": "sum(map(len, context.values()))",
        "`grep`": "len(grep('file 77777 of', context))",
    }.items():
        figures[name] = await timed(repl, code)
    figures["memory at the end"] = f"{(held(os.getpid()) - before) / 1e6:,.0f} MB"
    await repl.close()
    return {"bytes": f"{source.size / 1e6:,.0f} MB", **figures}


async def timed(repl: Repl, code: str) -> str:
    return seconds(await run(repl, code))


async def run(repl: Repl, code: str) -> float:
    """Seconds that an expression takes in a REPL."""
    block = (
        f"import re, time\nbegan = time.perf_counter()\nvalue = {code}\nprint(time.perf_counter() - began)"
    )
    execution = await repl.execute(block, Refuser(), max_time=600)
    if execution.error:
        raise SystemExit(f"{code}: {execution.error}")
    return float(execution.output.head)


def seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:,.1f} ms"


def report(columns: dict[str, dict[str, str]], many: dict[str, str], folder: Path) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    facts = env.machine() | {"commit": env.commit()}
    rows = ["# Large contexts", "", ", ".join(f"{name}: {fact}" for name, fact in facts.items()), ""]
    rows += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        rows.append(f"| {name} | " + " | ".join(each[name] for each in columns.values()) + " |")
    rows += ["", f"A folder of {FILES:,} files:", "", "| | |", "|---|---|"]
    rows += [f"| {name} | {value} |" for name, value in many.items()]
    folder.mkdir(exist_ok=True)
    (folder / "text.json").write_text(
        json.dumps({**facts, "texts": columns, "folder": many}, indent=1) + "\n"
    )
    (folder / "text.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    main()
