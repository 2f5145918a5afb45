"""Runs whose blocks are killed, and children that begin as a copy of their parent's REPL: from outside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from recursor import RLM, Limits, ModelError, StopReason, tool
from recursor.testing import ListSink, ScriptedModel
from recursor.types import Message, Reply, RunEnded, RunStarted, Usage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")

STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class Cast:
    """Root LMs by their questions: each goes through its turns, by the number of replies in the prompt."""

    def __init__(self, *fail: tuple[str, int], **turns: Sequence[str]) -> None:
        self.turns = turns
        self.fail = fail
        self.asked: list[tuple[str, int]] = []
        self.prompts: dict[str, Sequence[Message]] = {}
        self.plain = 0

    def __call__(self, messages: Sequence[Message]) -> Reply:
        if len(messages) == 1:  # a plain sub-call
            self.plain += 1
            return Reply(messages[0].content, Usage(5, 5, calls=1), 0.01)
        question = messages[1].content.removeprefix("Question: ").partition("\n")[0]
        turn = sum(each.role == "assistant" for each in messages)
        self.asked.append((question, turn))
        self.prompts[question] = messages
        if (question, turn) in self.fail:
            raise ModelError("the provider is down")
        return Reply(block(self.turns[question][turn]), Usage(10, 10, calls=1), 0.01)


def model(cast: Cast) -> ScriptedModel:
    return ScriptedModel(cast, name="root")


DEEP = Limits(max_depth=2)


def events(sink: ListSink, depth: int) -> list[RunStarted]:
    return [each for each in sink.events if isinstance(each, RunStarted) and each.depth == depth]


# Killed blocks ----------------------------------------------------------------------------------


def test_a_killed_block_costs_what_it_did_and_the_root_lm_is_told() -> None:
    cast = Cast(q=["kept = llm_query('paid for')", "kept += 'spoiled'\n" + STUBBORN, "FINAL(kept)"])
    done = RLM(model(cast), limits=Limits(max_cell_time=0.3)).completion("q")
    assert done.answer == "paid for"
    assert cast.plain == 1
    assert "went back to what it was before this block" in cast.prompts["q"][-1].content


def test_the_second_block_of_a_reply_is_undone_and_the_first_is_not() -> None:
    two = "first = 1\n```\nand\n```repl\nsecond = 2\nimport os; os.abort()"
    cast = Cast(q=[two, "FINAL([first, 'second' in globals()])"])
    assert RLM(model(cast), limits=DEEP).completion("q").answer == [1, False]


def test_a_run_in_which_a_block_was_killed_is_resumed_as_it_was(tmp_path: Path) -> None:
    turns = ["import random\nkept = random.random()", "import os; os.abort()", "print(kept)", "FINAL(kept)"]
    first = Cast(("q", 3), q=turns)
    with pytest.raises(ModelError) as error:
        RLM(model(first), store=tmp_path / "runs.db").completion("q")
    assert error.value.run_id is not None
    again = Cast(q=turns)
    done = RLM(model(again), store=tmp_path / "runs.db").resume(error.value.run_id)
    assert done.diverged_at is None
    assert again.asked == [("q", 3)]
    assert str(done.answer) in first.prompts["q"][-1].content


# Children ---------------------------------------------------------------------------------------


def test_a_child_begins_with_the_variables_of_its_parent_and_changes_none() -> None:
    parent = [
        "data = {'a': [1]}\ndef double(x): return 2 * x\n"
        "answer['content'] = 'draft'\nfound = rlm_query('child', fork=True)\nprint(found, data)",
        "FINAL([found, data, answer['content'], llm_query('sub')])",
    ]
    child = [
        "data['a'].append(double(21))\nprint(context[:5], answer)",
        "FINAL([data, len(context)])",
    ]
    sink = ListSink()
    cast = Cast(q=parent, child=child)
    done = RLM(model(cast), sinks=[sink], limits=DEEP).completion("q", "some text " * 100)
    assert done.answer == [[{"a": [1, 42]}, 1000], {"a": [1]}, "draft", "sub"]
    first = cast.prompts["child"]
    assert "fork=True" in cast.prompts["q"][0].content
    assert "fork=True" not in first[0].content  # whose children are plain calls
    assert "begins as a copy" in first[0].content
    assert "data: dict" in first[0].content
    assert "`context`: str, 1,000 characters" in first[1].content
    assert "'content': None, 'ready': False" in first[-1].content
    (started,) = events(sink, 1)
    assert started.settings == {"fork": True}
    assert events(sink, 0)[0].settings.get("fork") is None


def test_a_child_that_is_given_a_context_has_that_beside_the_variables() -> None:
    cast = Cast(q=["n = 1\nFINAL(rlm_query('child', 'own', fork=True))"], child=["FINAL([n, context])"])
    assert RLM(model(cast), limits=DEEP).completion("q", "theirs").answer == [1, "own"]


def test_several_children_begin_in_one_state() -> None:
    code = "n = [0]\nFINAL([rlm_query_batched([f'c{i}' for i in range(20)], fork=True), n])"
    cast = Cast(q=[code], **{f"c{i}": [f"n.append({i}); FINAL(n)"] for i in range(20)})
    done = RLM(model(cast), limits=DEEP).completion("q")
    assert done.answer == [[[0, i] for i in range(20)], [0]]


def test_children_of_asynchronous_code_begin_as_copies_too() -> None:
    code = """
