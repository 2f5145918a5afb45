"""The one event loop of a process on which all runs live, in a thread of its own.

Started with the first run, reset in a forked child. Callers wait for it from wherever they are:
`run` from any thread, `arun` from any event loop. When they stop waiting, the run is cancelled
and has freed everything before they go on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CLEAN_UP = 10.0
"""Seconds that a cancelled run has to free what it holds."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def loop() -> asyncio.AbstractEventLoop:
    """Return the running background loop."""
    global _loop, _thread  # noqa: PLW0603 - one per process is the point
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, daemon=True, name="recursor")
            _thread.start()
        return _loop


def run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine there and block until it ends. Ctrl-C cancels it, waits, and goes on rising."""
    if _running_here():
        raise RuntimeError(
            "completion() was called from within a run; use `await rlm.acompletion(...)` there"
        )
    ended = threading.Event()
    future = asyncio.run_coroutine_threadsafe(_watched(make, ended.set), loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        ended.wait(CLEAN_UP)
        raise


async def arun(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine there and wait for it from the current loop."""
    if _running_here():
        return await make()
    here = asyncio.get_running_loop()
    ended = here.create_future()

    def end() -> None:
        if not here.is_closed():
            here.call_soon_threadsafe(_settle, ended)

    future = asyncio.run_coroutine_threadsafe(_watched(make, end), loop())
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        await asyncio.wait([ended], timeout=CLEAN_UP)
        raise


async def _watched(make: Callable[[], Coroutine[Any, Any, T]], end: Callable[[], None]) -> T:
    try:
        return await make()
    finally:
        end()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _running_here() -> bool:
    try:
        return asyncio.get_running_loop() is _loop
    except RuntimeError:
        return False


def _forget() -> None:
    """A forked child has the loop's memory but not its thread."""
    global _loop, _thread, _lock
    _loop, _thread, _lock = None, None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait until work has ended, however often that is cancelled; be cancelled only then."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
