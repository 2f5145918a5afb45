"""What a resumed run does with all that was not a plain reply: refusals, failures, limits, other attempts."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM, Limits, ModelError, StopReason, tool
from recursor.errors import ContextOverflow, TrajectoryError
from recursor.testing import ListSink, ModelServer, ScriptedModel
from recursor.trajectory import jsonl, view
from recursor.types import Compacted, Diverged, Message, Reply, RunEnded, RunStarted, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class Turns:
    """A root LM that goes through turns by the replies in its prompt; it is down at some calls, counted from 1."""

    def __init__(self, *codes: str, down: Sequence[int] = (), first: float = 0.02) -> None:
        self.codes, self.down, self.calls, self.first = codes, down, 0, first

    def __call__(self, messages: Sequence[Message]) -> Reply:
        self.calls += 1
        if self.calls in self.down:
            raise ModelError("the provider is down")
        turn = sum(each.role == "assistant" for each in messages)
        return Reply(block(self.codes[turn]), Usage(10, 10, calls=1), 0.02 if turn else self.first)


def made(root: Any, sub: Any, store: Path, **options: Any) -> RLM:
    sub_model = ScriptedModel(sub, name="sub") if callable(sub) else sub
    return RLM(ScriptedModel(root, name="root"), sub_model=sub_model, store=store, **options)


def shout(messages: Sequence[Message]) -> Reply:
    return Reply(messages[-1].content.upper(), Usage(5, 5, calls=1), 0.01)


def broken(rlm: RLM, *arguments: Any) -> str:
    with pytest.raises(ModelError) as error:
        rlm.completion(*arguments)
    return str(error.value.run_id)


def test_a_batch_that_was_refused_is_refused_again_and_not_paid_for(tmp_path: Path) -> None:
    codes = (
        "try: llm_query_batched(['a'] * 50)\nexcept SubcallError as e: print(e)",
        "print(llm_query('b'))",
        "FINAL(1)",
    )
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    limits = Limits(max_calls=20)
    run_id = broken(made(Turns(*codes, down=[3]), sub, store, limits=limits), "?")
    root, sink = Turns(*codes), ListSink()
    done = made(root, sub, store, limits=limits, sinks=[sink]).resume(run_id)
    assert (done.answer, done.diverged_at, root.calls, len(sub.requests)) == (1, None, 1, 1)


def test_calls_that_were_refused_one_by_one_are_refused_again(tmp_path: Path) -> None:
    codes = (
        "r = llm_query_batched((f'{i}' for i in range(90)), return_exceptions=True); print(sum(map(bool, r)), r[-1])",
        "print('on')",
        "FINAL(1)",
    )
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    limits = Limits(max_cost=1.0)
    run_id = broken(made(Turns(*codes, down=[3], first=0.2), sub, store, limits=limits), "?")
    asked = len(sub.requests)
    assert 40 < asked < 90
    root = Turns(*codes)
    done = made(root, sub, store, limits=limits).resume(run_id)
    assert (done.diverged_at, len(sub.requests), root.calls) == (None, asked, 1)


def test_under_a_larger_limit_what_was_refused_is_asked_for(tmp_path: Path) -> None:
    codes = ("print(len(llm_query_batched([f'{i}' for i in range(50)])))", "FINAL(1)")
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    run_id = broken(made(Turns(*codes, down=[2]), sub, store, limits=Limits(max_cost=0.3)), "?")
    before = len(sub.requests)
    assert 0 < before < 50
    done = made(Turns(*codes), sub, store, limits=Limits(max_cost=3.0)).resume(run_id)
    assert (done.answer, len(sub.requests)) == (1, 50)


def test_after_its_record_a_resumed_run_refuses_batches_as_a_whole(tmp_path: Path) -> None:
    codes = ("print('one')", "try: llm_query_batched(['a'] * 50)\nexcept SubcallError as e: FINAL(str(e))")
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    limits = Limits(max_calls=20)
    run_id = broken(made(Turns(*codes, down=[2]), sub, store, limits=limits), "?")
    done = made(Turns(*codes), sub, store, limits=limits).resume(run_id)
    assert "none was sent" in done.answer
    assert sub.requests == []


def test_a_child_that_failed_in_a_turn_that_is_over_is_not_asked_again(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def answer(messages: Sequence[Message]) -> Reply:
        child = "Question: child" in messages[1].content
        asked["child" if child else "root"] += 1
        if child or asked["root"] == 3:
            raise ModelError("down for once")
        codes = (
            "try: rlm_query('child', 'x')\nexcept SubcallError as e: said = str(e); print(said)",
            "1",
            "FINAL(said)",
        )
        return Reply(
            block(codes[sum(each.role == "assistant" for each in messages)]), Usage(1, 1, calls=1), 0.0
        )

    rlm = RLM(ScriptedModel(answer), store=tmp_path / "runs.db", limits=Limits(max_depth=2))
    done = rlm.resume(broken(rlm, "?"))
    assert (done.answer, done.diverged_at, asked) == ("down for once", None, {"root": 4, "child": 1})


def test_a_child_that_a_limit_ended_in_a_turn_that_is_over_ends_as_it_did(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def answer(messages: Sequence[Message]) -> Reply:
        child = "Question: child" in messages[1].content
        asked["child" if child else "root"] += 1
        if asked["root"] == 3:
            raise ModelError("down for once")
        turn = sum(each.role == "assistant" for each in messages)
        codes = ("x = rlm_query('child', 'x', limits={'max_turns': 1}); print(x)", "1", "FINAL(x)")
        code = f"answer['content'] = 'half {turn}'" if child else codes[turn]
        return Reply(block(code), Usage(1, 1, calls=1), 0.0)

    rlm = RLM(ScriptedModel(answer), store=tmp_path / "runs.db", limits=Limits(max_depth=2))
    done = rlm.resume(broken(rlm, "?"))
    assert (done.answer, done.diverged_at, asked) == ("half 1", None, {"root": 4, "child": 2})


def test_a_prompt_that_did_not_fit_is_not_sent_again(tmp_path: Path) -> None:
    sent: list[int] = []
    overflow = {3}

    def answer(messages: Sequence[Message]) -> Reply:
        sent.append(len(messages))
        if "Write that summary now" in messages[-1].content:
            return Reply("a summary", Usage(10, 10, calls=1), 0.0)
        if len(sent) in overflow:
            raise ContextOverflow("the prompt is too long")
        if len(sent) == 7:
            raise ModelError("down")
        code = "FINAL(1)" if len(sent) > 7 else "print('x' * 9000)"
        return Reply(block(code), Usage(3_000 * len(messages), 10, calls=1), 0.0)

    sink = ListSink()
    rlm = RLM(ScriptedModel(answer), store=tmp_path / "runs.db", sinks=[sink])
    run_id = broken(rlm, "?")
    done = rlm.resume(run_id)
    assert (done.answer, done.diverged_at, len(sent)) == (1, None, 8)
    with view.open(tmp_path / "runs.db") as recorded:
        kinds = [event.kind for event in recorded.events(run_id)]
    assert kinds.count("Compacted") == len({str(e) for e in sink.events if isinstance(e, Compacted)})
    assert kinds[-1] == "RunEnded"


def test_a_third_attempt_replays_what_the_second_paid_after_a_divergence(tmp_path: Path) -> None:
    said = iter(("one", "two", "two"))
    store, sub = tmp_path / "runs.db", ScriptedModel(shout, name="sub")
    codes = (
        "x = llm_query(value()); print(x)",
        "y = llm_query('b' + x); print(y)",
        "z = llm_query('c' + y); print(z)",
        "FINAL(z)",
    )

    def attempt(*down: int) -> tuple[RLM, ListSink]:
        word, sink = next(said), ListSink()
        tools = [tool(name="value")(lambda: word)]
        return made(Turns(*codes, down=down), sub, store, tools=tools, sinks=[sink]), sink

    rlm, _ = attempt(4)
    run_id = broken(rlm, "?")
    _forget(store, "tool")
    rlm, sink = attempt(2)
    with pytest.raises(ModelError):
        rlm.resume(run_id)
    assert any(isinstance(event, Diverged) for event in sink.events)
    with view.open(store) as recorded:
        paid = sum(call.cost or 0.0 for call in recorded.calls(run_id))
    before = len(sub.requests)
    rlm, sink = attempt()
    done = rlm.resume(run_id)
    assert (done.answer, done.diverged_at, len(sub.requests) - before) == ("CBTWO", None, 1)
    assert done.cost == pytest.approx(paid + 0.01 + 2 * 0.02)


def _forget(store: Path, table: str) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(f"DELETE FROM {table}")


def test_another_endpoint_goes_on_with_what_is_recorded(tmp_path: Path) -> None:
    def turns(messages: Sequence[Message]) -> str:
        if messages[0].role != "system":
            return "reply"
        return block("x = llm_query('a'); print(x)" if len(messages) == 2 else "FINAL(x)")

    store = tmp_path / "runs.db"
    with ModelServer(turns) as first:
        rlm = RLM(
            "m",
            base_url=first.url + "?key=sk-secret",
            api_key="sk-also-secret",
            store=store,
            limits=Limits(max_turns=1),
        )
        one = rlm.completion("?")
    assert one.stop_reason is StopReason.MAX_TURNS
    assert b"secret" not in store.read_bytes()
    with ModelServer(turns) as second:
        done = RLM("m", base_url=second.url, store=store).resume(one.run_id)
        assert done.diverged_at is None
        assert all("reply" in str(request) for request in second.requests)


def test_one_attempt_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    store, begun, go = tmp_path / "runs.db", threading.Event(), threading.Event()
    run_id = broken(made(Turns("1", "FINAL(2)", down=[2]), shout, store), "?")

    async def slow(_: Sequence[Message]) -> str:
        begun.set()
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, go.wait)
        return block("FINAL(2)")

    answers: list[Any] = []
    one = threading.Thread(target=lambda: answers.append(made(slow, shout, store).resume(run_id).answer))
    one.start()
    assert begun.wait(20)
    with pytest.raises(TrajectoryError, match=f"run {run_id} is at work"):
        made(Turns("1", "FINAL(2)"), shout, store).resume(run_id)
    go.set()
    one.join(20)
    assert answers == [2]


@pytest.mark.parametrize("dialect", ["default", "reference", "paper", "async"])
def test_each_dialect_resumes_under_more_turns(tmp_path: Path, dialect: str) -> None:
    wait = "await " if dialect == "async" else ""
    codes = (
        f"x = {wait}llm_query('a'); print(x)",
        f"y = {wait}llm_query('b'); print(y)",
        "answer['content'] = x + y; answer['ready'] = True",
    )
    sub, sink = ScriptedModel(shout, name="sub"), ListSink()
    store = tmp_path / "runs.db"
    made(Turns(*codes, codes[1]), sub, store, dialect=dialect, limits=Limits(max_turns=1)).completion(
        "?", "some text"
    )
    with view.open(store) as recorded:
        run_id = recorded.runs()[0].id
    root = Turns(*codes)
    done = made(root, sub, store, dialect=dialect, limits=Limits(max_turns=9), sinks=[sink]).resume(
        run_id, "some text"
    )
    assert (done.answer, done.diverged_at, root.calls, len(sub.requests)) == ("AB", None, 1, 2)


SETS = """
import sys
from recursor import RLM, tool
from recursor.errors import ModelError
from recursor.testing import ScriptedModel
calls = []
@tool
def note(words): "Note them."; calls.append(1); return len(words)
word = {f"word {i}" for i in range(9)}
codes = ["n = note({f'word {i}' for i in range(9)}); print(n)", "FINAL(n)"]
def turn(messages):
    number = sum(each.role == "assistant" for each in messages)
    if number == 1 and sys.argv[1] == "ask": raise ModelError("down")
    return "```repl\\n" + codes[number] + "\\n```"
