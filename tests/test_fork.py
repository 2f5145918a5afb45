"""Copies of a REPL that runs: forks, snapshots, what a killed block costs, children that begin as a copy."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from conftest import Bench
from recursor.context import prepare
from recursor.errors import SandboxError
from recursor.protocols import CopyableRepl, Repl
from recursor.sandboxes import branches, workers
from recursor.sandboxes.inprocess import InProcessSandbox
from recursor.sandboxes.process import ProcessSandbox, WeakProcessSandbox
from recursor.testing import check_sandbox, run_attacks
from recursor.testing.programs import QUICK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")

STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


class Landlocked(WeakProcessSandbox):
    _tiers = ("landlock",)


def copyable(repl: Repl) -> CopyableRepl:
    assert isinstance(repl, CopyableRepl)
    return repl


@pytest.fixture
async def repl() -> AsyncIterator[CopyableRepl]:
    opened = copyable(await ProcessSandbox(memory=512 << 20, scratch=8 << 20).open(tools=["lookup"], seed=1))
    yield opened
    await opened.close()


def processes() -> set[int]:
    """Those that descend from this process, but for the worker that waits to be the next REPL."""
    return set(named())


def named() -> dict[int, str]:
    """The same with their names: of a template, "family-1", the first of a REPL's, "repl-1", and its copies."""
    above: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                head, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            above[int(entry.name)] = int(rest.split()[1])
            names[int(entry.name)] = head.partition("(")[2]
    ours = {os.getpid()}
    while more := {pid for pid, parent in above.items() if parent in ours} - ours:
        ours |= more
    templates = {above[pid] for pid in ours}  # one has the name of who it is about to fork for a moment
    found = {pid: "" if pid in templates else names.get(pid, "") for pid in ours}
    waiting = {name for name in found.values() if name.startswith("next-")}
    waiting |= {name.replace("next", "family") for name in waiting}
    return {pid: name for pid, name in found.items() if name not in waiting}


async def settled() -> set[int]:
    """The processes, when none of a REPL that was closed is left."""
    async with asyncio.timeout(10):
        while True:
            found = named()
            if all(name.replace("family", "repl") in found.values() for name in found.values()):
                return set(found)
            await asyncio.sleep(0.01)


async def left(expected: Callable[[set[int]], bool]) -> None:
    """Wait until the processes are as expected: one that was killed can be seen for a moment longer."""
    async with asyncio.timeout(10):
        while not expected(processes()):
            await asyncio.sleep(0.01)


# Forks ------------------------------------------------------------------------------------------


async def test_a_fork_has_every_variable_and_changes_none_of_the_others(repl: CopyableRepl) -> None:
    code = "def f(): return n\nclass A: pass\nn, a, gen = 1, A(), iter([1, 2, 3])\na.x = [next(gen)]"
    await Bench(repl).shown(code)
    fork = await repl.fork()
    assert await Bench(fork).shown("a.x.append(next(gen)); n = 2; f(), a.x") == "(2, [1, 2])\n"
    assert await Bench(repl).shown("f(), a.x, next(gen)") == "(1, [1], 2)\n"
    await repl.close()
    assert await Bench(fork).shown("f(), a.x, next(gen)") == "(2, [1, 2], 3)\n"
    await fork.close()


async def test_a_fork_is_a_repl_like_any_other(repl: CopyableRepl) -> None:
    await repl.load("context", prepare("given" * 1000))
    async with asyncio.timeout(30):
        fork = await repl.fork()
        bench = Bench(fork)
        assert (
            await bench.shown("len(context), llm_query('a'), await allm_query('b')") == "(5000, 'A', 'B')\n"
        )
        assert await bench.shown("lookup(1)") == "['lookup', (1,), {}]\n"
        assert await bench.shown("llm_query_batched(['x', 'y'])") == "['X', 'Y']\n"
        await fork.load("context", prepare([1, 2]))
        assert await bench.shown("context") == "[1, 2]\n"
        assert (await bench.run("while True: pass", max_time=0.2)).error is not None
        grandchild = await fork.fork()
        assert await Bench(grandchild).answered("FINAL(context)") == [1, 2]
        await bench.run("import os; os._exit(1)")
        assert await bench.shown("context") == "[1, 2]\n"  # started anew, with what was loaded
        assert await Bench(grandchild).shown("context") == "[1, 2]\n"
        assert await Bench(repl).shown("len(context)") == "5000\n"
        await grandchild.close()
        await fork.close()


