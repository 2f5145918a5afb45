"""What is recorded of a run can be read back, survives a kill, and stays small."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import RLM, ConfigError, Limits, ModelError, StopReason
from recursor.errors import TrajectoryError
from recursor.testing import ListSink, ScriptedModel
from recursor.trajectory import jsonl, view
from recursor.trajectory.store import Store, resolve_store
from recursor.types import Message, ModelCalled, Reply, RunEnded, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def recorded(path: Path, *codes: str, context: Any = None, **options: Any) -> str:
    """Run the blocks and return the id of the run."""
    sub = ScriptedModel(lambda messages: messages[0].content.upper(), name="sub")
    with Store(path) as store:
        return (
            RLM(ScriptedModel([*map(block, codes)]), sub_model=sub, store=store, **options)
            .completion("?", context)
            .run_id
        )


def call(number: int, messages: tuple[Message, ...], reply: str = "ok", run_id: str = "run") -> ModelCalled:
    return ModelCalled(
        run_id,
        f"{run_id}-{number}",
        number,
        "root",
        "m",
        messages,
        Reply(reply, Usage(1, 1, calls=1), 0.0),
        None,
        0.0,
        0.1,
    )


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def test_a_run_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "runs.db"
    run_id = recorded(
        path, "print('seen')\n1/0", "x = llm_query_batched(['a', 'b'])", "FINAL({1: x})", context="data"
    )
    with view.open(path) as found:
        run = found.run(run_id[:10])
        assert (run.id, run.question, run.answer) == (run_id, "?", {1: ["A", "B"]})
        assert (run.stop_reason, run.turns, run.cost) == (StopReason.ANSWERED, 3, 0.0)
        assert run.usage is not None
        assert run.usage.calls == 5
        assert run.isolation is not None
        assert run.isolation.isolated
        assert run.contexts[0].info.size == "4 characters"
        assert str(run.contexts[0].digest).startswith("sha256:3a6eb0790f39ac87c94f3856b2dd2c5d")
        calls = found.calls(run_id)
        assert [each.purpose for each in calls] == ["root", "root", "sub", "sub", "root"]
        prompts = [found.messages(each) for each in calls if each.purpose == "root"]
        assert [len(prompt) for prompt in prompts] == [2, 4, 6]
        assert prompts[2][:4] == prompts[1]
        executions = found.executions(run_id)
        assert executions[0].execution.output.head == "seen\n"
        assert "ZeroDivisionError" in str(executions[0].execution.error)
        assert [each.submitted for each in executions] == [False, False, True]


def test_children_are_runs_of_their_own_below_their_parent(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    root = ScriptedModel([block("FINAL(rlm_query('child?', 'part'))")])
    with Store(path) as store:
        sub = ScriptedModel([block("FINAL(context)")], name="sub")
        run_id = RLM(root, sub_model=sub, store=store, limits=Limits(max_depth=2)).completion("?").run_id
    with view.open(path) as found:
        assert [run.id for run in found.runs()] == [run_id]
        (child,) = found.children(run_id)
        assert (child.question, child.answer, child.depth, child.parent_id) == ("child?", "part", 1, run_id)


def test_failed_calls_and_runs_are_recorded_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as store, pytest.raises(ModelError) as caught:
        RLM(ScriptedModel([ModelError("no credit")]), store=store).completion("?")
    with view.open(path) as found:
        run = found.run(str(caught.value.run_id))
        assert "no credit" in str(run.error)
        assert [(each.reply, each.error) for each in found.calls(run.id)] == [(None, "no credit")]


def test_three_turns_over_a_hundred_megabytes_leave_less_than_one(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    text = "".join(f"line {n}\n" for n in range(8_600_000))
    recorded(path, "print(context[:50_000])", "print(context[-50_000:])", "FINAL(len(context))", context=text)
    assert size(path) < 1_000_000


async def test_a_history_that_grows_is_stored_once(tmp_path: Path) -> None:
    sizes = []
    for turns in (10, 40):
        path = tmp_path / f"{turns}.db"
        messages: tuple[Message, ...] = (Message("system", "s"), Message("user", "q"))
        with Store(path) as store:
            for number in range(turns):
                store.emit(call(number, messages))
                messages += (Message("assistant", f"a{number}"), Message("user", os.urandom(4000).hex()))
            await store.flush()
        sizes.append(size(path))
    assert sizes[1] < 5 * sizes[0]


@given(st.lists(st.text(st.characters()), min_size=1, max_size=5), st.text(st.characters()))
@settings(max_examples=25, deadline=None)
def test_any_text_survives(texts: list[str], reply: str) -> None:
    messages = tuple(Message("user", text) for text in texts)

    async def write(path: Path) -> None:
        with Store(path) as store:
            store.emit(call(1, messages, reply))
            await store.flush()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runs.db")
        asyncio.run(write(path))
        with view.open(path) as found:
            (read,) = found.calls("run")
            assert found.messages(read) == messages
            assert read.reply == reply


_WRITER = """
import asyncio, sys
from recursor.trajectory.store import Store
from recursor.types import Message, ModelCalled, Reply
async def main():
    store = Store(sys.argv[1])
    for n in range(100_000):
        store.emit(ModelCalled(sys.argv[2], f"{sys.argv[2]}-{n}", 1, "sub", "m", (Message("user", str(n)),), Reply("r"), None, 0.0, 0.0))
        await store.flush()
        print(n, flush=True)
asyncio.run(main())
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), "a"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last == 500:
            writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with view.open(path) as found:
        assert len(found.calls("a")) >= last + 1


