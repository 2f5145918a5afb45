"""Profiles of settings, and settings of single models: from the file to what a server receives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from recursor import config
from recursor.errors import ConfigError
from recursor.testing import ModelServer

Cli: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
KEY = "sk-never-shown-0123456789"
ANSWER = '```repl\nFINAL("done")\n```'
TWO = """
model = "openai/gpt-5"
sub_model = "openai/gpt-5-mini"

[limits]
max_turns = 7

[profiles.cheap]
model = "ollama/qwen3:8b"
limits.max_turns = 3

[profiles."very careful".limits]
max_cost = 0.1
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
            "PYTHONWARNINGS": "error",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "recursor", *arguments], capture_output=True, text=True, cwd=tmp_path,
            env=environment | variables, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def test_a_profile_goes_before_the_file_and_a_flag_before_the_profile(file: Callable[[str], Path]) -> None:
    path = file(TWO)
    loaded = config.load(path, {"limits.max_turns": 1}, "cheap")
    settings = loaded.settings
    assert (settings.model, settings.sub_model) == ("ollama/qwen3:8b", "openai/gpt-5-mini")
    assert settings.limits.max_turns == 1
    assert loaded.origins["model"] == f"profile cheap in {path}"
    assert loaded.origins["profile"] == "--profile"
    assert loaded.origins["sub_model"] == str(path)
    assert loaded.profiles == ("cheap", "very careful")
    assert config.load(path).settings.limits.max_turns == 7


def test_the_file_may_name_the_profile_that_is_used_without_a_flag(file: Callable[[str], Path]) -> None:
    path = file('profile = "cheap"\n' + TWO)
    assert config.load(path).settings.model == "ollama/qwen3:8b"
    careful = config.load(path, profile="very careful").settings
    assert (careful.model, careful.limits.max_cost) == ("openai/gpt-5", 0.1)


def test_the_model_of_a_profile_replaces_the_routes_of_the_file(file: Callable[[str], Path]) -> None:
    path = file(
        'allow = ["b"]\n[[routes]]\nmodel = "a"\n[profiles.one]\nmodel = "c"\n[profiles.two.limits]\nmax_turns = 2'
    )
    assert config.load(path, profile="one").settings.routes == ()
    assert config.load(path, profile="two").settings.routes == ({"model": "a"},)


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        (TWO, "chep", "unknown profile 'chep'; did you mean 'cheap'? (known: cheap, very careful)"),
        ("", "cheap", "unknown profile 'cheap' (known: none)"),
        ('profile = "big"', None, "unknown profile 'big' (known: none)"),
        ("profiles = 3", None, "profiles must be a table, not 3"),
        ("[profiles]\ncheap = 3", None, "profiles.cheap must be a table, not 3"),
        ("[profiles.a]\nmodle = 'x'", None, "profiles.a: unknown key 'modle'; did you mean 'model'?"),
        ("[profiles.a.limits]\nmax_turns = 0", None, "max_turns must be"),
        ("[profiles.a]\nprofile = 'b'", None, "a profile names no other one"),
        ("[profiles.a.profiles.b]\nmodel = 'b'", None, "unknown key 'profiles'"),
        ("[models]\nx = 3", None, "models.x must be a table, not 3"),
        ("models = 3", None, "models must be a table, not 3"),
        ('[models."a/b"]\ntemprature = 1', None, "unknown key 'models.\"a/b\".temprature'; did you mean 'temperature'?"),
        ('[models."a/b"]\ntop_k = 1', None, "a further field of each request goes into extra_body"),
        ('[models."a/b"]\nwindow = "1"', None, "models.\"a/b\".window: expected a whole number, not '1'"),
        ('[models."a/b"]\nwindow = 0', None, "window must be a whole number of at least 1"),
        ('[models."a/b"]\nrequests_per_minute = -1', None, "requests_per_minute must be a number above 0"),
        ('[models."a/b"]\ntimeout = 0', None, "timeout must be above 0"),
        ('[models."a/b"]\ntemperature = -1', None, "temperature must be 0 or more"),
        ('[models."a/b"]\nkey = ""', None, "key must not be empty"),
        ('[models."a/b".price]\ninput = 1', None, "[models.\"a/b\".price] needs output"),
        ('[models."a/b".price]\ninput = -1\noutput = 1', None, "input must be US dollars per million"),
        ('[models."a/b"]\nextra_body = 3', None, "expected a table, not 3"),
        ('[models."a/b"]', None, "has no settings"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_is_known(
    file: Callable[[str], Path], text: str, profile: str | None, said: str
) -> None:
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, profile=profile)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_or_a_price_that_a_model_lacks_is_said_before_anything_is_asked(
    cli: Cli, file: Callable[[str], Path]
) -> None:
    with ModelServer(lambda messages: ANSWER, api_key=KEY) as root, ModelServer(["a sub-answer"]) as other:
        path = file(f"""
            model = "big"
            sub_model = "openai/small"
            base_url = "{other.url}"

            [models.big]
            base_url = "{root.url}"
            key = "MY_SERVER_KEY"
            temperature = 0
            max_tokens = 500
            extra_body = {{top_k = 3}}
            price = {{input = 1_000_000, output = 0}}
        """)
        done = cli("ask", "What?", "--config", str(path), "--no-store", "-q", "--json", "--max-cost", "9e9",
                   MY_SERVER_KEY=KEY)  # fmt: skip
        refused = cli("ask", "What?", "--config", str(path), "--no-store", "-q")
    assert done.returncode == 2, "the price of the sub-LM is not known"
    assert "'openai/small'" in done.stderr
    assert refused.returncode == 2
    assert "'MY_SERVER_KEY' is neither an environment variable nor in" in refused.stderr
    assert root.requests == other.requests == []