async def test_forks_run_at_once_and_are_told_apart(repl: CopyableRepl) -> None:
    await Bench(repl).shown("x = 1")
    forks = [await repl.fork() for _ in range(5)]
    shown = await asyncio.gather(*(Bench(each).shown(f"x += {n}; x") for n, each in enumerate(forks)))
    assert shown == [f"{1 + n}\n" for n in range(5)]
    await asyncio.gather(*(each.close() for each in forks))


async def test_after_a_fork_the_event_loops_of_both_go_on(repl: CopyableRepl) -> None:
    wait = "import asyncio\nawait asyncio.sleep(0.001)\nawait allm_query('a')"
    await Bench(repl).shown(wait)
    fork = await repl.fork()
    for each in (fork, repl, fork, repl):
        assert await Bench(each).shown(wait) == "'A'\n"
    await fork.close()


async def test_a_repl_with_threads_says_that_it_cannot_be_forked_and_goes_on(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    code = "import threading\nend = threading.Event()\nt = threading.Thread(target=end.wait, name='busy')\nt.start()"
    await bench.shown(code)
    with pytest.raises(SandboxError, match=r"threads are running \(busy\).*end them first"):
        await repl.fork()
    assert await bench.shown("end.set(); t.join(); llm_query('a')") == "'A'\n"
    await (await repl.fork()).close()


async def test_a_sandbox_that_cannot_copy_a_repl_says_so() -> None:
    opened = copyable(await InProcessSandbox().open())
    try:
        for attempt in (opened.fork, opened.snapshot):
            with pytest.raises(SandboxError, match='sandbox="process"'):
                await attempt()
        opened.checkpoint()
        code = "try: rlm_query('q', fork=True)\nexcept SubcallError as error: print(error)"
        assert 'sandbox="process"' in await Bench(opened).shown(code)
    finally:
        await opened.close()


async def test_without_namespaces_nothing_is_copied_nor_promised() -> None:
    opened = copyable(await Landlocked().open())
    try:
        assert not opened.copyable
        with pytest.raises(SandboxError, match="takes namespaces"):
            await opened.fork()
        opened.checkpoint()
        code = "import os\ntry: os.fork()\nexcept OSError as error: print(error.errno)"
        assert await Bench(opened).shown(code) == "1\n"
    finally:
        await opened.close()


async def test_forks_leave_no_process_and_no_descriptor_behind(repl: CopyableRepl) -> None:
    await Bench(repl).shown("x = 1")
    before, descriptors = await settled(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        forks = [await repl.fork() for _ in range(3)]
        kept = await forks[0].snapshot()
        await forks[0].restore(kept)
        forks[1].checkpoint()
        await Bench(forks[1]).run("import os; os._exit(0)")
        for fork in forks:
            await fork.close()
    await left(lambda found: found == before)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert await Bench(repl).shown("x") == "1\n"
    await repl.close()
    await left(lambda found: len(found) < len(before))


async def test_a_host_without_descriptors_left_says_so_and_the_repl_goes_on(repl: CopyableRepl) -> None:
    await Bench(repl).shown("x = 1")
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, bounds[1]))
    try:
        with pytest.raises(SandboxError, match="Too many open files"):
            await repl.fork()
        repl.checkpoint()
        assert await Bench(repl).shown("x") == "1\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
    await (await repl.fork()).close()


# Snapshots --------------------------------------------------------------------------------------


