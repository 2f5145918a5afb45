"""Watch a run while it goes, and stop it when you have seen enough.

    python examples/watch_events.py                       # scripted, offline
    python examples/watch_events.py openai/gpt-5 app.log  # with a model, over your text

Leaving the loop stops the run: code in the sandbox and calls in flight end with it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from recursor import RLM, Limits
from recursor.testing import ScriptedModel
from recursor.types import BlockExecuted, ModelCalled, RunEnded, RunStarted

QUESTION = "On which line is the first error?"
LOG = "\n".join("ERROR disk full" if number == 4711 else f"INFO step {number}" for number in range(1, 10_001))
SCRIPT = [
    "```repl\nlines = context.splitlines()\nprint(f'{len(lines):,} lines; the last: {lines[-1]}')\n```",
    "```repl\nFINAL(next(n for n, line in enumerate(lines, 1) if line.startswith('ERROR')))\n```",
]


async def watch(rlm: RLM, context: str | Path) -> None:
    async for event in rlm.stream(QUESTION, context):
        match event:
            case RunStarted(contexts=contexts):
                print("given:", ", ".join(f"{each.name} ({each.type}, {each.size})" for each in contexts))
            case ModelCalled(purpose="root", turn=turn, duration=duration):
                print(f"turn {turn}: a reply after {duration:.1f} s")
            case BlockExecuted(execution=execution):
                print("printed:", execution.output.head.strip() or execution.error or "nothing")
            case RunEnded(completion=completion) if completion is not None:
                print(f"{completion.stop_reason}: {completion.answer}")


def main() -> None:
    if len(sys.argv) == 3:
        asyncio.run(watch(RLM(sys.argv[1], limits=Limits(max_tokens=500_000)), Path(sys.argv[2])))
    else:
        asyncio.run(watch(RLM(ScriptedModel(SCRIPT)), LOG))


if __name__ == "__main__":
    main()
