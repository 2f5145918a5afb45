"""`recursor keys`: kept for the user alone, found again, never shown."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest

from recursor import config
from recursor.testing import ModelServer
from terminal import Terminal
from test_cli import Cli, cli, environment

__all__ = ["cli", "environment"]

KEY = "sk-canary-0123456789abcdef"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "config/recursor/keys.toml"


def test_a_key_from_standard_input_is_kept_for_the_user_alone_and_found(
    cli: Cli, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = cli("keys", "set", "openai", stdin=KEY + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"kept the key of openai in {keys}\n")
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    assert [each.name for each in keys.parent.iterdir()] == ["keys.toml"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert config.api_key("openai/gpt-5") == KEY


def test_a_key_typed_at_a_terminal_is_not_shown(
    environment: dict[str, str], keys: Path, tmp_path: Path
) -> None:
    with Terminal("keys", "set", "anthropic", env=environment, cwd=tmp_path) as terminal:
        terminal.until(lambda raw: b"(not shown): " in raw)
        terminal.press(KEY.encode() + b"\r")
        assert terminal.end() == 0
        assert KEY.encode() not in terminal.raw
        assert terminal.settings == terminal.before
    assert tomllib.loads(keys.read_text()) == {"anthropic": KEY}


def test_a_new_key_replaces_the_old_under_all_its_names_and_leaves_the_rest(cli: Cli, keys: Path) -> None:
    keys.parent.mkdir(parents=True)
    keys.touch(mode=0o600)
    keys.write_text(
        '# mine\nGOOGLE_API_KEY = "old"  # of work\nopenai = {command = "pass show openai"}\ngemini = "older"\n'
    )
    assert cli("keys", "set", "GEMINI_API_KEY", stdin=KEY).returncode == 0
    assert keys.read_text() == f'# mine\nopenai = {{command = "pass show openai"}}\ngemini = "{KEY}"\n'
    assert cli("keys", "set", "openai", "--command", "pass show other").returncode == 0
    assert tomllib.loads(keys.read_text())["openai"] == {"command": "pass show other"}
    assert cli("keys", "remove", "gemini").returncode == 0
    assert keys.read_text() == '# mine\nopenai = {command = "pass show other"}\n'


def test_the_list_has_names_and_places_and_no_part_of_a_key(cli: Cli, keys: Path) -> None:
    cli("keys", "set", "openai", stdin=KEY)
    cli("keys", "set", "MY_SERVER_KEY", stdin=KEY)
    cli("keys", "set", "e2b", "--command", f"echo {KEY}")
    done = cli("keys", "list", "--json", ANTHROPIC_API_KEY=KEY, OPENAI_API_KEY=KEY)
    assert json.loads(done.stdout) == {
        "openai": "environment variable OPENAI_API_KEY", "anthropic": "environment variable ANTHROPIC_API_KEY",
        "e2b": f"{keys}, by a command", "MY_SERVER_KEY": str(keys),
    }  # fmt: skip
    plain = cli("keys", "list").stdout
    assert plain.splitlines()[0].split() == ["openai", str(keys)]
    for text in (done.stdout, done.stderr, plain):
        assert not any(KEY[at : at + 6] in text for at in range(len(KEY) - 5))


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["set", "opnai"], KEY, "did you mean 'openai'?"),
        (["set", "OPENAI_API_KYE"], KEY, "did you mean 'OPENAI_API_KEY'?"),
        (["set", "ollama"], KEY, "no provider is called 'ollama'"),
        (["set", "openai"], "", "that is no key: it is empty"),
        (["set", "openai"], f"{KEY}\n{KEY}", "more than one line"),
        (["set", "openai"], f"Bearer {KEY}", "holds blanks"),
        (["set", "openai"], f"{KEY}\u2026", "not ASCII"),
        (["set", "openai", "--command", " "], "", "the command is empty"),
        (["set", "openai", "--command", f"echo '{KEY}"], "", "quotation marks do not match"),
        (["set", "openai", KEY], "", "does not go on the command line"),
        (["remove", "openai"], "", "there is no key of openai"),
        (["set", KEY], "", "no provider is called that"),
        (["remove", KEY], "", "no provider is called"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_without_the_key(
    cli: Cli, keys: Path, arguments: list[str], stdin: str, said: str
) -> None:
    done = cli("keys", *arguments, stdin=stdin)
    assert done.returncode == 2
    assert said in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert not keys.exists()


def test_a_file_that_others_may_read_or_that_is_damaged_is_refused_and_stays(cli: Cli, keys: Path) -> None:
    keys.parent.mkdir(parents=True)
    for text, mode, said in (
        (f'openai = "{KEY}"\n', 0o644, "chmod 600"),
        (f"openai = {KEY}\n", 0o600, "is not TOML"),
    ):
        keys.write_text(text)
        keys.chmod(mode)
        for command in (("set", "mistral"), ("remove", "openai"), ("list",)):
            done = cli("keys", *command, stdin=KEY)
            assert done.returncode == 2
            assert said in done.stderr
            assert KEY not in done.stdout + done.stderr
        assert (keys.read_text(), stat.S_IMODE(keys.stat().st_mode)) == (text, mode)


def test_a_planted_key_is_in_no_output_of_any_command_nor_in_what_they_write(
    cli: Cli, keys: Path, tmp_path: Path
) -> None:
    cli("keys", "set", "openai", stdin=KEY)
    with ModelServer(lambda messages: '```repl\nFINAL("done")\n```', api_key=KEY) as server:
        cli("config", "set", "base_url", server.url)
        cli("config", "set", "model", "openai/x")
        told = [
            cli(*command)
            for command in (
                ("ask", "What?", "--json", "--jsonl", "events.jsonl"), ("ask", "What?"), ("runs", "list", "--json"),
                ("config", "show", "--origin"), ("config", "get", "model"), ("config", "path", "--keys"),
                ("keys", "list"), ("keys", "list", "--json"), ("keys", "set", "openai"), ("config", "init"),
                ("config", "set", "model", "openai/y"), ("doctor", "--json"),
            )
        ]  # fmt: skip
        cli("keys", "set", "openai", stdin=KEY + "x")
        told.append(cli("ask", "What?"))
    assert told[0].returncode == 0, told[0].stderr
    assert told[-1].returncode == 4
    assert not [each.args for each in told if KEY in each.stdout + each.stderr]
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == [keys]
