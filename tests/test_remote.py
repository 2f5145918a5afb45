"""A worker on another machine, behind whatever stream a service gives: here the service is a process."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PLAIN, Bench
from recursor.context import prepare
from recursor.errors import IsolationUnavailable, SandboxError
from recursor.sandboxes import inprocess, wire
from recursor.sandboxes.remote import PIECE, Inbox, Lines, Remote, RemoteSandbox, relayed
from recursor.testing import check_sandbox
from recursor.types import Isolation


class Place:
    """A process as a service shows it: chunks of odd sizes, in its own time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.broken = False
        self.ended = 0
        self.renewed = 0
        self.refuses_renewal: Exception | None = None

    async def read(self) -> bytes:
        data = await self._stdout.read(7001)
        if self.broken:
            raise ConnectionResetError("the service is gone")
        return data

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    async def renew(self) -> None:
        self.renewed += 1
        if self.refuses_renewal:
            raise self.refuses_renewal

    async def end(self) -> None:
        self.ended += 1
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        if self.broken:
            raise TimeoutError("no answer")


class Service(RemoteSandbox):
    def __init__(
        self, refuses: str = "", weak: bool = False, lease: float = 60, lifetime: float | None = None
    ) -> None:
        super().__init__(executable=sys.executable, lease=lease, lifetime=lifetime)
        self.places: list[Place] = []
        self._refuses = refuses
        self._weak = weak

    async def start(self, command: Sequence[str], memory: int) -> Remote:
        if self._refuses:
            raise IsolationUnavailable(self._refuses)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=PLAIN)
        self.places.append(Place(process))
        return self.places[-1]

    def isolation(self, facts: wire.Facts | None) -> Isolation:
        if self._weak:
            raise IsolationUnavailable("the place is too weak")
        return replace(inprocess.ISOLATION, sandbox="service")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    yield service
    assert [place.ended for place in service.places] == [1] * len(service.places)


@pytest.fixture
async def remote(service: Service) -> AsyncIterator[Bench]:
    repl = await service.open(tools=["lookup"])
    yield Bench(repl)
    await repl.close()


async def test_a_remote_keeps_the_contract(service: Service) -> None:
    await check_sandbox(service)


async def test_contexts_go_to_a_remote_and_come_back(remote: Bench) -> None:
    await remote.repl.load("context", prepare("é" * 10_000_000))
    assert await remote.answered("FINAL(rlm_query('q', [context])['context'][0])") == "é" * 10_000_000


async def test_a_remote_that_dies_is_started_anew_with_its_context(remote: Bench, service: Service) -> None:
    await remote.repl.load("context", prepare("data"))
    execution = await remote.run("import os\nos._exit(3)")
    assert "it ended by itself" in str(execution.error)
    assert await remote.shown("context") == "'data'\n"
    assert len(service.places) == 2


async def test_a_line_that_breaks_is_said_and_a_place_that_may_still_be_there_too(
    remote: Bench, service: Service
) -> None:
    service.places[0].broken = True
    execution = await remote.run("1")
    assert "its line broke: ConnectionResetError: the service is gone" in str(execution.error)
    assert "the place may still be there: TimeoutError: no answer" in str(execution.error)
    assert await remote.shown("6 * 7") == "42\n"


async def test_a_block_that_cannot_be_interrupted_is_ended_with_its_place(remote: Bench) -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    execution = await remote.run(code, max_time=0.3)
    assert "variables are lost" in execution.notes[0]
    assert await remote.shown("6 * 7") == "42\n"


async def test_a_place_that_is_refused_or_too_weak_is_an_error_and_ended() -> None:
    with pytest.raises(IsolationUnavailable, match="no more today"):
        await Service(refuses="no more today").open()
    weak = Service(weak=True)
    with pytest.raises(SandboxError, match="too weak"):
        await weak.open()
    assert [place.ended for place in weak.places] == [1]


async def test_an_opening_that_is_cancelled_leaves_no_place() -> None:
    service = Service()
    opening = asyncio.ensure_future(service.open())
    while not service.places:
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [place.ended for place in service.places] == [1]


async def test_a_place_is_renewed_while_it_is_used_and_given_up_when_it_is_gone() -> None:
    service = Service(lease=0.3)
    bench = Bench(await service.open())
    place = service.places[0]
    await bench.shown("import time\ntime.sleep(0.5)")
    assert place.renewed >= 3
    place.refuses_renewal = ConnectionError("no such place")
    execution = await bench.run("while True: pass")
    assert "its line broke: ConnectionError: no such place" in str(execution.error)
    await bench.repl.close()


async def test_one_renewal_that_fails_is_tried_again_and_two_end_the_place() -> None:
    service = Service(lease=0.3)
    bench = Bench(await service.open())
    service.places[0].renewed = 0
    service.places[0].refuses_renewal = RuntimeError("busy")
    execution = await bench.run("while True: pass")
    assert "its line broke: RuntimeError: busy" in str(execution.error)
    assert service.places[0].renewed == 2
    await bench.repl.close()


async def test_a_place_ends_with_its_lifetime() -> None:
    service = Service(lifetime=0.5)
    bench = Bench(await service.open())
    execution = await bench.run("while True: pass")
    assert "its lifetime of 0.5 s is over" in str(execution.error)
    await bench.repl.close()


async def test_an_inbox_makes_who_fills_it_wait_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    inbox.put(b"x" * (PIECE + 1))
    second = asyncio.ensure_future(inbox.put_in_turn(b"y"))
    await asyncio.sleep(0)
    assert not second.done()
    assert await inbox.read() == b"x" * (PIECE + 1)
    await second
    assert await inbox.read() == b"y"
    monkeypatch.setattr(Inbox, "MAX", 10)
    inbox.put(b"z" * 11)
    with pytest.raises(ConnectionError, match="more than can be read"):
        await inbox.read()


async def test_what_was_printed_before_the_end_is_read_before_it() -> None:
    inbox = Inbox()
    inbox.put(b"last")
    inbox.end(EOFError("over"))
    inbox.end(EOFError("again"))
    assert await inbox.read() == b"last"
    with pytest.raises(EOFError, match="over"):
        await inbox.read()


@given(cuts=st.lists(st.integers(0, 300)))
@settings(max_examples=50, deadline=None)
async def test_lines_are_the_bytes_however_they_are_cut(cuts: list[int]) -> None:
    data = bytes(range(256))
    text = f"0 {base64.b64encode(data[:100]).decode()}\n64 {base64.b64encode(data[100:]).decode()}\n"
    lines, edges = Lines(Inbox()), sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    assert b"".join(lines.take(text[a:b]) for a, b in pairwise(edges)) == data


def test_a_relay_carries_any_bytes_as_lines() -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    words = [*relayed(sys.executable, "text"), sys.executable, "-c", program]
    text = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert Lines(Inbox()).take(text) == bytes(range(256)) * 1000


@pytest.mark.parametrize("text", ["0 YWI=\n3 YWI=\n", "welcome!\n", "0 !!\n", "x" * (Lines.MAX + 1)])
async def test_lines_with_a_gap_or_of_another_kind_end_the_line(text: str) -> None:
    inbox = Inbox()
    Lines(inbox).take(text)
    with pytest.raises(ConnectionError, match="not what its relay sent, or not all of it"):
        await inbox.read()
