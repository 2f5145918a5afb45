"""A dict of values that are read when they are taken: documents of a folder, members of an archive, attachments."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, NoReturn

from .kinds import OPAQUE, UNKNOWN

VALUES = 16
"""Values that are kept, where reading is more than decoding."""
KEPT_BYTES = 1 << 26
"""Bytes that those may have taken in their files, but for the last."""
TRIED = 50
"""Values that are tried when a context is loaded, and told of when they cannot be read."""
TRIED_BYTES = 1 << 21
LARGE = 1 << 20
"""Bytes of a file from which its value is not made only to be looked at."""
SHAPES = {
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
    "eml": "E-mail (a dict: from, to, subject, date, text, attachments, ...)",
    "mbox": "mbox (a list of messages)",
    "image": "image (a picture: `llm_query(prompt, images=[context[name]])` shows it to a model)",
}
"""What files of a kind are read as."""


class Lazy(dict[str, Any]):
    """Values by name: a dict that cannot be changed. `dict(lazy)` reads all.

    Args:
        entries: name, bytes in its file, and kind of each: one of `kinds`, or empty for a text.
    """

    def __init__(self, entries: Iterable[tuple[str, int, str]]) -> None:
        self._sizes: list[int] = []
        self._kinds: list[str] = []
        self._values: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.RLock()
        numbers: dict[str, int] = {}
        for number, (name, size, kind) in enumerate(entries):
            numbers[name] = number
            self._sizes.append(size)
            self._kinds.append(kind)
        super().__init__(numbers)

    def _read(self, number: int, name: str) -> Any:
        """The value of an entry, or a report (see `loading.report`)."""
        raise NotImplementedError

    def _kept(self, number: int) -> bool:  # noqa: ARG002 - others look at it
        """Whether a value is worth keeping."""
        return True

    def unread(self, name: str) -> str:
        """What to say of a value that is better not read only to be looked at; empty of any other."""
        number: int = super().__getitem__(name)
        kind, size = self._kinds[number], self._sizes[number]
        if not kind or size < LARGE:
            return ""
        what = "a picture" if kind == "image" else SHAPES.get(kind, "a file")
        return f"{what}, {size:,} bytes"

    def broken(self) -> list[Any]:
        """Reports on what cannot be read, of as many as may be tried."""
        found = ((name, self[name]) for name in self._tried())
        return [value for name, value in found if is_report(name, value)]

    def _tried(self) -> Iterator[str]:
        count = room = 0
        for name in super().__iter__():
            number = super().__getitem__(name)
            kind = self._kinds[number]
            if kind and kind != UNKNOWN and kind in OPAQUE:
                count, room = count + 1, room + self._sizes[number]
                if count > TRIED or room > TRIED_BYTES:
                    return
                yield name

    def __getitem__(self, name: str) -> Any:
        number: int = super().__getitem__(name)
        if not self._kept(number):
            return self._read(number, name)
        with self._lock:
            if number not in self._values:
                self._values[number] = self._read(number, name)
                self._kept_bytes += self._sizes[number]
                while len(self._values) > VALUES or (self._kept_bytes > KEPT_BYTES and len(self._values) > 1):
                    oldest, _ = self._values.popitem(last=False)
                    self._kept_bytes -= self._sizes[oldest]
            self._values.move_to_end(number)
            return self._values[number]

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

    def _what(self) -> str:
        return "values"

    def __repr__(self) -> str:
        names = ", ".join(map(repr, (name for name, _ in zip(self, range(3), strict=False))))
        return f"<{len(self):,} {self._what()}: {names}{', ...' if len(self) > 3 else ''}>"

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(f"these {self._what()} cannot be changed: make a dict of those that you need")

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse


def is_report(name: str, value: Any) -> bool:
    """Whether a value says why there is none."""
    return isinstance(value, str) and value.startswith(f"[{name}: it cannot be read")
