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
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from typing import Any, BinaryIO, NoReturn

from . import loading
from .images import named
from .kinds import OPAQUE, UNKNOWN

NUMBER = struct.Struct("<q")
INDEX = -1
KEPT = 16
"""Packs that are kept when others have been read since."""
ALONE = 1 << 20
"""Bytes from which a document is a pack of its own, and which other packs have at most."""
VALUES = 16
"""Values of documents that are kept, where reading is more than decoding."""
TRIED = 50
"""Documents that are tried when a folder is loaded, and told of when they cannot be read."""
TRIED_BYTES = 1 << 21
_SHAPES = {
    "csv": "CSV (a list of rows)",
    "jsonl": "JSON Lines (a list of values)",
    "json": "JSON (its value)",
    "yaml": "YAML (its value)",
    "html": "HTML (its text)",
    "docx": "Word (its text)",
    "pptx": "PowerPoint (a list of slides)",
    "xlsx": "Excel (rows by sheet)",
    "pdf": "PDF (a list of pages, each a str with `.image()`)",
    "sqlite": "SQLite (rows by table)",
    "parquet": "Parquet (a list of rows)",
    "zip": "ZIP (its files by path)",
    "tar": "tar (its files by path)",
    "image": "pictures (`llm_query(prompt, images=[context[name]])` shows one to a model)",
}


class Documents(dict[str, Any]):
    """Documents by name: a dict that cannot be changed. `dict(documents)` reads all.

    Args:
        descriptor: of the socket; it is closed by who passed it.
        read: makes the value of a large document from descriptor, size and kind.
    """

    def __init__(self, descriptor: int, read: Callable[[int, int, str], Any]) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._read = read
        self._lock = threading.RLock()
        self._packs: OrderedDict[int, Any] = OrderedDict()
        index = json.loads(_content(self._fetch(INDEX)))
        self._sizes = [size for _, size, _ in index["documents"]]
        self._kinds: list[str] = [kind for _, _, kind in index["documents"]]
        self._firsts: list[int] = index["packs"]
        self._values: OrderedDict[int, Any] = OrderedDict()
        super().__init__((name, number) for number, (name, _, _) in enumerate(index["documents"]))
        broken = [name for name in self._some() if is_report(name, self[name])]
        self.told = told(self._kinds, [self[name] for name in broken], index.get("told", ""))
        """What the root LM is told of the documents beside their number."""

    def _some(self) -> Iterator[str]:
        """Documents that reading may fail for, as many as may be tried."""
        count = room = 0
        for name, size, kind in zip(super().__iter__(), self._sizes, self._kinds, strict=True):
            if kind and kind != UNKNOWN and kind in OPAQUE:
                count, room = count + 1, room + size
                if count > TRIED or room > TRIED_BYTES:
                    return
                yield name

    def __getitem__(self, name: str) -> Any:
        number: int = super().__getitem__(name)
        if not self._kinds[number] or (self._kinds[number] == UNKNOWN and self._sizes[number] >= ALONE):
            return self._content(number, name)
        with self._lock:
            if number not in self._values:
                self._values[number] = self._content(number, name)
                if len(self._values) > VALUES:
                    self._values.popitem(last=False)
            self._values.move_to_end(number)
            return self._values[number]

    def _content(self, number: int, name: str) -> Any:
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
            return named(self._read(descriptor, self._sizes[first], self._kinds[first]), name)
        except loading.Unreadable as error:
            return loading.report(name, error)
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

    def unread(self, name: str) -> str:
        """What to say of a document that is better not read only to be looked at; empty of any other."""
        number: int = super().__getitem__(name)
        kind, size = self._kinds[number], self._sizes[number]
        if not kind or size < ALONE:
            return ""
        what = "a picture" if kind == "image" else _SHAPES.get(kind, "a file")
        return f"{what}, {size:,} bytes"

    def __del__(self) -> None:
        self._socket.close()

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


def read(name: str, kind: str, data: bytes) -> Any:
    """The value of a document, or a text that says why there is none."""
    if not kind:
        return text_or_bytes(data)
    try:
        return named(loading.load(kind, io.BytesIO(data), len(data)).value, name)
    except loading.Unreadable as error:
        return loading.report(name, error)


def is_report(name: str, value: Any) -> bool:
    """Whether a value says why there is none."""
    return isinstance(value, str) and value.startswith(f"[{name}: it cannot be read as ")


def told(kinds: list[str], broken: list[str], said: str = "") -> str:
    """What there is to say of documents: what each kind is read as, and which cannot be read."""
    parts = [f"{kinds.count(kind):,} {shape}" for kind, shape in _SHAPES.items() if kind in kinds]
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
