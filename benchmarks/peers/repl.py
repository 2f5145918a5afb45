"""One measurement of `sandbox.py`: REPLs of recursor in a process of their own. Prints one JSON object.

A figure is a list of seconds or a number. With --paced it says "ready" before the part whose memory
counts, and goes on when a line comes on standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from harness import LINE

from recursor.context import prepare
from recursor.protocols import CopyableRepl, Repl, Sandbox
from recursor.types import Execution, Subcall, ToolCall

Figures: TypeAlias = dict[str, Any]
STARTS, CELLS, CALLS, BATCH, PAYLOADS, STOPS, FURTHER, MANY = 50, 1000, 1000, 10_000, 10, 10, 5, 100
COPIES = 20
CONTAINERS = 5
"""Starts of containers and of WebAssembly, which take a hundred times as long and more."""
PAYLOAD = b"x" * 10_000_000
BOUND = 0.1
SEE = "print(len(context), context[-6:])"
SCAN = "print(len(context), context.count('no such words'))"


@dataclass(frozen=True)
class Options:
    task: str
    sandbox: str
    image: str
    size: int
    file: Path | None
    """The context; a `str` of `size` where there is none."""
    paced: bool


class Answers:
    """The engine's side of a REPL, where every call is answered at once."""

    async def answer(self, subcall: Subcall) -> Any:
        if isinstance(subcall, ToolCall):
            return PAYLOAD if subcall.name == "give" else None
        return "ok"


ANSWERS = Answers()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--sandbox", default="process")
    parser.add_argument("--image", default="")
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--paced", action="store_true")
    options = Options(**vars(parser.parse_args()))
    print(json.dumps(asyncio.run(TASKS[options.task](sandbox_of(options), options))), flush=True)


def sandbox_of(options: Options) -> Sandbox:
    if options.sandbox == "inprocess":
        from recursor.sandboxes.inprocess import InProcessSandbox  # noqa: PLC0415 - the others do not need it

        return InProcessSandbox()
    if options.sandbox == "docker":
        from recursor.sandboxes.container import DockerSandbox  # noqa: PLC0415

        return DockerSandbox(options.image)
    if options.sandbox == "wasm":
        from recursor.sandboxes.wasm import WasmSandbox  # noqa: PLC0415

        return WasmSandbox(options.image)
    from recursor.sandboxes.process import ProcessSandbox  # noqa: PLC0415

    return ProcessSandbox()


async def ran(repl: Repl, code: str) -> Execution:
    """Run a cell that must end well."""
    execution = await repl.execute(code, ANSWERS)
    if execution.error:
        raise SystemExit(execution.error)
    return execution


async def opened(sandbox: Sandbox, size: int = 0) -> Repl:
    """Open a REPL; it has run an empty cell."""
    repl = await sandbox.open(tools=["take", "give"], context_size=size)
    await ran(repl, "")
    return repl


async def start(sandbox: Sandbox, options: Options) -> Figures:
    opens, cells = [], []
    for _ in range(CONTAINERS if options.sandbox in ("docker", "wasm") else STARTS):
        began = time.perf_counter()
        repl = await sandbox.open()
        opens.append(time.perf_counter() - began)
        await ran(repl, "")
        cells.append(time.perf_counter() - began)
        await repl.close()
    return {"cold": cells[:1], "open": opens[1:], "first cell": cells[1:]}


async def cell(sandbox: Sandbox, options: Options) -> Figures:
    repl = await opened(sandbox)
    seconds = []
    for _ in range(CELLS):
        began = time.perf_counter()
        await ran(repl, "")
        seconds.append(time.perf_counter() - began)
    await repl.close()
    return {"cell": seconds}


async def calls(sandbox: Sandbox, options: Options) -> Figures:
    """Calls of the host from code, timed there; loops are warmed up before."""
    repl = await opened(sandbox)
    tool = await timed(repl, "take(1)", CALLS)
    query = await timed(repl, "llm_query('hello')", CALLS)
    batch = await timed(repl, f"llm_query_batched(['hello'] * {BATCH})", 1)
    await ran(repl, f"data = b'x' * {len(PAYLOAD)}")
    into = await timed(repl, "give()", PAYLOADS)
    out = await timed(repl, "take(data)", PAYLOADS)
    await repl.close()
    return {"tool": tool, "query": query, "batched": batch / BATCH, "payload in": into, "payload out": out}


