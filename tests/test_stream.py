"""A worker that only bytes reach does what a worker does that takes descriptors."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import PLAIN, Bench, PlainSandbox
from recursor import RLM, Limits, Policy, SandboxError
from recursor.context import prepare
from recursor.errors import IsolationUnavailable
from recursor.sandboxes import inprocess, link, stream, wire
from recursor.sandboxes.stream import CommandSandbox
from recursor.testing import ScriptedModel, check_sandbox
from recursor.types import RlmQuery, Subcall

MB = 1 << 20
RAW = """
import json, os, struct
out = llm_query.__wrapped__.__self__._channel._socket._outgoing
def raw(header, body=b""):
    head = json.dumps(header).encode()
    os.write(out, struct.pack("<II", len(head), len(body)) + head + body)
"""


@pytest.fixture
async def plain() -> AsyncIterator[Bench]:
    repl = await PlainSandbox().open()
    yield Bench(repl)
    await repl.close()


def sandbox(*command: str, **options: Any) -> CommandSandbox:
    return CommandSandbox(command, isolation=inprocess.ISOLATION, environment=PLAIN, **options)


async def test_a_stream_keeps_the_contract() -> None:
    await check_sandbox(PlainSandbox())


# Contexts -------------------------------------------------------------------------------------


async def test_a_context_of_a_hundred_megabytes_arrives_whole(plain: Bench) -> None:
    text = "".join(f"{n:09}\n" for n in range(10_000_000))
    info = await plain.repl.load("context", prepare(text))
    assert info.size == "100,000,000 characters"
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    assert (
        await plain.shown("import hashlib\nhashlib.sha256(context.encode()).hexdigest()") == f"'{digest}'\n"
    )


async def test_a_context_of_a_hundred_megabytes_goes_to_a_child(plain: Bench) -> None:
    seen: list[tuple[int, str]] = []

    class Keeper:
        async def answer(self, subcall: Subcall) -> Any:
            assert isinstance(subcall, RlmQuery)
            assert subcall.context is not None
            seen.append((subcall.context.size, await asyncio.to_thread(subcall.context.digest)))

    made = "x = 'ab' * 50_000_000\nrlm_query('q', x)\nimport hashlib\nhashlib.sha256(x.encode()).hexdigest()"
    execution = await plain.repl.execute(made, Keeper(), max_time=30)
    assert execution.error is None
    assert seen == [(100_000_000, f"sha256:{execution.output.head.strip().strip(chr(39))}")]


async def test_a_file_that_becomes_shorter_while_it_is_read_leaves_the_repl_alive(
    plain: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("x" * (3 * MB))
    source = prepare(path)
    os.truncate(path, MB)
    await plain.shown("kept = 1")
    with pytest.raises(SandboxError, match="ends after 1,048,576 of 3,145,728 bytes"):
        await plain.repl.load("context", source)
    await plain.repl.load("context", prepare("other"))
    assert await plain.shown("context, kept") == "('other', 1)\n"


async def test_a_worker_that_reads_no_context_is_given_up(
    plain: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "READING", 0.3)
    await plain.shown(
        "llm_query.__wrapped__.__self__._channel._put = lambda number, data: time.sleep(99)\nimport time"
    )
    with pytest.raises(SandboxError, match="does not read what it is given"):
        await plain.repl.load("context", prepare("x" * (8 * MB)))
    assert await plain.shown("6 * 7") == "42\n"


# What code does to its line -------------------------------------------------------------------


async def test_prints_to_the_descriptors_1_and_2_do_not_reach_the_line(plain: Bench) -> None:
    code = "import os, sys\nfor fd in (1, 2): os.write(fd, b'\\0' * 3000)\nsys.__stdout__.write('x')\nprint('seen')"
    assert await plain.shown(code) == "seen\n"
    assert (
        await plain.shown("os.read(0, 1), [os.close(fd) for fd in (0, 1, 2)]")
        == "(b'', [None, None, None])\n"
    )
    assert await plain.shown("llm_query('a')") == "'A'\n"


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(1e9)", "import threading\nthreading.Event().wait()", "llm_query('a')\nwhile True: llm_query('a' * 100_000)"]
)  # fmt: skip
async def test_a_runaway_block_is_interrupted_by_a_frame(plain: Bench, code: str) -> None:
    await plain.shown("kept = 1")
    execution = await plain.run(code, max_time=0.3, max_wall=1)
    assert "KeyboardInterrupt" in str(execution.error) or "block" in str(execution.error), execution
    assert await plain.shown("kept") == "1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(7)",
        "import os\nos.abort()",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import os, sys\nout = llm_query.__wrapped__.__self__._channel._socket._outgoing\nos.close(out)\nprint(1)",
    ],
)
async def test_a_worker_that_dies_is_born_again_with_its_context(plain: Bench, code: str) -> None:
    await plain.repl.load("context", prepare("data" * MB))
    await plain.shown("lost = 1")
    execution = await plain.run(code, max_time=0.5)
    assert "variables are lost" in execution.notes[0]
    assert await plain.shown("len(context), 'lost' in globals()") == f"({4 * MB}, False)\n"


BREACHES = {
    "more than it announced": "n, m = room(1000); raw(dict(op='fill', room=n), b'x' * 1001)",
    "after it was handed over": "n, m = room(2); raw(dict(op='fill', room=n), b'xy'); raw(dict(op='fill', room=n), b'z')",
    "a number of no kind": "raw(dict(op='fill', room='x'), b'z')",
}


@pytest.mark.parametrize("code", BREACHES.values(), ids=BREACHES)
async def test_a_worker_is_ended_that_fills(plain: Bench, code: str) -> None:
    room = """
