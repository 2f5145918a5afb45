"""What the documents show is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recursor

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_the_example_of_the_readme_prints_what_it_says() -> None:
    found = re.search(
        r"## One real example.*?```python\n(.*?)```\n\n```text\n(.*?)```",
        ROOT.joinpath("README.md").read_text(),
        re.S,
    )
    assert found is not None
    command = [sys.executable, "-W", "error", "-c", found[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.stdout) == ("", found[2])


def test_the_examples_on_models_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", ROOT.joinpath("docs/models.md").read_text(), re.S)
    keys = {f"{name}_API_KEY": "none" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
    command = [sys.executable, "-W", "error", "-c", "\n".join(blocks)]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **keys}
    env |= {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.stderr, done.stdout, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", document.read_text()):
        assert not target or (document.parent / target).exists(), target


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(recursor.__all__) == sorted(
        [
            "RLM",
            "LM",
            "CodeTool",
            "Limits",
            "Completion",
            "StopReason",
            "tool",
            "Policy",
            "Question",
            "Session",
            "Retries",
            "Route",
            "Routes",
            "RLMError",
            "ConfigError",
            "ModelError",
            "SandboxError",
            "SubcallError",
        ]
    )
    for name in recursor.__all__:
        assert getattr(recursor, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        recursor.Nothing  # noqa: B018


def test_importing_imports_no_http_client_and_starts_nothing() -> None:
    code = (
        "import sys, threading; from recursor import RLM; from recursor.testing import ScriptedModel; RLM(ScriptedModel([]));"
        "print({'aiohttp', 'rich', 'click', 'jsonschema', 'sqlite3'} & set(sys.modules), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() 1\n"


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in ROOT.joinpath("CHANGELOG.md").read_text()
