"""Two jobs whose answers no reply could hold: pairs of users (OOLONG-Pairs in form), and 150 counts.

The root LM is scripted with the code that a model writes (examples/), the sub-LM knows the right label
of each request: what is measured is whether calls, values and answer come through whole, and what that
costs in the root LM's tokens. Labels are those of SNIPS. Writes benchmarks/results/pairs.json and
pairs.md. Fails when an answer is not exact. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import tables
from environments import ROOT, machine

from recursor import RLM
from recursor.testing import ScriptedModel
from recursor.types import Event, Message, ModelCalled, Reply, Schema, Usage

sys.path.append(str(ROOT / "examples"))
import count_letters
import pairs_of_users

SIZES = {"32K": 1 << 15, "131K": 1 << 17, "1M": 1 << 20}
"""Tokens of the context, four characters each."""
REQUESTS_OF_A_USER = 12
COUNTS = {"fruits": 48, "countries": 33, "animals": 25}
ROOT_TOKENS = 1000
"""The most that the root LM may write for a job."""


class Oracle:
    """A sub-LM that knows the answers, and keeps nothing.

    Args:
        reply: from the prompt.
    """

    name = "oracle"
    priced = True

    def __init__(self, reply: Callable[[str], str]) -> None:
        self._reply = reply

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        text = messages[-1].content
        said = self._reply(text)
        return Reply(said, Usage(len(text) // 4, len(said) // 4, calls=1), 0.0, self.name, "stop")


class RootTokens:
    """A sink that adds up what the root LM read and wrote."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.texts: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, ModelCalled) and event.purpose == "root" and event.reply is not None:
            self.usage += event.reply.usage
            self.texts.append(event.reply.text)

    async def flush(self) -> None:
        pass


