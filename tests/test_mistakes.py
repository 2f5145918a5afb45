"""What is wrong with arguments and paths is said before anything is asked: what it was, and what would be right."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recursor import RLM, ConfigError
from recursor.cli import cli, contexts, runs
from recursor.cli.batch import paths_of
from recursor.cli.questions import Questions
from recursor.cli.results import Results
from recursor.errors import TrajectoryError
from recursor.models import presets, resolve
from recursor.server import keys
from recursor.testing import ScriptedModel
from recursor.trajectory import garbage, importing


def lookup(word: str) -> str:
    """Find a word."""
    return word


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tools": lookup}, "tools must be a list of functions, not function: tools=[...]"),
        ({"tools": "lookup"}, "tools must be a list of functions, not str"),
        ({"sinks": "otel"}, "sinks must be a list of sinks or of their names, not 'otel'"),
        ({"sinks": [5]}, "a sink is an object with `emit` and `flush`, or a name such as 'otel', not 5"),
        ({"sandbox": None}, "sandbox must be a name such as 'process' or an object with `open`, not None"),
        ({"instruction": 5}, "instruction must be a text, not int"),
        ({"base_url": 5}, "base_url must be a text or None, not int"),
        ({"api_key": b"k"}, "api_key must be a text or None, not bytes"),
        ({"model": ""}, "a model must be a spec such as 'openai/gpt-5' or a model, not ''"),
        ({"model": "gpt-5"}, '"gpt-5" names no provider: did you mean "openai/gpt-5"?'),
        (
            {"model": "claude-sonnet-4-5"},
            '"claude-sonnet-4-5" names no provider: did you mean "anthropic/claude-sonnet-4-5"?',
        ),
        ({"model": "mine"}, '"mine" names no provider: write provider/model, or give a base_url.'),
    ],
)
def test_a_wrong_argument_is_an_error_that_says_what_would_be_right(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        RLM(**{"model": ScriptedModel([]), **arguments})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"context": {"a": [1, object()]}}, "context: value['a'][1] is of type builtins.object, which cannot be given to a REPL"),
        ({"schema": object}, "schema: <class 'object'> is neither a JSON Schema nor a type with one (type <class 'object'> is not supported)"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_an_error_in_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}[^\n]*$"):
        RLM(ScriptedModel([])).completion("q", **arguments)


def test_one_text_is_no_script() -> None:
    with pytest.raises(ConfigError, match="a list of replies or a function, not one text"):
        ScriptedModel("hello")


# Stores ------------------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("my notes\n"), "is not a store of runs: file is not a database"),
        (foreign, "is a SQLite file, but not a store of runs"),
        (Path.mkdir, "the store is a file, and .* is a folder"),
    ],
)
def test_what_is_no_store_is_refused_before_anything_is_asked_and_stays_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "runs.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    model = ScriptedModel([])
    with pytest.raises(ConfigError, match=said):
        RLM(model, store=path)
    assert [each.name for each in tmp_path.iterdir()] == ["runs.db"]
    assert before == (path.read_bytes() if path.is_file() else None)
    assert model.requests == []


def test_a_store_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    RLM(ScriptedModel([]), store=path)
    assert not path.exists()
    path.touch()
    RLM(ScriptedModel([]), store=path)
    assert [each.name for each in tmp_path.iterdir()] == ["runs.db"]
    assert RLM(ScriptedModel(["```repl\nFINAL(1)\n```"]), store=path).completion("q").answer == 1


def test_nothing_is_collected_in_what_is_no_store_nor_imported_into_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(TrajectoryError, match=r"notes\.txt is not a store of runs"):
        garbage.collect(path, 0.0)
    with pytest.raises(TrajectoryError, match=r"notes\.txt is not a store of runs"):
        importing.load([], path)


# Paths of the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "a path is empty"),
        ("report.tx", r"no such file or folder: report\.tx; did you mean report\.txt\?"),
        ("sub/../reprt.txt", r"no such file or folder: sub/\.\./reprt\.txt; did you mean sub/\.\./report\.txt\?"),
        ("quite different", "no such file or folder: quite different$"),
        ("missing/report.txt", r"no such file or folder: missing/report\.txt$"),
        ("ftp://host/report.txt", r"no such file or folder: ftp://host/report\.txt \(an address begins with https://"),
    ],
)  # fmt: skip
def test_a_path_that_is_not_there_is_named_with_what_may_have_been_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    tmp_path.joinpath("report.txt").touch()
    tmp_path.joinpath("sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=said):
        contexts.check((name,))


def test_a_question_beside_a_file_of_questions_is_told_from_a_path() -> None:
    with pytest.raises(
        Exception, match="with --batch there is no QUESTION, and no file or folder is called 'Who"
    ):
        paths_of("Who is it?", ())
    assert paths_of(None, ("a",)) == ("a",)
    assert paths_of("books", ("a",)) == ("books", "a")


def test_results_do_not_go_into_the_file_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who?"}\n')
    for again in (False, True):
        with pytest.raises(ConfigError, match="has the questions: name another file for the results"):
            Results(str(path), Questions(str(path)), again=again)
    assert path.read_text() == '{"question": "Who?"}\n'


def test_a_file_of_clients_that_is_not_there_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no file of keys at .*: `recursor serve --key-file .* --add-key NAME` makes one"
    ):
        keys.read(tmp_path / "clients.toml")


def test_a_missing_key_is_an_error_that_names_the_command_which_keeps_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        ConfigError, match=r"set OPENAI_API_KEY, keep it by `recursor keys set openai`, or pass api_key"
    ):
        resolve("openai/gpt-5", api_key=lambda: None)


def test_long_lines_of_output_are_shown_cut_and_with_full_whole(tmp_path: Path) -> None:
    model = ScriptedModel(["```repl\nprint('x' * 3000)\nFINAL(1)\n```"])
    done = RLM(model, store=tmp_path / "runs.db").completion("q")
    shown = CliRunner().invoke(runs.command, ["show", done.run_id, "--store", str(tmp_path / "runs.db")])
    whole = CliRunner().invoke(
        runs.command, ["show", done.run_id, "--full", "--store", str(tmp_path / "runs.db")]
    )
    assert max(map(len, shown.output.splitlines())) < 600
    assert "x" * 3000 in whole.output


def test_what_commands_are_for_is_said_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ("runs", "config", "keys"):
        told = CliRunner().invoke(cli, [group, "--help"]).output
        assert "..." not in told.partition("Commands:")[2], told


def test_a_provider_that_does_not_answer_is_told_from_one_without_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    unreachable = replace(presets.PRESETS["ollama"], base_url="http://127.0.0.1:1/v1")
    monkeypatch.setitem(presets.PRESETS, "ollama", unreachable)
    for flags in ([], ["--json"]):
        done = CliRunner().invoke(cli, ["models", "ollama", *flags])
        assert (done.exit_code, "no answer from it" in done.output) == (5, True), done.output
    assert CliRunner().invoke(cli, ["models", "openai", "--offline"]).exit_code == 0
