"""Ask about a folder, question after question: what one question worked out is there for the next.

    python examples/chat_over_a_folder.py                            # scripted, offline
    python examples/chat_over_a_folder.py openai/gpt-5 contracts/    # with a model, over your files

The session is recorded, and goes on after its process, without paying for anything twice: the second
`with` stands for the next day.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from recursor import RLM
from recursor.testing import ScriptedModel
from recursor.types import Message

CONTRACTS = {
    "acme.txt": "Supply agreement with Acme. It ends on 2027-03-31.",
    "beta.txt": "Lease of the office, from Beta. It ends on 2031-12-31.",
    "core.txt": "Licence of Core, for ten users. It ends on 2027-09-30.",
}
REPLIES = {
    "Load and index the contracts": """
import re
ends = {name: re.search(r"(\\d{4})-", text)[1] for name, text in context.items()}
FINAL(f"{len(ends)} contracts")""",
    "Which of them end in 2027?": """
found = [name for name, year in ends.items() if year == "2027"]
FINAL(found)""",
    "What are these about?": """
about = llm_query_batched([f"What is this about, in a word?\\n\\n{context[name]}" for name in found])
FINAL(dict(zip(found, about)))""",
    "What was found so far?": """
FINAL([each["answer"] for each in history])""",
}
*FIRST, LAST = REPLIES


def write(messages: Sequence[Message]) -> str:
    """A stand-in for a root LM: the code for the question that it is asked."""
    question = messages[1].content.partition("Question: ")[2].partition("\n")[0]
    return f"```repl{REPLIES[question]}\n```"


def read(messages: Sequence[Message]) -> str:
    """A stand-in for a sub-LM."""
    return "software" if "Licence" in messages[0].content else "supplies"


def main(arguments: Sequence[str]) -> None:
    """Ask, end, and go on."""
    with tempfile.TemporaryDirectory() as folder:
        store, files = Path(folder, "runs.db"), Path(folder, "contracts")
        files.mkdir()
        for name, text in CONTRACTS.items():
            files.joinpath(name).write_text(text, encoding="utf-8")
        root, sub = ScriptedModel(write, name="root"), ScriptedModel(read, name="sub")
        rlm = RLM(arguments[0], store=store) if arguments else RLM(root, sub_model=sub, store=store)
        context: Path | None = Path(arguments[1]) if len(arguments) > 1 else files
        with rlm.session("contracts") as chat:
            for question in FIRST:
                print(f"> {question}\n{chat.completion(question, context).answer}")
                context = None  # the newest stays
        with rlm.session("contracts") as chat:
            print(f"> {LAST}\n{chat.completion(LAST).answer}")
            print(
                f"{len(chat.history)} questions, {chat.usage.calls} calls, {len(sub.requests)} of them to read"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
