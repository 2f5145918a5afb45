"""NOT a sandbox: the REPL is a thread of this very process. For debugging only.

Code that a model writes runs with all of your rights: it reads your files and environment, uses
your network, and can end or corrupt this process. Nothing here holds it back, and a block that
never returns to the interpreter cannot be stopped. It exists so that a debugger or a profiler can
see into a REPL, and it must be asked for by name: `RLM(..., sandbox="inprocess")`.

Prints of a block are captured from its own thread; prints of threads that it starts go to the
host's stdout. Its randomness and its clocks are this process's: a seed and readings are ignored.
"""

from __future__ import annotations

import ctypes
import io
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from recursor.protocols import Repl
from recursor.sandboxes.guest import worker
from recursor.sandboxes.guest.capture import Capture
from recursor.sandboxes.guest.channel import Channel
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import opened
from recursor.types import CallStyle, Isolation

_captures: dict[int, Capture] = {}

ISOLATION = Isolation(
    sandbox="inprocess",
    files="all of the host's, with your rights",
    network="all of the host's",
    processes="all of the host's",
    environment="the host's, secrets included",
    kernel="shared, and the interpreter too",
    memory="no limit",
    mechanisms=("nothing",),
)


class InProcessSandbox:
    """Runs code of models in this process, without any isolation. For debugging only."""

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
        calls: CallStyle = "plain",
    ) -> Repl:
        async def spawn() -> Worker:
            return _Thread()

        return await opened(spawn, ISOLATION, tools, calls=calls, seed=None)


class _Thread:
    """A worker that is a thread. `kill` can only leave it behind."""

    output: int | None = None

    def __init__(self) -> None:
        self.rpc, rpc = socket.socketpair()
        self.aux, aux = socket.socketpair()
        channel = Channel(rpc, aux, self._hang_up)
        self._channel = channel
        self._inner = (rpc, aux)
        capture = Capture()
        self._worker = worker.Worker(channel, capture, _route_prints)
        self._thread = threading.Thread(
            target=self._serve, args=(capture,), daemon=True, name="recursor-repl"
        )
        self._thread.start()

    def _serve(self, capture: Capture) -> None:
        identity = threading.get_ident()
        _captures[identity] = capture
        try:
            self._channel.start()
            self._channel.send({"op": "ready"})
            self._worker.serve()
        except OSError:
            pass  # the host hung up
        finally:
            del _captures[identity]
            for end in self._inner:
                end.close()

    def _hang_up(self) -> None:
        self._channel.fail_waiting("the REPL was closed")
        self._channel.commands.put(({"op": "bye"}, b""))

    def interrupt(self) -> None:
        if self._worker.running and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(KeyboardInterrupt)
            )

    def kill(self) -> None:
        self.interrupt()

    def wait(self) -> str:
        self._thread.join(timeout=1.0)
        return "its thread was left behind" if self._thread.is_alive() else "its thread ended"


class _Router(io.TextIOBase):
    """Sends what REPL threads print to their capture, and everything else where it went before."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def write(self, text: str) -> int:
        capture = _captures.get(threading.get_ident())
        return int((capture or self._original).write(text))

    def flush(self) -> None:
        self._original.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _route_prints() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Router):
            setattr(sys, name, _Router(stream))
