"""The clients, and what each is made to do."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from commands import run
from root import ANSWER

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture."""
PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Check:
    """One thing that was done."""

    what: str
    why: str = ""
    """It failed; empty when it did not."""


@dataclass(frozen=True)
class Place:
    """Where a client runs: what server it asks, where it is installed, and a home that it may fill."""

    url: str
    folder: Path
    home: Path
    environment: Mapping[str, str]

    def project(self, name: str) -> Path:
        """A repository with one program."""
        folder = self.home / name
        folder.mkdir()
        (folder / "greet.py").write_text('print("hello")\n')
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
            subprocess.run(["git", *command], cwd=folder, env=self.environment, check=True)
        return folder


Checks: TypeAlias = Callable[[Place], Iterator[Check]]


@dataclass(frozen=True)
class Client:
    """One client.

    Attributes:
        name: of its folder.
        python: packages of its environment, itself first.
        npm: the same, of npm.
    """

    name: str
    title: str
    checks: Checks
    python: Sequence[str] = ()
    npm: Sequence[str] = ()


def program(name: str) -> Checks:
    """A program that says itself what works."""

    def checks(place: Place) -> Iterator[Check]:
        done = subprocess.run(
            [place.folder / "bin/python", PROGRAMS / f"{name}.py"],
            env=place.environment, cwd=place.home, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        (place.home / "errors.txt").write_text(done.stderr)
        for line in done.stdout.splitlines():
            if line.startswith('{"check"'):
                found = json.loads(line)
                yield Check(found["check"], found["why"])
        if done.returncode:
            yield Check("the program ends", done.stderr[-1500:])

    return checks


def each(named: Mapping[str, Callable[[Place], None]]) -> Checks:
    """Functions that raise when something does not work."""

    def checks(place: Place) -> Iterator[Check]:
        for what, function in named.items():
            try:
                function(place)
            except Exception as error:  # whatever goes wrong is a result
                yield Check(what, f"{type(error).__name__}: {error}")
            else:
                yield Check(what)

    return checks


def same(found: object, wanted: object) -> None:
    assert found == wanted, f"{found!r} is not {wanted!r}"


# llm ------------------------------------------------------------------------------------------


def llm(place: Place, *arguments: str) -> str:
    folder = place.home / "llm"
    folder.mkdir(exist_ok=True)
    models = [
        {"model_id": "recursor", "model_name": "recursor", "api_base": place.url, "supports_tools": True, "supports_schema": True, "vision": True}
    ]  # fmt: skip
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))
    environment = {**place.environment, "LLM_USER_PATH": str(folder)}
    return run([str(place.folder / "bin/llm"), *arguments], env=environment, cwd=place.home)


def llm_converses(place: Place) -> None:
    llm(place, "-m", "recursor", "[plain] First.")
    said = llm(place, "-c", "[remember] Second.")
    assert "First." in said, said
    assert "Second." in said, said


def llm_follows_a_schema(place: Place) -> None:
    same(
        json.loads(llm(place, "-m", "recursor", "--schema", "name, age int", "[person] Who?")),
        {"name": "Ada", "age": 36},
    )


def llm_calls_tools(place: Place) -> None:
    code = 'def get_weather(city: str) -> str:\n    "Say the weather."\n    return f"warm in {city}"\n'
    same(llm(place, "-m", "recursor", "--functions", code, "[both] How?"), "warm in Oslo and warm in Rome")


def llm_sees(place: Place) -> None:
    (place.home / "dot.png").write_bytes(base64.b64decode(DOT))
    said = llm(place, "-m", "recursor", "-a", "dot.png", "[look] What is it?")
    assert "Image: image/png" in said, said


LLM = each(
    {
        "answer in a stream": lambda place: same(llm(place, "-m", "recursor", "[plain] What?"), ANSWER),
        "answer, with a system prompt": lambda place: same(
            llm(place, "-m", "recursor", "--no-stream", "-s", "Be short.", "[plain] What?"), ANSWER
        ),
        "conversation": llm_converses,
        "schema": llm_follows_a_schema,
        "tools": llm_calls_tools,
        "a picture": llm_sees,
    }
)

# aider ----------------------------------------------------------------------------------------


