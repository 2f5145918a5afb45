"""Jobs that need what an RLM is for: many sub-calls, values that no prompt holds, answers beyond any window."""

from __future__ import annotations

import hashlib
import json
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM, Completion, Limits
from recursor.testing import ScriptedModel
from recursor.types import Message

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def shout(messages: Sequence[Message]) -> str:
    return messages[-1].content.upper()


def run(code: str, context: Any = None, sub: Any = shout) -> Completion:
    """One turn of code; `sub` answers sub-calls."""
    root = ScriptedModel([block(code)], name="root")
    done = RLM(root, sub_model=ScriptedModel(sub, name="sub")).completion("?", context)
    assert len(root.requests) == 1, root.requests[-1][-1].content
    return done


def test_150_counts_make_a_nested_dict_and_the_root_lm_types_none_of_them() -> None:
    example = runpy.run_path(str(EXAMPLES / "count_letters.py"))
    names: dict[str, list[str]] = example["NAMES"]
    sub = ScriptedModel(example["count"], name="sub")
    done = RLM(ScriptedModel(example["SCRIPT"]), sub_model=sub).completion(example["QUESTION"], names)
    assert done.answer == {
        kind: {name: sum(letter in "rR" for letter in name) for name in row} for kind, row in names.items()
    }
    assert {kind: sum(row.values()) for kind, row in done.answer.items()} == {
        "fruits": 48, "countries": 33, "animals": 25
    }  # fmt: skip
    assert len(sub.requests) == 150
    written = "".join(example["SCRIPT"])
    assert not re.search(r"\d", written)
    assert not [name for row in names.values() for name in row if re.search(rf"\b{name}\b", written)]


def test_all_pairs_of_users_come_out_though_the_root_lm_reads_and_writes_next_to_nothing() -> None:
    example = runpy.run_path(str(EXAMPLES / "pairs_of_users.py"))
    chance = random.Random(1)
    kinds = [*example["KINDS"], "SearchScreeningEvent"]
    rows = [
        (chance.randrange(1, 13), chance.randrange(10_000, 10_200), chance.choice(kinds), number)
        for number in range(1200)
    ]
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    context = "\n".join(
        f"Date: {months[month - 1]} {number % 28 + 1:02}, 2023 || User: {user} || Instance: request {number}"
        for month, user, _, number in rows
    )
    gold = {f"request {number}": kind for _, _, kind, number in rows}
    root = ScriptedModel(example["SCRIPT"], name="root")
    sub = ScriptedModel(lambda messages: gold[messages[-1].content.partition("\n\n")[2]], name="sub")
    done = RLM(root, sub_model=sub).completion(example["QUESTION"], context)

    wanted = {user for _, user, kind, _ in rows if kind in ("PlayMusic", "GetWeather")}
    barred = {user for month, user, kind, _ in rows if kind == "RateBook" and month < 3}
    expected = [f"({one}, {other})" for one, other in combinations(sorted(wanted - barred), 2)]
    assert done.answer.split("\n") == expected
    assert len(sub.requests) == 1200
    assert len(done.answer) > 100 * sum(map(len, example["SCRIPT"]))
    prompts = "".join(message.content for messages in root.requests for message in messages)
    assert "request 700" not in prompts


def test_one_turn_makes_thousands_of_sub_calls_and_has_their_results_in_order() -> None:
    done = run(
        "r = llm_query_batched([f'item {i}' for i in range(5000)])\n"
        "FINAL([len(r), sum(text == f'ITEM {i}' for i, text in enumerate(r))])"
    )
    assert done.answer == [5000, 5000]
    assert done.usage.calls == 5001


def test_prompts_may_come_from_a_generator_and_are_drawn_as_they_are_sent() -> None:
    done = run(
        """made = 0
def prompts():
    global made
    for a in range(60):
        for b in range(60):
            made += 1
            yield f"{a} and {b} of {context}"
r = llm_query_batched(prompts())
FINAL([made, len(r), r[61], r[-1]])""",
        "x",
    )
    assert done.answer == [3600, 3600, "1 AND 1 OF X", "59 AND 59 OF X"]


def test_256_threads_ask_at_once_and_each_gets_its_own_reply() -> None:
    done = run(
        """import threading
barrier, replies = threading.Barrier(256), [None] * 256
def ask(index):
    barrier.wait(60)
    replies[index] = llm_query(f"thread {index}")
threads = [threading.Thread(target=ask, args=(index,)) for index in range(256)]
for thread in threads: thread.start()
for thread in threads: thread.join()
FINAL(replies)"""
    )
    assert done.answer == [f"THREAD {index}" for index in range(256)]


def test_children_of_children_answer_to_whom_they_belong() -> None:
    def say(messages: Sequence[Message]) -> str:
        question = messages[1].content
        if "Question: leaf" in question:
            return block("FINAL(context * context)")
        if "Question: middle" in question:
            return block("FINAL(rlm_query_batched(['leaf'] * 6, [context * 10 + i for i in range(6)]))")
        return block("FINAL(rlm_query_batched(['middle'] * 6, list(range(6))))")

    done = RLM(ScriptedModel(say), limits=Limits(max_depth=3)).completion("root")
    assert done.answer == [[(10 * row + column) ** 2 for column in range(6)] for row in range(6)]
    assert done.usage.calls == 1 + 6 + 36


@pytest.mark.parametrize("size", [1_000, 5_000_000])
def test_a_child_has_the_context_that_its_parent_handed_over_byte_for_byte(size: int) -> None:
    text = ("häuser \U0001f3e0\r\n\x00 " * (size // 10))[:size]
    digest = "import hashlib; FINAL([len(context), hashlib.sha256(context.encode()).hexdigest()])"

    def say(messages: Sequence[Message]) -> str:
        child = "Question: digest" in messages[1].content
        return block(digest) if child else block("FINAL(rlm_query('digest', context))")

    done = RLM(ScriptedModel(say), limits=Limits(max_depth=2)).completion("root", text)
    assert done.answer == [size, hashlib.sha256(text.encode()).hexdigest()]


@pytest.mark.parametrize("task", ["fan", "pairs", "childbatch", "nested", "threads"])
def test_what_the_benchmark_of_scale_measures_answers_right(task: str) -> None:
    peers = ROOT / "benchmarks" / "peers"
    command = [sys.executable, str(peers / "lean.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        done = subprocess.run(
            [sys.executable, str(peers / "trial.py"), task, "--count", "5", "--url", url],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert server.stdin is not None
        server.stdin.close()
    assert done.returncode == 0, done.stderr
    calls = {"fan": 6, "pairs": 26, "childbatch": 6, "nested": 1 + 5 + 25, "threads": 6}
    assert json.loads(done.stdout)["calls"] == calls[task]
