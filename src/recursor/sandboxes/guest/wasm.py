"""The worker where Python is WebAssembly: no threads, no processes, a file system in memory.

Nothing reads frames while code runs: see `pumped`. An event loop that has nothing to do reads, too; a
timer of one is late while calls are in flight, by as long as the next result takes.
"""

from __future__ import annotations

import asyncio
import io
import json
import marshal
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn


def _complete() -> None:
    """Add what the modules of the worker take for granted, and this Python lacks."""
    resource: Any = types.ModuleType("resource")
    resource.RLIMIT_AS, resource.RLIM_INFINITY = 0, -1
    resource.getrlimit = lambda _kind: (-1, -1)  # the memory of the module has an end of its own
    resource.setrlimit = lambda _kind, _limits: None
    sys.modules["resource"] = resource
    signal.pthread_kill = lambda _thread, number: signal.raise_signal(number)


if sys.platform == "emscripten":
    _complete()

from . import contexts, loading, serving, values  # noqa: E402 - they need what was added
from .channel import leave  # noqa: E402
from .documents import text_or_bytes, whole  # noqa: E402
from .frames import Duplex  # noqa: E402
from .mapped import CODECS  # noqa: E402
from .pumped import PumpedChannel  # noqa: E402

if sys.platform == "emscripten":
    del sys.modules["resource"]


class WasmChannel(PumpedChannel):
    """A channel without descriptors, not even of memory."""

    def __init__(self, rpc: Duplex, hang_up: Callable[[], Any]) -> None:
        super().__init__(rpc, None, hang_up)
        self._content: dict[int, bytearray] = {}
        """Contexts whose parts arrive, by number."""

    @property
    def waits(self) -> bool:
        """Whether a call is in flight."""
        return bool(self._waiting)

    def _put(self, number: int, data: bytes) -> None:
        if number not in self._content:
            self._content.clear()  # the host has given up what came before
        try:
            self._content.setdefault(number, bytearray()).extend(data)
        except MemoryError:  # loading says so
            self._content = {number: bytearray()}

    def _loaded(self, number: int) -> Any:
        return self._content.pop(number, bytearray())


class _Idle:
    """Stands for a selector: what an event loop does until there is something to do."""

    def __init__(self, channel: WasmChannel) -> None:
        self._channel = channel

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or (timeout > 0 and self._channel.waits):
            self._channel.pump()
        elif timeout > 0:
            time.sleep(timeout)
        return []


class Loop(asyncio.base_events.BaseEventLoop):
    """An event loop of timers and sub-calls, and of no files and sockets."""

    def __init__(self, channel: WasmChannel) -> None:
        super().__init__()
        self._selector = _Idle(channel)

    def _process_events(self, _events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in another thread."""


_SLICE = 0.02
_sleep, _monotonic = time.sleep, time.monotonic


def sleep(seconds: float) -> None:
    """Delay execution for a given number of seconds. Unlike the system's it can be interrupted."""
    end = _monotonic() + seconds
    _sleep(min(seconds, _SLICE))
    while (left := end - _monotonic()) > 0:
        _sleep(min(left, _SLICE))


_WHOLE: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "file": text_or_bytes,
    "values": lambda data: values.decode("values", data, bounded=False),
}


def loaded(content: bytearray, form: str, size: int) -> loading.Loaded:
    """Make the value of a context, as `contexts.loaded` does from a descriptor."""
    if len(content) != size:
        raise MemoryError("there is no room for it")
    if form.startswith("file:"):
        return loading.load(form.removeprefix("file:"), io.BytesIO(content), size)
    if form == "documents":
        return whole(io.BytesIO(content))
    if form == "values":
        return contexts.of_values(bytes(content))
    return loading.Loaded(_load(content, form))


def _load(content: bytearray, form: str) -> Any:
    if form == "text" or form in contexts.FIXED:
        codec = CODECS[contexts.FIXED[form]] if form in contexts.FIXED else "utf-8"
        return content.decode(codec, "surrogatepass")
    if form in _WHOLE:
        return _WHOLE[form](bytes(content))
    file = io.BytesIO(content)
    index = json.loads(file.readline())
    if index["type"] == "list":
        parts = [marshal.load(file) for _ in range(index["parts"])]  # noqa: S302 - written by the host, read in the sandbox
        return [item for part in parts for item in part]
    return marshal.load(file)  # noqa: S302 - as above


def serve(incoming: int, outgoing: int) -> NoReturn:
    """Take over this Python as the REPL of the host at the other end of the two descriptors."""
    channel = WasmChannel(Duplex(incoming, outgoing), leave)
    asyncio._set_running_loop(None)  # Pyodide's, which would run after us
    for module in (asyncio, asyncio.events):
        module.new_event_loop = lambda: Loop(channel)  # type: ignore[attr-defined]
    contexts.loaded = loaded  # type: ignore[assignment]
    time.sleep = sleep  # type: ignore[assignment]
    _hide_javascript()
    serving.serve_over(channel)


def _hide_javascript() -> None:
    """Take away the modules that lead out of Python. Native code leads there, too: this is no lock."""
    ours = ("js", "pyodide_js")
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "JsFinder"]
