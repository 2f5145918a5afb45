"""A completion, from outside: the public API, a scripted model, the real sandbox."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import RLM, ConfigError, Limits, ModelError, StopReason, tool
from recursor.prompt import MAX_OUTPUT, clip
from recursor.testing import ListSink, ScriptedModel
from recursor.types import (
    BlockExecuted,
    ContextHashed,
    Message,
    ModelCalled,
    Output,
    Reply,
    RunEnded,
    RunStarted,
    Usage,
)


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def scripted(*replies: str | Reply | BaseException) -> ScriptedModel:
    return ScriptedModel(list(replies))


def answer_of(*codes: str, context: Any = None, **options: Any) -> Any:
    return RLM(scripted(*map(block, codes)), **options).completion("?", context).answer


def last_prompt(model: ScriptedModel) -> str:
    return model.requests[-1][-1].content


# The main job ---------------------------------------------------------------------------------


def test_a_question_over_a_text_is_answered_by_code_and_sub_calls() -> None:
    root = scripted(
        "I will look.\n" + block("lines = context.splitlines()\nprint(len(lines))"),
        block("hits = [line for line in lines if 'secret' in line]\nanswers = llm_query_batched(hits)"),
        block("FINAL(answers)"),
    )
    sub = ScriptedModel(lambda messages: f"read: {messages[0].content[-6:]}", name="sub")
    text = "\n".join(f"line {n}" + (" secret" if n % 400 == 0 else "") for n in range(1000))
    done = RLM(root, sub_model=sub).completion("Which lines are secret?", context=text)
    assert done.answer == ["read: secret"] * 3
    assert done.stop_reason is StopReason.ANSWERED
    assert done.turns == 3
    assert done.usage.calls == 6
    assert done.cost == 0.0
    assert done.model == "scripted"
    assert len(done.run_id) == 32
    assert done.duration > 0
    assert "1000\n" in root.requests[1][-1].content


def test_each_prompt_is_a_prefix_of_the_next() -> None:
    root = scripted(
        block("print('a' * 50_000)"), block("1/0"), "no code", block("x ="), "", block("FINAL(1)")
    )
    RLM(root).completion("?", "data")
    for earlier, later in zip(root.requests, root.requests[1:], strict=False):
        assert later[: len(earlier)] == earlier
        assert len(later) == len(earlier) + 2


@given(
    st.lists(
        st.text(max_size=200) | st.sampled_from(["print(1)", "x = 1", "FINAL(0)", "1/0"]).map(block),
        max_size=5,
    )
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_root_replies_the_run_ends_and_prompts_only_grow(replies: list[str]) -> None:
    root = ScriptedModel([*replies, block("FINAL('end')")])
    done = RLM(root).completion("?", "data")
    assert done.stop_reason is StopReason.ANSWERED
    for earlier, later in zip(root.requests, root.requests[1:], strict=False):
        assert later[: len(earlier)] == earlier


def test_what_is_planted_in_the_context_and_never_shown_is_in_no_prompt() -> None:
    canary = "CANARY-7f3a"
    text = "x" * 500_000 + canary + "y" * 500_000
    root = scripted(
        block("print(len(context))"), block("print(context[:50_000])"), block("FINAL(context.count('y'))")
    )
    done = RLM(root).completion("?", context=text)
    assert done.answer == 500_000
    assert not any(canary in message.content for request in root.requests for message in request)


def test_the_first_prompt_is_small_and_does_not_grow_with_the_context() -> None:
    sizes = []
    for context in (
        "abc" * 1_000,
        "abc" * 1_000_000,
        ["abc"] * 1_000_000,
        {f"k{n}": "v" * 1000 for n in range(10_000)},
    ):
        root = scripted(block("FINAL(1)"))
        RLM(root).completion("How many?", context)
        sizes.append(sum(len(message.content) for message in root.requests[0]))
    assert max(sizes) < 4_000
    assert sizes[1] - sizes[0] == len("3,000,000") - len("3,000")


def test_a_folder_is_a_mapping_of_documents_and_a_file_is_its_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo")
    (tmp_path / "sub" / "b.md").write_text("é", encoding="utf-8")
    (tmp_path / "raw.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_text("no")
    code = "FINAL(context)"
    assert answer_of(code, context=tmp_path) == {
        "a.txt": "one\r\ntwo",
        "raw.bin": b"\xff\xfe\x00",
        "sub/b.md": "é",
    }
    assert answer_of(code, context=tmp_path / "a.txt") == "one\r\ntwo"
    assert answer_of(code, context=tmp_path / "raw.bin") == b"\xff\xfe\x00"
    assert answer_of(code, context=[tmp_path / "a.txt", tmp_path / "sub" / "b.md"]) == {
        str(tmp_path / "a.txt"): "one\r\ntwo", str(tmp_path / "sub" / "b.md"): "é",
    }  # fmt: skip


def test_a_string_is_text_even_when_it_looks_like_a_path() -> None:
    assert answer_of("FINAL(context)", context="/etc/passwd") == "/etc/passwd"


def test_messages_become_a_variable_and_the_last_user_text_the_question() -> None:
    root = scripted(block("FINAL([m['content'] for m in messages])"))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": "ok " * 100_000},
        {"role": "user", "content": [{"type": "text", "text": "What now?"}]},
    ]
    done = RLM(root).completion(messages=messages)
    assert done.answer[2] == "ok " * 100_000
    assert "Question: What now?" in root.requests[0][1].content


def test_a_long_question_is_clipped_in_the_prompt_and_whole_in_the_repl() -> None:
    root = scripted(block("FINAL(len(question))"))
    assert RLM(root).completion("q" * 100_000).answer == 100_000
    assert len(root.requests[0][1].content) < 6_000


# Replies of every kind ------------------------------------------------------------------------


def test_two_blocks_run_in_order_and_share_state() -> None:
    assert RLM(scripted(block("x = 1") + "\nand\n" + block("FINAL(x + 1)"))).completion("?").answer == 2


def test_the_run_ends_at_the_block_that_set_the_answer() -> None:
    events = ListSink()
    reply = block("FINAL('first')") + "\n" + block("FINAL('second')")
    assert RLM(scripted(reply), sinks=[events]).completion("?").answer == "first"
    assert len([event for event in events.events if isinstance(event, BlockExecuted)]) == 1


def test_a_block_after_a_failed_one_does_not_run_and_the_model_is_told() -> None:
    root = scripted(block("1/0") + "\n" + block("x = 1"), block("FINAL('x' in globals())"))
    assert RLM(root).completion("?").answer is False
    assert "block 1 failed, so the 1 after it did not run" in last_prompt(root)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("I think the answer is 4. FINAL(4)", "no ```repl block"),
        ("", "empty"),
        ("   \n", "empty"),
        (block("x = = 1"), "x = = 1"),
        (block("def f():\n    return 1 / 0\nf()"), "return 1 / 0"),
        (block("print('é' * 3)"), "ééé"),
        (block("pass"), "printed nothing"),
        ("```repl\nx = 1\nprint(x + 1)", "no closing fence"),
        ("```repl\nprint('cut", "cut off before its closing fence"),
        ("```bash\nls\n```", "blocks marked bash do not run"),
        ("```\nplain\n```", "blocks marked no language do not run"),
    ],
)
def test_every_kind_of_reply_is_one_turn_and_the_model_is_told(reply: str, told: str) -> None:
    root = scripted(reply, block("FINAL('end')"))
    done = RLM(root).completion("?")
    assert (done.answer, done.turns) == ("end", 2)
    assert told in last_prompt(root)


def test_a_block_cut_by_the_length_limit_does_not_run() -> None:
    cut = Reply("```repl\nFINAL('half')", Usage(calls=1), 0.0, finish_reason="length")
    root = scripted(cut, block("FINAL('whole')"))
    assert RLM(root).completion("?").answer == "whole"


def test_a_reply_of_reasoning_alone_is_an_empty_reply() -> None:
    root = scripted(Reply("", Usage(calls=1), 0.0, reasoning="thinking..."), block("FINAL(1)"))
    assert RLM(root).completion("?").turns == 2


def test_a_runaway_block_costs_one_turn() -> None:
    root = scripted(block("kept = 1\nwhile True: pass"), block("FINAL(kept)"))
    done = RLM(root, limits=Limits(max_cell_time=0.3)).completion("?")
    assert (done.answer, done.turns) == (1, 2)
    assert "interrupted" in last_prompt(root)
    assert "while True: pass" in last_prompt(root)


def test_code_that_kills_its_repl_costs_one_turn() -> None:
    root = scripted(block("import os\nos._exit(1)"), block("FINAL(context)"))
    assert RLM(root).completion("?", "data").answer == "data"
    assert "variables are lost" in last_prompt(root)


@given(
    st.text(min_size=0, max_size=60).flatmap(
        lambda piece: st.integers(0, 400).map(lambda times: piece * times)
    )
)
def test_clipping_keeps_both_ends_and_counts_what_it_leaves_out(text: str) -> None:
    clipped = clip(Output(text), 1_000)
    if len(text) <= 1_000:
        assert clipped == text
        return
    head, _, rest = clipped.partition("\n... [")
    count, _, tail = rest.partition(" characters left out] ...\n")
    if text.startswith(head) and "\n... [" not in text:
        assert text.endswith(tail)
        assert len(head) + int(count.replace(",", "")) + len(tail) == len(text)


def test_long_output_is_clipped_head_and_tail_with_the_number_left_out() -> None:
    root = scripted(block("print('a' * 40_000 + 'b' * 40_000)"), block("FINAL(1)"))
    RLM(root).completion("?")
    prompt = last_prompt(root)
    assert f"[{80_001 - MAX_OUTPUT:,} characters left out]" in prompt
    assert "aaa" in prompt
    assert "bbb" in prompt


# Limits ---------------------------------------------------------------------------------------


def test_at_the_turn_limit_the_root_gets_one_last_turn() -> None:
    root = scripted(block("x = 5"), block("x += 1"), block("FINAL(x)"))
    done = RLM(root, limits=Limits(max_turns=2)).completion("?")
    assert (done.answer, done.stop_reason, done.turns) == (6, StopReason.MAX_TURNS, 3)
    assert "this is your last reply" in last_prompt(root)


@pytest.mark.parametrize(("last", "answer"), [("It is 7.", "It is 7."), (block("y = 1"), "half")])
def test_without_a_submission_the_best_there_is_is_kept(last: str, answer: str) -> None:
    first = block("answer['content'] = 'half'") if answer == "half" else block("x = 1")
    done = RLM(scripted(first, last), limits=Limits(max_turns=1)).completion("?")
    assert (done.answer, done.stop_reason) == (answer, StopReason.MAX_TURNS)


def test_the_answer_of_the_turn_that_trips_a_limit_is_kept() -> None:
    costly = Reply(block("FINAL('kept')"), Usage(10_000, 10_000, calls=1), 5.0)
    done = RLM(scripted(costly), limits=Limits(max_cost=1.0, max_tokens=100)).completion("?")
    assert (done.answer, done.stop_reason, done.cost) == ("kept", StopReason.ANSWERED, 5.0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(max_tokens=1_000), StopReason.MAX_TOKENS), (Limits(max_cost=0.5), StopReason.MAX_COST)],
)
def test_tokens_and_money_end_a_run_with_what_there_is(limits: Limits, reason: StopReason) -> None:
    reply = Reply(block("answer['content'] = 'draft'"), Usage(900, 200, calls=1), 0.6)
    done = RLM(scripted(reply, reply), limits=limits).completion("?")
    assert (done.answer, done.stop_reason, done.turns) == ("draft", reason, 1)


def test_a_limit_reached_by_sub_calls_raises_in_the_code_that_made_them() -> None:
    root = scripted(block("r = llm_query_batched(['a'] * 5, return_exceptions=True)\nprint(r[-1])"), "?")
    sub = ScriptedModel(lambda _: Reply("x", Usage(50, 50, calls=1), 0.0), name="sub")
    done = RLM(root, sub_model=sub, limits=Limits(max_tokens=500)).completion("?")
    assert done.stop_reason is StopReason.MAX_TOKENS


def test_the_time_of_a_run_stops_a_running_block_and_a_pending_call() -> None:
    running = RLM(scripted(block("answer['content'] = 'd'\nwhile True: pass")), limits=Limits(max_time=0.6))
    done = running.completion("?")
    assert (done.answer, done.stop_reason) == ("d", StopReason.MAX_TIME)
    pending = RLM(ScriptedModel(["x"], latency=60), limits=Limits(max_time=0.4)).completion("?")
    assert pending.stop_reason is StopReason.MAX_TIME
    assert pending.duration < 10


def test_unknown_prices_are_not_zero() -> None:
    free, unknown = (
        Reply(block("llm_query('a')"), Usage(calls=1), 0.25),
        Reply(block("FINAL(1)"), Usage(calls=1), None),
    )
    assert RLM(scripted(free, Reply("x", Usage(calls=1), 0.5), unknown)).completion("?").cost is None


def test_failed_calls_are_counted() -> None:
    root = scripted(
        block("r = llm_query_batched(['a', 'b'], return_exceptions=True)"), block("FINAL(len(r))")
    )
    sub = ScriptedModel([ModelError("down"), "fine"], name="sub")
    assert RLM(root, sub_model=sub).completion("?").usage.calls == 4


@pytest.mark.parametrize(
    "wrong",
    [{"max_turns": 0}, {"max_turns": None}, {"max_time": -1}, {"max_tokens": 1.5}, {"max_cost": float("nan")}, {"max_depth": "1"}],
)  # fmt: skip
def test_a_wrong_limit_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"Limits\.{next(iter(wrong))} must be"):
        Limits(**wrong)


# Sub-calls, recursion, tools ------------------------------------------------------------------


def test_sub_calls_run_at_the_same_time() -> None:
    root = scripted(block("FINAL(llm_query_batched(['a'] * 200))"))
    done = RLM(root, sub_model=ScriptedModel(lambda _: "x", latency=0.2, name="sub")).completion("?")
    assert done.answer == ["x"] * 200
    assert done.duration < 20


def test_a_failed_sub_call_raises_in_the_parents_code() -> None:
    root = scripted(block("try:\n    llm_query('a')\nexcept SubcallError as error:\n    FINAL(str(error))"))
    assert (
        RLM(root, sub_model=ScriptedModel([ModelError("no credit")], name="sub")).completion("?").answer
        == "no credit"
    )


def test_an_unknown_model_is_an_error_that_names_the_known() -> None:
    root = scripted(block("llm_query('a', model='gpt-9')"), block("FINAL(llm_query('b', model='sub'))"))
    done = RLM(root, sub_model=ScriptedModel(["from sub"], name="sub")).completion("?")
    assert done.answer == "from sub"
    assert "'gpt-9' is not allowed here; use 'scripted' or 'sub'" in last_prompt(root)


def test_a_schema_makes_sub_calls_return_values() -> None:
    root = scripted(
        block(
            "s = {'type': 'object', 'required': ['n']}\nFINAL(llm_query_batched(['a', 'b'], schema=s, return_exceptions=True)[0]['n'])"
        )
    )
    sub = ScriptedModel(['```json\n{"n": 3}\n```', "nonsense"], name="sub")
    assert RLM(root, sub_model=sub).completion("?").answer == 3


def test_at_the_depth_limit_a_recursive_call_is_a_plain_one() -> None:
    root = scripted(block("FINAL(rlm_query('how many?', ['a', 'b']))"))
    sub = ScriptedModel(lambda messages: messages[0].content, name="sub")
    assert RLM(root, sub_model=sub).completion("?").answer == 'how many?\n\n["a", "b"]'


def test_a_child_has_its_own_repl_and_context_and_its_cost_is_the_parents() -> None:
    root = scripted(block("secret = 1\nFINAL(rlm_query('how many?', {'a': (1, 2)}))"))
    sub = scripted(block("FINAL([context, 'secret' in globals()])"))
    sink = ListSink()
    done = RLM(root, sub_model=sub, limits=Limits(max_depth=2), sinks=[sink]).completion("?")
    assert done.answer == [{"a": (1, 2)}, False]
    assert done.usage.calls == 2
    started = [event for event in sink.events if isinstance(event, RunStarted)]
    assert [(event.depth, event.parent_id) for event in started] == [(0, None), (1, done.run_id)]


def test_a_child_that_asks_what_its_parent_asks_is_refused() -> None:
    code = "try:\n    FINAL(rlm_query('same?', context[:size]))\nexcept SubcallError as error:\n    FINAL(str(error))"
    root = ScriptedModel(lambda _: block(f"size = len(context)\n{code}"))
    done = RLM(root, limits=Limits(max_depth=None)).completion("same?", "data")
    assert "is being answered already" in done.answer
    smaller = ScriptedModel(lambda _: block(f"size = len(context) // 2\n{code}"))
    done = RLM(smaller, limits=Limits(max_depth=None)).completion("same?", "data")
    assert "is being answered already" in done.answer  # at the empty text, four levels down
    assert done.usage.calls == 4


def test_another_instruction_makes_no_other_question() -> None:
    code = "try: FINAL(rlm_query('same?', context, instruction='Be brief.'))\nexcept SubcallError as e: FINAL(str(e))"
    root = ScriptedModel(lambda _: block(code))
    done = RLM(root, limits=Limits(max_depth=None, max_calls=20), instruction="At length.").completion(
        "same?", "x"
    )
    assert "is being answered already" in done.answer
    assert done.usage.calls == 1


def test_tools_run_on_the_host_with_their_arguments_checked() -> None:
    seen: list[Any] = []

    @tool
    def lookup(word: str, *, times: int = 1) -> dict[str, int]:
        """Look a word up."""
        seen.append(threading.current_thread())
        return {word: times}

    @tool(name="slow")
    async def anything(_: Any) -> str:
        await asyncio.sleep(0)
        raise ValueError("broken")

    root = scripted(
        block("try:\n    lookup(1, 2, 3)\nexcept SubcallError as e:\n    print(e)"),
        block("try:\n    slow(1)\nexcept SubcallError as e:\n    print(e)"),
        block("FINAL(lookup('a', times=2))"),
    )
    assert RLM(root, tools=[lookup, anything]).completion("?").answer == {"a": 2}
    assert (
        "`lookup(word: str, *, times: int = 1) -> dict[str, int]`: Look a word up."
        in root.requests[0][0].content
    )
    assert "too many positional arguments" in root.requests[1][-1].content
    assert "slow raised ValueError: broken" in root.requests[2][-1].content
    assert len(seen) == 1


# Typed answers --------------------------------------------------------------------------------


@dataclass
class Count:
    word: str
    times: int


def test_an_answer_that_does_not_fit_the_schema_is_sent_back_with_the_reason() -> None:
    root = scripted(block("FINAL({'word': 'a'})"), block("FINAL({'word': 'a', 'times': 3})"))
    done = RLM(root).completion("?", schema=Count)
    assert done.answer == Count("a", 3)
    assert "not accepted: Object missing required field `times`" in last_prompt(root)


def test_a_json_schema_checks_with_path_and_reason() -> None:
    root = scripted(block("FINAL({'n': ['x']})"), block("FINAL({'n': [1]})"))
    schema = {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}}}
    assert RLM(root).completion("?", schema=schema).answer == {"n": [1]}
    assert "$.n[0]: 'x' is not of type 'integer'" in last_prompt(root)


# Wrong input costs nothing --------------------------------------------------------------------


class Opaque:
    pass


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"question": ""}, "question"),
        ({"question": None}, "question"),
        ({"question": 3}, "question"),
        ({"question": "?", "context": Path("/does/not/exist")}, "no file or folder"),
        ({"question": "?", "context": Opaque()}, "Opaque cannot be given"),
        ({"question": "?", "context": {"a": [Opaque()]}}, r"\['a'\]\[0\] is of type"),
        ({"question": "?", "messages": [{"role": "user", "content": "a"}]}, "not both"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no user message"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\]"),
        ({"question": "?", "schema": {"type": "wrong"}}, "JSON Schema"),
        ({"question": "?", "schema": 5}, "schema"),
    ],
)
def test_wrong_arguments_are_refused_before_any_call(arguments: dict[str, Any], text: str) -> None:
    root = scripted(block("FINAL(1)"))
    with pytest.raises(ConfigError, match=text):
        RLM(root).completion(**arguments)
    assert root.requests == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sandbox": "proces"}, "process"),
        ({"dialect": "defualt"}, "did you mean 'default'"),
        ({"limits": 3}, "recursor.Limits"),
        ({"tools": [3]}, "not a function"),
        ({"tools": [tool(name="llm_query")(lambda: 1)]}, "taken"),
    ],
)
def test_wrong_settings_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        RLM(scripted(), **options)


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="`name` and `query`"):
        RLM(object())  # type: ignore[arg-type]


def test_a_root_that_fails_for_good_raises_with_the_run_that_paid() -> None:
    with pytest.raises(ModelError, match="no credit") as caught:
        RLM(scripted(ModelError("no credit"))).completion("?")
    assert caught.value.run_id


# From anywhere --------------------------------------------------------------------------------


def test_16_threads_at_once_each_see_only_their_own_output() -> None:
    answers: dict[int, Any] = {}

    def work(number: int) -> None:
        codes = [f"print('out-{number}-{turn}' * 3)" for turn in range(9)]
        root = scripted(*map(block, codes), block(f"FINAL('answer-{number}')"))
        answers[number] = RLM(root).completion("?", f"context {number}").answer
        for turn in range(9):
            assert f"out-{number}-{turn}" * 3 in root.requests[turn + 1][-1].content
            assert root.requests[turn + 1][-1].content.count("out-") == 3

    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert answers == {number: f"answer-{number}" for number in range(16)}


async def test_completion_works_inside_a_running_event_loop() -> None:
    assert RLM(scripted(block("FINAL(1)"))).completion("?").answer == 1
    assert (await RLM(scripted(block("FINAL(2)"))).acompletion("?")).answer == 2


def test_acompletion_works_in_one_loop_after_another() -> None:
    rlm = RLM(ScriptedModel(lambda _: block("FINAL(1)")))
    assert [asyncio.run(rlm.acompletion("?")).answer for _ in range(3)] == [1, 1, 1]


async def test_a_stream_yields_events_in_order_and_ends_with_the_completion() -> None:
    rlm = RLM(scripted(block("print(1)"), block("FINAL(2)")))
    events = [event async for event in rlm.stream("?", "data")]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].completion is not None
    assert events[-1].completion.answer == 2
    assert [event.purpose for event in events if isinstance(event, ModelCalled)] == ["root", "root"]
    assert any(isinstance(event, ContextHashed) for event in events)


async def test_closing_a_stream_stops_the_run() -> None:
    sink = ListSink()
    stream = RLM(scripted(block("while True: pass")), sinks=[sink]).stream("?")
    async for event in stream:
        if isinstance(event, ModelCalled):
            break
    await stream.aclose()
    assert isinstance(sink.events[-1], RunEnded)
    assert "Cancelled" in str(sink.events[-1].error)


async def test_cancelling_a_completion_stops_the_run_and_leaves_no_task() -> None:
    sink = ListSink()
    rlm = RLM(
        scripted(block("llm_query('a')"), "?"), sub_model=ScriptedModel(["x"], latency=60), sinks=[sink]
    )
    task = asyncio.create_task(rlm.acompletion("?"))
    while not any(isinstance(event, ModelCalled) for event in sink.events):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(sink.events[-1], RunEnded)


def test_the_isolation_in_force_can_be_read() -> None:
    isolation = RLM(scripted(block("FINAL(1)"))).completion("?").isolation
    assert isolation is not None
    assert isolation.isolated
    unsafe = RLM(scripted(block("FINAL(1)")), sandbox="inprocess").completion("?").isolation
    assert unsafe is not None
    assert not unsafe.isolated


def test_a_model_may_be_any_object_with_the_protocol() -> None:
    class Own:
        name = "own"

        async def query(
            self,
            messages: Sequence[Message],
            *,
            schema: Any = None,
            on_text: Callable[[str], None] | None = None,
        ) -> Reply:
            return Reply(block("FINAL('mine')"))

    done = RLM(Own()).completion("?")
    assert (done.answer, done.cost, done.model) == ("mine", None, "own")


def test_the_host_keeps_its_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    assert answer_of("print('inside')", "FINAL(1)") == 1
    assert sys.stdout is before
    assert capsys.readouterr().out == ""


def test_answers_keep_their_types() -> None:
    assert answer_of("import decimal\nFINAL((1, {2}, decimal.Decimal('1.0'), 2**70))") == (
        1,
        {2},
        Decimal("1.0"),
        2**70,
    )
