"""The three questions, what the scripted models reply, and how the truth is found without them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recursor.demo.texts import BOOKS, Texts
from recursor.testing import ScriptedModel
from recursor.types import Message

LATENCY = 0.02
"""Seconds that a scripted reply takes, so that calls at once look as they do with a real model."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the demo."""

    title: str
    text: str
    context: Path
    turns: tuple[str, ...]
    """What the scripted root LM replies, turn by turn."""
    truth: Any

    def root(self) -> ScriptedModel:
        """The scripted root LM. It sees the prompt and ignores it; its code has to find the answer."""
        return ScriptedModel(lambda messages: _reply(self.turns, messages), latency=LATENCY, name="scripted")


def sub_model() -> ScriptedModel:
    """The scripted sub-LM: simple rules over the prompt it is given."""
    return ScriptedModel(_rule, latency=LATENCY, name="scripted-sub")


def questions(texts: Texts) -> tuple[Question, ...]:
    """Return the questions over texts that were unpacked."""
    return (
        Question(
            "One fact in 40 MB",
            "With which combination does the safe of the harbour master of Lisbon open?",
            texts.haystack,
            FIND,
            texts.combination,
        ),
        Question(
            "Count over 13,784 labelled lines",
            "How many of the GetWeather requests ask about snow?",
            texts.requests,
            COUNT,
            annotated_as_snow(texts.annotated),
        ),
        Question(
            "Join five files",
            "Which countries of countries.txt are named in every one of the four books?",
            texts.books,
            JOIN,
            named_everywhere(texts.books),
        ),
    )  # fmt: skip


def annotated_as_snow(rows: Sequence[dict[str, Any]]) -> int:
    """Return how many requests people annotated with snow, whatever their text says."""
    conditions = (" ".join(row["weather"]).lower() for row in rows)
    return sum("snow" in words or "blizzard" in words for words in conditions)


def named_everywhere(folder: Path) -> list[str]:
    """Return the countries that every book names, found without a regular expression for each name."""
    names = (folder / "countries.txt").read_text(encoding="utf-8").splitlines()
    books = [_words((folder / book).read_text(encoding="utf-8")) for book in BOOKS]
    return sorted(name for name in names if all(_words(name) in book for book in books))


def _words(text: str) -> str:
    return f" {re.sub(r'[^0-9A-Za-z]+', ' ', text).strip()} "


def _reply(turns: Sequence[str], messages: Sequence[Message]) -> str:
    said = sum(message.role == "assistant" for message in messages)
    return turns[min(said, len(turns) - 1)]


def _rule(messages: Sequence[Message]) -> str:
    """A plain sub-call by rule, or a child run's only turn."""
    if messages[0].role == "system":
        return _reply(CHILD, messages)
    prompt = messages[-1].content
    return next(rule(prompt) for mark, rule in RULES.items() if prompt.startswith(mark))


def _combination(prompt: str) -> str:
    found = re.search(r"\d\d(?:-\d\d){3}", prompt)
    return found.group() if found else "not there"


def _snow(prompt: str) -> str:
    lines = re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE)
    return json.dumps([int(number) for number, text in lines if re.search("snow|blizzard", text.lower())])


RULES: dict[str, Callable[[str], str]] = {"Which combination": _combination, "Which of these": _snow}
"""How a prompt begins -> the rule that answers it."""

FIND = (
    """The data is one long text. I look at its start.

```repl
print(type(context).__name__, f"{len(context):,}")
print(context[:120])
```""",
    """I search for the harbour master.

```repl
import re
hits = [match.start() for match in re.finditer("harbour master of Lisbon", context)]
print(len(hits), "hit at character", f"{hits[0]:,}")
```""",
    """A sub-LM reads the place.

```repl
passage = context[hits[0] - 300 : hits[0] + 300]
said = llm_query("Which combination does this passage give? Reply with it alone.\\n\\n" + passage)
assert said in passage
FINAL(said)
```""",
)

COUNT = (
    """I look at the lines and their labels.

```repl
from collections import Counter
rows = [line.split("\\t") for line in context.splitlines()]
print(Counter(label for label, text in rows).most_common(3))
print(rows[0])
```""",
    """Code selects the label; whether a request is about snow has to be read, 25 requests a call.

```repl
weather = [text for label, text in rows if label == "GetWeather"]
batches = [weather[i : i + 25] for i in range(0, len(weather), 25)]
prompts = ["Which of these requests ask about snow? Reply with a JSON list of their numbers.\\n"
           + "\\n".join(f"{n}. {text}" for n, text in enumerate(batch)) for batch in batches]
numbers = llm_query_batched(prompts, schema={"type": "array", "items": {"type": "integer"}})
about_snow = [batch[n] for batch, found in zip(batches, numbers) for n in found]
print(len(weather), "requests,", len(prompts), "sub-calls,", len(about_snow), "about snow")
```""",
    """I check a few before I answer.

```repl
print(about_snow[:3])
FINAL(len(about_snow))
```""",
)

JOIN = (
    """Several files: I look at their names and sizes.

```repl
for name, text in context.items():
    print(f"{name}: {len(text):,} characters")
```""",
    """Each book goes to a child RLM with a REPL of its own, all at once.

```repl
countries = context["countries.txt"].splitlines()
books = [name for name in context if name.endswith(".md")]
question = "Which of `context['countries']` does `context['text']` name?"
found = rlm_query_batched([question] * len(books),
                          [{"countries": countries, "text": context[name]} for name in books])
for name, names in zip(books, found):
    print(f"{name}: {len(names)} countries")
```""",
    """The answer is what all lists share.

```repl
FINAL(sorted(set.intersection(*map(set, found))))
```""",
)

CHILD = (
    """Names are words; code finds them.

```repl
import re
text = context["text"]
FINAL([name for name in context["countries"] if name in text and re.search(rf"\\b{name}\\b", text)])
```""",
)
