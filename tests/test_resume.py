"""Runs that were cut off and go on: nothing recorded is paid for twice, and the answer is the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import RLM, ConfigError, Limits, ModelError, tool
from recursor.errors import TrajectoryError
from recursor.testing import ListSink, ModelServer, ScriptedModel
from recursor.trajectory import view
from recursor.types import BlockExecuted, Completion, Diverged, Message, Reply, RunStarted, StopReason, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class Script:
    """A root LM that goes through turns by the number of replies in the prompt, and fails at a call on demand."""

    def __init__(self, *turns: str, fail_at: int | None = None) -> None:
        self.turns = [block(turn) for turn in turns]
        self.calls = 0
        self.fail_at = fail_at

    def __call__(self, messages: Sequence[Message]) -> Reply:
        self.calls += 1
        if self.fail_at == self.calls:
            raise ModelError("the provider is down")
        return Reply(
            self.turns[sum(each.role == "assistant" for each in messages)], Usage(10, 10, calls=1), 0.02
        )


def shout(messages: Sequence[Message]) -> Reply:
    return Reply(messages[-1].content.upper(), Usage(5, 5, calls=1), 0.01)


def failed(rlm: RLM, *arguments: Any, **options: Any) -> str:
    with pytest.raises(ModelError) as error:
        rlm.completion(*arguments, **options)
    assert error.value.run_id is not None
    return error.value.run_id


def rlm(script: Script, sub: ScriptedModel, store: Path, **options: Any) -> RLM:
    return RLM(ScriptedModel(script, name="root"), sub_model=sub, store=store, **options)


TURNS = (
    "a = llm_query_batched([f'item {i}' for i in range(50)]); print(len(a))",
    "b = llm_query(a[3] + ' again'); print(b)",
    "FINAL([len(a), b])",
)
ANSWER = [50, "ITEM 3 AGAIN"]


def test_a_run_goes_on_where_its_record_ends(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = failed(rlm(Script(*TURNS, fail_at=3), sub, store), "?", "some text")
    assert len(sub.requests) == 51
    again = Script(*TURNS)
    done = rlm(again, sub, store).resume(run_id[:8], "some text")
    assert (done.answer, done.run_id, done.stop_reason) == (ANSWER, run_id, StopReason.ANSWERED)
    assert len(sub.requests) == 51
    assert again.calls == 1
    assert (done.replayed, done.diverged_at) == (53, None)
    assert done.usage.calls == 54
    assert done.cost == pytest.approx(51 * 0.01 + 3 * 0.02)


def test_a_finished_run_gives_its_answer_again_and_asks_nothing(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    first = rlm(Script(*TURNS), sub, store).completion("?")
    nobody = Script(*TURNS)
    done = rlm(nobody, sub, store).resume(first.run_id)
    assert (done.answer, done.cost, nobody.calls) == (ANSWER, first.cost, 0)


def test_a_run_that_a_limit_ended_goes_on_under_a_larger_one(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    first = rlm(Script(*TURNS), sub, store, limits=Limits(max_cost=0.55)).completion("?")
    assert first.stop_reason is StopReason.MAX_COST
    paid = len(sub.requests)
    done = rlm(Script(*TURNS), sub, store, limits=Limits(max_cost=5.0)).resume(first.run_id)
    assert done.answer == ANSWER
    assert len(sub.requests) == max(paid, 51)


def test_tools_that_did_their_work_do_not_do_it_again(tmp_path: Path) -> None:
    sent: list[str] = []

    @tool
    def send(text: str) -> int:
        """Send a letter."""
        sent.append(text)
        return len(sent)

    @tool
    def fail() -> None:
        """Fail."""
        sent.append("failed")
        raise ValueError("no")

    turns = ("n = send('a'); m = send('a')\ntry: fail()\nexcept SubcallError as e: print(e)", "FINAL([n, m])")
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = failed(rlm(Script(*turns, fail_at=2), sub, store, tools=[send, fail]), "?")
    done = rlm(Script(*turns), sub, store, tools=[send, fail]).resume(run_id)
    assert (done.answer, sent) == ([1, 2], ["a", "a", "failed"])


def test_children_that_answered_do_not_run_again(tmp_path: Path) -> None:
    def turn(messages: Sequence[Message]) -> Reply:
        child = "Question: child" in messages[1].content
        replies = sum(each.role == "assistant" for each in messages)
        if child:
            return Reply(block("FINAL(context * 2)"), Usage(1, 1, calls=1), 0.01)
        return Reply(
            [block("x = rlm_query_batched(['child'] * 3, ['a', 'b', 'a']); print(x)"), block("FINAL(x)")][replies],
            Usage(1, 1, calls=1), 0.01,
        )  # fmt: skip

    calls = 0

    def dying(messages: Sequence[Message]) -> Reply:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ModelError("down")
        return turn(messages)

    store = tmp_path / "runs.db"
    deep = Limits(max_depth=2)
    run_id = failed(RLM(ScriptedModel(dying, name="m"), limits=deep, store=store), "?")
    model, sink = ScriptedModel(turn, name="m"), ListSink()
    done = RLM(model, sinks=[sink], limits=deep, store=store).resume(run_id)
    assert (done.answer, len(model.requests), done.replayed) == (["aa", "bb", "aa"], 1, 4)
    assert [each.run_id for each in sink.events if isinstance(each, RunStarted)] == [run_id]
    assert done.cost == pytest.approx(0.05)


def test_time_and_chance_show_again_what_they_showed(tmp_path: Path) -> None:
    turns = (
        "import random, time, uuid, os, datetime\n"
        "seen = [random.random(), time.time(), str(uuid.uuid4()), os.urandom(4).hex(), str(datetime.datetime.now())]\n"
        "x = llm_query(repr(seen)); print(x); print(list({'a', 'b', 'c', 'd'}))",
        "FINAL(seen)",
    )
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = failed(rlm(Script(*turns, fail_at=2), sub, store), "?")
    done = rlm(Script(*turns), sub, store).resume(run_id)
    assert (len(sub.requests), done.diverged_at) == (1, None)
    assert repr(done.answer).upper() == sub.requests[0][0].content.upper()


def test_what_diverges_goes_on_live_and_is_told(tmp_path: Path) -> None:
    store, sub, sink = tmp_path / "runs.db", ScriptedModel(shout, name="sub"), ListSink()
    changed: list[int] = []

    @tool
    def roll() -> float:
        """Change with each attempt, and cannot be recorded."""
        changed.append(1)
        return float(len(changed))

    turns = (
        "import os\nx = llm_query(f'{value()}'); print(x)",
        "y = llm_query('b' + x); print(y)",
        "FINAL(y)",
    )
    first = tool(name="value")(lambda: "one")
    run_id = failed(rlm(Script(*turns, fail_at=3), sub, store, tools=[first, roll]), "?")
    with view.open(store) as recorded:
        paid = sum(call.cost or 0.0 for call in recorded.calls(run_id))
    _forget_tools(store)
    second = tool(name="value")(lambda: "two")
    done = rlm(Script(*turns), sub, store, tools=[second, roll], sinks=[sink]).resume(run_id)
    assert (done.answer, done.diverged_at) == ("BTWO", 1)
    told = [event for event in sink.events if isinstance(event, Diverged)]
    assert [(event.turn, event.run_id) for event in told] == [(1, run_id)]
    assert done.cost is not None
    assert done.cost >= paid + 2 * 0.01  # what was paid for before counts, though it did not come by again


def _forget_tools(store: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM tool")


def test_a_context_must_be_what_it_was(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    file = tmp_path / "data.txt"
    file.write_text("first")
    run_id = failed(rlm(Script(*TURNS, fail_at=3), sub, store), "?", file)
    file.write_text("other")
    with pytest.raises(ConfigError, match=r"`context` is not what run .* was given"):
        rlm(Script(*TURNS), sub, store).resume(run_id)
    file.unlink()
    with pytest.raises(ConfigError, match="which is not there: pass it again"):
        rlm(Script(*TURNS), sub, store).resume(run_id)
    with pytest.raises(ConfigError, match="was given context, and now context, messages"):
        rlm(Script(*TURNS), sub, store).resume(run_id, "first", messages=[{"role": "user", "content": "?"}])
    file.write_text("first")
    assert rlm(Script(*TURNS), sub, store).resume(run_id).answer == ANSWER


def test_what_cannot_be_resumed_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = failed(rlm(Script(*TURNS, fail_at=3), sub, store), "?", "value")
    with pytest.raises(ConfigError, match="recorded by its digest alone: pass the same again"):
        rlm(Script(*TURNS), sub, store).resume(run_id)
    with pytest.raises(ConfigError, match="were made by 'root', and this RLM has 'other', 'sub'"):
        RLM(ScriptedModel([], name="other"), sub_model=sub, store=store).resume(run_id, "value")
    with pytest.raises(ConfigError, match="needs the store"):
        RLM(ScriptedModel([], name="root"), sub_model=sub).resume(run_id, "value")
    with pytest.raises(TrajectoryError, match="there is no run 'nothing'"):
        rlm(Script(*TURNS), sub, store).resume("nothing")


def test_the_record_of_a_resumed_run_reads_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = failed(rlm(Script(*TURNS, fail_at=3), sub, store), "?")
    rlm(Script(*TURNS), sub, store).resume(run_id)
    whole = tmp_path / "whole.db"
    unbroken = rlm(Script(*TURNS), sub, whole).completion("?")
    kept = [_story(store, run_id), _story(whole, unbroken.run_id)]
    assert kept[0] == kept[1]


def _story(store: Path, run_id: str) -> Any:
    with view.open(store) as recorded:
        run = recorded.run(run_id)
        calls = Counter((call.turn, call.purpose, call.reply, call.error) for call in recorded.calls(run.id))
        events = Counter(event.kind for event in recorded.events(run.id))
        return (
            run.answer,
            run.stop_reason,
            run.usage,
            calls - Counter([(3, "root", None, "the provider is down")]),
            events,
        )


@given(st.integers(1, 130))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_replay_equals_the_original_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """The model dies at any call, as the machine does; the resumed run pays for every prompt once."""
    turns = (
        "a = llm_query_batched([f'one {i}' for i in range(60)], return_exceptions=True); print(a[:3])",
        "b = llm_query_batched([f'two {i} {a[i]}' for i in range(60)], return_exceptions=True); print(b[-1])",
        "FINAL(b)",
    )
    store = tmp_path_factory.mktemp("cut") / "runs.db"
    asked: Counter[str] = Counter()
    stop = threading.Event()

    def answer(messages: Sequence[Message]) -> Reply:
        if sum(asked.values()) >= cut and not stop.is_set():
            raise SystemExit("the machine went down")
        asked[messages[-1].content if len(messages) == 1 else str(len(messages))] += 1
        if len(messages) == 1:
            return shout(messages)
        return Reply(
            block(turns[sum(each.role == "assistant" for each in messages)]), Usage(1, 1, calls=1), 0.0
        )

    model = ScriptedModel(answer, name="m")
    sink = ListSink()
    made = RLM(model, store=store, sinks=[sink])
    try:
        done: Completion | None = made.completion("?")
    except ModelError:
        done = None
    stop.set()
    run_id = next(each.run_id for each in sink.events if isinstance(each, RunStarted))
    if done is None:
        done = made.resume(run_id)
        assert done.usage.calls >= 123
    assert max(asked.values()) == 1
    executed = [each for each in sink.events if isinstance(each, BlockExecuted)]
    assert executed[-1].execution.submission is not None


# From the command line, with a real end -------------------------------------------------------


def test_a_run_killed_at_any_moment_pays_for_nothing_twice(tmp_path: Path) -> None:
    code = "r = llm_query_batched([f'item {i}' for i in range(400)]); print(len(r))"
    seen: Counter[str] = Counter()
    enough = threading.Event()

    def answer(messages: Sequence[Message]) -> str:
        if messages[0].role == "system":
            return block(code) if len(messages) == 2 else block("FINAL(sum(len(x) for x in r))")
        seen[messages[0].content] += 1
        if len(seen) == 150:
            enough.set()
        return "reply"

    environment = {
        **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip
    (tmp_path / "text").write_text("x" * 123)
    with ModelServer(ScriptedModel(answer, latency=0.02)) as server:
        asking = subprocess.Popen(
            [sys.executable, "-m", "recursor", "ask", "How long?", "text", "--model", "m", "--base-url", server.url,
             "--max-subcalls-in-flight", "16"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert enough.wait(60)
        asking.send_signal(signal.SIGKILL)
        _, said = asking.communicate(timeout=60)
        started = re.search(r"run ([0-9a-f]{32})", said)
        assert started is not None
        done = subprocess.run(
            [sys.executable, "-m", "recursor", "resume", started[1][:10], "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answer"] == 400 * len("reply")
    assert told["replayed"] >= 150 - 16
    assert len(seen) == 400
    twice = [prompt for prompt, times in seen.items() if times > 1]
    assert len(twice) <= 16 + 1  # those that were out when the process died
