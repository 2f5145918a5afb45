"""Seatbelt, without a Mac: the rules, the command, and that a worker starts by such a command.

What the rules do is not tried: nothing here has run on macOS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Bench
from recursor import plugins
from recursor.errors import IsolationUnavailable
from recursor.sandboxes import jail, seatbelt
from recursor.sandboxes.seatbelt import SeatbeltSandbox, command, profile

RULES = profile(Path("/private/tmp/of its own"), [Path('/Users/me/"py')], [Path("/usr/bin/python3")])


def forms(text: str) -> list[str]:
    """The rules, which must be balanced."""
    depth, begun, found, quoted = 0, 0, [], False
    for index, letter in enumerate(text):
        if letter == '"' and text[index - 1] != "\\":
            quoted = not quoted
        if quoted:
            continue
        if letter == "(":
            begun, depth = (index, 1) if not depth else (begun, depth + 1)
        elif letter == ")":
            depth -= 1
            if not depth:
                found.append(text[begun : index + 1])
    assert not depth
    assert not quoted
    return found


def test_everything_is_denied_but_what_is_named() -> None:
    rules = forms(RULES)
    assert rules[:2] == ["(version 1)", "(deny default)"]
    assert not [
        rule for rule in rules if re.match(r"\(allow (default|network|process-fork|mach\*|iokit|job)", rule)
    ]
    assert '(allow process-exec (literal "/usr/bin/python3"))' in rules
    assert "(allow signal (target self))" in rules


def test_secrets_are_denied_after_what_is_allowed_and_python_is_allowed_after_that() -> None:
    rules = forms(RULES)
    everything = rules.index("(allow file-read*)")
    secrets = next(index for index, rule in enumerate(rules) if rule.startswith("(deny file-read*"))
    python = next(index for index, rule in enumerate(rules) if '(subpath "/Users/me/\\"py")' in rule)
    assert everything < secrets < python
    for place in ("/Users", "/Volumes", "/private/tmp", "/private/var", "/Library/Keychains"):
        assert f'(subpath "{place}")' in rules[secrets]


def test_the_folder_of_the_program_is_not_allowed_though_it_is_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, packages = tmp_path / "project", tmp_path / "venv" / "site-packages"
    project.mkdir()
    packages.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(project), str(packages), *sys.path])
    rules = command(tmp_path / "scratch")[2]
    assert str(packages) in rules
    assert str(project) not in rules


def test_one_folder_may_be_written_to() -> None:
    writing = [rule for rule in forms(RULES) if rule.startswith("(allow file-write")]
    assert writing == [
        '(allow file-write* (subpath "/private/tmp/of its own"))',
        '(allow file-write-data (literal "/dev/null"))',
    ]


def test_the_command_is_words_and_no_shell_reads_them(tmp_path: Path) -> None:
    words = command(tmp_path)
    assert words[:2] == ["/usr/bin/sandbox-exec", "-p"]
    assert words[3] == sys.executable
    assert words[4:6] == ["-P", "-s"]
    rules = forms(words[2])
    assert any(f'(literal "{Path(sys.executable).resolve()}")' in rule for rule in rules)
    assert not any('(subpath "/")' in rule for rule in rules)


async def test_a_worker_starts_by_it_with_a_folder_that_goes_with_it(tmp_path: Path) -> None:
    """By a stand-in that drops the rules."""
    program = tmp_path / "sandbox-exec"
    program.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    repl = await SeatbeltSandbox(str(program)).open()
    try:
        inside = Bench(repl)
        told = await inside.shown("import os; print(sorted(os.environ), os.environ['TMPDIR'])")
        names, _, folder = told.strip().rpartition(" ")
        assert "OPENAI" not in names
        assert "'HOME'" in names
        assert os.path.isdir(folder)  # noqa: ASYNC240
        assert await inside.answered("FINAL(6 * 7)") == 42
        assert repl.isolation.files.startswith("partially confined")
        assert repl.isolation.weaknesses
    finally:
        await repl.close()
    assert not os.path.exists(folder)  # noqa: ASYNC240


async def test_it_is_what_process_weak_means_on_macos_and_the_default_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sandbox-exec"
    monkeypatch.setattr(seatbelt, "PROGRAM", str(program))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationUnavailable, match=r'(?s)darwin.*sandbox="process:weak" \(Seatbelt\)'):
        jail.Zygote()
    weak = plugins.load("recursor.sandboxes", "process:weak")
    with pytest.raises(IsolationUnavailable, match="sandbox-exec cannot be started"):
        await weak().open()
    with pytest.raises(IsolationUnavailable, match="Seatbelt mounts nothing"):
        await weak(mounts={"/context": tmp_path}).open()


def test_other_systems_are_told_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    with pytest.raises(IsolationUnavailable) as raised:
        jail.Zygote()
    for way in ('sandbox="docker"', 'sandbox="modal"', 'sandbox="inprocess"'):
        assert way in str(raised.value)
    assert "process:weak" not in str(raised.value)


def test_windows_is_told_what_works_when_it_imports_recursor() -> None:
    """Before anything is imported that Windows does not have."""
    code = "import sys; sys.platform = 'win32'; import recursor"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "ImportError: recursor runs on Linux" in done.stderr
    assert "WSL 2" in done.stderr
