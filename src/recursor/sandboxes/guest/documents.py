"""A folder as a dict of documents, each read when it is taken.

The descriptor of such a context is a socket, on which the host gives out packs: many small
documents one after another in an anonymous file, or the file of a large one itself.

  -> number of a pack, 8 bytes little-endian; -1 for the index
  <- the same number, with a descriptor; or followed by a text that says why there is none
The index is JSON: {"documents": [[name, bytes, kind], ...], "packs": [the first document of each, ...]}.
A kind is one of `kinds`, or empty for a text (bytes, where it is none).
"""

from __future__ import annotations

import bisect
import io
import json
import os
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from . import loading
from .images import named
from .kinds import UNKNOWN
from .lazy import LARGE, SHAPES, Lazy, is_report

NUMBER = struct.Struct("<q")
INDEX = -1
KEPT = 16
"""Packs that are kept when others have been read since."""
ALONE = LARGE
"""Bytes from which a document is a pack of its own, and which other packs have at most."""


class Documents(Lazy):
    """Documents of a folder by name.

    Args:
        descriptor: of the socket; it is closed by who passed it.
        read: makes the value of a large document from descriptor, size and kind.
    """

    def __init__(self, descriptor: int, read: Callable[[int, int, str], Any]) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._read_large = read
        self._fetching = threading.RLock()
        self._packs: OrderedDict[int, Any] = OrderedDict()
        index = json.loads(_content(self._fetch(INDEX)))
        self._firsts: list[int] = index["packs"]
        super().__init__(map(tuple, index["documents"]))
        self.told = told(self._kinds, self.broken(), index.get("told", ""))
        """What the root LM is told of the documents beside their number."""

    def _kept(self, number: int) -> bool:
        return bool(self._kinds[number]) and (self._kinds[number] != UNKNOWN or self._sizes[number] < ALONE)

    def _read(self, number: int, name: str) -> Any:
        pack = bisect.bisect_right(self._firsts, number) - 1
        first = self._firsts[pack]
        with self._fetching:
            held = self._packs.get(pack)
            if held is None:
                held = self._packs[pack] = self._load(pack, name)
                if len(self._packs) > KEPT:
                    self._packs.popitem(last=False)
            self._packs.move_to_end(pack)
        if self._sizes[number] >= ALONE:
            return held
        start = sum(self._sizes[first:number])
        return read(name, self._kinds[number], held[start : start + self._sizes[number]])

    def _load(self, pack: int, name: str) -> Any:
        try:
            descriptor = self._fetch(pack)
        except OSError as error:
            raise OSError(f"{name!r} cannot be read: {error}") from None
        first = self._firsts[pack]
        if self._sizes[first] < ALONE:
            return _content(descriptor)
        try:
            return named(self._read_large(descriptor, self._sizes[first], self._kinds[first]), name)
        except loading.Unreadable as error:
            return loading.report(name, error)
        finally:
            os.close(descriptor)

    def _fetch(self, pack: int) -> int:
        with self._fetching, _alone(self._socket):
            self._socket.send(NUMBER.pack(pack))
            while True:
                reply, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 12, 1)
                if len(reply) >= NUMBER.size and NUMBER.unpack_from(reply) == (pack,):
                    break
                for descriptor in descriptors:  # the reply to a question that was interrupted
                    os.close(descriptor)
                if not reply:
                    raise OSError("the folder is closed")
            if not descriptors:
                raise OSError(reply[NUMBER.size :].decode("utf-8", "replace") or "too many files are open")
            return descriptors[0]

    def __del__(self) -> None:
        self._socket.close()

    def _what(self) -> str:
        return "documents"


@contextmanager
def _alone(connection: socket.socket) -> Iterator[None]:
    """Let no copy of this process ask meanwhile: all have this very socket, and one would take the reply to another.

    The kernel lets go of it for a process that ends.
    """
    import fcntl  # noqa: PLC0415 - not everywhere, and not needed where nothing is fetched

    try:
        fcntl.lockf(connection, fcntl.LOCK_EX)
    except OSError:  # no lock is to be had for sockets; nor is there a copy, outside of Linux
        yield
        return
    try:
        yield
    finally:
        fcntl.lockf(connection, fcntl.LOCK_UN)


def read(name: str, kind: str, data: bytes) -> Any:
    """The value of a document, or a text that says why there is none."""
    if not kind:
        return text_or_bytes(data)
    try:
        return named(loading.load(kind, io.BytesIO(data), len(data)).value, name)
    except loading.Unreadable as error:
        return loading.report(name, error)


def told(kinds: list[str], broken: list[str], said: str = "") -> str:
    """What there is to say of documents: what each kind is read as, and which cannot be read."""
    parts = [f"{kinds.count(kind):,} {shape}" for kind, shape in SHAPES.items() if kind in kinds]
    notes = [f"among them {', '.join(parts)}; the others are texts, or bytes"] if parts else []
    if broken:
        reports = " ".join(report[:200] for report in broken[:5])
        notes.append(f"{len(broken):,} cannot be read, and say so in their place: {reports}")
    return "; ".join(filter(None, [*notes, said]))


def whole(file: BinaryIO) -> loading.Loaded:
    """All documents at once: a line of JSON, [[name, bytes, kind], ...], then they one after another."""
    index = json.loads(file.readline())
    values = {name: read(name, kind, file.read(size)) for name, size, kind in index}
    broken = [value for name, value in values.items() if is_report(name, value)]
    return loading.Loaded(values, told([kind for _, _, kind in index], broken))


def text_or_bytes(data: bytes) -> str | bytes:
    """The text, where it is UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