def test_two_processes_may_write_to_one_store(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    code = _WRITER.replace("100_000", "300")
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stdout=subprocess.DEVNULL)
        for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    with view.open(path) as found:
        assert [len(found.calls(name)) for name in ("a", "b")] == [300, 300]


async def test_thousands_may_wait_for_one_commit(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.db") as store:

        async def one(number: int) -> None:
            store.emit(call(number, (Message("user", str(number)),)))
            await store.flush()

        await asyncio.gather(*map(one, range(3000)))
    with view.open(tmp_path / "runs.db") as found:
        assert len(found.calls("run")) == 3000


def test_a_store_is_for_the_eyes_of_its_user(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.db"
    recorded(path, "FINAL(1)")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_store_that_cannot_be_written_is_an_error_of_the_next_flush(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "runs.db")
    store.emit(call(1, (Message("user", "a"),)))
    with pytest.raises(TrajectoryError, match="cannot be recorded"):
        await store.flush()
    store.close()


@pytest.mark.parametrize("make", ["garbage", "foreign", "newer", "missing", "empty"])
def test_what_is_no_store_is_named(tmp_path: Path, make: str) -> None:
    path = tmp_path / "runs.db"
    if make == "garbage":
        path.write_bytes(b"not a database" * 100)
    elif make == "empty":
        path.touch()
    elif make != "missing":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)" if make == "foreign" else "PRAGMA user_version = 99")
        connection.close()
    with pytest.raises(TrajectoryError, match=str(path)):
        view.open(path)


def test_an_id_that_fits_no_run_or_many_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    ids = [recorded(path, "FINAL(1)") for _ in range(20)]
    with view.open(path) as found:
        with pytest.raises(TrajectoryError, match=ids[-1][:8]):
            found.run("zzz")
        with pytest.raises(TrajectoryError, match="no run"):
            found.run("")
        first = next(one for one in ids if sum(other[0] == one[0] for other in ids) > 1)
        with pytest.raises(TrajectoryError, match="more than one"):
            found.run(first[0])


def test_what_may_be_a_store(tmp_path: Path) -> None:
    assert isinstance(resolve_store(str(tmp_path / "a.db")), Store)
    sink = ListSink()
    assert resolve_store(sink) is sink
    with pytest.raises(ConfigError, match="path, a Store or None"):
        resolve_store(3)
    with pytest.raises(ConfigError, match="durability"):
        Store(tmp_path / "a.db", durability="none")  # type: ignore[arg-type]


def test_full_durability_records_too(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.db", durability="full") as store:
        done = RLM(ScriptedModel([block("FINAL(1)")]), store=store).completion("?")
    with view.open(tmp_path / "runs.db") as found:
        assert found.run(done.run_id).answer == 1


# JSONL ----------------------------------------------------------------------------------------


def test_the_live_log_and_the_export_say_the_same(tmp_path: Path) -> None:
    live = io.StringIO()
    path = tmp_path / "runs.db"
    codes = ["print('x' * 10)", "y = llm_query('a')", "FINAL({'set': {1}})"]
    run_id = recorded(path, *codes, context="data", sinks=[jsonl.JsonlSink(live)])
    exported = io.StringIO()
    with view.open(path) as found:
        jsonl.export(found, run_id, exported)
    lines = [list(jsonl.read(io.StringIO(text.getvalue()))) for text in (live, exported)]
    for line in (line for log in lines for line in log):
        line.pop("time", None)
        (line.get("reply") or {}).pop("model", None)
    assert lines[0] == lines[1]
    assert [line["messages_from"] for line in lines[0] if line["event"] == "model_called"] == [0, 2, 0, 4]
    assert lines[0][-1]["completion"]["answer"] == {"set": {"$": ["set", [1]]}}


def test_the_log_of_a_lone_surrogate_is_ascii() -> None:
    log = io.StringIO()
    jsonl.JsonlSink(log).emit(call(1, (Message("user", "\ud800 \0 é"),)))
    assert log.getvalue().isascii()
    assert next(jsonl.read(io.StringIO(log.getvalue())))["new_messages"][0]["content"] == "\ud800 \0 é"


async def test_a_log_that_cannot_be_written_is_an_error_of_the_next_flush() -> None:
    with open(os.devnull) as unwritable:
        sink = jsonl.JsonlSink(unwritable)
        sink.emit(RunEnded("r", None, None, 0.0))
        with pytest.raises(TrajectoryError, match="cannot be written"):
            await sink.flush()


_LINES = st.binary() | st.recursive(
    st.none() | st.integers() | st.text() | st.just("event"), lambda v: st.lists(v) | st.dictionaries(st.text() | st.sampled_from(["v", "event"]), v)
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@given(st.lists(_LINES, max_size=5))
def test_any_bytes_read_or_raise_the_one_error(lines: list[bytes]) -> None:
    try:
        for line in jsonl.read(io.BytesIO(b"\n".join(lines))):
            assert line["v"] == 1
    except TrajectoryError as error:
        assert str(error).startswith("line ")


def test_a_store_that_cannot_be_written_is_refused_before_the_first_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = ScriptedModel([block("FINAL(1)")])
    with pytest.raises(TrajectoryError, match="cannot be recorded"):
        RLM(model, store=tmp_path / "file" / "runs.db").completion("?")
    assert model.requests == []


def test_an_answer_that_cannot_be_recorded_is_in_the_error() -> None:
    class Full(ListSink):
        async def flush(self) -> None:
            if isinstance(self.events[-1], RunEnded):
                raise TrajectoryError("the disk is full")

    with pytest.raises(TrajectoryError, match="disk is full") as caught:
        RLM(ScriptedModel([block("FINAL(7)")]), sinks=[Full()]).completion("?")
    assert caught.value.completion.answer == 7
