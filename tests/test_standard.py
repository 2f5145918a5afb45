"""A standard input, output or error that is closed, or a disk that is full: said in a line, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from recursor.testing import ModelServer

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = Path("/dev/full")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Have a shell run a command with redirections, in a folder with a file, as a user with nothing set up."""
    tmp_path.joinpath("a.txt").write_text("five\n")
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    homes = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}

    def command(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "recursor", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path, timeout=60, check=False,
            env={**kept, **homes, "PYTHONWARNINGS": "error"},
        )  # fmt: skip

    return command


@pytest.mark.parametrize(
    "command",
    [["ask", "q", "-"], ["ask", "--batch", "-"], ["chat", "a.txt"], ["keys", "set", "openai"],
     ["mcp"], ["acp"]],
    ids=" ".join,
)  # fmt: skip
def test_a_closed_stdin_is_an_error_that_says_so(run: Run, command: list[str]) -> None:
    with ModelServer([]) as server:
        model = () if command[0] == "keys" else ("--model", "m", "--base-url", server.url)
        done = run("<&-", *command, *model)
        assert server.requests == []
    assert done.returncode in (1, 2)
    assert "Error: " in done.stderr
    assert "Bad file descriptor" in done.stderr or "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["--help"], ["config", "show"]], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">&-", "Bad file descriptor"),
        pytest.param(
            f">{FULL}",
            "No space left on device",
            marks=pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here"),
        ),
    ],
)
def test_what_stdout_does_not_take_is_an_error(
    run: Run, command: list[str], redirection: str, reason: str
) -> None:
    done = run(redirection, *command)
    assert (done.returncode, done.stderr) == (1, f"Error: standard input or output: {reason}\n")


def test_an_answer_that_a_closed_stdout_does_not_take_is_kept_for_resume(run: Run) -> None:
    with ModelServer(["```repl\nFINAL(len(context))\n```"]) as server:
        done = run(">&-", "ask", "q", "a.txt", "--model", "m", "--base-url", server.url, "-q")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "Error: the answer cannot be written to stdout: Bad file descriptor"
    assert run("", *second.split(": recursor ")[1].split(), "-q").stdout == "5\n"


def test_without_stdin_and_stderr_the_answer_comes_all_the_same(run: Run) -> None:
    with ModelServer(["```repl\nFINAL(len(context))\n```"]) as server:
        done = run("<&- 2>&-", "ask", "q", "a.txt", "--model", "m", "--base-url", server.url)
    assert (done.returncode, done.stdout) == (0, "5\n")
