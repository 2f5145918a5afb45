"""What every REPL does first, done once where all of them are forked from.

A copy of the process then finds it done: what is imported late, what caches keep, and the bytecode in
the form that the interpreter gives it after some calls. Else each would do it anew, in pages of memory
of its own. The code that runs is this file's. Nothing that it binds is seen in a REPL.
"""

from __future__ import annotations

import asyncio
import linecache
import socket
from contextlib import redirect_stdout
from typing import Any

from . import replay
from .capture import Capture
from .frames import frame_of
from .turns import TurnChannel
from .worker import Worker

TIMES = 12
"""How often each block is run: the interpreter settles on a form of bytecode after eight calls."""
BLOCKS = (
    "",
    "kept = 1\nprint(kept)\nkept",
    "words = ['of', 'some', 'text']\n{word: len(word) for word in words}",
    "def function(): return missing\nfunction()",
)


def rehearse() -> None:
    """Serve a host that sends some blocks of ours, to the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, capture = TurnChannel(theirs, theirs, lambda: None), Capture()
        worker = Worker(channel, capture, lambda: None)
        _send(ours, {"op": "setup", "tools": [], "calls": "plain", "seed": "", "forks": ""})
        for number in range(TIMES * len(BLOCKS)):
            block = BLOCKS[number % len(BLOCKS)]
            _send(ours, {"op": "run", "id": number, "readings": []}, block.encode())
        _send(ours, {"op": "bye"})
        channel.start()
        with redirect_stdout(capture):
            worker.serve()
    replay.unseed()
    linecache.clearcache()
    asyncio.set_event_loop(None)


def _send(host: socket.socket, header: dict[str, Any], body: bytes = b"") -> None:
    host.sendall(frame_of(header, body))