def test_settings_of_a_model_are_in_its_requests_and_in_what_they_cost(
    cli: Cli, file: Callable[[str], Path], tmp_path: Path
) -> None:
    with ModelServer(lambda messages: ANSWER, api_key=KEY) as server:
        path = file(f"""
            model = "big"
            [models.big]
            base_url = "{server.url}"
            key = "mine"
            temperature = 0
            max_tokens = 500
            extra_body = {{top_k = 3}}
            price = {{input = 1.5, output = 1}}
        """)
        keys = tmp_path / "config/recursor/keys.toml"
        keys.parent.mkdir(parents=True)
        keys.touch(mode=0o600)
        keys.write_text(f'mine = "{KEY}"')
        done = cli("ask", "What?", "--config", str(path), "--no-store", "-q", "--json", "--max-cost", "5")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    usage = told["usage"]
    assert told["cost"] == pytest.approx((usage["input_tokens"] * 1.5 + usage["output_tokens"]) / 1e6)
    sent = server.requests[0]
    assert (sent["temperature"], sent["max_tokens"], sent["top_k"]) == (0, 500, 3)
    assert KEY not in done.stdout + done.stderr


def test_routes_take_the_settings_of_their_models_too(cli: Cli, file: Callable[[str], Path]) -> None:
    with ModelServer(lambda messages: ANSWER) as server:
        path = file(f"""
            base_url = "{server.url}"
            [[routes]]
            model = "a"
            [models.a]
            temperature = 0.5
        """)
        done = cli("ask", "What?", "--config", str(path), "--no-store", "-q")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert server.requests[0]["temperature"] == 0.5


def test_a_run_of_a_profile_is_shown_and_resumed_by_the_commands_that_it_prints(
    cli: Cli, file: Callable[[str], Path], tmp_path: Path
) -> None:
    with ModelServer(lambda messages: ANSWER) as server:
        path = file(f"""
            [profiles.mine]
            model = "a"
            store = "{tmp_path}/mine.db"
            limits = {{max_turns = 3}}
            models.a = {{base_url = "{server.url}", temperature = 0.5}}
        """)
        given = "--config", str(path), "--profile", "mine"
        done = cli("ask", "What?", *given, "--json", "--display", "plain")
        run = json.loads(done.stdout)["run_id"]
        assert f"recursor view {run[:12]} --config {path} --profile mine" in done.stderr
        again = cli("resume", run, *given, "-q")
        shown = cli("runs", "show", run, *given)
    assert (again.returncode, again.stdout) == (0, "done\n"), again.stderr
    assert shown.returncode == 0
    assert len(server.requests) == 1


def test_a_file_in_the_folder_of_the_data_sets_nothing(cli: Cli, tmp_path: Path) -> None:
    for name in ("recursor.toml", ".recursor.toml", "config.toml"):
        (tmp_path / name).write_text('sandbox = "inprocess"\nbase_url = "http://127.0.0.1:9/v1"\n')
    shown = json.loads(cli("config", "show", "--json").stdout)
    assert (shown["sandbox"], shown["base_url"]) == ("process", None)
