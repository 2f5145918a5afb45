"""Many questions over one context: bounds over all of them, and batches that go on where they were cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from recursor import RLM, ConfigError, Limits, ModelError, Question, Retries, StopReason
from recursor.errors import AuthenticationError, LimitExceeded
from recursor.testing import ListSink, ScriptedModel
from recursor.types import Completion, ContextHashed, Message, Reply, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def asked(messages: Sequence[Message]) -> str:
    """The question that a root LM was given."""
    return messages[1].content.partition("Question: ")[2].splitlines()[0]


class Root:
    """A root LM that answers in two turns, 1 cent each, and counts."""

    def __init__(self, answer: str = "FINAL(f'{question_text}: {len(context)}')") -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.fail_on: set[str] = set()
        self.barrier: asyncio.Barrier | None = None
        self.at_once = self.most = 0

    async def __call__(self, messages: Sequence[Message]) -> Reply | BaseException:
        question = asked(messages)
        self.asked.append(question)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.barrier is not None:
            await self.barrier.wait()
        self.at_once -= 1
        if question in self.fail_on:
            return ModelError("the provider is down")
        first = not any(message.role == "assistant" for message in messages)
        code = f"question_text = {question!r}" if first else self.answer
        return Reply(block(code), Usage(100, 10, calls=1), 0.01)


def rlm(root: Root, **options: object) -> RLM:
    return RLM(ScriptedModel(root, name="root"), **options)  # type: ignore[arg-type]


def answers(results: Sequence[object]) -> list[object]:
    return [each.answer if isinstance(each, Completion) else type(each).__name__ for each in results]


def test_completions_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    root, sink = Root(), ListSink()
    file = tmp_path / "text"
    file.write_text("x" * 3_000_000)
    root.barrier = asyncio.Barrier(5)
    done = rlm(root, sinks=[sink]).map([f"q{n}" for n in range(20)], file, max_concurrency=5)
    assert answers(done) == [f"q{n}: 3000000" for n in range(20)]
    assert root.most == 5
    assert len({each.digest for each in sink.events if isinstance(each, ContextHashed)}) == 1


@pytest.mark.parametrize("context", ["text", "ü" * 2_000_000, b"bytes", [1, "two", None], {"a": {"b": 2}}])
def test_whatever_is_shared_reaches_each_question_as_it_is(context: object) -> None:
    root = Root(answer="FINAL(context)")
    assert answers(rlm(root).map(["a", "b", "c", "d"], context)) == [context] * 4


def test_a_question_may_have_a_context_and_a_schema_of_its_own(tmp_path: Path) -> None:
    @dataclass
    class Pair:
        left: int
        right: int

    (tmp_path / "own").write_text("from a file")
    root = Root(answer="FINAL({'left': 1, 'right': 2} if 'pair' in question_text else context)")
    questions: list[str | Question] = [
        "shared",
        Question("own", context="mine"),
        Question("file", context=tmp_path / "own"),
        Question("pair", schema=Pair),
    ]
    done = rlm(root).map(questions, "ours")
    assert answers(done) == ["ours", "mine", "from a file", Pair(1, 2)]


def test_a_question_that_fails_gives_its_error_or_stops_the_rest() -> None:
    root = Root()
    root.fail_on = {"q3"}
    done = rlm(root).map([f"q{n}" for n in range(6)], "text", return_exceptions=True)
    assert answers(done) == ["q0: 4", "q1: 4", "q2: 4", "ModelError", "q4: 4", "q5: 4"]
    with pytest.raises(ModelError, match="the provider is down"):
        rlm(root).map([f"q{n}" for n in range(6)], "text")


@pytest.mark.parametrize("wrong", [["a", ""], ["a", 3], "one question", [Question("q", schema={"type": 3})]])
def test_a_wrong_question_is_refused_before_any_is_asked(wrong: object) -> None:
    root = Root()
    with pytest.raises(ConfigError, match="question"):
        rlm(root).map(wrong, "text")  # type: ignore[arg-type]
    assert not root.asked


def test_questions_at_once_do_not_overshoot_what_all_may_cost() -> None:
    root = Root()
    done = rlm(root).map(
        [f"q{n}" for n in range(60)], "text", total=Limits(max_cost=0.25), max_concurrency=16,
        return_exceptions=True,
    )  # fmt: skip
    spent = sum(each.cost or 0.0 for each in done if isinstance(each, Completion))
    assert spent == pytest.approx(0.01 * len(root.asked))
    assert 0.15 < spent < 0.25 + 1e-9
    left = [each for each in done if not isinstance(each, Completion)]
    assert left
    assert all(isinstance(each, LimitExceeded) for each in left)
    assert "the whole batch" in str(left[0])
    assert all(
        each.answer for each in done if isinstance(each, Completion) and each.stop_reason == "answered"
    )


def test_subcalls_of_questions_at_once_do_not_overshoot_either() -> None:
    paid = 0

    def sub(messages: Sequence[Message]) -> Reply:
        nonlocal paid
        paid += 1
        return Reply("yes", Usage(50, 5, calls=1), 0.004)

    root = Root(answer="FINAL(len(llm_query_batched(['is it?'] * 15, return_exceptions=True)))")
    model = RLM(ScriptedModel(root, name="root"), sub_model=ScriptedModel(sub, name="sub"))
    done = model.map(
        [f"q{n}" for n in range(30)],
        "text",
        total=Limits(max_cost=0.60),
        max_concurrency=8,
        return_exceptions=True,
    )
    spent = 0.01 * len(root.asked) + 0.004 * paid
    assert 0.40 < spent < 0.60 + 1e-9
    assert sum(each.cost or 0.0 for each in done if isinstance(each, Completion)) == pytest.approx(spent)


def test_a_bound_of_each_question_is_not_one_of_all() -> None:
    root = Root()
    done = rlm(root, limits=Limits(max_cost=0.05)).map([f"q{n}" for n in range(10)], "text")
    assert {each.stop_reason for each in done if isinstance(each, Completion)} == {StopReason.ANSWERED}
    assert len(root.asked) == 20


def test_a_wrong_key_ends_the_batch() -> None:
    calls = 0

    def refuse(messages: Sequence[Message]) -> BaseException:
        nonlocal calls
        calls += 1
        return AuthenticationError("the key is wrong", 401)

    model = ScriptedModel(refuse)
    done = RLM(model).map([f"q{n}" for n in range(50)], "text", max_concurrency=2, return_exceptions=True)
    assert {type(each) for each in done} == {AuthenticationError}
    assert calls <= 4


def test_a_provider_that_is_down_ends_the_batch_and_single_failures_do_not() -> None:
    asked: list[int] = []

    def down(messages: Sequence[Message]) -> BaseException | str:
        asked.append(1)
        up = len(asked) in (5, 10)
        return "fine" if up else ModelError("no connection", retryable=True)

    model = RLM(ScriptedModel(down), strategy="direct", retries=Retries(attempts=1))
    done = model.map([f"q{n}" for n in range(90)], max_concurrency=2, return_exceptions=True)
    assert answers(done).count("fine") == 2
    assert answers(done).count("ModelError") == 88
    assert 16 <= len(asked) <= 18


async def test_outcomes_come_as_questions_end_and_questions_are_read_as_they_are_asked() -> None:
    taken: list[int] = []

    def questions() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield f"q{number}"

    ended = 0
    async with aclosing(rlm(Root()).amap(questions(), "text", max_concurrency=2)) as outcomes:
        async for outcome in outcomes:
            assert outcome.completion is not None
            assert outcome.completion.answer == f"q{outcome.index}: 4"
            assert outcome.run_id == outcome.completion.run_id
            ended += 1
            if ended == 5:
                break
    assert len(taken) < 200


async def test_the_error_of_whoever_makes_questions_is_raised() -> None:
    def questions() -> Iterator[str]:
        yield "q0"
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        [outcome async for outcome in rlm(Root()).amap(questions(), "text")]


def test_a_named_batch_goes_on_with_what_has_no_answer_and_pays_nothing_twice(tmp_path: Path) -> None:
    store, root = tmp_path / "runs.db", Root()
    root.fail_on = {"q2", "q4"}
    questions = [f"q{n}" for n in range(6)]
    first = rlm(root, store=store).map(questions, "text", name="nightly", return_exceptions=True)
    assert answers(first).count("ModelError") == 2
    again = Root()
    done = rlm(again, store=store).map(questions, "text", name="nightly")
    assert answers(done) == [f"q{n}: 4" for n in range(6)]
    assert sorted(again.asked) == ["q2", "q2", "q4", "q4"]
    nobody = Root()
    assert answers(rlm(nobody, store=store).map(questions, "text", name="nightly")) == answers(done)
    assert not nobody.asked
    other = Root()
    rlm(other, store=store).map(questions, "text", name="another")
    assert len(other.asked) == 12


def test_a_named_batch_knows_its_questions_in_another_order_and_with_more_of_them(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    rlm(Root(), store=store).map(["a", "b", "b", "c"], "text", name="n")
    again = Root()
    done = rlm(again, store=store).map(["c", "new", "b", "a", "b", "b"], "text", name="n")
    assert answers(done) == ["c: 4", "new: 4", "b: 4", "a: 4", "b: 4", "b: 4"]
    assert sorted(set(again.asked)) == ["b", "new"]
    assert len(again.asked) == 4


def test_a_named_batch_refuses_another_context(tmp_path: Path) -> None:
    store, root = tmp_path / "runs.db", Root()
    rlm(root, store=store).map(["a", "b"], "text", name="n")
    asked_before = len(root.asked)
    with pytest.raises(ConfigError, match="another context"):
        rlm(root, store=store).map(["a", "b", "c"], "other", name="n")
    assert len(root.asked) == asked_before


def test_what_a_batch_has_spent_counts_when_it_goes_on(tmp_path: Path) -> None:
    store, root = tmp_path / "runs.db", Root()
    questions = [f"q{n}" for n in range(40)]
    rlm(root, store=store).map(
        questions, "text", name="n", total=Limits(max_cost=0.20), return_exceptions=True
    )
    before = len(root.asked)
    assert before <= 20
    rlm(root, store=store).map(
        questions, "text", name="n", total=Limits(max_cost=0.20), return_exceptions=True
    )
    assert len(root.asked) <= 20
    done = rlm(root, store=store).map(questions, "text", name="n", total=Limits(max_cost=5.0))
    assert answers(done) == [f"q{n}: 4" for n in range(40)]
    assert len(root.asked) == 80


def test_a_run_of_a_batch_is_a_run_like_any_other(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    model = rlm(Root(), store=store)
    done = model.map(["a"], "text", name="n")[0]
    assert isinstance(done, Completion)
    assert model.resume(done.run_id).answer == "a: 4"


def test_a_name_needs_a_store_and_bounds_of_all_are_those_that_runs_share(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store"):
        rlm(Root()).map(["a"], "text", name="n")
    with pytest.raises(ConfigError, match="not empty"):
        rlm(Root(), store=tmp_path / "runs.db").map(["a"], "text", name=" ")
    with pytest.raises(ConfigError, match="max_turns is a bound of each run"):
        rlm(Root()).map(["a"], "text", total=Limits(max_turns=3))
    with pytest.raises(ConfigError, match="max_concurrency"):
        rlm(Root()).map(["a"], "text", max_concurrency=0)


def test_many_questions_do_not_hold_threads() -> None:
    threads: list[int] = []

    def count(messages: Sequence[Message]) -> str:
        threads.append(threading.active_count())
        return "plainly"

    model = RLM(ScriptedModel(count), strategy="direct")
    done = model.map((f"q{n}" for n in range(2_000)), "text", max_concurrency=4)
    assert len(done) == 2_000
    assert max(threads) < 60
