"""A folder as a dict of documents, each read when it is taken.

The descriptor of such a context is a socket, on which the host gives out packs: many small
documents one after another in an anonymous file, or the file of a large one itself.

  -> number of a pack, 8 bytes little-endian; -1 for the index
  <- the same number, with a descriptor; or followed by a text that says why there is none
The index is JSON: {"documents": [[name, bytes], ...], "packs": [the first document of each, ...]}.
"""

from __future__ import annotations

import bisect
import json
import os
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any, NoReturn

NUMBER = struct.Struct("<q")
INDEX = -1
KEPT = 16
"""Packs that are kept when others have been read since."""
ALONE = 1 << 20
"""Bytes from which a document is a pack of its own, and which other packs have at most."""


class Documents(dict[str, Any]):
    """Documents by name: a dict that cannot be changed. `dict(documents)` reads all.

    Args:
        descriptor: of the socket; it is closed by who passed it.
        read: makes the value of a large document from descriptor and size.
    """

    def __init__(self, descriptor: int, read: Callable[[int, int], Any]) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._read = read
        self._lock = threading.RLock()
        self._packs: OrderedDict[int, Any] = OrderedDict()
        index = json.loads(_content(self._fetch(INDEX)))
        self._sizes = [size for _, size in index["documents"]]
        self._firsts: list[int] = index["packs"]
        super().__init__((name, number) for number, (name, _) in enumerate(index["documents"]))

    def __getitem__(self, name: str) -> Any:
        number: int = super().__getitem__(name)
        pack = bisect.bisect_right(self._firsts, number) - 1
        first = self._firsts[pack]
        with self._lock:
            held = self._packs.get(pack)
            if held is None:
                held = self._packs[pack] = self._load(pack, name)
                if len(self._packs) > KEPT:
                    self._packs.popitem(last=False)
            self._packs.move_to_end(pack)
        if self._sizes[number] >= ALONE:
            return held
        start = sum(self._sizes[first:number])
        return text_or_bytes(held[start : start + self._sizes[number]])

    def _load(self, pack: int, name: str) -> Any:
        try:
            descriptor = self._fetch(pack)
        except OSError as error:
            raise OSError(f"{name!r} cannot be read: {error}") from None
        first = self._firsts[pack]
        if self._sizes[first] < ALONE:
            return _content(descriptor)
        try:
            return self._read(descriptor, self._sizes[first])
        finally:
            os.close(descriptor)

    def _fetch(self, pack: int) -> int:
        with self._lock:
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

    # The rest of a dict, so that nothing goes past `__getitem__` ------------------------------

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - that calls this

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return ItemsView(self)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Mapping)
            and self.keys() == other.keys()
            and all(text == other[name] for name, text in self.items())
        )

    __hash__ = None

    def __reduce__(self) -> Any:
        return dict, (dict(self),)

    def __repr__(self) -> str:
        names = ", ".join(map(repr, (name for name, _ in zip(self, range(3), strict=False))))
        return f"<{len(self):,} documents: {names}{', ...' if len(self) > 3 else ''}>"

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("the documents of a folder cannot be changed: make a dict of those that you need")

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse


def text_or_bytes(data: bytes) -> str | bytes:
    """The text, where it is UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
