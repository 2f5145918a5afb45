"""What code is told when it hits a limit of its REPL: something that it can act on. In the default sandbox."""

from __future__ import annotations

import sys

import pytest

from conftest import Bench
from recursor.sandboxes.process import ProcessSandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")

MB = 1 << 20
LIMITS = {
    "memory": ("x = bytearray(1 << 40)", "`del` what you no longer need"),
    "threads": (
        """
import threading
gate = threading.Event()
try:
    for _ in range(3000): threading.Thread(target=gate.wait).start()
finally:
    gate.set()""",
        "llm_query_batched asks many at once",
    ),
    "open files": (
        "kept = []\nwhile True: kept.append(open('/dev/null'))",
        "at most 256 files may be open at once",
    ),
    "the size of a file": (
        "with open('/tmp/large', 'wb') as file:\n    while True: file.write(bytes(1 << 20))",
        "may have 8,388,608 bytes at most",
    ),
    "the scratch space": (
        """
for number in range(100):
    with open(f'/tmp/{number}', 'wb') as file: file.write(bytes(4 << 20))""",
        "/tmp is full (8,388,608 bytes in at most 20,000 files): remove files",
    ),
    "the number of files": (
        "import os\nfor number in range(30_000): os.close(os.open(f'/tmp/{number}', os.O_CREAT))",
        "/tmp is full",
    ),
    "the network": ("import socket\nsocket.socket()", "there is no network here"),
    "the network, through a library": (
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1/')",
        "there is no network here",
    ),
    "a name": ("import socket\nsocket.getaddrinfo('example.org', 80)", "there is no network here"),
    "processes": ("import subprocess\nsubprocess.run(['/bin/ls'])", "no processes can be started here"),
    "a pool of processes": (
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "no processes can be started here",
    ),
    "a place to write": ("open('/usr/lib/new', 'w')", "/tmp is for files of yours"),
    "the end": ("raise SystemExit", "FINAL(value)"),
}
"""Code that hits a limit, and what it is told."""


@pytest.mark.parametrize("limit", LIMITS)
async def test_it_is_told_what_to_do_about(limit: str) -> None:
    code, told = LIMITS[limit]
    repl = await ProcessSandbox(memory=256 * MB, scratch=8 * MB).open()
    try:
        inside = Bench(repl)
        error = (await inside.run(code)).error or ""
        assert told in error, error
        assert error.rstrip().endswith(")")
        assert await inside.shown("print(6 * 7)") == "42\n"  # and goes on
    finally:
        await repl.close()


async def test_time_that_is_up_is_told_with_its_limit() -> None:
    repl = await ProcessSandbox().open()
    try:
        done = await Bench(repl).run("while True: pass", max_time=0.2)
        assert any("it ran for 0.2 s" in note for note in done.notes)
    finally:
        await repl.close()


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('x')",
        "open('/tmp/none')",
        "raise OSError('no number')",
        "class Odd(OSError):\n    @property\n    def errno(self): raise KeyError\nraise Odd()",
        "class Odd(OSError):\n    reason = property(lambda self: exit())\nraise Odd()",
    ],
)
async def test_any_other_error_is_told_as_it_is_and_cannot_break_the_telling(code: str) -> None:
    repl = await ProcessSandbox().open()
    try:
        inside = Bench(repl)
        error = (await inside.run(code)).error or ""
        assert "Error" in error or "Odd" in error
        assert not error.endswith(")") or "could not be made" in error or "x)" in error
        assert await inside.shown("print(6 * 7)") == "42\n"
    finally:
        await repl.close()
