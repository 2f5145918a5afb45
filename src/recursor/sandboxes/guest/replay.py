"""What makes a REPL repeat itself: its randomness is a function of a seed, and its clocks can be shown again.

Changes modules of this interpreter, so it is for a process that is a REPL and nothing else. Not
covered: addresses (`id`, the default `repr`, and the order of sets of objects that have no hash of
their own), the order of threads, times of files, /dev/urandom as a file, and native code that asks
the system by itself.
"""

from __future__ import annotations

import asyncio.base_events
import concurrent.futures._base
import ctypes
import datetime
import functools
import gc
import hashlib
import os
import random
import threading
import time
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

MAX_READINGS = 10_000
"""Readings of one block that are kept; later ones are live."""

Clock: TypeAlias = str | tuple[str, int]
_STEADY = ("monotonic", "perf_counter", "process_time", "thread_time")


_system = os.urandom
_stream: random.Random | None = None
"""Where randomness comes from, once it is seeded; till then from the system."""


def seed(key: str) -> None:
    """Make all randomness a function of the key; also of a process that had another before."""
    global _stream  # noqa: PLW0603 - a process has one source of randomness
    install()
    number = int.from_bytes(hashlib.sha256(key.encode()).digest())
    _stream = random.Random(number)  # noqa: S311 - is to repeat itself
    random.seed()
    _set(uuid, _node=_stream.getrandbits(48) | 1 << 40)


def unseed() -> None:
    """Let randomness come from the system again."""
    global _stream  # noqa: PLW0603
    _stream = None
    random.seed()
    _set(uuid, _node=None)


@functools.cache
def install() -> None:
    """Let whatever asks the system for randomness ask here."""
    own_seed = random.Random.seed

    def urandom(size: int, /) -> bytes:
        """Return bytes that are a function of the REPL's seed."""
        if _stream is None:
            return _system(size)
        if size < 0:
            raise ValueError("negative argument not allowed")
        return _stream.randbytes(size)

    def getrandom(size: int, flags: int = 0) -> bytes:  # noqa: ARG001 - the system's signature
        """Return bytes that are a function of the REPL's seed."""
        return urandom(size)

    def reseed(self: random.Random, a: Any = None, version: int = 2) -> None:
        """Initialize from an object; from the REPL's seed when there is none."""
        own_seed(self, int.from_bytes(urandom(32)) if a is None else a, version)

    _set(os, urandom=urandom, getrandom=getrandom)
    _set(random, _urandom=urandom)
    _set(random.Random, seed=reseed)
    _set(random, seed=random._inst.seed)
    # Their fallbacks take the time and the randomness from above; the library and the hardware do not.
    _set(uuid, _generate_time_safe=None, _UuidCreate=None)


class Clocks:
    """The clocks of a REPL: what they show is kept block by block, and can be shown again."""

    def __init__(self) -> None:
        self._real = types.ModuleType("time")
        self._real.__dict__.update(time.__dict__)
        self._lock = threading.RLock()
        self._running = False
        self._given: Sequence[float] = ()
        self._shown: list[float] = []
        self._ahead: dict[Clock, float] = {}
        """What a steady clock must be ahead of the real one, to go on from what it showed."""

    def begin(self, readings: Sequence[float]) -> None:
        """Begin a block that is to see these readings first."""
        with self._lock:
            self._running, self._given, self._shown = True, readings, []

    def end(self) -> list[float]:
        """End the block; return what the clocks have shown in it."""
        with self._lock:
            self._running = False
            return self._shown

    def read(self, clock: Clock) -> float:
        """Show a clock: seconds."""
        with self._lock:
            real = self._read_real(clock)
            count = len(self._shown)
            if not self._running or count >= MAX_READINGS:
                return real + self._ahead.get(clock, 0.0)
            if count < len(self._given):
                value = self._given[count]
                if clock in _STEADY:
                    self._ahead[clock] = value - real
            else:
                value = real + self._ahead.get(clock, 0.0)
            self._shown.append(value)
            return value

    def _read_real(self, clock: Clock) -> float:
        name, *arguments = (clock,) if isinstance(clock, str) else clock
        return float(getattr(self._real, name)(*arguments))

    def install(self) -> None:
        """Let `time` and `datetime` show these clocks. What waits for time keeps the real one."""
        for module in (asyncio.base_events, concurrent.futures._base):
            _set(module, time=self._real)
        for name in ("time", *_STEADY):
            _replace(time, name, functools.partial(self.read, name))
            _replace(time, f"{name}_ns", functools.partial(self._nanoseconds, name))
        _replace(time, "clock_gettime", lambda clock: self.read(("clock_gettime", clock)))
        _replace(time, "clock_gettime_ns", lambda clock: self._nanoseconds(("clock_gettime", clock)))
        self._install_calendar()
        self._install_datetime()

    def _nanoseconds(self, clock: Clock) -> int:
        return round(self.read(clock) * 1e9)

    def _install_calendar(self) -> None:
        real, read = self._real, self.read

        def at(seconds: float | None) -> float:
            return read("time") if seconds is None else seconds

        _replace(time, "localtime", lambda seconds=None: real.localtime(at(seconds)))
        _replace(time, "gmtime", lambda seconds=None: real.gmtime(at(seconds)))
        _replace(time, "ctime", lambda seconds=None: real.ctime(at(seconds)))
        _replace(time, "asctime", lambda t=None: real.asctime(time.localtime() if t is None else t))
        _replace(time, "strftime", lambda to, t=None: real.strftime(to, time.localtime() if t is None else t))

    def _install_datetime(self) -> None:
        """`today` asks `time.time`; these two ask the system."""

        def now(cls: Any, tz: Any = None) -> Any:
            return cls.fromtimestamp(self.read("time"), tz)

        def utcnow(cls: Any) -> Any:
            return cls.fromtimestamp(self.read("time"), datetime.UTC).replace(tzinfo=None)

        _set_in_type(datetime.datetime, "now", classmethod(now))
        _set_in_type(datetime.datetime, "utcnow", classmethod(utcnow))


@functools.cache
def clocks() -> Clocks:
    """The clocks of this process, installed when they are first asked for."""
    made = Clocks()
    made.install()
    return made


def _set(target: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(target, name, value)


def _replace(module: types.ModuleType, name: str, function: Callable[..., Any]) -> None:
    """Put a function into the place of another, under the other's name and documentation."""
    if not hasattr(module, name):
        return

    def replacement(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    setattr(module, name, functools.update_wrapper(replacement, getattr(module, name)))


def _set_in_type(kind: type, name: str, value: Any) -> None:
    """Set an attribute of a type of the C library, which lets nobody do that, keeping its identity."""
    namespace = gc.get_referents(kind.__dict__)[0]
    namespace[name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