def aider(mark: str, style: str, wanted: str, *more: str) -> Callable[[Place], None]:
    def edits(place: Place) -> None:
        folder = place.project(f"aider-{mark}-{len(more)}")
        metadata = {"openai/recursor": {"max_input_tokens": 10_000_000, "max_output_tokens": 100_000, "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}}  # fmt: skip
        (folder / ".aider.model.metadata.json").write_text(json.dumps(metadata))
        run(
            [
                str(place.folder / "bin/aider"), "--model", "openai/recursor", "--edit-format", style, "--yes-always",
                "--no-check-update", "--analytics-disable", "--no-show-release-notes", "--no-show-model-warnings",
                "--no-gitignore", "--no-detect-urls", *more, "--message", f"[{mark}] Greet better.", "greet.py",
            ],
            env={**place.environment, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}, cwd=folder,
        )  # fmt: skip
        same((folder / "greet.py").read_text(), f'print("{wanted}")\n')

    return edits


AIDER = each(
    {
        "edits a file by blocks, in a stream": aider("aider", "diff", "good morning"),
        "edits a file by blocks, without a stream": aider("aider", "diff", "good morning", "--no-stream"),
        "edits a file whole, which is its default for unknown models": aider(
            "aider-whole", "whole", "good evening"
        ),
    }
)

# opencode -------------------------------------------------------------------------------------


def opencode(package: str, name: str) -> Checks:
    def said(place: Place, folder: Path, question: str, *more: str) -> str:
        settings = {
            "$schema": "https://opencode.ai/config.json", "model": "recursor/recursor",
            "autoupdate": False, "share": "disabled",
            "provider": {"recursor": {
                "npm": package, "name": "recursor", "options": {"baseURL": place.url, "apiKey": "none"},
                "models": {"recursor": {"name": "recursor", "limit": {"context": 10_000_000, "output": 100_000}}},
            }},
        }  # fmt: skip
        (folder / "opencode.json").write_text(json.dumps(settings))
        environment = {
            **place.environment, "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        }  # fmt: skip
        command = [str(place.folder / "node_modules/.bin/opencode"), "run", "--auto", "--format", "json"]
        events = [
            json.loads(line)
            for line in run([*command, *more, question], env=environment, cwd=folder).splitlines()
        ]
        failed = [event for event in events if event["type"] == "error"]
        assert not failed, failed
        broken = [
            event["part"]
            for event in events
            if event["type"] == "tool_use" and event["part"]["state"]["status"] != "completed"
        ]
        assert not broken, broken
        return "\n".join(event["part"]["text"] for event in events if event["type"] == "text")

    def answers(place: Place) -> None:
        same(said(place, place.project(f"{name}-plain"), "[plain] What is it?"), ANSWER)

    def edits(place: Place) -> None:
        folder = place.project(f"{name}-edit")
        last = said(place, folder, f"[opencode in {folder}] Greet better.")
        same((folder / "greet.py").read_text(), 'print("good morning")\n')
        same((folder / "made.txt").read_text(), "by opencode")
        assert "by opencode" in last, last
        again = said(place, folder, "[remember] What did I say?", "--continue")
        assert "Greet better." in again, again

    return each({f"{name}: answer": answers, f"{name}: reads, writes, edits, runs, is continued": edits})


def both(*several: Checks) -> Checks:
    def checks(place: Place) -> Iterator[Check]:
        for one in several:
            yield from one(place)

    return checks


OPENCODE = both(opencode("@ai-sdk/openai-compatible", "chat"), opencode("@ai-sdk/openai", "responses"))

# codex ----------------------------------------------------------------------------------------

CODEX_CONFIG = """model = "recursor"
model_provider = "recursor"
model_context_window = 10000000
check_for_update_on_startup = false

[model_providers.recursor]
name = "recursor"
base_url = "{url}"
wire_api = "responses"
env_key = "RECURSOR_API_KEY"

[analytics]
enabled = false
"""


def codex(place: Place, folder: Path, *arguments: str) -> str:
    home = place.home / "codex"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(CODEX_CONFIG.format(url=place.url))
    environment = {**place.environment, "CODEX_HOME": str(home)}
    command = [str(place.folder / "node_modules/.bin/codex"), "exec", "--json", "-s", "danger-full-access"]
    lines = run([*command, *arguments], env=environment, cwd=folder).splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(event["type"] == "turn.completed" for event in events), lines
    said = [event["item"]["text"] for event in events if event.get("item", {}).get("type") == "agent_message"]
    return str(said[-1])


def codex_answers(place: Place) -> None:
    same(codex(place, place.project("codex-plain"), "[plain] What is it?"), ANSWER)


def codex_edits(place: Place) -> None:
    folder = place.project("codex-edit")
    said = codex(place, folder, "[codex] Greet better.")
    same((folder / "greet.py").read_text(), 'print("good morning")\n')
    assert "good morning" in said, said
    again = codex(place, folder, "resume", "--last", "[remember] What did I say?")
    assert "Greet better." in again, again


def codex_follows_a_schema(place: Place) -> None:
    folder = place.project("codex-schema")
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    (folder / "person.json").write_text(json.dumps(schema))
    same(
        json.loads(codex(place, folder, "--output-schema", "person.json", "[person] Who?")),
        {"name": "Ada", "age": 36},
    )


def codex_sees(place: Place) -> None:
    folder = place.project("codex-picture")
    (folder / "dot.png").write_bytes(base64.b64decode(DOT))
    said = codex(place, folder, "--image", "dot.png", "--", "[look] What is it?")
    assert "Image: image/png" in said, said
    said = codex(place, folder, f"[view in {folder}] What is it?")
    assert "pictures that cannot be shown here" in said, said


def codex_has_agents(place: Place) -> None:
    said = codex(place, place.project("codex-agents"), "[agent] Ask somebody.")
    assert ANSWER in said, said


CODEX = each(
    {
        "answer": codex_answers,
        "runs commands, edits a file, is continued": codex_edits,
        "answer by a schema": codex_follows_a_schema,
        "a picture in the prompt, and one that a tool returns": codex_sees,
        "sub-agents": codex_has_agents,
    }
)

CLIENTS = (
    Client("openai", "openai (Python)", program("openai_sdk"), python=["openai"]),
    Client("litellm", "litellm", program("litellm_chat"), python=["litellm", "mcp"]),
    Client("langchain-openai", "langchain-openai", program("langchain_chat"), python=["langchain-openai"]),
    Client("llm", "llm", LLM, python=["llm"]),
    Client("aider-chat", "aider", AIDER, python=["aider-chat"]),
    Client("inspect-ai", "inspect_ai", program("inspect_eval"), python=["inspect-ai", "openai"]),
    Client("opencode", "opencode", OPENCODE, npm=["opencode-ai"]),
    Client("codex", "codex", CODEX, npm=["@openai/codex"]),
)