def room(size):
    channel = llm_query.__wrapped__.__self__._channel
    number = channel.next_number()
    return number, channel.ask(json.dumps(dict(op="room", size=size)).encode()[:-1] + b',"id":', number=number)
"""
    execution = await plain.run(RAW + room + code + "\nimport time; time.sleep(9)")
    assert "broke the protocol" in str(execution.error), execution
    assert await plain.shown("6 * 7") == "42\n"


async def test_bytes_for_memory_that_was_not_asked_for_go_nowhere(plain: Bench) -> None:
    await plain.shown(RAW + "raw(dict(op='fill', room=-999), b'x' * 1000)")
    assert await plain.shown("6 * 7") == "42\n"


async def test_a_context_that_is_half_filled_is_refused(plain: Bench) -> None:
    code = """
channel = llm_query.__wrapped__.__self__._channel
fill = channel.fill
channel.fill = lambda room, pieces: fill(room, list(pieces)[:1])
rlm_query('q', 'x' * 300_000)
"""
    assert "the context has another size than was said" in str((await plain.run(code)).error)


# Places ---------------------------------------------------------------------------------------


async def test_a_completion_runs_over_a_stream_and_says_where() -> None:
    isolation = replace(inprocess.ISOLATION, sandbox="elsewhere")
    place = CommandSandbox(("env",), isolation=isolation, executable=sys.executable, environment=PLAIN)
    root = ScriptedModel(
        [
            "```repl\nFINAL(context.count('a') + len(rlm_query('how?', context)))\n```",
            "```repl\nFINAL(context)\n```",
        ]
    )
    done = RLM(root, sandbox=place, limits=Limits(max_depth=2)).completion("?", "banana" * 100_000)
    assert done.answer == 300_000 + 600_000
    assert done.isolation is not None
    assert done.isolation.sandbox == "elsewhere"


@pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")
async def test_files_and_processes_of_the_same_user_are_not_changed(plain: Bench, tmp_path: Path) -> None:
    own = tmp_path / "key"
    own.touch(mode=0o600)
    shown = await plain.shown(
        f"""
import os
def refused(act, *arguments):
    try: act(*arguments)
    except PermissionError: pass
    else: print('BROKEN', act.__name__)
refused(os.chmod, {str(own)!r}, 0o666)
refused(os.chown, {str(own)!r}, -1, -1)
refused(os.utime, {str(own)!r}, (1, 1))
refused(os.kill, {os.getpid()}, 0)
refused(os.sched_setaffinity, {os.getpid()}, {{0}})
refused(os.setpriority, os.PRIO_PROCESS, {os.getpid()}, 19)
"""
    )
    assert shown == ""
    assert own.stat().st_mode & 0o777 == 0o600


def test_what_a_worker_could_not_give_up_is_a_weakness_of_its_place() -> None:
    facts = wire.Facts(1000, 0, False, None, True, 0, missing=["Landlock: the kernel does not have it"])
    place = stream.with_own_locks(replace(inprocess.ISOLATION, files="its own", network="none"), facts)
    assert "Landlock: the kernel does not have it" in Policy(strict=True).unmet(place)


async def test_a_shell_gets_one_text() -> None:
    repl = await sandbox("sh", "-c", executable=sys.executable, shell=True).open()
    assert await Bench(repl).shown("1 + 1") == "2\n"
    await repl.close()


async def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(IsolationUnavailable, match="no-such-command cannot be started: No such file"):
        await sandbox("no-such-command").open()


async def test_a_command_that_fails_is_quoted() -> None:
    with pytest.raises(SandboxError, match=r"(?s)exit status 3; last words: the place is closed"):
        await sandbox("sh", "-c", "echo the place is closed >&2; exit 3").open()


async def test_a_command_that_talks_before_the_guest_breaks_the_protocol() -> None:
    with pytest.raises(SandboxError, match="broke the protocol"):
        await sandbox("sh", "-c", "echo Welcome to this machine; cat").open()


async def test_a_python_that_is_too_old_says_so(tmp_path: Path) -> None:
    old = tmp_path / "python"
    boot = stream.boot().replace("_MINIMUM = (3, 11)", "_MINIMUM = (3, 99)")
    old.write_text(f"#!{sys.executable}\n{boot}")
    old.chmod(0o755)
    with pytest.raises(SandboxError, match=r"the sandbox has Python 3\.\d+\.\d+\S*; it needs 3.11 or later"):
        await sandbox(executable=str(old)).open()


async def test_a_closed_repl_leaves_no_process(plain: Bench) -> None:
    pid = int(await plain.shown("import os\nos.getpid()"))
    await plain.repl.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_memory_bomb_is_a_memory_error_over_a_stream(plain: Bench) -> None:
    assert "MemoryError" in str((await plain.run("x = bytearray(1 << 40)")).error)


async def test_sets_have_the_same_order_in_every_repl() -> None:
    shown = set()
    for _ in range(2):
        repl = await PlainSandbox().open()
        shown.add(await Bench(repl).shown("list({str(n) for n in range(100)})"))
        await repl.close()
    assert len(shown) == 1
