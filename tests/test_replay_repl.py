"""The same seed, the same code and the same readings give the same REPL, in another process too."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from recursor.protocols import Repl
from recursor.sandboxes.guest.replay import MAX_READINGS
from recursor.sandboxes.inprocess import InProcessSandbox
from recursor.sandboxes.process import ProcessSandbox
from recursor.types import Execution, Subcall

CHANCE = """
import random, os, secrets, uuid, tempfile
print([random.random(), random.Random().random(), random.SystemRandom().random(), os.urandom(3), secrets.token_hex(4)])
print(uuid.uuid4(), list({'alpha', 'beta', 'gamma', 'delta'}), hash('text'), tempfile.mktemp())
random.seed(7); print(random.random()); random.seed(); print(random.random(), random.sample(range(1000), 3))
"""
CLOCKS = """
import time, datetime, uuid
print(time.time(), time.time_ns(), time.monotonic(), time.perf_counter(), time.perf_counter_ns(), time.process_time())
print(time.localtime(), time.gmtime(), time.ctime(), time.strftime('%H:%M:%S'), time.asctime(), uuid.uuid1())
print(datetime.datetime.now(), datetime.datetime.now(datetime.timezone.utc), datetime.datetime.today(), datetime.date.today())
"""


class Nobody:
    async def answer(self, subcall: Subcall) -> Any:
        raise AssertionError(subcall)


async def opened(seed: int = 1) -> Repl:
    return await ProcessSandbox().open(seed=seed)


async def shown(repl: Repl, code: str, readings: tuple[float, ...] = ()) -> Execution:
    execution = await repl.execute(code, Nobody(), readings=readings)
    assert execution.error is None, execution.error
    return execution


async def test_chance_is_a_function_of_the_seed() -> None:
    said = []
    for seed in (1, 1, 2):
        repl = await opened(seed)
        said.append((await shown(repl, CHANCE)).output.head)
        await repl.close()
    assert said[0] == said[1] != said[2]


def test_chance_and_the_order_of_sets_are_the_same_in_another_process() -> None:
    program = (
        "import asyncio\nfrom recursor.sandboxes.process import ProcessSandbox\n"
        "async def main():\n"
        "    repl = await ProcessSandbox().open(seed=5)\n"
        f"    print((await repl.execute({CHANCE!r}, None)).output.head)\n"
        "    await repl.close()\n"
        "asyncio.run(main())"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(outputs) == 1


async def test_clocks_show_again_what_they_showed() -> None:
    first, second = await opened(), await opened()
    original = await shown(first, CLOCKS)
    assert len(original.readings) == 16
    again = await shown(second, CLOCKS, original.readings)
    assert (again.output, again.readings) == (original.output, original.readings)
    more = await shown(second, CLOCKS + "print(time.time())", original.readings)
    assert more.readings[:16] == original.readings
    assert len(more.readings) == 17
    await first.close()
    await second.close()


async def test_steady_clocks_go_on_from_what_they_showed() -> None:
    repl = await opened()
    await shown(repl, "import time; a = time.monotonic(), time.perf_counter()", (1e9, 2e9))
    code = "b = time.monotonic(), time.perf_counter()\n[0 <= y - x < 60 for x, y in zip(a, b)]"
    assert (await shown(repl, code)).output.head == "[True, True]\n"
    now = (await shown(repl, "time.time()", (5.0,))).output.head
    assert now == "5.0\n"
    assert float((await shown(repl, "time.time()")).output.head) > 1e9
    await repl.close()


async def test_waiting_for_futures_and_between_blocks_reads_no_clock_of_the_code() -> None:
    repl = await opened()
    code = """
import concurrent.futures, threading, time
go = threading.Event()
def late():
    go.wait()
    for _ in range(100): time.time()
with concurrent.futures.ThreadPoolExecutor() as pool:
    list(concurrent.futures.as_completed([pool.submit(int)], timeout=5))
"""
    assert (await shown(repl, code)).readings == ()
    await repl.close()


async def test_a_signal_handler_may_read_a_clock_that_is_being_read() -> None:
    repl = await opened()
    code = """
import signal, time
count = 0
def handler(*_):
    global count
    time.time(); count += 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
while count < 50: time.time()
signal.setitimer(signal.ITIMER_REAL, 0)
count >= 50
"""
    assert (await shown(repl, code)).output.head == "True\n"
    await repl.close()


@pytest.mark.parametrize("seed", [0, -1, 2**200])
async def test_any_number_is_a_seed(seed: int) -> None:
    repl = await opened(seed)
    assert (await shown(repl, "import random; 0 <= random.random() < 1")).output.head == "True\n"
    await repl.close()


async def test_types_of_time_stay_what_they_are() -> None:
    repl = await opened()
    code = """
import datetime, pickle
class Mine(datetime.datetime): pass
now = datetime.datetime.now()
print(type(now) is datetime.datetime, type(Mine.now()) is Mine, isinstance(now, datetime.date))
print(pickle.loads(pickle.dumps(now)) == now, (now + datetime.timedelta(1) > now), datetime.datetime.utcnow().tzinfo)
"""
    assert (await shown(repl, code)).output.head == "True True True\nTrue True None\n"
    await repl.close()


async def test_only_so_many_readings_are_kept() -> None:
    repl = await opened()
    code = f"import time\nfor _ in range({MAX_READINGS + 50}): time.time()"
    assert len((await shown(repl, code)).readings) == MAX_READINGS
    assert len((await shown(repl, "1")).readings) == 0
    await repl.close()


async def test_waiting_in_an_event_loop_reads_no_clock_of_the_code() -> None:
    repl = await opened()
    code = "import asyncio\nfor _ in range(20): await asyncio.sleep(0.0005)"
    assert (await shown(repl, code)).readings == ()
    await repl.close()


async def test_a_worker_that_takes_the_place_of_another_draws_other_numbers_each_time_the_same() -> None:
    said = []
    for _ in range(2):
        repl = await opened(3)
        before = (await shown(repl, "import random; random.random()")).output.head
        await repl.execute("import os; os._exit(0)", Nobody())
        after = (await shown(repl, "import random; random.random()")).output.head
        assert before != after
        said.append((before, after))
        await repl.close()
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "lie", [[1.0] * (MAX_READINGS + 1), ["1"], [math.nan], [math.inf], [10**400], None, {"a": 1}]
)
async def test_a_worker_that_lies_about_its_clocks_is_given_up_or_changes_nothing(lie: Any) -> None:
    repl = await opened()
    text = json.dumps(lie)
    code = f"""
import gc
channel = next(x for x in gc.get_objects() if type(x).__name__ == 'Channel')
real = channel.send
def send(header, body=b''):
    if header.get('op') == 'done': header = dict(header, readings=json_module.loads({text!r}))
    return real(header, body)
import json as json_module
channel.send = send
"""
    execution = await asyncio.wait_for(repl.execute(code, Nobody()), 30)
    assert all(math.isfinite(reading) for reading in execution.readings)
    assert len(execution.readings) <= MAX_READINGS
    assert (await shown(repl, "40 + 2")).output.head == "42\n"
    await repl.close()


async def test_without_isolation_the_clocks_of_the_host_are_left_alone() -> None:
    import random
    import time

    before = (time.time, random.Random.seed)
    repl = await InProcessSandbox().open(seed=1)
    assert (await shown(repl, "import time; time.time() > 0")).readings == ()
    assert (time.time, random.Random.seed) == before
    await repl.close()
