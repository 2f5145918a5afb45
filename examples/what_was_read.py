"""See which parts of a context were read, and where the answer came from.

    python examples/what_was_read.py                          # scripted, offline
    python examples/what_was_read.py openai/gpt-5 sources/    # with a model, over your files

The text is real: the sources of Python's own `json` package. The script asks a sub-LM about the
functions of one module, so that the others stay unread.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from recursor import RLM, review
from recursor.testing import ScriptedModel
from recursor.types import Message

QUESTION = "What does `load` do that `loads` does not?"
SCRIPT = [
    """```repl
import re
name = next(name for name in context if name.endswith("__init__.py"))
functions = re.split(r"^(?=def )", context[name], flags=re.MULTILINE)[1:]
said = llm_query_batched([f"What does this do?\\n\\n{text}" for text in functions if text.startswith("def load")])
FINAL({"said": said, "of": len(functions)})
```"""
]


def read(messages: Sequence[Message]) -> str:
    """A stand-in for a sub-LM: the first sentence of the documentation that it is shown."""
    found = re.search(r"\"\"\"(.*?)(?:\n\n|\"\"\")", messages[-1].content, re.DOTALL)
    return " ".join(found.group(1).split()) if found else "It is not documented."


def main(arguments: Sequence[str]) -> None:
    """Answer the question, and say what was read for it."""
    files = Path(arguments[1]) if len(arguments) > 1 else sorted(Path(json.__file__).parent.glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "runs.db")
        if arguments:
            rlm = RLM(arguments[0], store=store, coverage=True)
        else:
            rlm = RLM(ScriptedModel(SCRIPT), sub_model=ScriptedModel(read), store=store, coverage=True)
        done = rlm.completion(QUESTION, context=files)
        print(done.answer)
        if done.coverage:
            print(f"{done.coverage.share:.1%} read by {len(done.coverage.readers)} calls")
            for document in done.coverage.documents:
                print(f"  {document.share:6.1%}  {Path(document.name[9:-2]).name}")
        found = review.evidence(store, done.run_id, context=files)
        for item in found.items:
            for place in (place for part in item.parts for place in part.found if place.origin == "reply"):
                read_there = sum(span.end - span.start for _, span in found.reads[place.where])
                print(
                    f"{item.path} stands in the reply {place.where[:8]}, whose call read {read_there:,} characters"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
