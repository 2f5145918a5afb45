"""`recursor ask --batch`, run as a user runs it, and killed as users' machines do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import Batches
from recursor.cli.questions import Questions
from recursor.errors import ConfigError
from recursor.testing import ModelServer
from recursor.types import Message
from terminal import Terminal, screen, text


class Model:
    """Answers in two turns with the length of the context; holds calls back until it is let go.

    Args:
        hold_from: the number of the first call that is held.
        held: questions whose calls are.
    """

    def __init__(self, hold_from: int | None = None, held: Collection[str] = ()) -> None:
        self.asked: Counter[str] = Counter()
        self.reached = threading.Event()
        self._hold_from = hold_from
        self._held = held
        self._calls = 0
        self._go: concurrent.futures.Future[None] = concurrent.futures.Future()

    def let_go(self) -> None:
        self._hold_from, self._held = None, ()
        self._go.set_result(None)

    async def __call__(self, messages: Sequence[Message]) -> str:
        question = messages[1].content.partition("Question: ")[2].splitlines()[0]
        turn = sum(message.role == "assistant" for message in messages)
        self.asked[f"{question}, turn {turn + 1}"] += 1
        self._calls += 1
        late = self._hold_from is not None and self._calls >= self._hold_from
        if late or question in self._held:
            self.reached.set()
            await asyncio.shield(asyncio.wrap_future(self._go))  # clients that are killed let go of it
        if "limit" in question:
            return "```repl\n1\n```"
        return "```repl\nn = len(context)\n```" if turn == 0 else f"```repl\nFINAL([{question!r}, n])\n```"


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    return Batches(tmp_path)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(Model()) as running:
        yield running


def test_each_line_in_gives_a_line_out(batches: Batches, server: ModelServer) -> None:
    (batches.folder / "own").write_text("own")
    batches.questions(
        "plain", {"id": "b", "question": "given an id"}, {"question": "own data", "context": [1, 2]},
        {"question": "own file", "path": "own", "schema": {"type": "array"}},
    )  # fmt: skip
    done = batches.run(server, "--batch", "q.jsonl", "text")
    assert done.returncode == 0, done.stderr
    rows = {row["line"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert [rows[line]["answer"] for line in (1, 2, 3, 4)] == [
        ["plain", 100], ["given an id", 100], ["own data", 2], ["own file", 3],
    ]  # fmt: skip
    assert (rows[2]["id"], "id" in rows[1]) == ("b", False)
    assert rows[1]["usage"]["calls"] == 2
    assert "4 of 4 questions answered" in done.stderr


def test_tables_and_plain_text_hold_questions_too(batches: Batches, server: ModelServer) -> None:
    (batches.folder / "q.csv").write_text(
        'id,question,context\n1,"two\nlines, here",\n\n2,with its own,abc\n', "utf-8-sig"
    )
    done = batches.run(server, "--batch", "q.csv", "text", "-q")
    rows = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {name: (row["line"], row["answer"][1]) for name, row in rows.items()} == {
        "1": (2, 100),
        "2": (5, 3),
    }
    (batches.folder / "q.txt").write_text('What is "this"?\r\n\r\n{not: json}\n')
    done = batches.run(server, "--batch", "q.txt", "text", "-q")
    asked = {row["line"]: row["question"] for row in map(json.loads, done.stdout.splitlines())}
    assert asked == {1: 'What is "this"?', 3: "{not: json}"}
    done = batches.run(server, "--batch", "-", "text", "-q", stdin='{"question": "a"}\nb\n')
    assert {json.loads(line)["question"] for line in done.stdout.splitlines()} == {"a", "b"}


def test_wrong_lines_are_named_and_nothing_is_paid(batches: Batches, server: ModelServer) -> None:
    lines = [
        '{"question": "right"}',
        "{",
        '{"qestion": "x"}',
        '{"question": "x", "path": "gone"}',
        '{"question": 1}',
    ]
    (batches.folder / "q.jsonl").write_text("\n".join(lines))
    done = batches.run(server, "--batch", "q.jsonl", "text", "--output", "out.jsonl")
    assert done.returncode == 2
    for line, why in (
        (2, "no JSON"),
        (3, "did you mean 'question'"),
        (4, "no such file"),
        (5, "must be a text"),
    ):
        assert any(f"line {line}" in said and why in said for said in done.stderr.splitlines()), done.stderr
    assert "line 1:" not in done.stderr
    assert not server.requests
    assert not (batches.folder / "out.jsonl").exists()


def test_what_failed_has_an_error_and_does_not_stop_the_rest(batches: Batches) -> None:
    def model(messages: Sequence[Message]) -> str:
        return "```repl\nFINAL(1)\n```"

    with ModelServer(model) as server:
        server.fail_next(status=400, message="this is not allowed")
        batches.questions(*(f"q{n}" for n in range(5)))
        done = batches.run(
            server, "--batch", "q.jsonl", "text", "--output", "out.jsonl", "--max-concurrency", "1"
        )
        assert done.returncode == 1
        rows = batches.rows()
        assert rows[1]["error"]["type"] == "ModelError"
        assert "not allowed" in rows[1]["error"]["message"]
        assert (rows[1]["error"]["status"], rows[1]["usage"]["calls"]) == (400, 1)
        assert [rows[line]["answer"] for line in (2, 3, 4, 5)] == [1] * 4
        assert "line 1: ModelError" in done.stderr
        assert "1 failed" in done.stderr
        again = batches.run(server, "--batch", "q.jsonl", "text", "--output", "out.jsonl", "--resume")
    assert again.returncode == 0, again.stderr
    assert [row["answer"] for row in batches.rows().values()] == [1] * 5


def test_a_limit_is_exit_code_3_and_the_command_to_go_on_is_said(
    batches: Batches, server: ModelServer
) -> None:
    batches.questions("q1", "limit")
    done = batches.run(server, "--batch", "q.jsonl", "text", "--max-turns", "2", "--output", "o")
    assert done.returncode == 3
    assert "1 ended by a limit" in done.stderr
    assert batches.rows("o")[2]["stop_reason"] == "max_turns"
    (command,) = [line for line in done.stderr.splitlines() if "to go on" in line]
    assert "--name" in command


def test_bounds_of_all_together_leave_questions_that_a_larger_one_asks(
    batches: Batches, server: ModelServer
) -> None:
    batches.questions(*(f"q{n}" for n in range(12)))
    words = ("--batch", "q.jsonl", "text", "--output", "out.jsonl")
    done = batches.run(server, *words, "--max-total-calls", "11", "--max-concurrency", "4")
    assert done.returncode == 3
    assert len(server.requests) <= 11
    assert "not asked" in done.stderr
    before = [row["line"] for row in batches.rows().values() if row["stop_reason"] == "answered"]
    assert len(before) <= 5
    done = batches.run(server, *words, "--resume", "--max-total-calls", "40")
    assert done.returncode == 0, done.stderr
    assert sorted(batches.rows()) == list(range(1, 13))
    assert len(server.requests) <= 26


@pytest.mark.parametrize("torn", ["", '{"line": 3, "question": "q2", "answer"'])
def test_a_killed_batch_goes_on_and_pays_nothing_twice(batches: Batches, torn: str) -> None:
    model = Model(hold_from=14)
    with ModelServer(model) as server:
        batches.questions(*(f"q{n}" for n in range(20)))
        words = ("--batch", "q.jsonl", "text", "--output", "out.jsonl", "--max-concurrency", "3")
        process = batches.start(server, *words)
        assert model.reached.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done_before = len(batches.rows())
        with (batches.folder / "out.jsonl").open("a") as file:
            file.write(torn)
        held = sum(model.asked.values())
        model.let_go()
        refused = batches.run(server, *words)
        assert refused.returncode == 2
        assert "--resume" in refused.stderr
        done = batches.run(server, *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert 0 < done_before < 20
    assert {line: row["answer"] for line, row in batches.rows().items()} == {
        n + 1: [f"q{n}", 100] for n in range(20)
    }
    twice = sum(count - 1 for count in model.asked.values())
    assert twice <= 3  # those that were out when it was killed
    assert sum(model.asked.values()) - held <= 40 - held + 3


def test_a_killed_batch_that_wrote_to_stdout_goes_on(batches: Batches) -> None:
    model = Model(hold_from=8)
    with ModelServer(model) as server:
        batches.questions(*(f"q{n}" for n in range(6)))
        process = batches.start(server, "--batch", "q.jsonl", "text", "--max-concurrency", "2")
        assert model.reached.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        model.let_go()
        done = batches.run(server, "--batch", "q.jsonl", "text", "--resume")
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["line"] for line in done.stdout.splitlines()) == list(range(1, 7))
    assert sum(count - 1 for count in model.asked.values()) <= 2


def test_without_a_store_the_file_of_results_says_what_is_done(batches: Batches) -> None:
    model = Model(hold_from=8)
    with ModelServer(model) as server:
        batches.questions(*(f"q{n}" for n in range(6)))
        words = ("--batch", "q.jsonl", "text", "--output", "o", "--max-concurrency", "1", "--no-store")
        process = batches.start(server, *words)
        assert model.reached.wait(30)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(batches.rows("o")) == 3
        model.let_go()
        done = batches.run(server, *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert sorted(batches.rows("o")) == list(range(1, 7))
    assert [model.asked[f"q{n}, turn 2"] for n in range(3)] == [1, 1, 1]


def test_ctrl_c_stops_all_and_says_the_command_to_go_on(batches: Batches) -> None:
    model = Model(hold_from=5)
    with ModelServer(model) as server:
        batches.questions(*(f"q{n}" for n in range(6)))
        process = batches.start(server, "--batch", "q.jsonl", "text", "--output", "out.jsonl")
        assert model.reached.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
        model.let_go()
        (command,) = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("to go on")]
        assert command.startswith("recursor ask --batch q.jsonl text")
        done = batches.run(None, *command.split()[2:])
    assert done.returncode == 0, done.stderr
    assert sorted(batches.rows()) == list(range(1, 7))


def test_a_wrong_key_ends_it_with_its_exit_code(batches: Batches) -> None:
    with ModelServer(Model(), api_key="right") as server:
        batches.questions(*(f"q{n}" for n in range(50)))
        done = batches.run(
            server, "--batch", "q.jsonl", "text", "--output", "out.jsonl", "--max-concurrency", "2"
        )
        assert done.returncode == 4
        assert len(server.headers) <= 6
    assert "not asked" in done.stderr


def test_results_of_something_else_are_left_alone(batches: Batches, server: ModelServer) -> None:
    batches.questions("q1")
    words = ("--batch", "q.jsonl", "text", "--output", "out.jsonl", "--name", "n")
    for held in ("notes\n", '{"line": 1, "question": "another", "run_id": "x", "usage": {}}\n'):
        (batches.folder / "out.jsonl").write_text(held)
        done = batches.run(server, *words)
        assert done.returncode == 2
        assert "name another file" in done.stderr
        assert (batches.folder / "out.jsonl").read_text() == held
    assert not server.requests


def test_all_answers_follow_the_schema_of_a_file(batches: Batches) -> None:
    turns = ["```repl\nFINAL('text')\n```", "```repl\nFINAL({'n': len(context)})\n```"]

    def model(messages: Sequence[Message]) -> str:
        return turns[sum(message.role == "assistant" for message in messages)]

    batches.questions("one", {"question": "two", "schema": {"type": "string"}})
    (batches.folder / "form.json").write_text('{"type": "object", "required": ["n"]}')
    with ModelServer(model) as server:
        done = batches.run(server, "--batch", "q.jsonl", "text", "--schema", "form.json", "--output", "o")
        assert done.returncode == 0, done.stderr
        assert [batches.rows("o")[line]["answer"] for line in (1, 2)] == [{"n": 100}, "text"]
        again = batches.run(
            server, "--batch", "q.jsonl", "text", "--schema", "form.json", "--output", "o", "--resume"
        )
        assert "2 of them before" in again.stderr
        one = batches.run(server, "one", "text", "--schema", "form.json", "-q")
    assert json.loads(one.stdout) == {"n": 100}
    (batches.folder / "form.json").write_text("[]")
    assert batches.run(None, "one", "text", "--schema", "form.json").returncode == 2


def test_events_and_results_do_not_share_stdout(batches: Batches, server: ModelServer) -> None:
    batches.questions("q")
    refused = batches.run(server, "--batch", "q.jsonl", "text", "--jsonl", "-")
    assert (refused.returncode, "both want stdout" in refused.stderr) == (2, True)
    done = batches.run(server, "--batch", "q.jsonl", "text", "--jsonl", "-", "--output", "o")
    assert {json.loads(line)["event"] for line in done.stdout.splitlines()} >= {"run_started", "run_ended"}
    assert batches.rows("o")[1]["answer"] == ["q", 100]


def test_flags_of_a_batch_need_one(batches: Batches) -> None:
    for words in (
        ("q", "--output", "o"),
        ("q", "--resume"),
        ("q", "--max-total-cost", "1"),
        ("q", "--name", "n"),
    ):
        done = batches.run(None, *words)
        assert (done.returncode, "goes with --batch" in done.stderr) == (2, True)


def test_on_a_terminal_a_bar_and_what_is_at_work_are_shown(batches: Batches) -> None:
    asked = [f"question number {n}" for n in range(9)]
    model = Model(held=asked[3:])
    with ModelServer(model) as server:
        batches.questions(*asked)
        words = [
            "ask",
            "--batch",
            "q.jsonl",
            "text",
            "--max-concurrency",
            "3",
            "--model",
            "m",
            "--base-url",
            server.url,
        ]
        env = batches.environment | {"TERM": "xterm", "CI": ""}
        with Terminal(*words, "--output", "o", env=env, cwd=batches.folder) as shown:
            at_work = "question number 5 · turn 1 · model"
            shown.until(lambda raw: b"3 of 9 questions" in raw and at_work in text(screen(raw, 80, 24)))
            model.let_go()
            assert shown.end() == 0
            after = text(screen(shown.raw, 80, 24))
    assert "9 of 9 questions answered" in after


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
LINES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda value: json.dumps(value).encode(), JSON),
    st.builds(
        lambda value: json.dumps(value).encode(),
        st.dictionaries(st.sampled_from(["id", "question", "context", "path", "schema"]), JSON),
    ),
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINES, max_size=6), suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".txt", ""]))
def test_any_file_is_questions_or_a_text_that_names_its_wrong_lines(
    lines: list[bytes], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(b"\n".join(lines))
    questions = Questions(str(path))
    try:
        questions.check()
    except ConfigError as error:
        assert str(path) in str(error)
        return
    found = list(questions)
    assert len(found) == questions.count
    assert all(question.text.strip() for question in found)
    places = [question.id.line for question in found]
    assert places == sorted(set(places))