async def test_a_snapshot_is_gone_back_to_as_often_as_wanted(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    await bench.shown("x = [1]")
    kept = await repl.snapshot()
    for number in range(3):
        assert await bench.shown(f"x.append({number}); y = 1; x") == f"[1, {number}]\n"
        await repl.restore(kept)
        assert await bench.shown("x, 'y' in globals()") == "([1], False)\n"
    await bench.run("import os; os._exit(0)")
    await repl.restore(kept)
    assert await bench.shown("x") == "[1]\n"
    await kept.close()
    await kept.close()
    with pytest.raises(SandboxError, match="closed"):
        await repl.restore(kept)


async def test_randomness_goes_on_in_a_copy_as_it_would_have_gone_on(repl: CopyableRepl) -> None:
    await Bench(repl).shown("import random, uuid; random.random()")
    kept = await repl.snapshot()
    draw = "random.random(), uuid.uuid4()"
    first = await Bench(repl).shown(draw)
    await repl.restore(kept)
    assert await Bench(repl).shown(draw) == first
    await Bench(repl).shown("random.seed(42)")
    fork = await repl.fork()
    assert await Bench(fork).shown("random.random()") == "0.6394267984578837\n"
    await fork.close()


# What a killed block costs ----------------------------------------------------------------------


async def test_a_block_that_has_to_be_killed_costs_what_it_did_and_not_all(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    await bench.shown("results = ['paid for']")
    repl.checkpoint()
    killed = await bench.run("results.append('half')\n" + STUBBORN, max_time=0.2)
    assert "0.2 s" in str(killed.error)
    assert "went back to what it was before this block" in killed.notes[-1]
    assert "stays done (sub-calls, tools, files in /tmp)" in killed.notes[-1]
    assert await bench.shown("results") == "['paid for']\n"
    repl.checkpoint()
    died = await bench.run("import os; results.clear(); os.abort()")
    assert "went back" in died.notes[-1]
    assert await bench.shown("results") == "['paid for']\n"


async def test_the_note_says_how_many_blocks_are_undone(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    await bench.shown("x = 1")
    repl.checkpoint()
    await bench.shown("x = 2")
    killed = await bench.run("x = 3; import os; os._exit(0)")
    assert "before the last 2 blocks" in killed.notes[-1]
    assert await bench.shown("x") == "1\n"
    lost = await bench.run("import os; os._exit(0)")
    assert "variables are lost" in lost.notes[-1]


async def test_a_draft_that_was_set_by_the_killed_block_is_not_lost(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    await bench.shown("answer['content'] = 'old'")
    repl.checkpoint()
    await bench.run("answer['content'] = 'new'; import os; os._exit(0)")
    assert await repl.draft() in ("old", "new")


async def test_a_repl_that_died_between_blocks_tells_it_beside_the_next(repl: CopyableRepl) -> None:
    bench = Bench(repl)
    await bench.shown("x = 1")
    repl.checkpoint()
    await bench.shown("x = 2")
    link: Any = repl
    link._link.worker.kill()
    await asyncio.wait([link._link.lost])
    found = await bench.run("x")
    assert found.output.head == "1\n"
    assert any("died after the block before" in note for note in found.notes)
    assert any("went back" in note for note in found.notes)


@pytest.mark.parametrize("doing", ["fork", "restore", "checkpoint"])
async def test_a_repl_that_is_closed_while_a_worker_is_made_for_it_leaves_none(
    doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await ProcessSandbox(memory=256 << 20).open()).close()  # the template stays
    before = await settled()
    repl: Any = await ProcessSandbox(memory=256 << 20).open()
    await Bench(repl).run("x = 1")
    kept = await repl.snapshot()
    begun, go_on = asyncio.Event(), asyncio.Event()

    def late(function: Any) -> Any:
        async def wrapped(*arguments: Any) -> Any:
            made = await function(*arguments)
            begun.set()
            await go_on.wait()
            return made

        return wrapped

    if doing == "fork":
        repl._link.worker.kill()
        await asyncio.wait([repl._link.lost])
        monkeypatch.setattr(repl, "_spawn", late(repl._spawn))
        task = asyncio.ensure_future(repl.fork())
    elif doing == "restore":
        monkeypatch.setattr(kept.repl, "fork", late(kept.repl.fork))
        task = asyncio.ensure_future(repl.restore(kept))
    else:
        monkeypatch.setattr("recursor.sandboxes.branches.fork", late(branches.fork))
        repl.checkpoint()
        task = asyncio.ensure_future(repl.execute("2", None))
    await begun.wait()
    await repl.close()
    go_on.set()
    with pytest.raises(SandboxError, match="the REPL is closed"):
        await task
    await left(lambda found: found == before)


# Code that is out to get a process --------------------------------------------------------------

GUEST = "import os, signal, sys, threading, time\nforking = sys.modules['guest.forking']\nreal = os.fork\n"
REFUSED = """
def refused(act, *arguments):
    try: act(*arguments)
    except OSError as error: print('refused', error.errno)
    else: print('BROKEN')
"""


async def test_a_permission_is_good_for_one_process(repl: CopyableRepl) -> None:
    code = """
def twice():
    pid = real()
    if pid:
        for _ in range(20):
            try: extra = real()
            except OSError: found.append('refused')
            else: os._exit(0) if not extra else found.append('BROKEN')
    return pid
found = []
forking._fork = twice
"""
    await Bench(repl).shown(GUEST + code)
    before = await settled()
    fork = await repl.fork()
    assert await Bench(repl).shown("set(found), len(found)") == "({'refused'}, 20)\n"
    assert len(await settled() - before) == 1
    await fork.close()
    assert await Bench(repl).shown(REFUSED + "for _ in range(3): refused(real)") == "refused 1\n" * 3


async def test_a_permission_that_was_not_used_is_taken_back(repl: CopyableRepl) -> None:
    code = "def no(): raise OSError(11, 'not now')\nforking._fork = no"
    await Bench(repl).shown(GUEST + code)
    for _ in range(3):
        with pytest.raises(SandboxError, match="not now"):
            await repl.fork()
    assert await Bench(repl).shown(REFUSED + "refused(real)") == "refused 1\n"


async def test_a_thread_cannot_use_the_permission_of_its_process(repl: CopyableRepl) -> None:
    code = (
        REFUSED
        + """
def from_a_thread():
    thread = threading.Thread(target=refused, args=(real,))
    thread.start()
    thread.join()
    return real()
forking._fork = from_a_thread
"""
    )
    await Bench(repl).shown(GUEST + code)
    fork = await repl.fork()
    assert await Bench(fork).shown("n = 1; n") == "1\n"
    await fork.close()


@pytest.mark.parametrize("ends", [False, True])
async def test_a_process_that_does_not_show_itself_is_ended_and_so_is_who_forked_it(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recursor.sandboxes.branches.BIRTH", 0.5)
    first = copyable(await ProcessSandbox(memory=512 << 20).open())
    try:
        before = await settled()
        await Bench(first).shown("kept = 1")
        second = await first.fork()
        code = f"""
def hide():
    if not real():
        while True: time.sleep(100)
    {"os._exit(0)" if ends else "return 1"}
forking._fork = hide
"""
        await Bench(second).shown(GUEST + code)
        with pytest.raises(SandboxError):
            await second.fork()
        await second.close()
        await left(lambda found: found == before)
        assert await Bench(first).shown("kept") == "1\n"
        await (await first.fork()).close()
    finally:
        await first.close()


async def test_a_process_that_ends_as_soon_as_it_has_shown_itself_costs_nobody_else_anything(
    repl: CopyableRepl,
) -> None:
    other = await ProcessSandbox(memory=512 << 20).open()
    try:
        await Bench(other).shown("kept = 1")
        code = "real = forking._write\ndef show(fd, data):\n    real(fd, data)\n    os._exit(0)\nforking._write = show"
        await Bench(repl).shown(GUEST + code)
        before = await settled()
        for _ in range(3):
            with pytest.raises(SandboxError):
                await repl.fork()
        await left(lambda found: found == before)
        assert await Bench(other).shown("kept") == "1\n"
    finally:
        await other.close()


async def test_a_fork_that_its_worker_does_not_live_to_see_costs_nobody_else_anything(
    repl: CopyableRepl, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copyable(await ProcessSandbox(memory=512 << 20).open())
    try:
        before = await settled()
        worker = cast("Any", other)._link.worker
        end = workers.Birth.end

        def late(birth: workers.Birth) -> workers.Spawned:
            worker.wait()  # takes its status, and the template knows it no more
            return end(birth)

        monkeypatch.setattr(workers.Birth, "end", late)
        code = (
            "def hide():\n    if real(): os._exit(0)\n    while True: time.sleep(100)\nforking._fork = hide"
        )
        await Bench(other).shown(GUEST + code)
        with pytest.raises(SandboxError):
            await other.fork()
        await left(lambda found: len(found) < len(before))
        with pytest.raises(SandboxError, match="it has ended"):
            worker.fork().end()
        assert await Bench(repl).shown("6 * 7") == "42\n"
    finally:
        await other.close()


async def test_a_process_that_shows_another_in_its_place_gains_nothing(repl: CopyableRepl) -> None:
    code = """
births = []
def spy(fd, data):
    births.append(fd)
    return write(fd, data)
write, forking._write = forking._write, spy
def parent_shows():
    pid = real()
    if not pid: time.sleep(100)
    return pid
forking._fork = parent_shows
"""
    await Bench(repl).shown(
        GUEST
        + code
        + "take = forking._close\nforking._close = lambda fd: (write(fd, b'.') if fd > 4 else 0, take(fd))"
    )
    before = await settled()
    with pytest.raises(SandboxError):
        async with asyncio.timeout(20):
            await repl.fork()
    await left(lambda found: len(found) <= len(before))
    await Bench(repl).run("it may die in this one")
    assert await Bench(repl).shown("6 * 7") == "42\n"


async def test_copies_cannot_signal_each_other_nor_change_each_others_limits(repl: CopyableRepl) -> None:
    forks = [await repl.fork() for _ in range(3)]
    code = (
        GUEST
        + REFUSED
        + """
import resource
for pid in (1, 2, 3, 4, 5, -1, 0):
    if pid != os.getpid():
        refused(os.kill, pid, 9)
        refused(os.kill, pid, 0)
    if pid > 0:
        refused(os.sched_setaffinity, pid, {0})
        refused(resource.prlimit, pid, resource.RLIMIT_NOFILE)
refused(os.killpg, 2, 9)
os.kill(os.getpid(), 0)
"""
    )
    for fork in forks:
        assert "BROKEN" not in await Bench(fork).shown(code)
    for each in (repl, *forks):
        assert await Bench(each).shown("6 * 7") == "42\n"
        if each is not repl:
            await each.close()


async def test_there_is_an_end_to_copies(repl: CopyableRepl) -> None:
    forks = [await repl.fork() for _ in range(79)]
    with pytest.raises(SandboxError, match="close some of them"):
        await repl.fork()
    await forks[0].close()
    forks[0] = await forks[1].fork()
    assert await Bench(forks[0]).shown("6 * 7") == "42\n"
    await asyncio.gather(*(fork.close() for fork in forks))


@pytest.mark.parametrize(
    "frames",
    [
        'send({"op": "forked", "re": 1})',
        'send({"op": "forked", "re": -1})',
        'for n in range(-1, -300, -1): send({"op": "branch", "id": n})',
        'send({"op": "branch", "id": -5}); send({"op": "branch", "id": -5})',
        'send({"op": "rlm_query", "id": -9, "model": None, "schema": None, "tools": [], "instruction": None, "limits": None, "question": 0, "context": None, "fork": -77})',
        'send({"op": "ready"})',
    ],
)
async def test_forged_frames_of_forks_do_nothing_to_the_host(repl: CopyableRepl, frames: str) -> None:
    code = """
import json, os, struct
def send(header):
    data = json.dumps(header).encode()
    os.write(3, struct.pack('<II', len(data), 0) + data)
"""
    before = await settled()
    async with asyncio.timeout(30):
        await Bench(repl).run(code + frames, max_time=2)
        for _ in range(3):
            if (await Bench(repl).run("x = 6 * 7")).error is None:
                break
        assert await Bench(repl).shown("x") == "42\n"
    await left(lambda found: len(found) <= len(before) + 1)
    fork = await repl.fork()
    assert await Bench(fork).shown("x") == "42\n"
    await fork.close()


async def test_asking_for_forks_neither_fills_the_host_nor_stops_the_clock(repl: CopyableRepl) -> None:
    code = """
import json, os, struct
def frame(header):
    data = json.dumps(header).encode()
    return struct.pack('<II', len(data), 0) + data
"""
    many = "out = b''.join(frame({'op': 'branch', 'id': -n}) for n in range(1000, 2000))\nos.write(3, out)"
    found = await Bench(repl).run(code + many, max_time=10)
    assert "more forks at once" in str(found.error)
    forged = """
from guest import frames
line = llm_query.__wrapped__.__self__._channel
while True:
    number = line.next_number()
    given = line.ask(frames.header_start({'op': 'branch'}), number=number)
    line.send({'op': 'forked', 're': number})
    line.resume()
"""
    began = time.monotonic()
    found = await Bench(repl).run(code + forged, max_time=1)
    assert "it ran for 1 s" in str((found.error, found.notes))
    assert time.monotonic() - began < 5  # and not as long as the host waits for a process to be born


class Copies:
    """The default sandbox, whose REPLs are copies of copies."""

    async def open(self, **options: Any) -> Repl:
        first = copyable(await ProcessSandbox(memory=256 << 20, scratch=8 << 20).open(**options))
        second = await first.fork()
        await first.close()
        third = await second.fork()
        await second.close()
        return third


async def test_a_copy_is_as_locked_in_as_what_it_was_made_of() -> None:
    findings = await run_attacks(Copies(), QUICK)
    assert [str(each) for each in findings if not each.held] == []


async def test_a_copy_passes_the_checks_of_a_sandbox() -> None:
    await check_sandbox(Copies())
