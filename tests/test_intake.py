"""A flood of frames is taken in turns with all else, and costs whoever sends it, not the host."""

from __future__ import annotations

import asyncio

import pytest

from conftest import Bench
from recursor.sandboxes import intake, wire
from recursor.sandboxes.intake import Intake

FLOOD = """
import os, struct
number = 10**9
while True:
    frames = b""
    for number in range(number + 1, number + 65):
        head = {head} % number
        frames += struct.pack("<II", len(head), {size}) + head + {body}
    while frames:
        frames = frames[os.write(3, frames):]
"""
TOOL = 'b\'{"op":"tool","id":%d,"name":"nothing","apart":[],"ahead":0}\'', "b'[[],[]]'"
BATCH = 'b\'{"op":"batch","id":%d,"count":1,"recursive":false,"model":null}\'', "b''"


class Pipe(asyncio.Transport):
    """Knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True


class Worker:
    """What came of a worker of which something is wanted, or nothing."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.numbers: list[int] = []
        self.faults: list[str] = []
        self.pipe = Pipe()
        self.intake = Intake(self.take, lambda: self.wanted, self.faults.append)
        self.intake.begin(self.pipe)

    def take(self, frame: wire.Frame, body: bytes) -> None:
        assert isinstance(frame, wire.Part)
        self.numbers.append(frame.of)

    def send(self, start: int, count: int) -> None:
        self.intake.feed(b"".join(wire.encode({"op": "part", "of": start + n}) for n in range(count)))


async def test_frames_of_a_flood_are_taken_in_order_some_in_each_turn_of_the_loop() -> None:
    worker = Worker(wanted=True)
    worker.send(0, 3 * intake.AT_ONCE + 10)
    assert (len(worker.numbers), worker.pipe.read) == (intake.AT_ONCE, False)
    await asyncio.sleep(0)
    assert (len(worker.numbers), worker.pipe.read) == (2 * intake.AT_ONCE, False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (worker.numbers, worker.pipe.read) == ([*range(3 * intake.AT_ONCE + 10)], True)


async def test_what_came_before_the_end_is_taken_at_the_end() -> None:
    worker = Worker(wanted=True)
    worker.send(0, 3 * intake.AT_ONCE)
    worker.intake.end()
    assert worker.numbers == [*range(3 * intake.AT_ONCE)]
    worker.send(0, 1)
    await asyncio.sleep(0)
    assert len(worker.numbers) == 3 * intake.AT_ONCE


async def test_nothing_is_taken_after_a_fault() -> None:
    worker = Worker(wanted=True)
    worker.intake.feed(
        wire.encode({"op": "part", "of": 1}) + b"\xff" * 8 + wire.encode({"op": "part", "of": 2})
    )
    assert (worker.numbers, len(worker.faults)) == ([1], 1)
    worker.intake.stop()
    worker.send(3, 1)
    assert (worker.numbers, len(worker.faults)) == ([1], 1)


async def test_a_worker_that_is_asked_nothing_is_read_until_it_has_said_much() -> None:
    worker = Worker(wanted=False)
    for start in range(0, intake.MAX_UNASKED, 100):
        worker.send(start, 100)
    assert worker.pipe.read
    worker.send(0, 1)
    assert not worker.pipe.read
    worker.wanted = True
    worker.intake.ask()
    assert worker.pipe.read


async def test_who_holds_it_back_decides_when_it_is_read_again() -> None:
    worker = Worker(wanted=True)
    worker.send(0, intake.AT_ONCE)
    worker.intake.hold(True)
    await asyncio.sleep(0)
    assert not worker.pipe.read
    worker.intake.hold(False)
    assert worker.pipe.read


@pytest.mark.parametrize(("head", "body"), [TOOL, BATCH])
async def test_calls_that_cost_nothing_do_not_prolong_a_block(isolated: Bench, head: str, body: str) -> None:
    code = FLOOD.format(head=head, body=body, size=f"len({body})")
    done = await isolated.run(code, max_time=0.5)
    assert "it ran for 0.5 s" in f"{done.error} {done.notes}"


async def test_a_thread_that_sends_without_end_holds_up_no_later_block(isolated: Bench) -> None:
    code = (
        "import os, struct, threading\n"
        'head = b\'{"op":"part","of":1}\'\n'
        "frames = (struct.pack('<II', len(head), 0) + head) * 100\n"
        "def flood():\n"
        "    while True: os.write(3, frames)\n"
        "threading.Thread(target=flood, daemon=True).start()"
    )
    assert (await isolated.run(code)).error is None
    for _ in range(3):
        done = await isolated.run("6 * 7", max_time=None)
        assert (done.error, done.output.head) == (None, "42\n")
