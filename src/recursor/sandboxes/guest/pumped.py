"""A channel that is read by who waits for a frame: the worker for its next command, a call for its result."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from .channel import Channel


class PumpedChannel(Channel):
    """A channel that nothing reads by itself."""

    def start(self) -> None:
        self._owner = threading.get_ident()

    def inbox(self) -> PumpedQueue:
        return PumpedQueue(self)

    def attend(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self.pump()

    def pump(self) -> None:
        """Read one frame and deal with it. Blocks until there is one."""
        self._sending = True  # half a frame may no more be left than half of one be sent
        try:
            self._deal()
        finally:
            self._sending = False
        self.raise_late()


class PumpedQueue:
    """A queue whose `get` has frames read until it holds something."""

    def __init__(self, channel: PumpedChannel) -> None:
        self._channel = channel
        self._held: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put = self._held.put

    def get(self) -> Any:
        self._channel.attend(self._ready)
        return self._held.get()

    def _ready(self) -> bool:
        return not self._held.empty()
