"""A worker on another machine, behind whatever stream a service gives: here the service is a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from conftest import PLAIN, Bench
from recursor.context import prepare
from recursor.errors import IsolationUnavailable, SandboxError
from recursor.sandboxes import inprocess, wire
from recursor.sandboxes.remote import Remote, RemoteSandbox
from recursor.testing import check_sandbox
from recursor.types import Isolation, Subcall


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

    class Patient:
        async def answer(self, _: Subcall) -> str:
            while place.renewed < 3:
                await asyncio.sleep(0.01)
            return "renewed"

    assert (await bench.repl.execute("llm_query('?')", Patient())).output.head == "'renewed'\n"
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
    service = Service(lifetime=2)
    bench = Bench(await service.open())
    execution = await bench.run("while True: pass")
    assert "its lifetime of 2 s is over" in str(execution.error)
    await bench.repl.close()
