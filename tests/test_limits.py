"""Limits that hold: what is spent, what is refused, what the root LM is told and may still do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import RLM, ConfigError, Limits, ModelError
from recursor.slots import Own, Slots
from recursor.testing import ListSink, ScriptedModel
from recursor.types import BlockExecuted, Message, ModelCalled, Reply, StopReason, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def sub(cost: float = 0.01, tokens: int = 10, latency: float = 0.0) -> ScriptedModel:
    return ScriptedModel(lambda _: Reply("x", Usage(tokens, 0, calls=1), cost), latency=latency, name="sub")


def root(*codes: str, cost: float = 0.0, tokens: int = 10) -> ScriptedModel:
    return ScriptedModel([Reply(block(code), Usage(tokens, 0, calls=1), cost) for code in codes], name="root")


def test_a_thousand_calls_at_once_stay_within_max_cost() -> None:
    asked = sub(0.01, latency=0.001)
    code = "r = llm_query_batched((f'{i}' for i in range(1000)), return_exceptions=True)\nprint(sum(x == 'x' for x in r))"
    sink = ListSink()
    done = RLM(
        root(code, "FINAL('all that there was')"),
        sub_model=asked,
        limits=Limits(max_cost=2.005),
        sinks=[sink],
    ).completion("?")
    assert done.answer == "all that there was"
    assert done.cost == pytest.approx(2.0)
    assert len(asked.requests) == 200


def test_the_root_may_finish_with_what_sub_calls_had_to_leave() -> None:
    """The bound that stops sub-calls leaves one reply, the root LM is told so, and its answer counts."""
    sink = ListSink()
    model = root("r = llm_query_batched(['a'] * 60, return_exceptions=True)", "FINAL('partial')", cost=0.1)
    done = RLM(
        model, sub_model=sub(0.02, latency=0.001), limits=Limits(max_cost=0.75), sinks=[sink]
    ).completion("?")
    assert (done.answer, done.stop_reason) == ("partial", StopReason.ANSWERED)
    assert done.cost is not None
    assert done.cost <= 0.75
    told = model.requests[-1][-1].content
    assert "the money that is left is enough for one reply: this is your last reply" in told


def test_a_batch_that_max_calls_does_not_allow_costs_nothing_and_names_what_is_left() -> None:
    asked, sink = sub(), ListSink()
    codes = ("llm_query_batched(['a'] * 50)", "FINAL(llm_query_batched(['a'] * 7))")
    done = RLM(root(*codes), sub_model=asked, limits=Limits(max_calls=10), sinks=[sink]).completion("?")
    assert done.answer == ["x"] * 7
    assert len(asked.requests) == 7
    errors = [event.execution.error for event in sink.events if isinstance(event, BlockExecuted)]
    assert "50 calls were asked for and 8 are left; none was sent" in str(errors[0])


def test_max_calls_ends_a_run_that_does_not_finish() -> None:
    done = RLM(
        root(*["answer['content'] = 'draft'; llm_query('a')"] * 9),
        sub_model=sub(),
        limits=Limits(max_calls=4),
    ).completion("?")
    assert (done.stop_reason, done.answer, done.usage.calls) == (StopReason.MAX_CALLS, "draft", 4)


def test_sub_calls_in_flight_keep_to_their_width_nested_ones_too() -> None:
    out = most = 0

    async def answer(messages: Sequence[Message]) -> str:
        nonlocal out, most
        if len(messages) > 1 and "Question: child" not in messages[1].content:
            return block("FINAL(rlm_query_batched(['child'] * 4, ['a', 'b', 'c', 'd']))")
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.005)
        out -= 1
        if len(messages) > 1:
            return block("FINAL(llm_query_batched(['q'] * 20))")
        return "x"

    model = ScriptedModel(answer)
    done = RLM(model, limits=Limits(max_depth=2, max_subcalls_in_flight=5)).completion("?")
    assert done.answer == [["x"] * 20] * 4
    assert most == 5


def test_forty_children_at_once_stay_within_their_parents_money() -> None:
    def answer(messages: Sequence[Message]) -> Reply:
        if len(messages) == 1:
            return Reply("x", Usage(5, 5, calls=1), 0.02)
        if "Question: child" in messages[1].content:
            return Reply(block("FINAL(llm_query_batched(['q'] * 3))"), Usage(5, 5, calls=1), 0.02)
        code = "r = rlm_query_batched(['child'] * 40, [str(i) for i in range(40)], return_exceptions=True)"
        replies = sum(each.role == "assistant" for each in messages)
        return Reply(block([code, "FINAL(len(r))"][replies]), Usage(5, 5, calls=1), 0.02)

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=2, max_cost=0.5)).completion("?")
    assert done.cost is not None
    assert done.cost <= 0.5
    assert done.answer == 40


def test_usage_is_the_sum_of_root_subs_children_failures_and_retries() -> None:
    sink = ListSink()

    def answer(messages: Sequence[Message]) -> Reply:
        text = messages[-1].content
        if len(messages) == 1:
            return Reply("x", Usage(7, 1, calls=1), 0.01)
        if "Question: child" in messages[1].content:
            return Reply(block("FINAL(llm_query('in the child'))"), Usage(20, 2, calls=1), 0.02)
        code = "FINAL([llm_query('a'), rlm_query('child', 'b')])"
        return Reply(block(code), Usage(100, len(text) * 0 + 3, calls=1), 0.1)

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=2), sinks=[sink]).completion("?")
    called = [event.reply for event in sink.events if isinstance(event, ModelCalled) and event.reply]
    assert done.usage == sum((reply.usage for reply in called), Usage())
    assert done.usage.total_tokens == 103 + 8 + 22 + 8
    assert done.cost == pytest.approx(0.14)


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(600)", "llm_query('slow')",
                                  "llm_query_batched(['slow'] * 50)", "rlm_query('child', 'slow')"])  # fmt: skip
def test_max_time_interrupts_whatever_goes_on(code: str) -> None:
    async def answer(messages: Sequence[Message]) -> str:
        if len(messages) > 1 and "Question: child" not in messages[1].content:
            return block(f"answer['content'] = 'draft'\n{code}")
        await asyncio.sleep(600)
        return "never"

    done = RLM(ScriptedModel(answer), limits=Limits(max_time=0.4, max_depth=2)).completion("?")
    assert (done.stop_reason, done.answer) == (StopReason.MAX_TIME, "draft")


def test_errors_in_a_row_end_a_run_and_one_success_starts_anew() -> None:
    model = root("1/0", "1/0", "x = 1", "1/0", "1/0", "1/0", "FINAL(1)")
    done = RLM(model, limits=Limits(max_errors=3)).completion("?")
    assert (done.stop_reason, done.turns) == (StopReason.MAX_ERRORS, 6)


def test_limits_of_a_child_are_its_own_and_still_its_parents() -> None:
    def answer(messages: Sequence[Message]) -> str:
        if "Question: child" in messages[1].content:
            return block("answer['content'] = 1")
        return block("FINAL(rlm_query('child', limits={'max_turns': 2}))")

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=2)).completion("?")
    assert (done.answer, done.usage.calls) == (1, 1 + 3)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_money": 1}, "there is no limit 'max_money'"),
        ({"max_turns": 0}, "max_turns must be a whole number"),
    ],
)
def test_wrong_limits_of_a_child_are_an_error_at_the_call(limits: dict[str, Any], said: str) -> None:
    code = f"try: rlm_query('child', limits={limits})\nexcept SubcallError as e: FINAL(str(e))"
    assert said in RLM(root(code), limits=Limits(max_depth=2)).completion("?").answer


def test_children_that_wait_for_children_of_their_own_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recursor.run.MAX_CHILDREN", 2)

    def answer(messages: Sequence[Message]) -> str:
        text = messages[1].content
        if "Question: leaf" in text:
            return block("FINAL(context)")
        if "Question: middle" in text:
            return block("FINAL(rlm_query_batched(['leaf'] * 3, [context + x for x in 'xyz']))")
        return block("FINAL(rlm_query_batched(['middle'] * 4, list('abcd')))")

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=None, max_time=30)).completion("?")
    assert done.answer == [[a + b for b in "xyz"] for a in "abcd"]


@pytest.mark.parametrize("bound", ["max_turns", "max_cell_time"])
def test_a_child_has_no_larger_limit_than_its_parent(bound: str) -> None:
    def answer(messages: Sequence[Message]) -> str:
        if "Question: child" in messages[1].content:
            return block(
                "answer['content'] = 'draft'\n" + ("1" if bound == "max_turns" else "while True: pass")
            )
        return block(f"FINAL(rlm_query('child', limits={{{bound!r}: 10**9}}))")

    limits = Limits(max_depth=2, max_turns=2, max_cell_time=0.3)
    done = RLM(ScriptedModel(answer), limits=limits).completion("?")
    assert (done.answer, done.usage.calls) == ("draft", 4)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0])
def test_a_cost_that_is_none_is_unknown_and_stops_a_run_with_max_cost(cost: float) -> None:
    codes = ("llm_query('a')", "FINAL(llm_query('b'))")
    asked = sub(cost)
    assert RLM(root(*codes), sub_model=asked).completion("?").cost is None
    done = RLM(root(*codes), sub_model=sub(cost), limits=Limits(max_cost=1.0)).completion("?")
    assert (done.stop_reason, done.cost) == (StopReason.MAX_COST, None)


@pytest.mark.parametrize("tokens", [-(10**6), 10**30])
def test_usage_that_cannot_be_is_held_within_what_can_be(tokens: int, tmp_path: Path) -> None:
    model = ScriptedModel([Reply(block("FINAL(1)"), Usage(tokens, 1, calls=1), 0.0)])
    done = RLM(model, store=tmp_path / "runs.db").completion("?")
    assert 0 <= done.usage.input_tokens <= 1 << 53


def test_what_a_models_own_code_raises_is_a_model_error_that_names_the_run() -> None:
    with pytest.raises(ModelError, match="scripted: KeyError: 'choices'") as failed:
        RLM(ScriptedModel([KeyError("choices")])).completion("?")
    assert failed.value.run_id


@pytest.mark.parametrize("value", [10**400, float("inf")])
def test_a_bound_that_no_sum_could_reach_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"Limits\.max_tokens|Limits\.max_cost"):
        Limits(max_cost=value)


def test_a_first_call_that_was_cheap_does_not_let_dear_ones_pass_the_bound_at_once() -> None:
    count = 0

    def answer(_: Sequence[Message]) -> Reply:
        nonlocal count
        count += 1
        return Reply("x", Usage(10, 10, calls=1), 0.001 if count == 1 else 0.1)

    code = "r = llm_query_batched((str(i) for i in range(1000)), return_exceptions=True)"
    model = ScriptedModel(answer, name="sub", latency=0.01)
    done = RLM(root(code, "FINAL(1)"), sub_model=model, limits=Limits(max_cost=1.0)).completion("?")
    assert done.cost is not None
    assert done.cost <= 1.1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_places_for_children_come_back_whatever_is_cancelled(
    work: list[tuple[int, bool]], shared: int
) -> None:
    async def main() -> None:
        slots, runs = Slots(shared), [Own() for _ in range(4)]

        async def child(run: int) -> None:
            async with slots.place(runs[run]):
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        tasks = [(asyncio.create_task(child(run)), cancelled) for run, cancelled in work]
        await asyncio.sleep(0)
        for number, (task, cancelled) in enumerate(tasks):
            if cancelled:
                task.cancel()
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*(task for task, _ in tasks), return_exceptions=True), 10)
        assert slots.free == shared
        assert not any(own.taken for own in runs)

    asyncio.run(main())
