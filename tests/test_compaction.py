"""Old turns that give way to a summary: from outside, and the pure core of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import RLM, Limits, ModelError, StopReason
from recursor.compaction import ASK, begin, plan
from recursor.errors import ContextOverflow
from recursor.prompt import clip
from recursor.testing import ListSink, ScriptedModel
from recursor.testing.scripted import Scripted
from recursor.trajectory import view
from recursor.trajectory.store import Store
from recursor.types import Compacted, Completion, Message, ModelCalled, Output, Reply, Usage

Prompt = Sequence[Message]


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def tokens(messages: Prompt) -> int:
    return sum(len(message.content) + 3 for message in messages) // 4


def is_request(messages: Prompt) -> bool:
    return messages[-1].content.endswith(ASK)


class Root:
    """A root LM that says its replies in order, and summarises when asked."""

    def __init__(
        self, replies: Sequence[Scripted], summarise: Callable[[Prompt], Scripted] | None = None
    ) -> None:
        self.prompts: list[tuple[Message, ...]] = []
        self.requests: list[tuple[Message, ...]] = []
        self.window: int | None = None
        self._replies = list(replies)
        self._summarise = summarise or (lambda _: f"SUMMARY {len(self.requests)}")
        self.model = ScriptedModel(self._reply)

    def _reply(self, messages: Prompt) -> Scripted:
        if self.window is not None and tokens(messages) > self.window:
            return ContextOverflow(f"{tokens(messages)} tokens are more than {self.window}")
        if is_request(messages):
            self.requests.append(tuple(messages))
            return self._summarise(messages)
        self.prompts.append(tuple(messages))
        return self._replies[len(self.prompts) - 1]

    def run(self, compact_at: int | None, context: Any = "data", **options: Any) -> Completion:
        rlm = RLM(self.model, **options)
        rlm._asker = replace(rlm._asker, engine=replace(rlm._asker.engine, compact_at=compact_at))
        return rlm.completion("What is it?", context)


def printing(turns: int, width: int = 800) -> list[str]:
    """Replies that print something new each, and at last submit `history`."""
    return [
        *(block(f"print('out-{turn} ' + 'x' * {width})") for turn in range(turns)),
        block("FINAL(history)"),
    ]


def rows(messages: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def segments(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts between compactions."""
    parts: list[list[Prompt]] = [[]]
    for prompt in prompts:
        if parts[-1] and list(prompt[: len(parts[-1][-1])]) != list(parts[-1][-1]):
            parts.append([])
        parts[-1].append(prompt)
    return parts


# The main job -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", ["process", "inprocess"])
def test_old_turns_give_way_to_a_summary_and_stay_readable_in_the_repl(sandbox: str) -> None:
    root, sink = Root(printing(24)), ListSink()
    done = root.run(3_000, sandbox=sandbox, sinks=[sink])
    compactions = [event for event in sink.events if isinstance(event, Compacted)]
    assert done.stop_reason is StopReason.ANSWERED
    assert len(compactions) == len(root.requests) == 2
    assert [event.summary for event in compactions] == ["SUMMARY 1", "SUMMARY 2"]
    assert all(event.tokens > 3_000 for event in compactions)
    last = root.prompts[-1]
    assert last[:2] == root.prompts[0]
    assert last[2] == Message("assistant", "SUMMARY 2")
    assert "replaced by the summary above" in last[3].content
    assert "`history`" in last[3].content
    assert "out-23" in last[-1].content
    outputs = [row["content"] for row in done.answer if row["role"] == "user" and "out-" in row["content"]]
    assert [f"out-{turn} " in text for turn, text in enumerate(outputs)] == [True] * len(outputs)
    assert {"role": "assistant", "content": "SUMMARY 1"} in done.answer


def test_history_is_every_message_that_was_sent_up_to_the_last_compaction() -> None:
    root = Root(printing(24))
    done = root.run(3_000)
    *before, last = segments(root.prompts)
    assert len(before) == 2
    sent = {message for part in before for prompt in part for message in prompt}
    newest = last[0][4:]  # after the opening and what stands for the turns before
    told = [Message(row["role"], row["content"]) for row in done.answer]
    assert set(told) == sent | set(newest)
    assert len(set(told)) == len(told)


