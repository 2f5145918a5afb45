"""What comes of a worker, in turns: a flood of frames is taken as the event loop has time for it, beside all others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from recursor.sandboxes import wire

AT_ONCE = 200
"""Frames that are taken in one turn of the event loop."""
MAX_UNASKED = 10_000
"""Frames that are read of a worker of which nothing is wanted: what its code has left running may send without end."""


class Intake:
    """Makes frames of bytes, and keeps the transport from reading where there are enough.

    Args:
        take: called with each frame and its body.
        wanted: whether the worker has a question to answer.
        broken: called when it has broken the protocol, with how.
    """

    def __init__(
        self,
        take: Callable[[wire.Frame, bytes], None],
        wanted: Callable[[], bool],
        broken: Callable[[str], None],
    ) -> None:
        self._take = take
        self._wanted = wanted
        self._broken = broken
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport | None = None
        self._held = False
        self._behind = False
        """Whether there may be frames that nobody has taken yet."""
        self._unasked = 0
        self._stopped = False

    def begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def end(self) -> None:
        """Take what is there, however much: nothing comes after it."""
        self._go_on(b"", None)
        self.stop()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True

    def feed(self, data: bytes | memoryview) -> None:
        """Take frames that are complete, some now and the others in the next turns of the loop.

        The bytes are copied: they may be a part of a buffer that is used again.
        """
        self._go_on(data)

    def hold(self, held: bool) -> None:
        """Whether no more is to be read, since there is enough to do."""
        self._held = held
        self._read_on()

    def ask(self) -> None:
        """Read on: something is wanted of the worker now."""
        self._unasked = 0
        self._read_on()

    def _go_on(self, data: bytes | memoryview = b"", most: int | None = AT_ONCE) -> None:
        self._behind = False
        if self._stopped:
            return
        taken = 0
        frames = self._decoder.feed(data)
        try:
            for frame, body in itertools.islice(frames, most):
                taken += 1
                self._take(frame, body)
        except wire.ProtocolError as error:
            self._broken(f"broke the protocol ({error})")
            return
        finally:
            frames.close()
        self._unasked = 0 if self._wanted() else self._unasked + taken
        if taken == most:
            self._behind = True
            asyncio.get_running_loop().call_soon(self._go_on)
        self._read_on()

    def _read_on(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._held or self._behind or self._unasked > MAX_UNASKED:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