@dataclass(frozen=True)
class Job:
    name: str
    characters: int
    """Of the context."""
    subcalls: int
    values: int
    """Of the answer: pairs, or counts."""
    answer: int
    """Characters of the answer, as text."""
    f1: float
    read: int
    """Tokens that the root LM read, all its prompts together."""
    wrote: int
    seconds: float
    problems: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("snips", type=Path, help="Folder of train_*_full.json: labelled requests.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    facts = machine()
    requests = list(labelled(options.snips))
    jobs = [pairs(name, size, requests, options.seed) for name, size in SIZES.items()]
    jobs.append(counts())
    report(jobs, facts, options.seed, options.out)
    sys.exit("\n".join(f"{job.name}: {problem}" for job in jobs for problem in job.problems) or 0)


def labelled(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield requests with their kind."""
    for file in sorted(folder.glob("train_*_full.json")):
        for kind, rows in json.loads(file.read_text("utf-8")).items():
            for row in rows:
                yield " ".join("".join(part["text"] for part in row["data"]).split()), kind


def pairs(name: str, size: int, requests: Sequence[tuple[str, str]], seed: int) -> Job:
    context, rows = made(size, requests, random.Random(seed))
    kinds = dict(requests)
    oracle = Oracle(lambda prompt: kinds[prompt.partition("\n\n")[2]])
    answer, job = done(name, pairs_of_users, context, oracle)
    found = set(str(answer).split("\n"))
    f1 = score(found, expected(rows))
    problems = [] if f1 == 1.0 else [f"F1 is {f1:.4f}"]
    return job(len(context), len(found), len(str(answer)), f1, problems)


def made(
    size: int, requests: Sequence[tuple[str, str]], chance: random.Random
) -> tuple[str, list[tuple[datetime.date, int, str]]]:
    """Lines of so many tokens, and date, user and kind of each; a fifth of the users has most of them."""
    average = sum(len(text) for text, _ in requests) / len(requests) + 46
    count = round(size * 4 / average)
    users = chance.sample(range(10_000, 100_000), count // REQUESTS_OF_A_USER)
    often = users[: len(users) // 5]
    lines, rows = [], []
    for _ in range(count):
        text, kind = chance.choice(requests)
        user = chance.choice(often if chance.random() < 0.8 else users)
        date = datetime.date(2022, 12, 1) + datetime.timedelta(days=chance.randrange(180))
        lines.append(f"Date: {date:%b %d, %Y} || User: {user} || Instance: {text}")
        rows.append((date, user, kind))
    return "\n".join(lines), rows


def expected(rows: Sequence[tuple[datetime.date, int, str]]) -> set[str]:
    """The pairs that the question asks for, each as its line."""
    wanted = {user for _, user, kind in rows if kind in ("PlayMusic", "GetWeather")}
    barred = {user for date, user, kind in rows if kind == "RateBook" and date < datetime.date(2023, 3, 1)}
    return {f"({one}, {other})" for one, other in combinations(sorted(wanted - barred), 2)}


def score(found: set[str], right: set[str]) -> float:
    """F1."""
    return 2 * len(found & right) / (len(found) + len(right))


def counts() -> Job:
    oracle = Oracle(lambda prompt: count_letters.count([Message("user", prompt)]))
    answer, job = done("150 counts", count_letters, count_letters.NAMES, oracle)
    right = {
        kind: {name: name.lower().count("r") for name in names} for kind, names in count_letters.NAMES.items()
    }
    f1 = 1.0 if answer == right and sums(answer) == COUNTS else 0.0
    problems = [] if f1 else [f"it answered {str(answer)[:200]}"]
    said = json.dumps(answer)
    return job(len(json.dumps(count_letters.NAMES)), 150, len(said), f1, problems)


def sums(answer: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {kind: sum(row.values()) for kind, row in answer.items()}


def done(name: str, task: Any, context: Any, oracle: Oracle) -> tuple[Any, Callable[..., Job]]:
    """Run a job; return its answer, and what makes the rest of its row of that."""
    root, spent = ScriptedModel(task.SCRIPT, name="root"), RootTokens()
    began = time.perf_counter()
    completion = RLM(root, sub_model=oracle, sinks=[spent]).completion(task.QUESTION, context)
    seconds = time.perf_counter() - began

    def job(characters: int, values: int, size: int, f1: float, problems: list[str]) -> Job:
        wrote = spent.usage.output_tokens
        if wrote >= ROOT_TOKENS:
            problems.append(f"the root LM wrote {wrote:,} tokens")
        if name == "150 counts" and re.search(r"\d", "".join(spent.texts)):
            problems.append("the root LM wrote a number")
        subcalls = completion.usage.calls - completion.turns
        read = spent.usage.input_tokens
        return Job(name, characters, subcalls, values, size, f1, read, wrote, seconds, problems)

    return completion.answer, job


def report(jobs: Sequence[Job], facts: dict[str, str], seed: int, folder: Path) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    head = [
        "",
        "context",
        "sub-calls",
        "values in the answer",
        "answer",
        "F1",
        "root read",
        "root wrote",
        "time",
    ]
    rows = [
        [
            job.name, f"{tables.shown(job.characters, 'B')}", f"{job.subcalls:,}", f"{job.values:,}",
            f"{job.answer:,} characters", f"{job.f1:.3f}", f"{job.read:,} tokens", f"{job.wrote:,} tokens",
            f"{job.seconds:.1f} s",
        ]
        for job in jobs
    ]  # fmt: skip
    text = "\n\n".join(
        [
            "# Answers larger than any window",
            tables.facts_of(facts),
            "Pairs of users, in the form of OOLONG-Pairs over requests of SNIPS (seed "
            f"{seed}), in contexts of 32K, 131K and 1M tokens; and how often r stands in each of 150 names. One "
            "sub-call for each line or name, answered at once by a model in the process that knows the label: "
            "F1 says whether every value came through, not how well a model reads. The root LM is scripted; "
            "what it reads and writes is that of all its turns. See docs/benchmarks.md.",
            tables.table(head, rows),
        ]
    )
    folder.mkdir(exist_ok=True)
    document = {**facts, "seed": seed, "jobs": [asdict(job) for job in jobs]}
    (folder / "pairs.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "pairs.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
