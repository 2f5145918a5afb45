"""Stopping a run from outside: what the viewer's button does."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM, Limits
from recursor.errors import RunStopped, TrajectoryError
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.trajectory.claim import claim, claimed, stop
from recursor.types import Message, Reply


class Silent(ScriptedModel):
    """Says nothing any more when its script has ended."""

    async def query(self, messages: Sequence[Message], **options: Any) -> Reply:
        if sum(message.role == "assistant" for message in messages):
            await asyncio.Event().wait()
        return await super().query(messages, **options)


async def begun(store: Path) -> str:
    """The id of the one run, once it is at work."""
    while True:
        await asyncio.sleep(0)
        try:
            with view.open(store) as recorded:
                found = recorded.runs()
        except TrajectoryError:  # there is no store yet
            continue
        if found and claimed(store, found[0].id):
            return found[0].id


async def test_a_run_stops_when_it_is_asked_to_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    first = RLM(Silent(["```python\nn = 41\n```"]), store=store)
    run = asyncio.ensure_future(first.acompletion("Count.", context="1 2 3"))
    run_id = await begun(store)
    while True:
        with view.open(store) as recorded:
            if recorded.executions(run_id):
                break
        await asyncio.sleep(0.01)
    stop(store, run_id)
    with pytest.raises(RunStopped) as stopped:
        await asyncio.wait_for(run, 10)
    assert run_id in str(stopped.value)
    assert not claimed(store, run_id)
    assert not [name for name in os.listdir(tmp_path) if "-stop-" in name]
    again = RLM(ScriptedModel(["```python\nFINAL(n + 1)\n```"]), store=store)
    done = await again.aresume(run_id, context="1 2 3")
    assert done.answer == 42
    assert done.replayed == 1


async def test_a_run_that_is_not_at_work_cannot_be_stopped(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    done = await RLM(ScriptedModel(["```python\nFINAL(1)\n```"]), store=store).acompletion("One?")
    with pytest.raises(TrajectoryError, match="not at work"):
        stop(store, done.run_id)


def test_an_old_wish_does_not_stop_a_later_attempt(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    limited = RLM(ScriptedModel(["```python\nprint(1)\n```"] * 2), store=store, limits=Limits(max_turns=1))
    done = limited.completion("One?")
    Path(f"{store}-stop-{done.run_id}").touch()
    again = RLM(ScriptedModel(["```python\nFINAL(2)\n```"]), store=store)
    assert again.resume(done.run_id).answer == 2


@pytest.mark.parametrize("run_id", ["", "zz", "0x12", "../" * 5, "a\0b", "12345678901234567/../x", "A" * 32])
def test_what_is_no_id_of_a_run_is_refused_and_leaves_nothing(tmp_path: Path, run_id: str) -> None:
    store = tmp_path / "runs.db"
    with claim(store, "1" * 32), pytest.raises(TrajectoryError, match="not at work"):
        stop(store, run_id)
    with pytest.raises(TrajectoryError, match="no id"), claim(store, run_id):
        raise AssertionError
    assert os.listdir(tmp_path) == ["runs.db-lock"]


def test_a_wish_that_comes_while_a_run_ends_leaves_nothing(tmp_path: Path) -> None:
    store, run_id = tmp_path / "runs.db", "a" * 32
    with claim(store, run_id):
        stop(store, run_id)  # nobody looks any more
        stop(store, run_id)
    assert os.listdir(tmp_path) == ["runs.db-lock"]


def test_wishes_at_any_moment_leave_nothing(tmp_path: Path) -> None:
    store, run_id = tmp_path / "runs.db", "a" * 32
    ended = threading.Event()

    def wishes() -> None:
        while not ended.is_set():
            with suppress(TrajectoryError):
                stop(store, run_id)

    with ThreadPoolExecutor(1) as other:
        asking = other.submit(wishes)
        for _ in range(300):
            with claim(store, run_id):
                pass
        ended.set()
        asking.result(10)
    assert os.listdir(tmp_path) == ["runs.db-lock"]


def test_who_is_refused_a_run_takes_no_wish_away(tmp_path: Path) -> None:
    store, run_id = tmp_path / "runs.db", "a" * 32
    with claim(store, run_id):
        stop(store, run_id)
        with pytest.raises(TrajectoryError, match="at work"), claim(store, run_id):
            raise AssertionError
        assert sorted(os.listdir(tmp_path)) == ["runs.db-lock", f"runs.db-stop-{run_id}"]
