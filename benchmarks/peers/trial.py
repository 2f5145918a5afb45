"""One measurement of `scale.py`: recursor in a process of its own. Prints one JSON object.

The model is in this process and answers at once, unless --url names an endpoint. With --paced it says
"ready" when the RLM is made and has answered once, and goes on when a line comes on standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import script
from harness import LINE, SIZE

from recursor import RLM, Limits
from recursor.protocols import Model
from recursor.types import Event, Message, Reply, RunStarted, Schema, Usage

DEPTH = 3


@dataclass(frozen=True)
class Options:
    task: str
    count: int
    url: str
    store: Path | None
    width: int | None
    """The most sub-calls in flight; None leaves it to recursor."""
    context: bool
    """Whether there is a context of 100 MB."""
    paced: bool
    resume: str
    """The id of a run to go on with."""


class Instant:
    """A model that answers at once and keeps nothing."""

    name = "instant"
    priced = True

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        text = messages[-1].content
        said = "ok" if text.startswith("sub") else await script.reply(messages)
        return Reply(said, Usage(len(text) // 4, len(said) // 4, calls=1), 0.0, self.name, "stop")


class Announcer:
    """A sink that prints the id of the run at once."""

    def emit(self, event: Event) -> None:
        if isinstance(event, RunStarted) and event.depth == 0:
            print(event.run_id, flush=True)

    async def flush(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--url", default="")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--width", type=int)
    parser.add_argument("--context", action="store_true")
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--resume", default="")
    options = Options(**vars(parser.parse_args()))
    print(json.dumps(bare(options) if options.task == "bare" else measured(options)), flush=True)


def measured(options: Options) -> Mapping[str, Any]:
    """Complete the task; its answer, seconds, seconds of this process's CPU, and the bytes it grew by."""
    rlm = made(options)
    context = (LINE * (SIZE // len(LINE) + 1))[:SIZE] if options.context else None
    if not options.resume and options.task != "killed":
        rlm.completion("hello")
    if options.paced:
        print("ready", flush=True)
        sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    if options.resume:
        done = rlm.resume(options.resume)
    else:
        done = rlm.completion(f"Do it: task={options.task}:{options.count}", context)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if done.answer is None:
        raise SystemExit(f"ended without an answer: {done.stop_reason}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return {
        "seconds": seconds, "cpu": cpu, "answer": done.answer, "replayed": done.replayed,
        "calls": done.usage.calls, "grown": grown,
    }  # fmt: skip


def made(options: Options) -> RLM:
    model: str | Model = "bench" if options.url else Instant()
    limits = Limits(max_depth=DEPTH, max_subcalls_in_flight=options.width, max_cell_time=None, max_turns=5)
    sinks = [Announcer()] if options.task == "killed" and not options.resume else []
    url, key = (options.url, "none") if options.url else (None, None)
    return RLM(model, limits=limits, store=options.store, sinks=sinks, base_url=url, api_key=key)


def bare(options: Options) -> Mapping[str, Any]:
    """The requests of the task "fan" by the HTTP client alone: what they cost without recursor."""
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(_bare(options))
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


async def _bare(options: Options) -> None:
    import aiohttp  # noqa: PLC0415 - the other tasks load it when they do

    slots = asyncio.Semaphore(options.width or 1000)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(number: int) -> None:
            message = {"role": "user", "content": f"sub50: {number}"}
            body = json.dumps({"model": "bench", "messages": [message]}).encode()
            async with slots, session.post(f"{options.url}/chat/completions", data=body) as response:
                assert json.loads(await response.read())["choices"][0]["message"]["content"] == "ok"

        await asyncio.gather(*(ask(number) for number in range(options.count)))


if __name__ == "__main__":
    main()
