"""Read a thousand short documents into records of one type, and see how many are right.

    python examples/typed_extraction.py                          # a stand-in for a model, offline
    python examples/typed_extraction.py openai/gpt-5-mini 200    # with a model, over the first 200

The documents are requests that people made to assistants (SNIPS, CC0), labelled by people; they ship with the
demo. Each is small, so `strategy="auto"` answers it by one plain call; longer ones would get a REPL. The
stand-in goes by words, as a weak model might, so not all that it says is right.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from recursor import RLM, Completion, Limits, Question
from recursor.testing import ScriptedModel
from recursor.types import Message

Intent = Literal[
    "AddToPlaylist", "RateBook", "GetWeather", "SearchCreativeWork", "PlayMusic", "BookRestaurant",
    "SearchScreeningEvent",
]  # fmt: skip
QUESTION = (
    "What does this request want, and which words of it name a condition of the weather (rain, fog, ...)?"
)


@dataclass
class Request:
    """What is wanted of each document."""

    intent: Intent
    weather: list[str]


HINTS = {
    "AddToPlaylist": r"\badd\b|\bput\b|playlist",
    "RateBook": r"\brate\b|\bgive\b|\bstars?\b|\bpoints?\b|rating",
    "GetWeather": r"weather|forecast|\bwarm|\bcold|\bhot|chilly|humid|freez|temperate",
    "BookRestaurant": r"restaurant|\btable\b|\bbook (a|me|us)\b|reserv|\beat\b|\bfood\b|\bseats?\b",
    "SearchScreeningEvent": r"movie|cinema|theat(er|re)|showtime|schedule|\bfilms?\b",
    "PlayMusic": r"\bplay\b|\bhear\b|\blisten|music",
    "SearchCreativeWork": r"find|search|show|look|called|where can i",
}
WEATHER = re.compile(
    r"\b(blizzard|rain(y|fall)?|cloud(y)?|wind(y)?|snow(storm|fall|y)?|overcast|hail|storm(y)?|humid(ity)?|sun(ny)?|fog(gy)?)\b",
    re.IGNORECASE,
)


def read(messages: Sequence[Message]) -> str:
    """A stand-in for a model."""
    text = messages[-1].content.split("\n")[1]
    weather = [found.group() for found in WEATHER.finditer(text)]
    scores = {intent: len(re.findall(hints, text, re.IGNORECASE)) for intent, hints in HINTS.items()}
    scores["GetWeather"] += len(weather)
    best = max(scores, key=lambda intent: scores[intent])
    return json.dumps({"intent": best, "weather": weather if best == "GetWeather" else []})


def labelled(number: int) -> list[dict[str, Any]]:
    """The first documents, with what people say of them."""
    packed = resources.files("recursor.demo").joinpath("texts.tar.xz")
    with packed.open("rb") as file, tarfile.open(fileobj=file, mode="r:xz") as archive:
        requests = archive.extractfile("requests.jsonl")
        assert requests is not None
        return [json.loads(line) for line, _ in zip(requests, range(number), strict=False)]


def main(arguments: Sequence[str]) -> None:
    """Extract, and compare with the labels."""
    rows = labelled(int(arguments[1]) if len(arguments) > 1 else 1000)
    model = arguments[0] if arguments else ScriptedModel(read, name="stand-in")
    rlm = RLM(model, strategy="auto")
    questions = [Question(QUESTION, context=row["text"], schema=Request) for row in rows]
    began = time.monotonic()
    done = rlm.map(questions, total=Limits(max_cost=0.50), max_concurrency=32, return_exceptions=True)
    took = time.monotonic() - began

    pairs = [
        (each.answer, row)
        for each, row in zip(done, rows, strict=True)
        if isinstance(each, Completion) and each.answer
    ]
    right = sum(answer.intent == row["intent"] for answer, row in pairs)
    named = [(answer, row) for answer, row in pairs if row["weather"]]
    found = sum(sorted(answer.weather) == sorted(row["weather"]) for answer, row in named)
    print(f"{len(rows):,} documents, {len(pairs):,} records in {took:.1f} s")
    print(f"intent right: {right / len(rows):.1%}; weather right: {found} of the {len(named)} that name any")
    wrong = [(answer, row) for answer, row in pairs if answer.intent != row["intent"]]
    for answer, row in wrong[:3]:
        print(f"  {answer.intent} for {row['intent']}: {row['text']}")


if __name__ == "__main__":
    main(sys.argv[1:])
