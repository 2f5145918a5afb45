"""The viewer over a store in which anything may stand: it says so, and never hangs, fails or stops."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recursor import RLM, Limits
from recursor.errors import ModelError, RLMError, TrajectoryError
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.trajectory.journal import StoreJournal
from recursor.types import Message
from recursor.viewer.server import Viewer


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of two turns, sub-calls and a child; and one that was before it."""
    path = tmp_path_factory.mktemp("store") / "runs.db"
    says = [
        "```python\nsaid = llm_query_batched(['Is 1 odd?', 'Is 2 odd?'])\nchild = rlm_query('Count.', 'a b c')\n```",
        "```python\nFINAL([said, child])\n```",
    ]

    def say(messages: Sequence[Message]) -> str:
        if any("Count." in message.content for message in messages[:2]):
            return "```python\nFINAL(3)\n```"
        if messages[0].role == "user":
            return "yes"
        return says[sum(message.role == "assistant" for message in messages)]

    rlm = RLM(ScriptedModel(say), store=path, limits=Limits(max_depth=2))
    rlm.completion("The one before?", context="a b c")
    rlm.completion("The damaged one?", context="a b c")
    return path


async def all_told(store: Path, *, of: int = 0) -> dict[str, tuple[int, Any]]:
    """(status, JSON) of whatever the page may ask about a run; fails where anything is no strict JSON."""
    with closing(sqlite3.connect(store)) as connection, connection:
        rows = connection.execute("SELECT id FROM run WHERE depth = 0 ORDER BY rowid DESC").fetchall()
        run_id = str(rows[of][0])
        calls = [str(row[0]) for row in connection.execute("SELECT id FROM call WHERE run_id = ?", (run_id,))]
    paths = ["runs", "runs?search=one&state=answered"]
    paths += [
        f"runs/{run_id}{part}"
        for part in ("", "/spans", "/prompts", "/turns/1", "/coverage", "/evidence", "/answer")
    ]
    paths += [f"runs/{run_id}/passage?document=0", *(f"calls/{call}" for call in calls)]
    found: dict[str, tuple[int, Any]] = {}
    viewer, jar = Viewer(store), aiohttp.CookieJar(unsafe=True)
    timeout = aiohttp.ClientTimeout(20)
    async with (
        viewer.serving(),
        aiohttp.ClientSession(viewer.address, cookie_jar=jar, timeout=timeout) as client,
    ):
        await (await client.get(viewer.link().removeprefix(viewer.address))).read()
        for path in paths:
            async with client.get(f"/api/{path}") as response:
                assert "default-src 'none'" in response.headers["Content-Security-Policy"], path
                text = await response.text()
                found[path.removeprefix(f"runs/{run_id}/")] = (
                    response.status,
                    json.loads(text, parse_constant=refuse),
                )
        async with client.get(f"/api/runs/{run_id}/live?since=0") as stream:
            found["live"] = stream.status, await stream.text()  # it ends
    return found


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def damaged(sound: Path, folder: Path, *statements: str) -> Path:
    path = folder / "runs.db"
    source, connection = sqlite3.connect(sound), sqlite3.connect(path)
    source.backup(connection)
    source.close()
    last = "(SELECT id FROM run WHERE depth = 0 ORDER BY rowid DESC LIMIT 1)"
    for statement in statements:
        connection.execute(statement.replace("$RUN", last))
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET settings = X'3D7B' WHERE id = $RUN",
        "UPDATE run SET limits = '{', usage = '{' WHERE id = $RUN",
        "UPDATE run SET question = 5, error = 7 WHERE id = $RUN",
        "UPDATE run SET stop_reason = 'weird' WHERE id = $RUN",
        "UPDATE run SET answer_form = 'nope' WHERE id = $RUN",
        "UPDATE run SET answer = NULL WHERE id = $RUN",
        "UPDATE run SET id = '__proto__' WHERE id = $RUN",
        "UPDATE run SET ended = NULL, id = 'a''b\"<c>' WHERE id = $RUN",
        "UPDATE call SET reply = 7, usage = '{', cost = 'much'",
        "UPDATE execution SET head = 'abc', code = 9.5, variables = X'3D7B'",
        "UPDATE event SET data = X'3D7B', kind = 'Decided'",
        "UPDATE event SET data = CAST('=' || replace(hex(zeroblob(50000)), '00', '[[') AS BLOB), kind = 'Decided'",
        "DELETE FROM node",
        "UPDATE node SET parent = hash",
        "DELETE FROM event",
    ],
)
async def test_damage_of_any_kind_is_told_and_hides_no_other_run(
    sound: Path, tmp_path: Path, statement: str
) -> None:
    found = await all_told(damaged(sound, tmp_path, statement))
    assert {status for status, _ in found.values()} <= {200, 404}
    status, listed = found["runs"]
    assert status == 200
    assert "The one before?" in [run["question"] for run in listed["runs"]]
    assert all(told["error"] for status, told in found.values() if status == 404)


