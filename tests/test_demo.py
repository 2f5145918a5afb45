"""The demo: real runs with scripted replies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from recursor.demo import questions, texts

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_offline(path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> texts.Texts:
    return texts.unpack(tmp_path_factory.mktemp("texts"))


def test_the_demo_answers_right_and_no_prompt_holds_the_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recursor", "demo", "--no-store", "--json"],
        capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["scripted"]
    assert [result["right"] for result in report["questions"]] == [True, True, True]
    assert [result["sub_calls"] for result in report["questions"]] == [1, 80, 0]
    assert report["questions"][2]["children"] == 4
    assert all(result["largest_prompt"] < 10_000 < result["bytes"] for result in report["questions"])


def test_the_combination_is_new_each_time_and_stands_once_in_the_haystack(
    unpacked: texts.Texts, tmp_path: Path
) -> None:
    assert unpacked.haystack.read_bytes().count(unpacked.combination.encode()) == 1
    assert unpacked.haystack.stat().st_size == texts.HAYSTACK_BYTES
    assert texts.unpack(tmp_path).combination != unpacked.combination


def test_no_script_holds_an_answer(unpacked: texts.Texts) -> None:
    for question in questions.questions(unpacked):
        assert str(question.truth) not in "".join(question.turns)
        assert question.truth


def test_the_archive_is_small_and_names_its_sources() -> None:
    folder = resources.files("recursor.demo")
    assert len(folder.joinpath("texts.tar.xz").read_bytes()) < 3_000_000
    sources = folder.joinpath("SOURCES.md").read_text(encoding="utf-8")
    for name in (*texts.BOOKS, "countries.txt", "requests.jsonl"):
        assert name in sources
