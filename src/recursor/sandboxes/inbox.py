"""Between a package that hands bytes over in its own time and a worker that reads them: bounded, and put together."""

from __future__ import annotations

import asyncio
import binascii
import time

from recursor.sandboxes.stream import guest

PIECE = 1 << 20
"""Bytes that are written to a service at once, and a little more."""


class Inbox:
    """Bytes that a package hands over in its own time, until they are read."""

    MAX = 1 << 28
    """Bytes that may wait to be read: a sandbox that floods its line must not fill the host."""

    SILENCE = 60.0
    """Seconds without a word after which the other end is taken for dead, where it is known to give one."""

    def __init__(self) -> None:
        self._heard: float | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, data: bytes) -> None:
        if self._ended is None and data:
            self._pieces.append(data)
            self._size += len(data)
            self._news.set()
            if self._size > PIECE:
                self._room.clear()
            if self._size > self.MAX:
                self._pieces.clear()
                self.end(ConnectionError("it sends more than can be read"))

    async def put_in_turn(self, data: bytes) -> None:
        """`put`, once what is there was read."""
        await self._room.wait()
        self.put(data)

    def end(self, how: Exception) -> None:
        """Let `read` raise this after what is there; the first time counts."""
        if self._ended is None:
            self._ended = how
        self._news.set()
        self._room.set()

    def hear(self) -> None:
        """Take note that the other end lives. Once done, a long silence ends `read`."""
        self._heard = time.monotonic()

    async def read(self) -> bytes:
        while not self._news.is_set():
            try:
                await asyncio.wait_for(self._news.wait(), self.SILENCE)
            except TimeoutError:
                if self._heard is not None and time.monotonic() - self._heard > self.SILENCE:
                    raise ConnectionError(f"nothing came for {self.SILENCE:g} s") from None
        data = b"".join(self._pieces)
        if not data:
            assert self._ended is not None
            raise self._ended
        self._pieces.clear()
        self._size = 0
        self._room.set()
        if self._ended is None:
            self._news.clear()
        return data


class Lines:
    """Bytes out of the lines that a relay writes, which come in pieces as a service cuts them.

    A service may also lose some on the way, where it connects anew: that ends the line.
    """

    MAX = 1 << 20
    """Characters that may come without the end of a line."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._rest = ""
        self._position = 0

    def take(self, text: str) -> bytes:
        """Return the bytes that a piece makes complete; at a fault the inbox is ended."""
        self._inbox.hear()
        *lines, self._rest = (self._rest + text).split("\n")
        pieces = []
        try:
            for line in lines:
                position, _, data = line.partition(" ")
                if int(position, 16) != self._position:
                    raise ValueError("a gap")
                pieces.append(binascii.a2b_base64(data, strict_mode=True))
                self._position += len(pieces[-1])
            if len(self._rest) > self.MAX:
                raise ValueError("no line")
        except ValueError:
            self._rest = ""
            self._inbox.end(ConnectionError("what came is not what its relay sent, or not all of it"))
        return b"".join(pieces)


class Words:
    """The last that a process wrote to its stderr."""

    def __init__(self) -> None:
        self._kept = ""

    def hear(self, text: str) -> None:
        self._kept = (self._kept + text)[-800:]

    def ended(self, status: int | None) -> EOFError:
        """How the process ended, and what it said."""
        how = "it ended by itself" if status is None else f"it ended with exit status {status}"
        return EOFError(f"{how}; last words: {self._kept.strip()}" if self._kept.strip() else how)


def relayed(executable: str, *words: str) -> tuple[str, ...]:
    """The command that carries the line of a guest otherwise: see `recursor.sandboxes.guest.relay`."""
    return (executable, "-P", "-s", "-c", guest("relay"), *words)
