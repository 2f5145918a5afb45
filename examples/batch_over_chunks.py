"""Ask a sub-LM about every chapter of a book at once, and combine what it says in code.

    python examples/batch_over_chunks.py                      # scripted, offline
    python examples/batch_over_chunks.py openai/gpt-5 book.md # with a model, over your text

A model writes code like that of SCRIPT by itself; here it is written out, so that it runs without one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from recursor import RLM, Limits
from recursor.testing import ScriptedModel
from recursor.types import Message

QUESTION = "Which weather does each chapter have? Answer with a dict of chapter to one word."
BOOK = "".join(
    f"## Chapter {number}\n\nAll day there was {weather} over the harbour, and nobody sailed.\n\n"
    for number, weather in enumerate(("fog", "rain", "sunshine", "snow") * 3, 1)
)
SCRIPT = [
    """```repl
import re
chapters = re.split(r"^## ", context, flags=re.MULTILINE)[1:]
prompts = ["Which weather does this chapter have? Reply with one word.\\n\\n" + text for text in chapters]
said = llm_query_batched(prompts)
FINAL({text.splitlines()[0]: word.strip() for text, word in zip(chapters, said)})
```"""
]


def read_weather(messages: Sequence[Message]) -> str:
    """A stand-in for a sub-LM: it sees one chapter and nothing else."""
    found = re.search("fog|rain|sunshine|snow", messages[-1].content)
    return found.group() if found else "none"


def main() -> None:
    if len(sys.argv) == 3:
        rlm = RLM(sys.argv[1], limits=Limits(max_tokens=500_000))
        done = rlm.completion(QUESTION, context=Path(sys.argv[2]))
    else:
        rlm = RLM(ScriptedModel(SCRIPT), sub_model=ScriptedModel(read_weather, name="reader"))
        done = rlm.completion(QUESTION, context=BOOK)
    for chapter, weather in done.answer.items():
        print(f"{chapter}: {weather}")
    print(f"{done.turns} turn(s), {done.usage.calls} calls, {done.usage.total_tokens:,} tokens")


if __name__ == "__main__":
    main()