import asyncio
n = 5
one = await arlm_query('c1', fork=True)
two = await asyncio.gather(arlm_query('c2', fork=True), allm_query('x'), arlm_query('c3', fork=True))
rest = await arlm_query_batched(['c1', 'c2'], fork=True)
FINAL([one, two, rest])
"""
    child = "import asyncio\nawait asyncio.sleep(0)\nFINAL([n, await allm_query('in')])"
    cast = Cast(q=[code], c1=[child], c2=[child], c3=[child])
    each = [5, "in"]
    assert RLM(model(cast), limits=DEEP).completion("q").answer == [
        each,
        [each, "x", each],
        [each, each],
    ]


def test_a_child_of_a_child_begins_as_a_copy_of_that() -> None:
    cast = Cast(
        q=["path = ['q']\nFINAL(rlm_query('c1', fork=True))"],
        c1=["path.append('c1')", "FINAL(rlm_query('c2', fork=True))"],
        c2=["path.append('c2')\nFINAL(path)"],
    )
    done = RLM(model(cast), limits=Limits(max_depth=3)).completion("q")
    assert done.answer == ["q", "c1", "c2"]


def test_what_a_child_does_to_its_repl_is_its_own_affair() -> None:
    cast = Cast(
        q=["kept = 1\nfound = rlm_query('child', fork=True)", "FINAL([kept, found, llm_query('x')])"],
        child=["import os; kept = 2", "os.abort()", STUBBORN, "FINAL(kept)"],
    )
    done = RLM(model(cast), limits=Limits(max_cell_time=0.3, max_depth=2)).completion("q")
    assert done.answer == [1, 2, "x"]


def test_a_child_has_the_tools_that_it_is_given_and_no_others() -> None:
    @tool
    def lookup(key: str) -> str:
        """Look something up."""
        return key.upper()

    @tool
    def spend(key: str) -> str:
        """Do not."""
        raise AssertionError

    cast = Cast(
        q=["got = rlm_query('child', fork=True, tools=[lookup])\nFINAL([got, lookup('b')])"],
        child=["FINAL([lookup('a'), 'spend' in globals()])"],
    )
    assert RLM(model(cast), tools=[lookup, spend], limits=DEEP).completion("q").answer == [["A", False], "B"]


def test_at_the_depth_limit_a_copy_is_refused_in_words_that_help() -> None:
    code = "try: rlm_query('c', fork=True)\nexcept SubcallError as e: FINAL(str(e))"
    done = RLM(model(Cast(q=[code])), limits=Limits(max_depth=1)).completion("q")
    assert "has no variables" in done.answer


def test_the_same_question_over_the_same_state_is_refused_as_a_cycle() -> None:
    code = "try: rlm_query('q', fork=True)\nexcept SubcallError as e: FINAL(str(e))"
    assert "being answered already" in RLM(model(Cast(q=[code])), limits=DEEP).completion("q", "text").answer


def test_from_a_thread_a_copy_is_refused_in_words_that_help() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    try: pool.submit(rlm_query, 'c', fork=True).result()
    except SubcallError as e: first = str(e)
    try: rlm_query('c', fork=True)
    except SubcallError as e: second = str(e)
FINAL([first, second])
"""
    first, second = RLM(model(Cast(q=[code])), limits=DEEP).completion("q").answer
    assert "main thread" in first
    assert "threads are running" in second


