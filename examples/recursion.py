"""Give each part of a large input to a child RLM, which has a REPL and sub-calls of its own.

    python examples/recursion.py                       # scripted, offline
    python examples/recursion.py openai/gpt-5 letters/ # with a model, over a folder of texts

`rlm_query` takes a question and a context, and returns an answer as a value. All limits hold for the
tree as a whole; `max_depth=2` lets the root have children, and these none.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from recursor import RLM, Limits
from recursor.testing import ScriptedModel
from recursor.types import Message

QUESTION = "Which complaints does each year hold, and how many of each? Answer with a dict of year to dict."
LETTERS = {
    f"{year}.txt": "\n".join(f"Dear Sir, your {thing} is {fault}." for thing, fault in letters)
    for year, letters in {
        1871: [("clock", "slow"), ("lamp", "broken"), ("clock", "late")],
        1872: [("trunk", "late"), ("clock", "slow")],
        1873: [("lamp", "broken"), ("lamp", "broken"), ("trunk", "slow"), ("kettle", "late")],
    }.items()
}
SPLIT = """Each year is a task of its own.
```repl
years = {name.removesuffix(".txt"): text for name, text in context.items()}
found = rlm_query_batched(["Count the complaints in these letters by kind."] * len(years), years.values())
FINAL(dict(zip(years, found)))
```"""
COUNT = """```repl
from collections import Counter
letters = context.splitlines()
kinds = llm_query_batched([f"Which fault does this letter name? Reply with one word.\\n\\n{each}" for each in letters])
FINAL(dict(Counter(kinds)))
```"""


def answer(messages: Sequence[Message]) -> str:
    """A stand-in for all three: the root LM, a child over one year, and a sub-LM that sees one letter."""
    if len(messages) == 1:
        found = re.search("slow|broken|late", messages[0].content)
        return found.group() if found else "none"
    return COUNT if "Question: Count" in messages[1].content else SPLIT


def main() -> None:
    limits = Limits(max_depth=2, max_tokens=500_000)
    if len(sys.argv) == 3:
        done = RLM(sys.argv[1], limits=limits).completion(QUESTION, context=Path(sys.argv[2]))
    else:
        done = RLM(ScriptedModel(answer), limits=limits).completion(QUESTION, context=LETTERS)
    for year, complaints in done.answer.items():
        print(f"{year}: {', '.join(f'{kind} {number}' for kind, number in sorted(complaints.items()))}")
    print(f"{done.turns} turn(s), {done.usage.calls} calls in all, those of children included")


if __name__ == "__main__":
    main()
