"""A process as a REPL and nothing else, once it is locked in: see `worker` for what that does."""

from __future__ import annotations

import builtins
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from . import mapped, memory
from .capture import Capture
from .channel import Channel, leave
from .frames import Duplex
from .worker import Worker


def _no_input(prompt: object = "") -> NoReturn:  # noqa: ARG001
    raise EOFError("input() is not available here: nobody is at the keyboard")


def serve_stream(incoming: int, outgoing: int, facts: dict[str, Any]) -> NoReturn:
    """Take over this process as the REPL of a host at the other end of one stream of bytes each way.

    Args:
        facts: about this place, for the host.
    """
    serve_over(Channel(Duplex(incoming, outgoing), None, leave), facts)


def serve_over(channel: Channel, facts: dict[str, Any] | None = None) -> NoReturn:
    """The same, over a channel that the caller has made."""
    prepared(channel, facts)()


def prepared(channel: Channel, facts: dict[str, Any] | None = None) -> Callable[[], NoReturn]:
    """Make this process all that a REPL is before it speaks with its host; return what does that, also in a fork."""
    mapped.allow()
    capture = Capture()

    def redirect() -> None:
        sys.stdout = sys.stderr = capture
        memory.begin_block()

    worker = Worker(channel, capture, redirect, memory.end_block)
    sys.stdout = sys.stderr = capture
    sys.modules["__main__"] = worker.module
    sys.argv = [""]
    builtins.input = _no_input
    threading.stack_size(1 << 20)

    def on_interrupt(_signal: int, _frame: object) -> None:
        if worker.running:
            channel.interrupt()

    def serve() -> NoReturn:
        signal.signal(signal.SIGINT, on_interrupt)
        channel.start()
        channel.send({"op": "ready", "facts": facts})
        worker.serve()
        leave()
        raise AssertionError("unreachable")

    return serve