async def test_runs_that_are_their_own_parents_end_nowhere_but_do_end(sound: Path, tmp_path: Path) -> None:
    store = damaged(
        sound,
        tmp_path,
        "UPDATE run SET parent_id = (SELECT id FROM run WHERE parent_id = $RUN) WHERE id = $RUN",
    )
    found = await all_told(store)
    status, spans = found["spans"]
    assert status == 200
    assert [run["parent"] for run in spans["runs"]] == [-1, 0]
    journal = StoreJournal(store)
    with view.open(store) as recorded, pytest.raises(TrajectoryError, match="own parent"):
        journal.root(next(run.id for run in recorded.runs(children=True) if run.parent_id))
    journal.close()


async def test_numbers_that_json_lacks_become_null(sound: Path, tmp_path: Path) -> None:
    found = await all_told(
        damaged(
            sound, tmp_path, "UPDATE call SET cost = 9e999, duration = 9e999", "UPDATE run SET cost = -9e999"
        )
    )
    assert {status for path, (status, _) in found.items() if "passage" not in path} == {200}
    assert found["runs"][1]["runs"][0]["cost"] is None


async def test_a_clock_that_went_backwards_makes_nothing_narrower_than_nothing(
    sound: Path, tmp_path: Path
) -> None:
    store = damaged(sound, tmp_path, "UPDATE run SET ended = started - 100", "UPDATE call SET duration = -3")
    spans = (await all_told(store))["spans"][1]
    assert min(spans["calls"]["duration"]) == 0
    assert min(run["duration"] for run in spans["runs"]) == 0


async def test_messages_that_are_missing_are_said_to_be(sound: Path, tmp_path: Path) -> None:
    for statement in ("DELETE FROM node WHERE parent IS NULL", "UPDATE node SET parent = hash"):
        found = await all_told(damaged(sound, tmp_path, statement))
        calls = [told for path, (_, told) in found.items() if path.startswith("calls/")]
        assert all(call["messages"][0]["role"] == "missing" for call in calls)
        assert all(len(call["messages"]) < 10 for call in calls)


async def test_a_cookie_of_any_bytes_is_a_wrong_cookie(sound: Path) -> None:
    viewer = Viewer(sound)
    async with viewer.serving():
        reader, writer = await asyncio.open_connection("127.0.0.1", viewer.port)
        host, cookie = f"127.0.0.1:{viewer.port}".encode(), f"recursor-{viewer.port}".encode()
        writer.write(
            b"GET /api/runs HTTP/1.1\r\nHost: "
            + host
            + b"\r\nCookie: "
            + cookie
            + b"=\xff\xfe\r\nConnection: close\r\n\r\n"
        )
        assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"401"
        writer.close()
        await writer.wait_closed()


