"""Windows of local servers, and `recursor doctor --model` against servers that cut, refuse and behave."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from local import LocalServer, ollama
from recursor.cli import canary, cli, endpoints, windows
from recursor.cli.windows import Window, window_of
from recursor.models.presets import PRESETS
from recursor.testing import ModelServer, ScriptedModel
from recursor.types import Reply, Usage
from terminal import Terminal

Run = Any


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line of a user with nothing set up, in this process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return invoke


def doctor(run: Run, server: LocalServer, *more: str, model: str = "ollama/qwen3:8b") -> Result:
    found: Result = run("doctor", "--model", model, "--base-url", server.url, *more)
    return found


def test_a_server_that_takes_all_of_a_prompt_is_said_to(run: Run) -> None:
    with LocalServer() as server:
        done = doctor(run, server, model="some-model")
    assert done.exit_code == 0, done.output
    assert "The prompt arrives whole." in done.stdout
    assert "Code words that came back: 4 of 4." in done.stdout
    assert "128,000 tokens are assumed" in done.stderr
    assert "96,000 tokens" in done.stderr
    assert "Cost    not known" in done.stderr
    assert len(server.prompts) == 2
    assert server.prompts[1] / 4 == pytest.approx(96_000, rel=0.1)


@pytest.mark.parametrize("counts", ["read", ""])
def test_a_server_that_cuts_without_a_word_is_found_out(run: Run, counts: str) -> None:
    with LocalServer(window=4_096, counts=counts) as server:
        done = doctor(run, server, "--json", "--tokens", "20000", model="ollama/qwen3:8b")
        plain = doctor(run, server, "--tokens", "20000", model="ollama/qwen3:8b")
    told = json.loads(done.stdout)
    assert done.exit_code == plain.exit_code == 1
    assert told["verdict"] == "cut"
    assert told["found"][0], "the first message is the system's, and stays"
    assert told["found"][-1]
    assert not all(told["found"])
    assert "THE SERVER CUTS PROMPTS AND DOES NOT SAY SO" in plain.stdout
    assert "OLLAMA_CONTEXT_LENGTH=32768 ollama serve" in plain.stdout
    assert "recursor config set 'models.\"ollama/qwen3:8b\".window'" in plain.stdout


def test_what_the_advice_sets_makes_the_prompt_fit(run: Run) -> None:
    with LocalServer(window=4_096) as server:
        assert doctor(run, server, model="mine").exit_code == 1
        assert run("config", "set", "models.mine.window", "4096").exit_code == 0
        done = doctor(run, server, model="mine")
    assert done.exit_code == 0, done.output
    assert "4,096 tokens (the settings say so)" in done.stderr


def test_a_server_that_refuses_is_none_that_cuts(run: Run) -> None:
    with LocalServer(window=4_096, refuses=True) as server:
        done = doctor(run, server, model="some-model")
    assert done.exit_code == 0
    assert "THE PROMPT IS REFUSED: the prompt of" in done.stdout
    assert "recursor config set 'models.some-model.window' TOKENS" in done.stdout


def test_one_that_counts_before_it_cuts_and_a_weak_model_are_not_clear(run: Run) -> None:
    with LocalServer(window=4_096, counts="sent") as server:
        done = doctor(run, server, model="some-model")
    assert (done.exit_code, "NOT CLEAR" in done.stdout) == (1, True)
    assert "lost at the first message, the middle" in done.stdout
    with LocalServer(repeats=False) as server:
        done = doctor(run, server, model="some-model")
    assert (done.exit_code, "too weak to tell" in done.stdout) == (1, True)


def test_a_failure_has_its_exit_code_and_shows_no_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789abcdef")
    with ModelServer(["x"], api_key="another") as server:
        done = run("doctor", "--model", "openai/x", "--base-url", server.url)
    assert done.exit_code == 4
    assert "sk-canary" not in done.output
    assert run("doctor", "--model", "opnai/x").exit_code == 2
    assert run("doctor", "--tokens", "5000").exit_code == 2


def test_the_other_wire_is_tried_by_the_same_words(run: Run) -> None:
    class Echo:
        name = "echo"

        async def query(self, messages: Any, *, schema: Any = None, on_text: Any = None) -> Reply:
            text = " ".join(each.content for each in messages)
            words = [word.strip(".") for word in text.split() if "-" in word]
            return Reply(" ".join(words), Usage(len(text) // 4, 5, calls=1))

    with ModelServer(Echo()) as server:
        done = run("doctor", "--model", "anthropic/x", "--base-url", server.url, "--tokens", "5000", "--json")
    assert json.loads(done.stdout)["verdict"] == "whole", done.output


@pytest.mark.parametrize("counted", [1, 10**9])
async def test_what_a_server_counts_makes_the_prompt_no_larger_than_was_said(counted: int) -> None:
    model = ScriptedModel(lambda _: Reply("none", Usage(counted, 10, calls=1)))
    await canary.examine(model, 20_000)
    short, long = (sum(len(message.content) for message in prompt) for prompt in model.requests)
    assert short < long < 20_000 / 0.15


def test_nothing_is_sent_where_it_costs_and_nobody_agrees(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    done = run("doctor", "--model", "openai/gpt-5", "--tokens", "100000")
    assert done.exit_code == 2
    assert "Cost    about $0.13" in done.stderr
    assert "--yes sends it" in done.stderr
    with Terminal("doctor", "--model", "openai/gpt-5", env=dict(os.environ), cwd=tmp_path) as terminal:
        terminal.until(lambda raw: b"Send it?" in raw)
        assert b"300,000 tokens, about" in terminal.raw
        terminal.press(b"n\r")
        assert terminal.end() == 2


def test_ollama_is_asked_for_its_window_and_loads_the_model_for_that() -> None:
    with LocalServer(ollama(4_096)) as server:
        assert window_of("ollama/qwen3:8b", server.url) == Window(None, 40_960)
        assert "/api/generate" not in server.paths
        assert window_of("ollama/qwen3:8b", server.url, load=True) == Window(4_096, 40_960)
        assert window_of("ollama/qwen3:8b", server.url) == Window(4_096, 40_960)
    with LocalServer(ollama(4_096, parameters='stop "x"\nnum_ctx                        8192\n')) as server:
        assert window_of("ollama/qwen3:8b", server.url, load=True) == Window(8_192, 40_960)
        assert "/api/generate" not in server.paths
    with LocalServer(ollama(2_048, name="llama3:latest")) as server:
        assert window_of("ollama/llama3", server.url) == Window(None, 40_960)


@pytest.mark.parametrize(
    ("spec", "documents", "expected"),
    [
        ("lmstudio/a/b", {"/api/v0/models/a/b": {"loaded_context_length": 4096, "max_context_length": 9000}},
         Window(4096, 9000)),
        ("llamacpp/x", {"/props": {"default_generation_settings": {"n_ctx": 2048}},
                        "/v1/models": {"data": [{"id": "x", "meta": {"n_ctx_train": 8192}}]}}, Window(2048, 8192)),
        ("vllm/x", {"/v1/models": {"data": [{"id": "y"}, {"id": "x", "max_model_len": 512}]}}, Window(512, 512)),
        ("openai/x", {"/v1/models": {"data": [{"id": "x", "max_model_len": 512}]}}, Window()),
        ("x", {}, Window()),
        ("ollama/x", {"/api/ps": [], "/api/show": {"model_info": 3, "parameters": 4}}, Window()),
        ("ollama/x", {"/api/ps": b"<html>", "/api/show": 500}, Window()),
        ("ollama/x", {"/api/ps": {"models": [{"name": "x:latest", "context_length": True}]},
                      "/api/show": {"model_info": {"a.context_length": -1}}}, Window()),
        ("llamacpp/x", {"/props": b"[" * 100_000}, Window()),
    ],
)  # fmt: skip
def test_each_local_server_is_asked_in_its_own_way_and_may_say_anything(
    spec: str, documents: dict[str, Any], expected: Window
) -> None:
    with LocalServer(documents) as server:
        assert window_of(spec, server.url) == expected
    assert window_of(spec, server.url) == Window(), "it is gone"


def test_ask_keeps_to_the_window_of_the_ollama_that_it_chose_and_warns_of_a_small_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("lmstudio", "llamacpp", "vllm"):
        monkeypatch.delitem(PRESETS, name)
    with LocalServer(ollama(4_096), repeats=False) as server:
        monkeypatch.setitem(PRESETS, "ollama", replace(PRESETS["ollama"], base_url=server.url))
        done = run("ask", "What?", "--max-turns", "1", "--no-store", "--display", "plain")
        quiet = run("ask", "What?", "--max-turns", "1", "--no-store", "-q")
        assert endpoints.detect_endpoints()[0].models == ("qwen3:8b",)
    assert "using ollama/qwen3:8b" in done.stderr
    assert "ollama/qwen3:8b takes 4,096 tokens as ollama runs it, which is little" in done.stderr
    assert "OLLAMA_CONTEXT_LENGTH=32768 ollama serve" in done.stderr
    assert quiet.stderr.count("tokens") == 0
    assert len(server.prompts) >= 2


def test_a_window_in_the_settings_is_believed_and_nobody_is_asked(run: Run) -> None:
    with LocalServer(ollama(4_096), repeats=False) as server:
        run("config", "set", "models.ollama/qwen3:8b.window", "9000")
        run(
            "ask",
            "What?",
            "-m",
            "ollama/qwen3:8b",
            "--base-url",
            server.url,
            "--max-turns",
            "1",
            "--no-store",
        )
        assert (len(server.prompts) > 0, server.paths) == (True, [])


def test_no_remedy_is_named_that_would_not_help() -> None:
    assert "32768" in windows.remedy("ollama", "x", None)
    assert "20000" in windows.remedy("llamacpp", "x", 20_000)
    assert windows.remedy("vllm", "x", 4_096) == ""
    assert windows.remedy("openai", "x", None) == ""
