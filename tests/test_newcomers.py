"""The worker that waits to be the next REPL, and who reads what the host sends to one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Bench
from recursor.protocols import CopyableRepl
from recursor.sandboxes import jail
from recursor.sandboxes.process import ProcessSandbox
from recursor.types import Batch

MB = 1 << 20


def waiting(template: int) -> list[int]:
    """The pids of workers of a template process that nobody has been given."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name, status = (entry / "comm").read_text(), (entry / "status").read_text()
        except OSError:
            continue
        above = next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1]
        if name.startswith("next-") and above in children(template):
            found.append(int(entry.name))
    return found


def children(pid: int) -> set[str]:
    """Of the process that was started: the template process proper, which for a moment has the name of its next."""
    return set(of(pid, f"task/{pid}/children").split())


def of(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


async def appeared(template: int, beside: int = 0) -> int:
    async with asyncio.timeout(10):
        while not (found := [pid for pid in waiting(template) if pid != beside]):
            await asyncio.sleep(0.01)
    return found[0]


@pytest.fixture
def zygote() -> Any:
    made = jail.Zygote()
    yield made
    made.close()


async def test_the_next_repl_is_the_worker_that_waits(zygote: jail.Zygote) -> None:
    assert waiting(zygote._pid) == []  # who asks for none has none
    first = zygote.spawn(memory=256 * MB, scratch=MB)
    assert first.rpc.recv(8)  # it is no newcomer any more
    ready = await appeared(zygote._pid)
    second = zygote.spawn(memory=256 * MB, scratch=MB)
    assert second.pid == ready
    assert second.rpc.recv(8)
    assert await appeared(zygote._pid, beside=ready) not in (first.pid, second.pid)
    for worker in (first, second):
        worker.close()


async def test_a_worker_that_is_killed_while_it_waits_costs_nobody_anything(zygote: jail.Zygote) -> None:
    zygote.spawn(memory=256 * MB, scratch=MB).close()
    for _ in range(3):
        ready = await appeared(zygote._pid)
        os.kill(ready, signal.SIGKILL)
        async with asyncio.timeout(10):
            while ready in waiting(zygote._pid) and "State:\tZ" not in of(ready, "status"):
                await asyncio.sleep(0.01)
        worker = zygote.spawn(memory=256 * MB, scratch=MB)
        assert worker.rpc.recv(8)
        assert worker.pid != ready
        worker.close()


async def test_a_worker_that_waits_becomes_what_is_asked_for(zygote: jail.Zygote) -> None:
    zygote.spawn(memory=256 * MB, scratch=MB).close()
    for memory, scratch in ((64 * MB, MB), (512 * MB, MB), (256 * MB, 8 * MB), (256 * MB, 8 * MB)):
        await appeared(zygote._pid)
        worker = zygote.spawn(memory=memory, scratch=scratch)
        assert worker.rpc.recv(8)
        limits = of(worker.pid, "limits").splitlines()
        values = {line[:26].strip(): line[26:].split()[:2] for line in limits}
        assert values["Max file size"] == [str(scratch)] * 2
        assert 0 < int(values["Max address space"][1]) - memory < 256 * MB
        worker.close()


async def test_a_worker_that_waits_is_locked_in_and_has_nothing_of_the_host(zygote: jail.Zygote) -> None:
    worker = zygote.spawn(memory=256 * MB, scratch=MB)
    assert worker.rpc.recv(8)
    ready = await appeared(zygote._pid)
    async with asyncio.timeout(10):
        while "Seccomp:\t2" not in (status := of(ready, "status")):
            await asyncio.sleep(0.01)
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    worker.close()


async def test_copies_are_made_while_repls_come_and_go() -> None:
    """What the template asks the kernel about one REPL does not change when another ends."""

    async def come_and_go() -> None:
        for _ in range(12):
            repl = await ProcessSandbox().open()
            assert isinstance(repl, CopyableRepl)
            copies = [await repl.fork() for _ in range(2)]
            await repl.close()
            for copy in copies:
                await copy.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(come_and_go() for _ in range(5)))


# Who reads --------------------------------------------------------------------------------------


class Slow:
    """Answers a call after those that it names."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.come = asyncio.Event()

    async def answer(self, subcall: Any) -> str | None:
        if isinstance(subcall, Batch):
            return None
        self.seen.append(subcall.prompt)
        self.come.set()
        while subcall.prompt.startswith("after ") and subcall.prompt[6:] not in self.seen:
            self.come.clear()
            await self.come.wait()
        return f"<{subcall.prompt}>"


async def ran(code: str) -> tuple[str, str | None]:
    repl = await ProcessSandbox().open()
    try:
        done = await asyncio.wait_for(repl.execute(code, Slow()), 30)
        again = await asyncio.wait_for(repl.execute("print(llm_query('again'))", Slow()), 30)
        assert again.output.head == "<again>\n"
        return done.output.head, done.error
    finally:
        await repl.close()


THREADED = """
import threading
found = {}
def ask(name, prompt): found[name] = llm_query(prompt)
"""


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        # The thread waits before the first one does, meanwhile, and after it has gone on.
        ("t = threading.Thread(target=ask, args=(1, 'after b')); t.start(); ask(2, 'b'); t.join()", "<after b> <b>"),
        ("t = threading.Thread(target=ask, args=(1, 'a')); t.start(); ask(2, 'after a'); t.join()", "<a> <after a>"),
        ("t = threading.Thread(target=ask, args=(1, 'after c')); t.start(); ask(2, 'b'); ask(3, 'c'); t.join()", "<after c> <b>"),
        ("t = threading.Thread(target=ask, args=(1, 'a')); t.start(); t.join(); ask(2, 'b')", "<a> <b>"),
    ],
)  # fmt: skip
async def test_threads_and_the_first_of_them_wait_side_by_side(code: str, shown: str) -> None:
    assert await ran(f"{THREADED}{code}\nprint(found[1], found[2])") == (f"{shown}\n", None)


async def test_event_loops_batches_and_plain_calls_take_turns() -> None:
    code = """
import asyncio
async def both(): return await asyncio.gather(allm_query("after b"), allm_query("b"))
for _ in range(3):
    print(asyncio.run(both()), llm_query_batched(["c", "d"]), llm_query("e"))
"""
    line = "['<after b>', '<b>'] ['<c>', '<d>'] <e>\n"
    assert await ran(code) == (line * 3, None)


async def test_an_interrupt_ends_a_wait_and_the_next_calls_get_their_own_results() -> None:
    repl = await ProcessSandbox().open()
    subcalls = Slow()
    stopped = await repl.execute("kept = 1\nllm_query('after never')", subcalls, max_wall=0.3)
    assert "the block was interrupted" in str(stopped.notes)
    for number in range(3):
        shown = await Bench(repl).run(f"print(kept, {number})")
        assert shown.output.head == f"1 {number}\n"
    done = await repl.execute("print(llm_query('x'), kept)", subcalls)
    assert done.output.head == "<x> 1\n"
    await repl.close()


async def test_a_call_of_a_finalizer_does_not_hang() -> None:
    code = """
import gc
class Late:
    def __init__(self): self.me = self
    def __del__(self):
        try: said.append(llm_query("z"))
        except SubcallError as error: said.append(str(error))
said = []
gc.set_threshold(5)
for _ in range(50):
    Late()
    llm_query("a")
gc.set_threshold(700)
gc.collect()
print(len(said))
"""
    assert await ran(code) == ("50\n", None)
