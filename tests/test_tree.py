"""A run as a tree: pure state, and the lines made of it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from recursor.cli.frame import frame, status
from recursor.cli.lines import describe, text_of
from recursor.cli.region import painted
from recursor.cli.summary import table
from recursor.cli.templates import Templates
from recursor.cli.text import cells
from recursor.cli.tree import Tree
from recursor.limits import Limits
from recursor.types import (
    BatchAnnounced,
    BlockExecuted,
    Completion,
    ContextInfo,
    Event,
    Execution,
    Message,
    ModelCalled,
    Output,
    Purpose,
    Reply,
    ReplyText,
    RunEnded,
    RunStarted,
    StopReason,
    SubcallStarted,
    Usage,
)

HOSTILE = st.text(st.sampled_from(list("a\x1b[2J]0;\x07\x9b\u202e\x00\r\n\t漢\u0301\ud800 │")), max_size=60)


def started(run_id: str, parent: str | None = None, depth: int = 0, question: str = "Where?") -> RunStarted:
    info = ContextInfo("context", "str", "5 characters", "", question)
    return RunStarted(run_id, parent, depth, question, (info,), "big", "small", None, 0.0)


def called(
    run_id: str,
    purpose: Purpose,
    text: str,
    *,
    error: str | None = None,
    cost: float | None = 0.25,
    prompt: str = "",
) -> ModelCalled:
    reply = None if error else Reply(text, Usage(10, 5, 4, calls=1), cost)
    model = "small" if purpose == "sub" else "big"
    messages = (Message("user", prompt),)
    return ModelCalled(run_id, "c", 1, purpose, model, messages, reply, error, 0.0, 1.0)


def sub(run_id: str, number: int, *, error: str | None = None) -> list[Event]:
    prompt = f"Does piece {number} mention it? {'text ' * 30}"
    return [SubcallStarted(run_id, "c", 1, "small"), called(run_id, "sub", "no", error=error, prompt=prompt)]


def done(run_id: str = "r", cost: float | None = 1.0) -> Completion:
    return Completion("x", StopReason.ANSWERED, Usage(100, 50, 40, calls=9), cost, run_id, 1, 2.0, "big")


def ended(run_id: str) -> RunEnded:
    return RunEnded(run_id, done(run_id), None, 2.0)


def take(events: Sequence[Event], limits: Limits | None = None) -> Tree:
    tree = Tree(limits or Limits(), 0.0)
    for at, event in enumerate(events):
        tree.take(event, at * 0.5)
    return tree


def shown(tree: Tree, width: int = 80, now: float = 100.0) -> str:
    return "\n".join(text_of(row) for row in frame(tree, width, now))


def test_a_batch_says_how_many_there_will_be_and_how_long_it_takes() -> None:
    events: list[Event] = [
        started("r"),
        called("r", "root", "```repl\nask()\n```"),
        BatchAnnounced("r", 1, 100, False, "small"),
    ]
    for number in range(20):
        events += sub("r", number, error="no" if number == 3 else None)
    tree = take([*events, SubcallStarted("r", "c", 1, "small")])
    lines = shown(tree, now=22.0)
    assert "20 of 100 · 1 running · 1 failed" in lines
    assert "a minute · about" in lines
    assert "left" in lines
    assert "“Does piece" in lines
    assert "├ ask()" in lines


def test_a_second_batch_of_a_block_is_added_to_the_first() -> None:
    batch = BatchAnnounced("r", 1, 2, False, "small")
    tree = take([started("r"), batch, *sub("r", 1), *sub("r", 2), batch, *sub("r", 3)])
    assert "3 of 4" in shown(tree)


def test_children_are_branches_and_theirs_are_branches_of_them() -> None:
    tree = take(
        [
            started("r"), BatchAnnounced("r", 1, 3, True, "big"), started("a", "r", 1, "Who?"),
            started("b", "r", 1, "When?"), started("c", "a", 2, "Why?"), *sub("c", 1), ended("b"),
        ]
    )  # fmt: skip
    lines = shown(tree).split("\n")
    assert any(line.startswith("├ child RLMs ") and line.endswith("1 of 3 · 1 running") for line in lines)
    assert any(line.startswith("│ └ Who? · turn 1 · model") for line in lines)
    assert any(line.startswith("│   └ Why? · turn 1 · model") and line.endswith("1 of 1") for line in lines)


def test_limits_stand_beside_what_is_used() -> None:
    tree = take(
        [started("r"), *sub("r", 1)], Limits(max_tokens=1000, max_cost=2.0, max_time=90.0, max_calls=7)
    )
    assert "15 of 1,000 tokens · $0.25 of $2.00 · 30 s of 2 min · 1 of 7 calls" in shown(tree, now=30.0)
    assert "15 of 1,000 tokens" in status(tree, 30.0)


def test_an_unknown_price_is_unknown_in_the_frame_and_in_the_table() -> None:
    call = called("r", "sub", "x", cost=None)
    tree = take([started("r"), called("r", "root", "x"), call, ended("r")])
    assert "cost unknown" in shown(tree)
    rows = [text_of(row) for row in table(tree, done(cost=None), 80)]
    assert [row.split()[-1] for row in rows] == ["cost", "$0.25", "unknown", "unknown"]
    assert rows[2].split()[:6] == ["1", "small", "1", "10", "4", "5"]


def test_prompts_are_grouped_by_what_they_begin_or_end_with() -> None:
    templates = Templates()
    for number in range(50):
        templates.add(f"Summarise part {number}. {'x' * number}", failed=False)
        templates.add(f"{number} {'y' * number}\n\nWho is meant by this text?", failed=number == 7)
        templates.add(f"List names in {number}\n\nReply with JSON", failed=False)
    said = [(str(each), each.done, each.failed) for each in templates.largest(9)]
    assert sorted(said) == [
        ("List names in…", 50, 0), ("Summarise part…", 50, 0), ("…Who is meant by this text?", 49, 1),
    ]  # fmt: skip


@given(st.lists(st.tuples(HOSTILE, st.booleans()), max_size=60))
def test_groups_of_prompts_lose_none_and_stay_few(prompts: list[tuple[str, bool]]) -> None:
    templates = Templates()
    for prompt, failed in prompts:
        templates.add(prompt, failed=failed)
    every = templates.largest(99)
    assert sum(each.done for each in every) == sum(not failed for _, failed in prompts)
    assert sum(each.failed for each in every) == sum(failed for _, failed in prompts)
    assert len(every) <= 7


EVENTS = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(["r", "a", "b", "gone"]), HOSTILE), max_size=40
)  # fmt: skip


def event(kind: int, run_id: str, text: str) -> Event:
    output = Execution(text, Output(text, len(text), text), text or None)
    return (
        started(run_id, None if run_id == "r" else "r", 1, text),
        called(run_id, "root", f"{text}\n```repl\n{text}\n```"),
        called(run_id, "sub", text, prompt=text),
        called(run_id, "sub", text, error=text or "x", prompt=text),
        SubcallStarted(run_id, "c", 1, text),
        BatchAnnounced(run_id, 1, 3, bool(text), text),
        BlockExecuted(run_id, 1, 1, output),
        ReplyText(run_id, 1, text),
        ended(run_id),
    )[kind]


@given(EVENTS, st.integers(20, 160))
@example([(0, "b", ""), (2, "b", ""), (4, "b", "\n")], 20)
def test_any_events_make_lines_that_are_clean_and_fit(events: list[tuple[int, str, str]], width: int) -> None:
    tree = Tree(Limits(max_cost=1.0), 0.0)
    for at, (kind, run_id, text) in enumerate(events):
        happened = event(kind, run_id, text)
        tree.take(happened, float(at))
        rows = [*describe(happened, tree, width - 1), *frame(tree, width, float(at))]
        rows += table(tree, done(), width - 1)
        for row in rows:
            line = text_of(row)
            assert cells(line) < width, line
            assert not any(
                ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u202e\ud800" for char in line
            )
            assert "\x1b" not in painted(row, color=True).replace("\x1b[", "")
        status(tree, float(at))
        assert len(frame(tree, width, float(at))) < 60


def test_what_ended_is_never_more_than_what_is_known_of() -> None:
    tree = take([started("r"), called("r", "sub", "never begun"), BatchAnnounced("r", 1, 1, False, "small")])
    assert tree.root
    assert tree.root.work.calls.running == 0
    assert tree.root.work.calls.ended <= tree.root.work.calls.total


def test_a_hundred_thousand_subcalls_take_no_memory_and_little_time() -> None:
    tree = take([started("r"), BatchAnnounced("r", 1, 100_000, False, "small")])
    for number in range(1_000):
        for happened in sub("r", number):
            tree.take(happened, number * 0.01)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(5_000):
        for happened in sub("r", number):
            tree.take(happened, 10 + number * 0.01)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
    events = [happened for number in range(5_000) for happened in sub("r", number)]
    began = time.process_time()
    for happened in events:
        tree.take(happened, 300.0)
    assert (time.process_time() - began) / 5_000 < 100e-6  # it is some 6 µs on an idle machine
    assert "11,000 of 100,000" in shown(tree)
