"""`recursor chat` and `recursor ask --session`: question after question in one REPL."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from recursor.testing import ModelServer
from recursor.trajectory import view
from recursor.trajectory.claim import claim
from recursor.trajectory.garbage import collect
from recursor.types import Message
from terminal import Terminal
from test_cli import Cli, at, cli, environment
from test_sessions import made

__all__ = ["cli", "environment"]


def by_question(messages: Sequence[Message]) -> str:
    """Runs what it is asked, line by line."""
    if messages[0].role != "system":
        return "a sub-answer"
    asked = messages[1].content.partition("Question: ")[2].partition("\n")[0]
    return f"```repl\n{asked.replace('; ', chr(10))}\n```"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(by_question) as running:
        yield running


def test_a_session_goes_on_from_command_to_command(cli: Cli, server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    first = cli("ask", "--session", "s", "n = len(context); FINAL(n)", "a.txt", *at(server))
    assert (first.returncode, first.stdout) == (0, "9\n"), first.stderr
    second = cli("ask", "--session", "s", "FINAL([n, context])", *at(server))
    assert json.loads(second.stdout) == [9, "some text"]
    assert "session s, question 2\n" in second.stderr
    listed = cli("runs", "list")
    assert [line.partition("[")[2][:3] for line in listed.stdout.splitlines()] == ["s 2", "s 1"]
    of_session = json.loads(cli("runs", "list", "--session", "s", "--json").stdout)
    assert [(each["session"], each["session_turn"]) for each in of_session] == [("s", 1), ("s", 2)]
    assert "session   s, turn 2" in cli("runs", "show", of_session[1]["run_id"]).stdout
    unknown = cli("runs", "list", "--session", "t")
    assert (unknown.returncode, "there is no session 't'" in unknown.stderr) == (2, True)


def test_a_turn_is_resumed_by_its_run(cli: Cli, server: ModelServer) -> None:
    cut = cli("ask", "--session", "s", "x = 1", "--max-turns", "2", "--json", *at(server))
    assert cut.returncode == 3
    run_id = json.loads(cut.stdout)["run_id"]
    assert f"recursor resume {run_id}" in cut.stderr
    again = cli("resume", run_id, "--max-turns", "4", "--json", *at(server))
    assert (again.returncode, json.loads(again.stdout)["replayed"]) == (3, 3), again.stderr
    cli("ask", "--session", "s", "FINAL(x)", *at(server))
    late = cli("resume", run_id, *at(server))
    assert (late.returncode, "has gone on since" in late.stderr) == (2, True)


def test_a_session_takes_a_store_and_one_question(cli: Cli, server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a\n")
    for arguments in (["--no-store", "q"], ["--batch", "q.txt"]):
        done = cli("ask", "--session", "s", *arguments, *at(server))
        assert done.returncode == 2
        assert "--session" in done.stderr


def test_questions_from_a_pipe_are_answered_line_by_line(
    cli: Cli, server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "b.txt").write_text("more")
    lines = [
        "x = len(context); FINAL(x)",
        "",
        "/files b.txt",
        "FINAL([x, context])",
        "/exit",
        "FINAL('never')",
    ]
    done = cli("chat", "a.txt", *at(server), stdin="\n".join(lines))
    assert (done.returncode, done.stdout) == (0, '9\n[9, "more"]\n'), done.stderr


def test_a_pipe_ends_at_what_is_wrong_and_says_so(cli: Cli, server: ModelServer) -> None:
    done = cli("chat", "--max-turns", "1", *at(server), stdin="x = 1\nFINAL(x)\n")
    assert (done.returncode, done.stdout) == (3, "1\n")
    assert "a limit ended it (max_turns); what its code did stays" in done.stderr
    assert cli("chat", "-", *at(server)).returncode == 2


def test_a_pipe_ends_where_a_question_is_not_taken_with_its_context(
    cli: Cli, server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("some text")
    assert cli("chat", "--session", "s", *at(server), stdin="FINAL(1)").returncode == 0
    store = Path(environment["XDG_STATE_HOME"]) / "recursor" / "runs.db"
    with claim(store, hashlib.blake2b(b"s", digest_size=16).hexdigest()):
        done = cli("chat", "a.txt", "--session", "s", *at(server), stdin="FINAL(2)\nFINAL(3)\n")
    assert (done.returncode, done.stdout, done.stderr.count("is at work elsewhere")) == (1, "", 1)


def test_on_a_terminal_it_prompts_and_goes_on_after_an_interruption(
    environment: dict[str, str], server: ModelServer, tmp_path: Path
) -> None:
    options = "--session", "s", "--display", "plain", *at(server)
    with Terminal("chat", *options, env=environment, cwd=tmp_path) as terminal:
        terminal.until(lambda raw: b"/help says" in raw and raw.endswith(b"> "))

        def said(line: str, shown: bytes) -> None:
            before = len(terminal.raw)
            terminal.press(line.encode() + b"\r")
            terminal.until(lambda raw: shown in raw[before:] and raw.endswith(b"> "))

        said("y = [1]; FINAL('one')", b"one\r\n")
        said("/help", b"Ctrl-C stops a question")
        said("/history", b"> y = [1]")
        said("/cost", b"1 call")
        said("/nothing", b"Ctrl-C stops a question")
        said("/files nothing.txt", b"no such file or folder")
        before = len(terminal.raw)
        terminal.press(b"y.append(2); import time; time.sleep(60)\r")
        terminal.until(lambda raw: b"turn 1" in raw[before:])
        terminal.press(b"\x03")
        terminal.until(lambda raw: b"is undone" in raw[before:] and raw.endswith(b"> "))
        said("FINAL(str(y))", b"\n[1]\r\n")
        terminal.press(b"/exit\r")
        terminal.until(lambda raw: b"recursor chat --session s" in raw)
        assert terminal.end() == 0


def test_old_sessions_are_removed_whole(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    rlm, _, _ = made({"a": "FINAL(1)", "hello": "FINAL(2)"}, store)
    rows = [{"role": "user", "content": "hello"}]
    with rlm.session("old") as chat:
        chat.completion(messages=[*rows, {"role": "assistant", "content": "old"}])
    with rlm.session("living") as chat:
        chat.completion("a", "context")
        chat.completion(messages=rows)
    with closing(sqlite3.connect(store)) as connection, connection:
        (newest,) = connection.execute("SELECT max(started) FROM run").fetchone()
        connection.execute("UPDATE run SET started = started - 1e6 WHERE started < ?", (newest,))
    freed = collect(store, 1e5)
    assert freed.runs == 1
    with view.open(store) as recorded:
        assert (recorded.session("old"), len(recorded.session("living"))) == ([], 2)
        assert len(recorded.rows("SELECT * FROM session_message")) == 1
    with rlm.session("living") as chat:
        assert chat.completion("a").answer == 1
    collect(store, 0)
    with view.open(store) as recorded:
        for table in ("session_turn", "session_context", "session_message", "run"):
            assert recorded.rows(f"SELECT * FROM {table}") == []
