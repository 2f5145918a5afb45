"""`recursor models`: what servers on the loopback interface offer, and what the price list has."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from local import LocalServer, ollama
from recursor.cli import cli
from recursor.models.presets import PRESETS
from recursor.testing import ModelServer

KEY = "sk-canary-0123456789abcdef"
Run = Any


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line of a user with nothing set up and no server, in this process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    for name, preset in list(PRESETS.items()):
        if preset.base_url:
            monkeypatch.setitem(PRESETS, name, replace(preset, base_url="http://127.0.0.1:9/v1"))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return invoke


def at(monkeypatch: pytest.MonkeyPatch, provider: str, url: str) -> None:
    monkeypatch.setitem(PRESETS, provider, replace(PRESETS[provider], base_url=url))


def test_without_a_server_and_a_key_it_says_what_to_do(run: Run) -> None:
    done = run("models")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "recursor keys set openai" in done.stderr


def test_models_come_with_window_price_and_the_settings_that_use_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run("config", "set", "model", "openai/gpt-5")
    run("config", "set", "sub_model", "openai/gpt-55")
    run("config", "set", "profiles.here.model", "ollama/qwen3:8b")
    run("config", "set", "profiles.other.limits.max_turns", "3")
    offered = {"/v1/models": {"data": [{"id": "gpt-5"}, {"id": "mystery"}, {"id": "text-embedding-3-large"}]}}
    with LocalServer(offered) as hosted, LocalServer(ollama(4_096)) as local:
        at(monkeypatch, "openai", hosted.url)
        at(monkeypatch, "ollama", local.url)
        done = run("models")
        told = json.loads(run("models", "--json").stdout)
        one = run("models", "openai")
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    rows = {
        line[1].strip(): " ".join("  ".join(line[2:]).split())
        for line in lines
        if line[0] == "" and len(line) > 1
    }
    assert rows["openai/gpt-5"] == "400,000 $1.25 / $10.00 model"
    assert rows["openai/mystery"] == "? price unknown"
    assert rows["ollama/qwen3:8b"] == "40,960 free profile here: model"
    assert "embed" not in done.stdout
    assert "not offered: openai/gpt-55 (sub_model)" in done.stdout
    assert "key from environment variable OPENAI_API_KEY" in done.stdout
    assert hosted.keys == [f"Bearer {KEY}"] * 3
    assert local.keys.count(None) == len(local.keys)
    assert told["not_offered"] == {"openai/gpt-55": ["sub_model"]}
    assert {each["provider"] for each in told["places"]} == {"openai", "ollama"}
    assert "ollama" not in one.stdout
    assert KEY not in done.output + one.output + json.dumps(told)


def test_an_address_of_the_settings_gets_the_key_of_its_model_and_no_other(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-it-0123456789")
    monkeypatch.setenv("MINE_KEY", KEY)
    with LocalServer({"/v1/models": [{"id": "big", "context_length": 1234}]}) as server:
        run("config", "set", "models.big.base_url", server.url)
        run("config", "set", "models.big.key", "MINE_KEY")
        done = run("models")
    assert f"settings · {server.url} · key from MINE_KEY" in done.stdout
    assert "  big       1,234  price unknown" in done.stdout
    assert server.keys == [f"Bearer {KEY}"]


def test_the_pages_of_the_other_wire_and_the_names_and_prices_of_others_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"):
        monkeypatch.setenv(name, KEY)
    first = {"data": [{"id": "claude-a"}], "has_more": True, "last_id": "claude-a"}
    price = {"prompt": "0.000001", "completion": "0.00001"}
    documents = {
        "/v1/models?limit=1000": first, "/v1/models?limit=1000&after_id=claude-a": {"data": [{"id": "claude-b"}]},
        "/gemini/models": {"data": [{"id": "models/gemini-x", "inputTokenLimit": 5}]},
        "/router/models": {"data": [{"id": "a/b", "context_length": 7, "pricing": price},
                                    {"id": "a/c", "pricing": {"prompt": "-1", "completion": "x"}}]},
    }  # fmt: skip
    with LocalServer(documents) as server:
        at(monkeypatch, "anthropic", server.url)
        at(monkeypatch, "gemini", f"{server.root}/gemini")
        at(monkeypatch, "openrouter", f"{server.root}/router/")
        told = json.loads(run("models", "--json").stdout)
    rows = {row["spec"]: row for place in told["places"] for row in place["models"]}
    assert set(rows) == {
        "anthropic/claude-a",
        "anthropic/claude-b",
        "gemini/gemini-x",
        "openrouter/a/b",
        "openrouter/a/c",
    }
    assert rows["openrouter/a/b"]["price"]["output"] == pytest.approx(10)
    assert (rows["openrouter/a/b"]["window"], rows["gemini/gemini-x"]["window"]) == (7, 5)
    assert rows["openrouter/a/c"]["price"] is None
    assert server.keys.count(KEY) == 2


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (401, "does not accept the key (status 401)"),
        (500, "answers with status 500"),
        (302, "answers with status 302"),
        (b"<html>" + KEY.encode(), "what it sends is no JSON"),
        (b"[" * 100_000, "what it sends is no JSON"),
        ({"error": KEY}, "no list of models"),
        ({"data": 3}, "no list of models"),
        ({"data": [3, {}, {"id": 4}, {"id": ""}]}, "it has no models"),
        ({"data": [{"id": "a\x1b[31mb\nc\u202ed"}]}, "it has no models"),
    ],
)
def test_what_a_provider_sends_is_named_cleaned_and_never_quoted(
    run: Run, monkeypatch: pytest.MonkeyPatch, document: Any, said: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LocalServer({"/v1/models": document}) as server, ModelServer(["x"], api_key=KEY) as other:
        at(monkeypatch, "openai", server.url)
        monkeypatch.setenv("MISTRAL_API_KEY", KEY)
        at(monkeypatch, "mistral", other.url)
        done = run("models")
    assert done.exit_code == 0, "one that fails hides no other"
    assert said in done.stdout
    assert "mistral/scripted" in done.stdout
    assert KEY not in done.output
    assert "\x1b" not in done.output


def test_names_that_are_no_line_and_windows_that_are_none_are_left_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [
        {"id": "evil\nopenai · https://api.openai.com/v1 · key from here"},
        {"id": "\x1b[31mred"},
        {"id": "less", "context_length": -5},
        {"id": "much", "context_length": 10**30},
        {"id": "some", "context_length": 4_096},
    ]
    with LocalServer({"/v1/models": {"data": offered}}) as server:
        at(monkeypatch, "vllm", server.url)
        lines = run("models", "vllm").stdout.splitlines()
    assert [line.split() for line in lines[1:-1]] == [
        ["vllm/less", "?", "free"], ["vllm/much", "?", "free"], ["vllm/some", "4,096", "free"],
    ]  # fmt: skip


def test_offline_asks_nobody_and_shows_the_price_list(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run("config", "set", "model", "mine")
    with LocalServer({"/v1/models": {"data": []}}) as server:
        at(monkeypatch, "openai", server.url)
        run("config", "set", "base_url", server.url)
        done = run("models", "--offline")
    assert server.paths == []
    assert "openai/gpt-5 " in done.stdout
    assert "  mine" in done.stdout
    assert run("models", "--offline", "anthropic").stdout.count("anthropic/claude") > 10


def test_an_unknown_provider_names_the_nearest_and_one_that_is_down_says_so(run: Run) -> None:
    done = run("models", "opnai")
    assert done.exit_code == 2
    assert "did you mean 'openai'?" in done.stderr
    assert "no answer from it: Connection refused" in run("models", "ollama").stdout


def test_a_key_whose_command_fails_is_named_at_its_provider(run: Run) -> None:
    run("keys", "set", "openai", "--command", "false")
    assert "the command of openai failed with exit code 1" in run("models").stdout
