"""Completion in shells, and manual pages: run as shells and `man` run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from local import LocalServer
from recursor import RLM
from recursor.testing import ScriptedModel

Completed: TypeAlias = Callable[..., list[str]]
TRY = """
eval "$(recursor completion bash)"
COMP_LINE="$LINE"; COMP_POINT=${#COMP_LINE}
_recursor_completion recursor
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with nothing set up, whose PATH has this recursor."""
    program = tmp_path / "bin/recursor"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m recursor "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {
        **kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
        "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONWARNINGS": "error",
    }  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "config/recursor/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        'model = "mine/one:8b"\n[profiles.cheap]\nmodel = "mine/two"\n[profiles.costly]\nrecord = false\n'
    )
    return path


@pytest.fixture
def bash(environment: dict[str, str], tmp_path: Path) -> Completed:
    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", TRY], env=environment | {"LINE": line}, capture_output=True, text=True,
            cwd=tmp_path, timeout=60, check=False,
        )  # fmt: skip
        # Outside of a completion, `compopt` has nothing to say it to.
        assert not [each for each in done.stderr.splitlines() if "compopt" not in each], done.stderr
        return done.stdout.split()

    return complete


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> Completed:
    """Completion over the protocol of a shell, without it."""

    def complete(kind: str, line: str) -> list[str]:
        words = line.split(" ")
        variables = {"_RECURSOR_COMPLETE": f"{kind}_complete", "COMP_WORDS": line,
                     "COMP_CWORD": words[-1] if kind == "fish" else str(len(words) - 1)}  # fmt: skip
        done = subprocess.run(
            ["recursor"], env=environment | variables, capture_output=True, text=True, cwd=tmp_path, timeout=60,
            check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    return complete


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recursor conf", ["config"]),
        ("recursor config se", ["set"]),
        ("recursor config set limits.max_t", ["limits.max_turns", "limits.max_time", "limits.max_tokens"]),
        ("recursor config set models.mine/", []),
        ("recursor ask --max-co", ["--max-cost"]),
        ("recursor ask --profile c", ["cheap", "costly"]),
        ("recursor ask -m mine/", ["8b", "mine/two"]),
        ("recursor ask -m mine/one:", ["8b"]),
        ("recursor ask -m openai/gpt-5-mini-", ["openai/gpt-5-mini-2025-08-07"]),
        ("recursor ask --sandbox process:", ["weak"]),
        ("recursor ask --strategy d", ["direct"]),
        ("recursor keys set anth", ["anthropic"]),
        ("recursor models olla", ["ollama"]),
        ("recursor completion z", ["zsh"]),
        ("recursor ask 'not ended", []),
        ("recursor ask --config no-such.toml --profile c", []),
        ("recursor nosuch ", []),
    ],
)
def test_bash_completes_names_with_colons_in_them_and_says_no_errors(
    bash: Completed, settings: Path, line: str, expected: list[str]
) -> None:
    found = bash(line)
    if line.endswith("-m mine/"):
        expected = ["mine/one:8b", "mine/two"]
    if line.endswith("models.mine/"):
        assert "models.mine/one:8b.temperature" in found
        return
    if not line.endswith("nosuch "):
        assert [each for each in found if each in expected] == expected
        assert len(found) <= max(3, len(expected))


def test_runs_are_completed_from_the_store(bash: Completed, shell: Completed, tmp_path: Path) -> None:
    model = ScriptedModel(['```repl\nFINAL("x")\n```'])
    done = RLM(model, store=tmp_path / "state/recursor/runs.db").completion("Who\n\x1b[31mis, it?")
    assert bash("recursor resume ") == [done.run_id[:12]]
    assert bash(f"recursor runs show {done.run_id[:3]}") == [done.run_id[:12]]
    _, value, said = shell("zsh", "recursor view ")
    assert value == done.run_id[:12]
    assert said.endswith("Who is, it?")


def test_other_shells_are_told_what_each_value_is(shell: Completed, settings: Path) -> None:
    assert shell("zsh", "recursor ask -m mine/o") == ["plain", "mine/one\\:8b", "in the settings: model"]
    assert shell("zsh", "recursor ask --sandbox process:w") == ["plain", "process:weak", "_"]
    assert shell("fish", "recursor comp") == [
        "plain,completion\tPrint what makes bash, zsh or fish complete."
    ]
    assert shell("fish", "recursor ask What? some") == ["file,some"]


def test_a_local_server_is_asked_once_its_name_is_written_and_may_say_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    import click

    from recursor.cli import complete
    from recursor.cli.ask import command
    from recursor.models.presets import PRESETS

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    names = [
        {"id": "a:1"},
        {"id": "b\nplain,evil"},
        {"id": "c\x1b[0m"},
        {"id": "d e"},
        {"id": "$(touch pwned)"},
    ]
    with LocalServer({"/v1/models": {"data": names}}) as server:
        monkeypatch.setitem(PRESETS, "ollama", replace(PRESETS["ollama"], base_url=server.url))
        context, option = click.Context(command), command.params[2]
        assert [each.value for each in complete.models(context, option, "oll")] == ["ollama/"]
        assert server.paths == []
        assert [each.value for each in complete.models(context, option, "ollama/")] == ["ollama/a:1"]


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_each_script_is_one_that_its_shell_takes(environment: dict[str, str], shell_name: str) -> None:
    done = subprocess.run(
        ["recursor", "completion", shell_name], env=environment, capture_output=True, text=True, check=True
    )
    assert "_RECURSOR_COMPLETE" in done.stdout
    if shutil.which(shell_name):
        subprocess.run([shell_name, "-n"], input=done.stdout, text=True, check=True, timeout=20)


def test_commands_are_completed_without_importing_any(environment: dict[str, str]) -> None:
    def seconds() -> float:
        variables = {"_RECURSOR_COMPLETE": "bash_complete", "COMP_LINE": "recursor c", "COMP_WORDBREAKS": ":"}
        begun = os.times()
        subprocess.run(["recursor"], env=environment | variables, capture_output=True, check=True)
        return os.times().children_user - begun.children_user

    def plain() -> float:
        begun = os.times()
        subprocess.run([sys.executable, "-c", "import click"], env=environment, check=True)
        return os.times().children_user - begun.children_user

    assert min(seconds() for _ in range(3)) < 4 * min(plain() for _ in range(3)) + 0.05


def test_every_command_has_a_page_without_warnings(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["recursor", "man", "--into", "pages"], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == ""
    pages = sorted((tmp_path / "pages").iterdir())
    names = {each.name for each in pages}
    assert {"recursor.1", "recursor-ask.1", "recursor-config-set.1", "recursor-runs-export.1"} <= names
    text = (tmp_path / "pages/recursor-ask.1").read_text()
    assert f'"{time.strftime("%Y")}' in text.splitlines()[0]
    assert ".B \\-\\-max\\-cost USD\nStop before more money is spent." in text
    for tool in (
        ["groff", "-man", "-ww", "-rCHECKSTYLE=3", "-Tutf8", "-z"],
        ["mandoc", "-Tlint", "-Wwarning"],
    ):
        if shutil.which(tool[0]):
            checked = subprocess.run([*tool, *map(str, pages)], capture_output=True, text=True, check=False)
            assert checked.stdout + checked.stderr == ""


def test_one_page_goes_to_stdout_and_an_unknown_command_is_named(environment: dict[str, str]) -> None:
    def man(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["recursor", "man", *names], env=environment, capture_output=True, text=True, check=False
        )

    assert man("config", "set").stdout.startswith('.TH "RECURSOR\\-CONFIG\\-SET" 1 ')
    wrong = man("config", "put")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "there is no command 'config put'" in wrong.stderr


def test_no_text_is_taken_for_a_request_of_roff() -> None:
    import click

    from recursor.cli.man import pages

    @click.command("odd", help="First.\n\n.so /etc/passwd\n\n'br \\fBbold -x\n\n\b\n.nx\n  'y \"z\"")
    @click.option("--x", help=".ds\x1b[31m \\n(.x")
    def odd(x: str) -> None: ...

    ((name, page),) = pages(click.Context(odd, info_name="odd"))
    assert name == "odd.1"
    lines = page.splitlines()
    assert "\\&.so /etc/passwd" in lines
    assert "\\(aqbr \\efBbold \\-x" in lines
    assert "\\&.nx" in lines
    assert "\\&.ds \\en(.x" in lines
