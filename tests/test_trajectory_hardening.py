"""What a provider, a sandbox or a disk does wrong neither stops the recording nor hides a loss."""

from __future__ import annotations

import asyncio
import gc
import io
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from recursor.errors import TrajectoryError
from recursor.trajectory import jsonl, view
from recursor.trajectory.store import Store
from recursor.types import (
    BlockExecuted,
    Completion,
    Event,
    Execution,
    Message,
    ModelCalled,
    Reply,
    RunEnded,
    RunStarted,
    StopReason,
    Usage,
)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def cyclic() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["self"] = found
    return found


def called(number: int = 1, **reply: Any) -> ModelCalled:
    prompt = (Message("user", "p"),)
    return ModelCalled("run", f"c{number}", 1, "sub", "m", prompt, Reply("ok", **reply), None, 1.0, 0.5)


def ended(answer: Any) -> RunEnded:
    done = Completion(answer, StopReason.ANSWERED, Usage(), None, "run", 1, 1.0, "m")
    return RunEnded("run", done, None, 2.0)


def locks() -> str:
    return Path("/proc/locks").read_text()


HOSTILE = [
    called(finish_reason="\ud800"),
    called(raw={("a", 1): 1}),
    called(raw=cyclic()),
    called(cost=float("nan")),
    ended(Unprintable()),
    ended(cyclic()),
]


@pytest.mark.parametrize("event", HOSTILE)
async def test_a_hostile_event_neither_stops_the_store_nor_its_waiters(tmp_path: Path, event: Event) -> None:
    with Store(tmp_path / "runs.db") as store:
        store.emit(event)
        await asyncio.wait_for(store.flush(), 10)
        store.emit(called(2))
        await asyncio.wait_for(store.flush(), 10)
    with view.open(tmp_path / "runs.db") as found:
        assert found.calls("run")[-1].id == "c2"


@pytest.mark.parametrize("event", HOSTILE)
def test_a_hostile_event_is_a_line_of_strict_json(event: Event) -> None:
    log = io.StringIO()
    jsonl.JsonlSink(log).emit(event)
    assert "NaN" not in log.getvalue()
    assert len(list(jsonl.read(io.StringIO(log.getvalue())))) == 1


async def test_a_loss_is_told_even_when_later_events_are_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.emit(called(1))
        await store.flush()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON execution BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        store.emit(BlockExecuted("run", 1, 1, Execution("x")))
        store.emit(called(2))
        with pytest.raises(TrajectoryError, match="refused"):
            await store.flush()
        assert other.execute("SELECT count(*) FROM call").fetchone() == (2,)
        other.close()
        await store.flush()


async def test_what_a_full_disk_kept_out_is_written_by_the_next_flush(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.emit(called(1))
        await store.flush()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("ALTER TABLE call RENAME TO away")
        store.emit(called(2))
        with pytest.raises(TrajectoryError, match="no such table"):
            await store.flush()
        other.execute("ALTER TABLE away RENAME TO call")
        await store.flush()
        assert other.execute("SELECT count(*) FROM call").fetchone() == (2,)
        other.close()


def test_a_store_that_nobody_holds_commits_what_waits_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    store = Store(tmp_path / "runs.db")
    store.emit(RunStarted("a" * 32, None, 0, "q", (), "m", "m", None, 0.0))
    (writer,) = set(threading.enumerate()) - before
    del store
    gc.collect()
    writer.join(10)
    assert not writer.is_alive()
    with view.open(tmp_path / "runs.db") as recorded:
        assert [run.question for run in recorded.runs()] == ["q"]


async def test_a_second_store_on_a_file_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as first, Store(path) as second:
        first.emit(called(1))
        await first.flush()
        inode = f":{path.stat().st_ino} "
        assert inode in locks()
        second.emit(called(2))
        await second.flush()
        assert inode in locks()


def test_a_text_file_of_other_bytes_is_the_one_error() -> None:
    with pytest.raises(TrajectoryError, match="not text"):
        list(jsonl.read(io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8")))


async def test_messages_that_go_round_in_a_circle_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.emit(called())
        await store.flush()
    damage = sqlite3.connect(path, isolation_level=None)
    damage.execute("UPDATE node SET parent = hash")
    damage.close()
    with view.open(path) as found, pytest.raises(TrajectoryError, match="circle"):
        found.messages(found.calls("run")[0])