def test_children_count_against_the_limits_of_the_run() -> None:
    cast = Cast(q=["x = 1\nrlm_query('child', fork=True)", "FINAL(1)"], child=["pass"] * 50)
    done = RLM(model(cast), limits=Limits(max_calls=10, max_depth=2)).completion("q")
    assert done.usage.calls <= 10
    assert done.stop_reason in (StopReason.MAX_CALLS, StopReason.ANSWERED)


def test_a_run_with_such_children_is_resumed_without_paying_again(tmp_path: Path) -> None:
    code = "import random\nn = random.random()\nf = [n, *rlm_query_batched(['c1', 'c2', 'c3'], fork=True)]"
    child = ["import random, time\nmine = [n, random.random(), time.time()]", "FINAL(mine)"]
    turns = {"c1": child, "c2": child, "c3": child, "q": [code, "FINAL(f)"]}
    first = Cast(("q", 1), **turns)
    sink = ListSink()

    def rlm(cast: Cast) -> RLM:
        return RLM(model(cast), store=tmp_path / "runs.db", sinks=[sink], limits=DEEP)

    with pytest.raises(ModelError) as error:
        rlm(first).completion("q")
    assert error.value.run_id is not None
    ended = {each.run_id: each.completion for each in sink.events if isinstance(each, RunEnded)}
    made = [done.answer for done in ended.values() if done is not None]
    assert len(made) == 3
    assert len({str(answer[1]) for answer in made}) == 3  # randomness of their own

    again = Cast(**turns)
    done = rlm(again).resume(error.value.run_id)
    assert again.asked == [("q", 1)]
    assert done.diverged_at is None
    assert sorted(map(str, done.answer[1:])) == sorted(map(str, made))
    assert {str(answer[0]) for answer in made} == {str(done.answer[0])}


def test_a_child_that_was_cut_off_goes_on_in_the_same_state(tmp_path: Path) -> None:
    turns = {
        "q": ["import random\nn = random.random()\nf = rlm_query('child', fork=True)", "FINAL([n, f])"],
        "child": ["m = [n, random.random()]\nprint(m)", "FINAL(m)"],
    }
    first = Cast(("child", 1), ("q", 1), **turns)
    with pytest.raises(ModelError) as error:
        RLM(model(first), store=tmp_path / "runs.db", limits=DEEP).completion("q")
    again = Cast(**turns)
    run_id = error.value.run_id
    assert run_id is not None
    done = RLM(model(again), store=tmp_path / "runs.db", limits=DEEP).resume(run_id)
    assert again.asked == [("child", 1), ("q", 1)]
    assert str(done.answer[1]) in first.prompts["child"][-1].content
    assert done.answer[0] == done.answer[1][0]


def test_copies_read_one_folder_at_the_same_time(tmp_path: Path) -> None:
    for number in range(20):
        tmp_path.joinpath(f"{number:02}.txt").write_text(f"{number:02}" * 600_000)
    reads = "FINAL(sum(context[name][:2] == name[:2] for _ in range(5) for name in sorted(context)))"  # each is fetched anew
    cast = Cast(q=["FINAL(rlm_query_batched(['child'] * 6, fork=True))"], child=[reads])
    limits = Limits(max_depth=2, max_cell_time=20, max_turns=1)
    assert RLM(model(cast), limits=limits).completion("q", tmp_path).answer == [100] * 6