def test_the_request_for_a_summary_begins_with_what_a_model_has_read_already() -> None:
    root = Root(printing(24))
    root.run(3_000)
    for request in root.requests:
        assert any(prompt[: len(request) - 1] == request[:-1] for prompt in root.prompts)
        assert request[-1].content.startswith("Output of block 1:")
        roles = [message.role for message in request[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_no_prompt_passes_the_window_in_200_turns() -> None:
    root = Root(printing(200))
    root.window = 4_000
    done = root.run(3_000, limits=Limits(max_turns=300))
    assert (done.stop_reason, done.turns) == (StopReason.ANSWERED, 201)
    assert max(map(tokens, root.prompts)) <= 4_000
    assert max(map(tokens, root.requests)) <= 4_000
    assert len(root.requests) < 60
    assert len(done.answer) > 390


def test_what_a_compaction_costs_is_in_the_usage() -> None:
    summary = Reply("SUMMARY", Usage(1_000, 77, calls=1), 0.5)
    root, sink = Root(printing(24), lambda _: summary), ListSink()
    done = root.run(3_000, sinks=[sink])
    calls = [event for event in sink.events if isinstance(event, ModelCalled)]
    assert [event.purpose for event in calls].count("compaction") == 2
    assert done.cost == 1.0
    assert done.usage.calls == 25 + 2
    assert done.usage.output_tokens == sum(event.reply.usage.output_tokens for event in calls if event.reply)


@pytest.mark.parametrize("dialect", ["reference", "paper", "async"])
def test_every_dialect_can_be_compacted(dialect: str) -> None:
    replies = printing(24)
    if dialect == "reference":
        replies[-1] = block("answer['content'] = history\nanswer['ready'] = True")
    root = Root(replies)
    done = root.run(3_500, dialect=dialect)
    opening = len(root.prompts[0])
    assert root.requests
    assert root.prompts[-1][:opening] == root.prompts[0]
    assert root.prompts[-1][opening] == Message("assistant", f"SUMMARY {len(root.requests)}")
    assert done.answer[:opening] == rows(root.prompts[0])


def test_history_survives_a_repl_that_had_to_be_started_anew() -> None:
    replies = printing(24)
    replies[-1:] = [block("import os\nos._exit(1)"), block("FINAL(len(history))")]
    root = Root(replies)
    assert root.run(3_000, sandbox="process").answer > 4


def test_a_small_run_is_never_compacted() -> None:
    root = Root([*printing(3, width=10)[:-1], block("FINAL('history' in globals())")])
    assert root.run(100_000).answer is False
    assert root.requests == []


def test_a_compaction_is_recorded_as_a_branch_of_the_opening(tmp_path: Path) -> None:
    root = Root(printing(24))
    with Store(tmp_path / "runs.db") as store:
        done = root.run(3_000, store=store)
    with view.open(tmp_path / "runs.db") as record:
        calls = [call for call in record.calls(done.run_id) if call.purpose == "root"]
        prompts = [record.messages(call) for call in calls]
        summaries = [note["summary"] for note in record.notes(done.run_id, "Compacted")]
    assert prompts == root.prompts
    assert summaries == ["SUMMARY 1", "SUMMARY 2"]


@pytest.mark.parametrize("dialect", ["default", "reference"])
def test_a_run_with_a_compaction_is_resumed_without_paying_for_it_twice(tmp_path: Path, dialect: str) -> None:
    end = "answer['content'] = (len(history) > 40, seen)\nanswer['ready'] = True"
    turn = "import time\nseen = [*globals().get('seen', []), time.time()]\nprint('out-{} ' + 'x' * 800)"
    asked: list[int] = []

    def attempt(fail_at: int | None) -> RLM:
        asked.append(0)

        def say(messages: Prompt) -> Scripted:
            asked[-1] += 1
            if asked[-1] == fail_at:
                return ModelError("down")
            if is_request(messages):
                return "SUMMARY"
            done = max(
                (int(each) for m in messages for each in re.findall(r"print\('out-(\d+)", m.content)),
                default=-1,
            )
            return block(end if done == 23 else turn.format(done + 1))

        rlm = RLM(ScriptedModel(say, name="m"), dialect=dialect, store=tmp_path / "runs.db")
        rlm._asker = replace(rlm._asker, engine=replace(rlm._asker.engine, compact_at=3_500))
        return rlm

    with pytest.raises(ModelError) as caught:
        attempt(fail_at=22).completion("?", "data")
    done = attempt(fail_at=None).resume(str(caught.value.run_id), "data")
    assert (done.replayed, done.diverged_at, done.turns) == (21, None, 25)
    assert asked[0] == 22
    assert done.usage.calls == 21 + asked[1]
    large, seen = done.answer
    assert large
    assert seen == sorted(seen)
    assert len(seen) == 24


# Where it goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["", "  \n", "<think>hm</think>", ModelError("down"), ContextOverflow("too long")]
)
def test_without_a_summary_the_run_goes_on_with_what_the_repl_shows(said: Scripted) -> None:
    replies = printing(24)
    replies[0] = block("total = 42\nprint('out-0', 'x' * 800)")
    root = Root(replies, lambda _: said)
    assert root.run(3_000).stop_reason is StopReason.ANSWERED
    standing = root.prompts[-1][2].content
    assert "total: int" in standing
    assert "out-" in standing


def test_a_prompt_that_the_provider_refuses_is_compacted_and_sent_again() -> None:
    replies = printing(11)
    replies[8] = block("print('big ' + 'x' * 9_000)")
    root, sink = Root(replies), ListSink()
    root.window = 4_500
    done = root.run(None, sinks=[sink])
    assert done.stop_reason is StopReason.ANSWERED
    compactions = [event for event in sink.events if isinstance(event, Compacted)]
    assert compactions[0].tokens == 0
    assert sum(event.tokens == 0 for event in compactions) <= 2  # the size of the window is learned
    assert done.turns == 12
    assert any("xxx" in row["content"] and len(row["content"]) > 9_000 for row in done.answer)


def test_a_single_output_that_overflows_the_window_is_clipped_without_asking_anyone() -> None:
    root = Root([block("print('y' * 9_900)"), block("FINAL(len(history))")])
    root.window = 2_500
    done = root.run(None)
    assert (done.answer, done.turns) == (4, 2)
    assert root.requests == []
    assert "characters left out" in root.prompts[-1][-1].content
    assert "[turn 2 of 30]" in root.prompts[-1][-1].content


def test_a_first_prompt_that_does_not_fit_is_an_error() -> None:
    root = Root(["never"])
    root.window = 100
    with pytest.raises(ContextOverflow):
        root.run(None)


def test_a_prompt_that_does_not_fit_even_then_is_an_error() -> None:
    calls = 0

    def refuse(messages: Prompt) -> Scripted:
        nonlocal calls
        calls += 1
        return block("print('x' * 900)") if calls == 1 else ContextOverflow("no")

    with pytest.raises(ContextOverflow, match="no"):
        RLM(ScriptedModel(refuse)).completion("?")
    assert calls == 3


def test_a_limit_that_a_compaction_reaches_ends_the_run_with_the_draft() -> None:
    replies = printing(24)
    replies[0] = block("answer['content'] = 'draft'\nprint('x' * 900)")
    root = Root(replies, lambda _: Reply("S", Usage(500_000, 10, calls=1), 0.0))
    done = root.run(3_000, limits=Limits(max_tokens=400_000))
    assert (done.answer, done.stop_reason) == ("draft", StopReason.MAX_TOKENS)


@pytest.mark.parametrize("max_calls", range(6, 12))
def test_a_compaction_never_takes_the_call_that_the_root_lm_was_promised(max_calls: int) -> None:
    root, sink = Root(printing(24, width=2_500)), ListSink()
    done = root.run(3_000, limits=Limits(max_calls=max_calls), sinks=[sink])
    calls = [event.purpose for event in sink.events if isinstance(event, ModelCalled)]
    assert (done.stop_reason, len(calls)) == (StopReason.MAX_CALLS, max_calls)
    assert calls[-2:] == ["root", "root"]
    assert "this is your last reply" in root.prompts[-1][-1].content
    assert all("one model call is left" not in prompt[-1].content for prompt in root.prompts[:-1])
    assert any(isinstance(event, Compacted) for event in sink.events)


@pytest.mark.parametrize("max_tokens", range(20_000, 60_000, 3_000))
def test_where_tokens_do_not_pay_for_a_summary_the_last_reply_comes_first(max_tokens: int) -> None:
    root, sink = Root(printing(30, width=2_500)), ListSink()
    done = root.run(3_000, limits=Limits(max_tokens=max_tokens), sinks=[sink])
    calls = [event.purpose for event in sink.events if isinstance(event, ModelCalled)]
    assert (done.stop_reason, calls[-1]) == (StopReason.MAX_TOKENS, "root")
    assert "this is your last reply" in root.prompts[-1][-1].content


@pytest.mark.parametrize("sandbox", ["process", "inprocess"])
def test_a_variable_that_code_called_history_stays_its_own(sandbox: str) -> None:
    replies = printing(24)
    replies[0] = block("history = ['mine']\nprint('out-0', 'x' * 800)")
    replies[-1] = block("FINAL((history, len(history_of_messages), history_of_messages[-1]['role']))")
    root = Root(replies)
    mine, count, role = root.run(3_000, sandbox=sandbox).answer
    assert (mine, role) == (["mine"], "user")
    assert count > 30
    assert "`history_of_messages`: a list of" in root.prompts[-1][3].content


def test_a_history_that_code_rebinds_is_the_history_again_in_the_next_block() -> None:
    replies = printing(24)
    replies[-2] = block("history = None\ndel context\nprint('out-23')")
    root = Root(replies)
    assert len(root.run(3_000).answer) > 30
    assert "`history` is reserved and was restored" in root.prompts[-1][-1].content


def test_messages_that_no_encoding_has_are_in_the_history_as_they_were() -> None:
    replies = printing(24)
    replies[3] = "\ud800\n" + block("print('\\ud800' + 'x' * 800)") + "\n\udfff"
    texts = [row["content"] for row in Root(replies).run(3_000).answer]
    assert replies[3] in texts
    assert any("Output of block 1:\n\\ud800xxx" in text for text in texts)


@pytest.mark.parametrize(
    "summary", ["FINAL(41)", block("FINAL(42)"), "<think>x</think>" + block("1/0"), "```"]
)
@pytest.mark.parametrize("dialect", ["default", "paper"])
def test_what_a_summary_holds_is_never_run_nor_an_answer(summary: str, dialect: str) -> None:
    root = Root([*printing(24)[:-1], block("FINAL('end')")], lambda _: summary)
    assert root.run(3_500, dialect=dialect).answer == "end"
    assert root.requests


@pytest.mark.parametrize("tokens", [-9, 0, 1, 10**9])
def test_a_provider_that_miscounts_its_prompts_stops_no_run(tokens: int) -> None:
    replies = [*printing(24)[:-1], block("FINAL('end')")]
    root = Root([Reply(text, Usage(tokens, 5, calls=1), 0.0) for text in replies])
    root.window = 6_000
    assert root.run(3_000).answer == "end"


def test_a_repl_that_cannot_take_the_history_is_not_promised_it() -> None:
    replies = printing(24)
    replies[0] = block("import os\nfor n in range(3, 60):\n    try: os.close(n)\n    except OSError: pass")
    replies[-1] = block("FINAL('end')")
    assert Root(replies).run(3_000).answer == "end"


def test_a_summary_that_is_too_long_is_clipped() -> None:
    root = Root(printing(24), lambda _: "word " * 100_000)
    root.window = 4_000
    assert root.run(3_000).stop_reason is StopReason.ANSWERED


def test_where_the_opening_fills_the_window_nothing_is_compacted_in_vain() -> None:
    root = Root([*printing(8)[:-1], block("FINAL(1)")])
    assert root.run(500).answer == 1
    assert root.requests == []


@pytest.mark.parametrize("density", [1e-6, 0.3, 0.8, 1e6])
def test_what_is_left_of_a_turn_still_ends_in_the_state_of_the_run(density: float) -> None:
    state = (
        "[all 30 turns are used: this is your last reply. Submit the best answer that you can give: FINAL(x)]"
    )
    history = replace(begin([Message("system", "s")]), density=density)
    history = history.grown(
        [Message("assistant", "a" * 9_000), Message("user", "x" * 9_000 + state)], Usage()
    )
    assert plan(history, 0).carried_out("S", "history").prompt[-1].content.endswith(state)


def test_a_text_is_clipped_to_any_length() -> None:
    for limit in range(10):
        assert clip(Output("x" * 1_000), limit).count("x") == limit


# Properties -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6_000), min_size=1, max_size=25), st.integers(2_500, 8_000))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_prompts_only_grow_between_compactions_and_begin_alike(widths: list[int], bound: int) -> None:
    replies = [block(f"print('x' * {width})") for width in widths]
    root = Root([*replies, block("FINAL('end')")])
    assert root.run(bound, sandbox="inprocess").answer == "end"
    assert len(segments(root.prompts)) <= len(root.requests) + 1 + len([w for w in widths if w > bound // 4])
    for part in segments(root.prompts):
        for earlier, later in itertools.pairwise(part):
            assert later[: len(earlier)] == earlier
    assert all(prompt[:2] == root.prompts[0] for prompt in root.prompts)


_USAGE = st.builds(
    Usage, input_tokens=st.integers(0, 10_000), output_tokens=st.integers(0, 500), calls=st.just(1)
)
_TURN = st.tuples(st.text(max_size=300), st.text(max_size=3_000), _USAGE)


@given(
    st.text(min_size=1, max_size=400),
    st.lists(_TURN, min_size=1, max_size=12),
    st.integers(0, 5_000),
    st.text(),
)
def test_whatever_the_sizes_a_compaction_loses_no_message_and_keeps_to_its_room(
    question: str, turns: list[tuple[str, str, Usage]], bound: int, summary: str
) -> None:
    opening = (Message("system", "s"), Message("user", question))
    history = begin(opening)
    sent = list(opening)
    for reply, output, usage in turns:
        messages = (Message("assistant", reply), Message("user", output))
        history = history.grown(messages, usage)
        sent += messages
    step = plan(history, bound)
    later = step.carried_out(summary, name="history")
    assert history.everything == tuple(sent)
    assert later.everything[: len(sent)] == tuple(sent)
    assert later.prompt[:2] == opening
    assert later.prompt[-1].role == "user"
    assert len(later.turns) >= 1
    assert later.replaced + len(later.turns) == len(turns)
    if step.request:
        assert step.request[: len(step.request) - 1] == history.prompt[: len(step.request) - 1]
    assert len(summary) <= step.room or len(later.summary[0].content) <= step.room + 60


def test_repeated_compactions_keep_the_earlier_ones_in_the_history() -> None:
    history = begin([Message("system", "s"), Message("user", "q")])
    for round_ in range(3):
        for turn in range(4):
            messages = (Message("assistant", f"{round_}.{turn}"), Message("user", "o" * 2_000))
            history = history.grown(messages, Usage(calls=1))
        history = plan(history, 2_000).carried_out(f"S{round_}", name="history")
    texts = [message.content for message in history.everything]
    assert [text for text in texts if text.startswith("S") and len(text) == 2] == ["S0", "S1", "S2"]
    assert sum(text == "o" * 2_000 for text in texts) == 12
    assert history.summary[0].content == "S2"