async def test_what_is_no_id_cannot_be_stopped(sound: Path, tmp_path: Path) -> None:
    store = damaged(sound, tmp_path, "SELECT 1")
    viewer, jar = Viewer(store), aiohttp.CookieJar(unsafe=True)
    async with viewer.serving(), aiohttp.ClientSession(viewer.address, cookie_jar=jar) as client:
        await (await client.get(viewer.link().removeprefix(viewer.address))).read()
        for run_id in ("zz", "%00", "..%2F..%2Fx", "0x12"):
            async with client.post(f"/api/runs/{run_id}/stop") as response:
                assert response.status == 404
    assert not [name for name in os.listdir(tmp_path) if "-stop-" in name]


async def test_what_came_from_the_cache_costs_nothing(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    says = ["```python\nFINAL(llm_query('Is 1 odd?'))\n```", "yes"]
    for _ in range(2):
        RLM(ScriptedModel(list(says)), store=store, cache="workspace").completion("Odd?", context="x")
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute("SELECT sum(cached) FROM call").fetchone() == (2,)
        connection.execute("UPDATE call SET cost = 1.0")
    found = await all_told(store)
    run = next(told for path, (_, told) in found.items() if path.startswith("runs/") and "shares" in told)
    assert sum(share["calls"] for share in run["shares"]) == 2
    assert math.fsum(share["cost"] for share in run["shares"]) == 0
    assert (
        sum(share["input_tokens"] + share["output_tokens"] for share in run["shares"]) == run["tokens"] == 0
    )
    spans = found["spans"][1]["calls"]
    assert (sum(spans["cost"]), sum(spans["input"]), sum(spans["output"])) == (0, 0, 0)


async def test_a_run_that_failed_is_told_with_what_it_did(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"

    def say(messages: Sequence[Message]) -> str:
        if sum(message.role == "assistant" for message in messages):
            raise ModelError("401 the key was refused", status=401)
        return "```python\nx = 1\n```"

    with pytest.raises(RLMError):
        RLM(ScriptedModel(say), store=store).completion("Why?", context="x")
    found = await all_told(store)
    (run,) = found["runs"][1]["runs"]
    assert (run["state"], run["turns"], run["calls"], run["cost"]) == ("failed", 2, 2, 0)
    assert run["duration"] > 0
    assert "401" in found["spans"][1]["runs"][0]["error"]


async def test_what_was_read_is_told_anew_when_a_run_was_resumed(tmp_path: Path) -> None:
    store, file = tmp_path / "runs.db", tmp_path / "boats.txt"
    file.write_text("".join(f"Boat {number} came in at {number * 7919}. " for number in range(60)))
    says = [
        "```python\nllm_query(context[:200])\n```",
        "```python\nprint(1)\n```",
        "```python\nFINAL(llm_query(context[600:900]))\n```",
    ]

    def say(messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "By the tide."
        return says[sum(message.role == "assistant" for message in messages)]

    first = RLM(ScriptedModel(say), store=store, limits=Limits(max_turns=1))
    run_id = (await first.acompletion("How?", context=file)).run_id
    viewer, jar = Viewer(store), aiohttp.CookieJar(unsafe=True)
    async with viewer.serving(), aiohttp.ClientSession(viewer.address, cookie_jar=jar) as client:
        await (await client.get(viewer.link().removeprefix(viewer.address))).read()

        async def read() -> list[list[int]]:
            async with client.get(f"/api/runs/{run_id}/coverage") as response:
                found = await response.json()
            kinds = [call["kind"] for call in found["calls"]]
            spans = found["documents"][0]["spans"]
            return [[start, end] for start, end, calls, _ in spans if kinds[calls[0]] == "sub-call"]

        assert await read() == [[0, 200]]
        again = RLM(ScriptedModel(say), store=store, limits=Limits(max_turns=5))
        assert (await again.aresume(run_id)).answer == "By the tide."
        assert await read() == [[0, 200], [600, 900]]
