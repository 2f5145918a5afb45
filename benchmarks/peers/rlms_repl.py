"""What `repl` measures, of REPLs of `rlms`, without isolation: the local one runs code in the caller's own process.

With --kernel it is the one that runs code in an IPython kernel, a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from harness import LINE
from rlm.clients.base_lm import BaseLM  # type: ignore[import-not-found]
from rlm.core.lm_handler import LMHandler  # type: ignore[import-not-found]
from rlm.core.types import ModelUsageSummary, UsageSummary  # type: ignore[import-not-found]
from rlm.environments.local_repl import LocalREPL  # type: ignore[import-not-found]

STARTS, CELLS, CALLS, BATCH, PAYLOADS, MANY = 50, 1000, 300, 1000, 10, 100
KERNELS = 5
"""Starts of kernels, which take a thousand times as long."""
PAYLOAD = b"x" * 10_000_000
SEE = "print(len(context), context[-6:])"
SCAN = "print(len(context), context.count('no such words'))"
TOOLS = {"take": lambda data: None, "give": lambda: PAYLOAD}


class Instant(BaseLM):  # type: ignore[misc]
    """A model that answers at once."""

    def completion(self, prompt: Any) -> str:
        return "ok"

    async def acompletion(self, prompt: Any) -> str:
        return "ok"

    def get_usage_summary(self) -> Any:
        return UsageSummary(model_usage_summaries={})

    def get_last_usage(self) -> Any:
        return ModelUsageSummary(total_calls=1, total_input_tokens=1, total_output_tokens=1)


def ran(repl: Any, code: str) -> str:
    done = repl.execute_code(code)
    if done.stderr:
        raise SystemExit(done.stderr)
    return str(done.stdout)


def made(options: argparse.Namespace, **settings: Any) -> Any:
    if not options.kernel:
        return LocalREPL(**settings)
    from rlm.environments.ipython_repl import (  # type: ignore[import-not-found]  # noqa: PLC0415
        IPythonREPL,  # only that environment has it
    )

    return IPythonREPL(kernel_mode="subprocess", **settings)


def opened(options: argparse.Namespace) -> Any:
    repl = made(options, custom_tools=TOOLS)
    ran(repl, "")
    return repl


def start(options: argparse.Namespace) -> dict[str, Any]:
    opens, cells = [], []
    for _ in range(KERNELS if options.kernel else STARTS):
        began = time.perf_counter()
        repl = made(options)
        opens.append(time.perf_counter() - began)
        ran(repl, "")
        cells.append(time.perf_counter() - began)
        repl.cleanup()
    return {"cold": cells[:1], "open": opens[1:], "first cell": cells[1:]}


def cell(options: argparse.Namespace) -> dict[str, Any]:
    repl = opened(options)
    seconds = []
    for _ in range(CELLS):
        began = time.perf_counter()
        ran(repl, "")
        seconds.append(time.perf_counter() - began)
    repl.cleanup()
    return {"cell": seconds}


def calls(options: argparse.Namespace) -> dict[str, Any]:
    repl = opened(options)
    handler = LMHandler(Instant("instant"))
    repl.update_handler_address(handler.start())
    tool = timed(repl, "take(1)", CALLS)
    query = timed(repl, "llm_query('hello')", CALLS)
    batch = timed(repl, f"llm_query_batched(['hello'] * {BATCH})", 1)
    ran(repl, f"data = b'x' * {len(PAYLOAD)}")
    into, out = timed(repl, "give()", PAYLOADS), timed(repl, "take(data)", PAYLOADS)
    handler.stop()
    repl.cleanup()
    return {"tool": tool, "query": query, "batched": batch / BATCH, "payload in": into, "payload out": out}


def timed(repl: Any, code: str, count: int) -> float:
    """Seconds for one of `count` expressions in a loop."""
    loop = f"import time\nfor _ in range({max(1, count // 10)}): {code}\n"
    loop += (
        f"began = time.perf_counter()\nfor _ in range({count}): {code}\nprint(time.perf_counter() - began)"
    )
    return float(ran(repl, loop)) / count


def context(options: argparse.Namespace) -> dict[str, Any]:
    """A file is read by the caller, as `rlms` takes no path."""
    given = "" if options.file else (LINE * (options.size // len(LINE) + 1))[: options.size]
    opened(options).cleanup()
    pace(options)
    began = time.perf_counter()
    text = options.file.read_text() if options.file else given
    repls = [over(options, text)]
    seen = time.perf_counter() - began
    if options.paced:
        return {"found": ran(repls[0], SCAN)}
    began = time.perf_counter()
    ran(repls[0], SCAN)
    scan = time.perf_counter() - began
    began = time.perf_counter()
    repls.append(over(options, text))
    return {"seen": [seen], "scan": [scan], "further": [time.perf_counter() - began]}


def over(options: argparse.Namespace, text: str) -> Any:
    repl = made(options, context_payload=text)
    ran(repl, SEE)
    return repl


def many(options: argparse.Namespace) -> dict[str, Any]:
    pace(options)
    began = time.perf_counter()
    repls = [opened(options) for _ in range(MANY)]
    seconds = time.perf_counter() - began
    return {"many": [seconds]} if repls else {}


def pace(options: argparse.Namespace) -> None:
    if options.paced:
        print("ready", flush=True)
        sys.stdin.readline()


TASKS = {each.__name__: each for each in (start, cell, calls, context, many)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--kernel", action="store_true")
    parsed = parser.parse_args()
    print(json.dumps(TASKS[parsed.task](parsed)), flush=True)