async def timed(repl: Repl, code: str, count: int) -> float:
    """Seconds for one of `count` expressions in a loop."""
    loop = f"import time\nfor _ in range({max(1, count // 10)}): {code}\n"
    loop += (
        f"began = time.perf_counter()\nfor _ in range({count}): {code}\nprint(time.perf_counter() - began)"
    )
    return float((await ran(repl, loop)).output.head) / count


async def interrupt(sandbox: Sandbox, options: Options) -> Figures:
    """From the bound on a cell that never ends until the next cell has run."""
    repl = await opened(sandbox)
    seconds = []
    for number in range(STOPS):
        await ran(repl, f"kept = {number}")
        began = time.perf_counter()
        await repl.execute("while True: pass", ANSWERS, max_time=BOUND)
        execution = await ran(repl, "print(kept)")
        seconds.append(time.perf_counter() - began - BOUND)
        assert execution.output.head == f"{number}\n"
    await repl.close()
    return {"interrupt": seconds}


async def rebirth(sandbox: Sandbox, options: Options) -> Figures:
    """From the start of a cell in which the worker dies until the next cell has run."""
    repl = await opened(sandbox)
    seconds = []
    for _ in range(STOPS):
        began = time.perf_counter()
        execution = await repl.execute("import os\nos._exit(1)", ANSWERS)
        assert execution.error
        await ran(repl, "")
        seconds.append(time.perf_counter() - began)
    await repl.close()
    return {"rebirth": seconds}


async def context(sandbox: Sandbox, options: Options) -> Figures:
    """From the call until code has seen the context; then a search through it, and further REPLs."""
    given = options.file or text_of(options.size)
    await (await opened(sandbox)).close()
    pace(options)
    began = time.perf_counter()
    source = prepare(given)
    repls = [await over(sandbox, source)]
    seen = time.perf_counter() - began
    if options.paced:
        return await closed(repls, {"found": (await ran(repls[0], SCAN)).output.head})
    began = time.perf_counter()
    await ran(repls[0], SCAN)
    scan = time.perf_counter() - began
    further = []
    for _ in range(FURTHER):
        began = time.perf_counter()
        repls.append(await over(sandbox, source))
        further.append(time.perf_counter() - began)
    return await closed(repls, {"seen": [seen], "scan": [scan], "further": further})


async def over(sandbox: Sandbox, source: Any) -> Repl:
    repl = await sandbox.open(context_size=source.size)
    await repl.load("context", source)
    await ran(repl, SEE)
    return repl


async def many(sandbox: Sandbox, options: Options) -> Figures:
    """REPLs that are opened at once; each runs a cell and stays."""
    pace(options)
    began = time.perf_counter()
    repls = await asyncio.gather(*(opened(sandbox) for _ in range(MANY)))
    return await closed(repls, {"many": [time.perf_counter() - began]})


async def copy(sandbox: Sandbox, options: Options) -> Figures:
    """Copies of a REPL that holds 100 MB of its own, and of one over a context of 1 GB."""
    text = prepare(text_of(1_000_000_000))
    holds, reads = await sandbox.open(), await over(sandbox, text)
    assert isinstance(holds, CopyableRepl)
    assert isinstance(reads, CopyableRepl)
    await ran(holds, "held = 'x' * 100_000_000")
    figures: Figures = {"fork 100 MB": [], "fork 1 GB": [], "snapshot": [], "restore": []}
    for _ in range(COPIES):
        for name, repl in (("fork 100 MB", holds), ("fork 1 GB", reads)):
            began = time.perf_counter()
            fork = await repl.fork()
            figures[name].append(time.perf_counter() - began)
            await fork.close()
        began = time.perf_counter()
        kept = await holds.snapshot()
        taken = time.perf_counter()
        await holds.restore(kept)
        figures["snapshot"].append(taken - began)
        figures["restore"].append(time.perf_counter() - taken)
        await kept.close()
    return await closed([holds, reads], figures)


async def closed(repls: list[Repl], figures: Figures) -> Figures:
    for repl in repls:
        await repl.close()
    return figures


def text_of(size: int) -> str:
    return (LINE * (size // len(LINE) + 1))[:size]


def pace(options: Options) -> None:
    if options.paced:
        print("ready", flush=True)
        sys.stdin.readline()


Task: TypeAlias = Callable[[Sandbox, Options], Awaitable[Figures]]
TASKS: dict[str, Any] = {
    each.__name__: each for each in (start, cell, calls, interrupt, rebirth, context, many, copy)
}

if __name__ == "__main__":
    main()
