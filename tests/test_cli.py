"""The command line, run as a user runs it, against a model server on the loopback interface."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from recursor.cli.text import clean, preview, to_json
from recursor.testing import ModelServer
from recursor.types import Message

LOOK = "I look.\n```repl\nprint(type(context).__name__, len(context))\n```"
FINAL_LENGTH = "```repl\nFINAL(len(context))\n```"
Cli: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with nothing set up, and no key."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {
        **kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONWARNINGS": "error",
    }  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "recursor", *arguments], input=stdin, capture_output=True, text=True,
            cwd=tmp_path, env=environment | variables, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(replies(LOOK, FINAL_LENGTH)) as running:
        yield running


def replies(*turns: str, sub: str = "a sub-answer") -> Callable[[Sequence[Message]], str]:
    """A script: the root LM's turns in order, the last again and again; sub-calls get `sub`."""

    def script(messages: Sequence[Message]) -> str:
        if messages[0].role != "system":
            return sub
        return turns[min(sum(each.role == "assistant" for each in messages), len(turns) - 1)]

    return script


def at(server: ModelServer) -> tuple[str, ...]:
    return "--model", "some-model", "--base-url", server.url


def test_help_is_instant_and_names_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0
    for name in ("ask", "config", "demo", "doctor", "resume", "runs"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    code = "import sys, recursor.cli; print({'aiohttp', 'rich', 'jsonschema'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_stdout_is_the_answer_only_and_progress_goes_to_stderr(
    cli: Cli, server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("x" * 123)
    done = cli("ask", "How long?", "text", *at(server), "--no-store")
    assert (done.returncode, done.stdout) == (0, "123\n")
    assert "turn 1" in done.stderr
    assert "str 123" in done.stderr
    assert "answered" in done.stderr


def test_quiet_says_nothing_beside_the_answer(cli: Cli, server: ModelServer) -> None:
    done = cli("ask", "How long?", "-", *at(server), "--no-store", "--quiet", stdin="four")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_json_is_one_object_with_what_the_run_was(cli: Cli, server: ModelServer) -> None:
    done = cli("ask", "How long?", "-", *at(server), "--no-store", "--quiet", "--json", stdin="four")
    told = json.loads(done.stdout)
    assert (told["answer"], told["stop_reason"], told["turns"], told["cost"]) == (4, "answered", 2, None)
    assert told["usage"]["calls"] == 2
    assert told["model"] == "some-model"
    assert re.fullmatch("[0-9a-f]{32}", told["run_id"])
    assert told["duration"] > 0


def test_several_paths_become_one_mapping(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    with ModelServer(replies("```repl\nFINAL(dict(context))\n```")) as server:
        done = cli("ask", "What?", "a.txt", "b.txt", *at(server), "--no-store", "-q")
    assert json.loads(done.stdout) == {"a.txt": "text of a.txt", "b.txt": "text of b.txt"}


def test_a_text_answer_is_printed_as_it_is(cli: Cli) -> None:
    with ModelServer(replies('```repl\nFINAL("a\\tb \\u2028 é")\n```')) as server:
        done = cli("ask", "What?", *at(server), "--no-store", "-q")
    assert done.stdout == "a\tb \u2028 é\n"


def test_a_limit_ends_with_its_code_and_the_partial_answer(cli: Cli) -> None:
    with ModelServer(replies('```repl\nanswer["content"] = "half"\n```')) as server:
        done = cli("ask", "What?", *at(server), "--no-store", "--max-turns", "2")
    assert (done.returncode, done.stdout) == (3, "half\n")
    assert "--max-turns 2" in done.stderr


def test_the_deadline_has_a_code_of_its_own(cli: Cli) -> None:
    with ModelServer(replies("```repl\nwhile True: pass\n```")) as server:
        done = cli("ask", "What?", *at(server), "--no-store", "-q", "--max-time", "1")
    assert (done.returncode, done.stdout) == (124, "")


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4), (403, 4), (400, 1)], ids=["key wrong", "not allowed", "bad request"]
)
def test_a_model_that_refuses_has_its_exit_code(
    cli: Cli, server: ModelServer, status: int, code: int
) -> None:
    server.fail_next(10, status=status)
    done = cli("ask", "What?", *at(server), "--no-store", "-q")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["What?", "missing.txt"], "no such file or folder: missing.txt"),
        ([" "], "the question is empty"),
        (["What?", "-", "text"], "cannot be mixed"),
        (["What?", "--modle", "x"], "--model"),
        (["What?", "--model", "opnai/gpt-5"], 'did you mean "openai"'),
        (["What?", "--model", "openai/gpt-5"], "OPENAI_API_KEY"),
        (["What?", "--base-url", "http://127.0.0.1:9"], "--base-url needs --model"),
        (["What?", "--max-turns", "0"], "--max-turns"),
        (["What?", "--max-cost", "much"], "--max-cost"),
        (["What?", "--sandbox", "proces", "--model", "m", "--base-url", "http://127.0.0.1:9"], "'process'"),
        (["What?", "--config", "none.toml"], "cannot read none.toml"),
        (["What?", "--json", "--jsonl", "-"], "both want stdout"),
        (["What?", "--model", "m", "--base-url", "http://127.0.0.1:9", "--jsonl", "no/x"], "cannot write"),
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_asked(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("ask", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_names_the_nearest(cli: Cli) -> None:
    done = cli("aks", "What?")
    assert done.returncode == 2
    assert "Did you mean 'ask'?" in done.stderr


def test_a_pipe_or_device_is_no_path(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "/dev/null"):
        done = cli("ask", "What?", path)
        assert done.returncode == 2
        assert "neither a file nor a folder" in done.stderr


def test_an_answer_that_cannot_be_written_is_an_error_that_names_the_run(
    server: ModelServer, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "recursor", "ask", "How long?", "-", *at(server), "-q"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, input="four", stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env=environment,
        )  # fmt: skip
    assert done.returncode == 1
    assert re.search("No space left.*\n.*recursor resume [0-9a-f]{32}\n$", done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sent", "around"),
    [
        (signal.SIGINT, ()),
        (signal.SIGTERM, ()),
        (signal.SIGTERM, ("sh", "-c", "trap '' INT; exec \"$@\"", "-")),  # as `&` in a script has it
    ],
)
def test_a_signal_ends_the_run_with_130_and_no_traceback(
    environment: dict[str, str], tmp_path: Path, sent: signal.Signals, around: tuple[str, ...]
) -> None:
    with ModelServer(replies("```repl\nprint('begun')\n```", "```repl\nwhile True: pass\n```")) as server:
        command = [*around, sys.executable, "-m", "recursor", "ask", "What?", *at(server), "--no-store"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        ) as process:
            assert process.stderr is not None
            while "turn 2" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(sent)
            stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr


def test_escape_sequences_of_a_model_never_reach_the_terminal(cli: Cli) -> None:
    evil = "```repl\n# \x1b]0;title\x07\x1b[2J\u202e\nprint('\\x1b[31mred\\x1b]52;c;x\\x07')\nFINAL(1)\n```"
    with ModelServer(replies(evil)) as server:
        done = cli("ask", "What?", *at(server), "--no-store")
    assert done.returncode == 0
    assert "red" in done.stderr
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.stderr)


def test_a_run_is_recorded_and_can_be_listed_shown_and_exported(cli: Cli) -> None:
    batch = "```repl\nprint(len(llm_query_batched(['a', 'b', 'c'])))\n```"
    with ModelServer(replies(batch, FINAL_LENGTH)) as server:
        asked = json.loads(cli("ask", "How long?", "-", *at(server), "-q", "--json", stdin="four").stdout)
    listed = json.loads(cli("runs", "list", "--json").stdout)
    assert [(run["run_id"], run["stop_reason"]) for run in listed] == [(asked["run_id"], "answered")]
    assert asked["run_id"][:12] in cli("runs", "list").stdout
    shown = cli("runs", "show", asked["run_id"][:6]).stdout
    for part in ("How long?", "llm_query_batched(['a', 'b', 'c'])", "→ 3", "3 sub-calls", "answer    4"):
        assert part in shown
    exported = cli("runs", "export", asked["run_id"]).stdout.splitlines()
    events = [json.loads(line)["event"] for line in exported]
    assert (events.count("model_called"), events[-1]) == (5, "run_ended")


def test_runs_that_are_not_there_are_said_to_be_so(cli: Cli) -> None:
    empty = cli("runs", "list")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "nothing is recorded yet" in empty.stderr
    missing = cli("runs", "show", "abc")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: there is no store")


@pytest.mark.parametrize("where", ["-", "events.jsonl"])
def test_jsonl_writes_events_while_they_happen(
    cli: Cli, server: ModelServer, tmp_path: Path, where: str
) -> None:
    done = cli("ask", "How long?", "-", *at(server), "--no-store", "-q", "--jsonl", where, stdin="four")
    text = done.stdout if where == "-" else (tmp_path / where).read_text()
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert done.returncode == 0
    assert (events[0], events[-1]) == ("run_started", "run_ended")
    assert (done.stdout == "4\n") == (where != "-")


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_asked(
    cli: Cli, server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = cli("ask", "How long?", *at(server), "--store", "file/runs.db")
    assert done.returncode == 2
    assert server.requests == []


def test_config_show_tells_where_a_value_comes_from(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[limits]\nmax_turns = 5\n")
    done = cli("config", "show", "--origin", "--config", str(file))
    assert f"limits.max_turns = 5  # {file}" in done.stdout
    assert "limits.max_depth = 1  # default" in done.stdout


def test_config_path_is_under_the_xdg_directory(cli: Cli, tmp_path: Path) -> None:
    assert cli("config", "path").stdout.strip() == str(tmp_path / "config/recursor/config.toml")
    assert cli("config", "path", "--keys").stdout.strip() == str(tmp_path / "config/recursor/keys.toml")


def test_doctor_attacks_the_sandbox_and_shows_no_key(cli: Cli) -> None:
    done = cli("doctor", "--json", OPENAI_API_KEY="sk-never-shown")
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["healthy"]
    assert len(report["findings"]) >= 20
    assert all(finding["held"] for finding in report["findings"])
    assert report["keys"] == {"openai": "environment variable OPENAI_API_KEY"}
    assert "sk-never-shown" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {3, 1}, (1, 2): b"\x00"}, {"a": [1, 3], "(1, 2)": "AA=="}),
        ([float("nan"), float("inf"), 2**70], ["nan", "inf", 2**70]),
    ],
)
def test_any_value_becomes_json(value: Any, expected: Any) -> None:
    assert json.loads(to_json(value)) == expected


def test_clean_leaves_text_alone_and_takes_the_rest() -> None:
    assert clean("a\tb\nc é 漢") == "a\tb\nc é 漢"
    dirty = "\x1b[1;31mred\x1b[0m\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\r\x07\x9b2J\ud800"
    assert clean(dirty) == "redlink?"
    assert preview("many   words\nhere", 10) == "many word…"
