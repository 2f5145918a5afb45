"""`recursor ask --dry-run`: says what would be done, and connects to nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from batches import Batches
from recursor.testing import ModelServer
from recursor.types import Message


class Listener:
    """Counts connections to a port of this machine, and answers none."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.close()


@pytest.fixture
def here(tmp_path: Path) -> Batches:
    return Batches(tmp_path)


def test_nothing_is_sent_and_nothing_written(here: Batches, listener: Listener) -> None:
    (here.folder / "data.csv").write_text("a,b\n1,2\n")
    (here.folder / "scan.pdf").write_bytes(b"%PDF-1.4 none")
    url = f"http://127.0.0.1:{listener.port}"
    words = ("--model", "ollama/some-model", "--base-url", f"{url}/v1", "--dry-run", "--max-cost", "1.5")
    done = here.run(None, "How?", "text", "data.csv", "scan.pdf", f"{url}/page", *words)
    assert done.returncode == 0, done.stderr
    assert listener.connections == 0
    assert sorted(path.name for path in here.folder.iterdir()) == ["data.csv", "scan.pdf", "text"]
    for said in (
        "context    4 files", "text  100  text\n", "data.csv  8  text, as csv", "scan.pdf  13  pdf", "not fetched",
        "not tried", "max_cost 1.5 (--max-cost)", "max_turns 30 (default)", "at most $1.50",
        "kept from files, network and processes", "nothing was sent",
    ):  # fmt: skip
        assert said in done.stdout, done.stdout


def test_json_has_the_same_for_programs(here: Batches) -> None:
    (here.folder / "book").write_text("word " * 200_000)
    words = ("--model", "openai/gpt-5", "--sub-model", "openai/gpt-5-mini", "--dry-run", "--json")
    done = here.run(None, "How?", "book", *words, "--max-tokens", "100000")
    found = json.loads(done.stdout)
    assert found["context"]["files"] == [{"name": "book", "bytes": 1_000_000, "read_as": "text"}]
    assert found["context"]["tokens"] == 250_000
    assert [(each["purpose"], each["name"], each["reachable"]) for each in found["models"]] == [
        ("root", "openai/gpt-5", "not tried"), ("sub", "openai/gpt-5-mini", "not tried"),
    ]  # fmt: skip
    assert "one is needed" in found["models"][0]["key"]
    cost = found["cost"]
    assert 0 < cost["least"] < 0.01 < cost["reading_once"] < 0.2 < cost["most"] == pytest.approx(1.0)
    assert found["limits"]["max_tokens"] == {"value": 100_000, "origin": "--max-tokens"}
    assert found["isolation"]["sandbox"] == "process"


def test_what_one_plain_call_would_cost_has_the_input_in_it(here: Batches) -> None:
    (here.folder / "note").write_text("x" * 40_000)
    for strategy, least in (("auto", 0.0125), ("rlm", 0.001)):
        done = here.run(
            None, "?", "note", "--model", "openai/gpt-5", "--strategy", strategy, "--dry-run", "--json"
        )
        found = json.loads(done.stdout)
        assert found["strategy"] == {"auto": "direct", "rlm": "rlm"}[strategy]
        assert least < found["cost"]["least"] < 2 * least + 0.01


def test_the_tokens_of_a_model_are_learned_from_what_it_was_billed(here: Batches) -> None:
    def model(messages: Sequence[Message]) -> str:
        return "```repl\nFINAL(1)\n```"

    with ModelServer(model) as server:
        assert here.run(server, "How?", "text").returncode == 0
        done = here.run(server, "How?", "text", "--dry-run", "--json")
        assert len(server.requests) == 1
    context = json.loads(done.stdout)["context"]
    assert context["learned"]
    assert context["bytes_per_token"] == pytest.approx(4.0, rel=0.05)


def test_a_batch_says_what_all_of_it_may_cost(here: Batches, listener: Listener) -> None:
    here.questions("one", "two", {"question": "three"})
    url = f"http://127.0.0.1:{listener.port}/v1"
    done = here.run(
        None, "--batch", "q.jsonl", "text", "--model", "openai/gpt-5", "--dry-run", "--json", "--output", "out.jsonl",
        "--max-cost", "1", "--max-total-cost", "2.5",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["questions"], found["cost"]["most"], found["total"]["max_cost"]) == (3, 2.5, 2.5)
    assert not (here.folder / "out.jsonl").exists()
    (here.folder / "q.jsonl").write_text('{"question": 1}\n')
    done = here.run(None, "--batch", "q.jsonl", "text", "--model", "m", "--base-url", url, "--dry-run")
    assert (done.returncode, "line 1" in done.stderr) == (2, True)
    assert listener.connections == 0


def test_without_a_model_none_is_looked_for(here: Batches) -> None:
    done = here.run(None, "How?", "text", "--dry-run")
    assert done.returncode == 0
    assert "none is named" in done.stdout


def test_a_sandbox_elsewhere_is_not_tried(here: Batches) -> None:
    done = here.run(None, "How?", "--model", "openai/gpt-5", "--sandbox", "e2b", "--dry-run")
    assert "e2b: not tried" in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max-cost", "1"), "needs a known price"),
        (("--sandbox", "nope"), "unknown sandbox 'nope'"),
        (("--session", "s", "--no-store"), "--session needs the store"),
    ],
)
def test_what_a_run_would_refuse_is_refused(here: Batches, flags: tuple[str, ...], told: str) -> None:
    model = ("--model", "some-model", "--base-url", "http://127.0.0.1:9/v1")
    done = here.run(None, "How?", "text", *model, *flags, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_a_bound_of_money_for_all_is_refused_as_a_batch_refuses_it(here: Batches) -> None:
    here.questions("How?", "And then?")
    model = ("--model", "some-model", "--base-url", "http://127.0.0.1:9/v1")
    done = here.run(None, "--batch", "q.jsonl", "text", *model, "--max-total-cost", "1", "--dry-run")
    assert done.returncode == 2
    assert "needs a known price" in done.stderr
