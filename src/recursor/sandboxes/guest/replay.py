"""What makes a REPL go the same way twice: randomness out of a seed, and clocks that show again what they showed.

Everything that draws on the system's randomness draws on one stream, a function of the seed:
`random`, `os.urandom`, `secrets`, `uuid`. Clocks show the real time; what they showed in a block is
kept, and shown again in the same order when the block is executed again. Nothing here is fit for
secrets, and nothing in a sandbox needs any. Reads of /dev/urandom and addresses of objects stay real.
"""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import gc
import hashlib
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

MAX_READINGS = 10_000
"""Readings of one block that are kept; later ones are real and not shown again."""
_monotonic = time.monotonic


class Clocks:
    """Keeps what clocks show in a block, and shows what they showed before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: list[float] = []
        self._before: Sequence[float] = ()

    def begin_block(self, before: Sequence[float]) -> None:
        """Show these readings first, in order."""
        with self._lock:
            self._shown, self._before = [], before

    def shown(self) -> list[float]:
        """What was shown in this block."""
        with self._lock:
            return list(self._shown)

    def read(self, clock: Callable[[], float]) -> float:
        with self._lock:
            place = len(self._shown)
            if place >= MAX_READINGS:
                return clock()
            value = self._before[place] if place < len(self._before) else clock()
            self._shown.append(value)
            return value


class Chance:
    """A stream of bytes that follows from a seed."""

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._seed = seed.to_bytes(16, "little", signed=True)
        self._number = 0

    def take(self, size: int, *_: Any) -> bytes:
        if size < 0:
            raise ValueError("negative argument not allowed")
        with self._lock:
            number, self._number = self._number, self._number + 1
        name = self._seed + number.to_bytes(8, "little")
        return hashlib.shake_128(name).digest(size)


def take_over(seed: int) -> Clocks:
    """Put a seed behind the randomness of this process, and return the clocks that it has from now on."""
    clocks = Clocks()
    _seed(Chance(seed))
    _watch_time_module(clocks)
    _watch_datetime()
    # An event loop reads the clock as often as it pleases; its timers are nobody's data.
    event_loop: Any = asyncio.BaseEventLoop
    event_loop.time = lambda _: _monotonic()
    return clocks


def _seed(chance: Chance) -> None:
    system: Any = os
    system.urandom = chance.take
    if hasattr(os, "getrandom"):
        system.getrandom = chance.take
    module: Any = random
    module._urandom = chance.take  # behind SystemRandom, and so behind `secrets`
    seeded: Any = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        seeded(self, int.from_bytes(chance.take(64), "little") if a is None else a, version)

    module.Random.seed = seed
    module.seed = module._inst.seed  # it was bound to the method before
    module.seed()
    identifiers: Any = uuid
    identifiers._generate_time_safe = identifiers._UuidCreate = None  # the system's own makers of uuid1
    identifiers._node = chance.take(1)[0] << 40 | 1 << 40


def _watch_time_module(clocks: Clocks) -> None:
    module: Any = time
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        seconds = _clock(clocks, getattr(time, name))
        setattr(time, name, seconds)
        setattr(time, f"{name}_ns", _nanoseconds(seconds))
    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _at(getattr(time, name), module.time))
    formatted, ascii_time, real = time.strftime, time.asctime, time.clock_gettime
    module.strftime = lambda form, *when: formatted(form, *(when or (module.localtime(),)))
    module.asctime = lambda *when: ascii_time(*(when or (module.localtime(),)))
    module.clock_gettime = lambda which: clocks.read(lambda: real(which))
    module.clock_gettime_ns = lambda which: int(module.clock_gettime(which) * 1e9)


def _clock(clocks: Clocks, real: Callable[[], float]) -> Callable[[], float]:
    return lambda: clocks.read(real)


def _nanoseconds(seconds: Callable[[], float]) -> Callable[[], int]:
    return lambda: int(seconds() * 1e9)


def _at(function: Callable[..., Any], now: Callable[[], float]) -> Callable[..., Any]:
    def called(seconds: float | None = None) -> Any:
        return function(now() if seconds is None else seconds)

    return called


def _watch_datetime() -> None:
    """Replace the methods that read the clock, in the types themselves: they stay the same types."""
    read = time.time

    def now(cls: Any, tz: Any = None) -> Any:
        return cls.fromtimestamp(read(), tz)

    def utcnow(cls: Any) -> Any:
        return cls.fromtimestamp(read(), datetime.UTC).replace(tzinfo=None)

    def today(cls: Any) -> Any:
        return cls.fromtimestamp(read())

    for kind, methods in (
        (datetime.datetime, {"now": now, "utcnow": utcnow, "today": today}),
        (datetime.date, {"today": today}),
    ):
        names: dict[str, Any] = gc.get_referents(kind.__dict__)[0]
        names.update({name: classmethod(method) for name, method in methods.items()})
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