rlm = RLM(ScriptedModel(turn), store="runs.db", tools=[note])
try: done = rlm.completion("?", word) if sys.argv[1] == "ask" else rlm.resume(sys.argv[2], word)
except ModelError as error: print(error.run_id)
else: print(done.answer, done.diverged_at, calls)
"""


def test_sets_are_the_same_in_each_process(tmp_path: Path) -> None:
    def run(seed: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SETS, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("2", "resume", run("1", "ask")) == "9 None []"


def test_a_resumed_run_goes_on_in_the_cache_where_it_was(tmp_path: Path) -> None:
    count, down = 0, [True]

    def answer(messages: Sequence[Message]) -> Reply:
        nonlocal count
        if len(messages) == 1:
            count += 1
            return Reply(f"{messages[0].content}{count}", Usage(5, 5, calls=1), 0.01)
        if "Question: child" in messages[1].content:
            return Reply(block("FINAL(llm_query('a'))"), Usage(1, 1, calls=1), 0.0)
        turn = sum(each.role == "assistant" for each in messages)
        if turn == 1 and down:
            raise ModelError(f"down {down.pop()}")
        code = ("x = [llm_query('a'), rlm_query('child', 'x')]; print(x)", "FINAL([*x, llm_query('a')])")[
            turn
        ]
        return Reply(block(code), Usage(1, 1, calls=1), 0.0)

    store = tmp_path / "runs.db"
    rlm = RLM(ScriptedModel(answer), store=store, cache="workspace", limits=Limits(max_depth=2))
    assert rlm.resume(broken(rlm, "?")).answer == ["a1", "a2", "a3"]


def test_a_stream_of_a_run_that_answered_asks_and_records_nothing(tmp_path: Path) -> None:
    import asyncio

    store = tmp_path / "runs.db"
    first = made(Turns("FINAL([1])"), shout, store).completion("?", "gone")
    nobody = Turns()

    async def events() -> list[Any]:
        return [event async for event in made(nobody, shout, store).stream(resume=first.run_id)]

    found = asyncio.run(events())
    assert [type(event) for event in found] == [RunStarted, RunEnded]
    assert (found[-1].completion.answer, nobody.calls) == ([1], 0)


def test_an_export_of_a_resumed_run_is_in_order_and_of_one_moment(tmp_path: Path) -> None:
    import io

    store = tmp_path / "runs.db"
    codes = ("print(llm_query('a'))", "print(llm_query('b'))", "FINAL(1)")
    run_id = broken(made(Turns(*codes, down=[2]), shout, store), "?")
    made(Turns(*codes), shout, store).resume(run_id)
    out = io.StringIO()
    with view.open(store) as recorded:
        jsonl.export(recorded, run_id, out)
    events = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert (events[0], events[-1], events.count("run_ended")) == ("run_started", "run_ended", 1)


def test_an_export_beside_a_run_that_is_recorded_is_of_one_moment(tmp_path: Path) -> None:
    import io

    store, rounds = tmp_path / "runs.db", threading.Event()
    lines: list[str] = []

    def export_now(messages: Sequence[Message]) -> str:
        class Slow(io.StringIO):
            def write(self, text: str) -> int:
                if not self.tell():
                    rounds.set()  # the run goes on while the first line is written
                    finished.wait(20)
                return super().write(text)

        out = Slow()
        with view.open(store) as recorded:
            jsonl.export(recorded, recorded.runs()[0].id, out)
        lines.extend(out.getvalue().splitlines())
        return ""

    finished = threading.Event()

    def turn(messages: Sequence[Message]) -> str:
        number = sum(each.role == "assistant" for each in messages)
        if number == 1:
            exporting.start()
            assert rounds.wait(20)
        return block("print(llm_query('a'))" if number < 3 else "FINAL(1)")

    exporting = threading.Thread(target=export_now, args=((),))
    done = made(turn, shout, store).completion("?")
    finished.set()
    exporting.join(20)
    events = [json.loads(line)["event"] for line in lines]
    assert done.answer == 1
    assert (events[0], events.count("model_called"), "run_ended" in events) == ("run_started", 2, False)


def test_ctrl_c_in_a_batch_prints_a_command_that_goes_on(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    enough = threading.Event()

    def answer(messages: Sequence[Message]) -> str:
        if messages[0].role == "system":
            code = "r = llm_query_batched([f'{w} {len(context)}' for w in range(200)]); print(len(r))"
            return block(code if len(messages) == 2 else "FINAL(len(r))")
        asked[messages[0].content] += 1
        if len(asked) == 60:
            enough.set()
        return "reply"

    environment = {
        **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip
    (tmp_path / "my config.toml").write_text("[limits]\nmax_subcalls_in_flight = 8\n")
    with ModelServer(ScriptedModel(answer, latency=0.02)) as server:
        command = [sys.executable, "-m", "recursor", "ask", "How long?", "-", "--model", "m", "--base-url", server.url,
                   "--store", "here.db", "--config", "my config.toml"]  # fmt: skip
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as asking:  # fmt: skip
            assert asking.stdin is not None
            asking.stdin.write("some text")
            asking.stdin.close()
            asking.stdin = None
            assert enough.wait(60)
            asking.send_signal(signal.SIGINT)
            _, said = asking.communicate(timeout=60)
        assert asking.returncode == 130
        again = re.search(r"To go on: (recursor .*)", said)
        assert again is not None
        assert again[1].endswith("- --store here.db --config 'my config.toml'")
        done = subprocess.run(
            f"{sys.executable} -m {again[1]} -q", shell=True, cwd=tmp_path, env=environment, input="some text",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert len([prompt for prompt, times in asked.items() if times > 1]) <= 8
