"""From a file to the value that a person would expect of it, inside the sandbox: no parser runs on the host.

A reader is a function of a binary file, seekable, and its size; it returns `Loaded`. Whatever the
file holds, it either does that or raises an exception; `load` makes `Unreadable` of any. How long it may
take and how much memory it may have is what the sandbox bounds. A text that is not what its
name says stays a text, and the note says why.
"""

from __future__ import annotations

import importlib
import io
import os
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

from . import kinds

MOST_NOTE = 1500
NAMES = {"csv": "CSV", "jsonl": "JSON Lines", "sqlite": "SQLite", "parquet": "Parquet", "zip": "ZIP",
         "image": "a picture", "old": "a document", "utf16": "UTF-16"}  # fmt: skip
"""What to call kinds whose name in capitals is not what they are called."""
_READERS = {
    "csv": "tables:read_csv",
    "json": "tables:read_json",
    "jsonl": "tables:read_jsonl",
    "yaml": "tables:read_yaml",
    "sqlite": "databases:read_sqlite",
    "parquet": "databases:read_parquet",
    "html": "web:read_html",
    "docx": "office:read_docx",
    "pptx": "office:read_pptx",
    "xlsx": "sheets:read_xlsx",
    "pdf": "pages:read_pdf",
    "zip": "archives:read_zip",
    "tar": "archives:read_tar",
    "image": "pictures:read_image",
    "eml": "mail:read_eml",
    "mbox": "mail:read_mbox",
    "utf16": "packed:read_utf16",
    "old": "packed:read_old",
}
"""Modules beside this one, imported when such a file comes."""


class Loaded(NamedTuple):
    """A value, and what the root LM is told beside its size: columns, pages, what was left out."""

    value: Any
    note: str = ""


class Unreadable(ValueError):
    """A file is not what it should be; the text says in what way."""


class At(io.RawIOBase):
    """A file by its descriptor, at a position of its own: copies of the process share none."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = -1  # should there be none, `close` is called all the same
        self._descriptor = os.dup(descriptor)
        self._size = size
        self._position = 0

    def again(self) -> At:
        return At(self._descriptor, self._size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size)[whence]
        if base + offset < 0:
            raise ValueError("it is too short for what it should be")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._descriptor, count, self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and self._descriptor >= 0:
            os.close(self._descriptor)
        super().close()


def opened(descriptor: int, size: int) -> BinaryIO:
    """A file over a descriptor, which stays the caller's."""
    return io.BufferedReader(At(descriptor, size))


def kept(file: BinaryIO) -> BinaryIO:
    """The same file, for who reads on when the one that was passed is closed."""
    if isinstance(file, io.BytesIO):
        return io.BytesIO(file.getvalue())
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, At):
        with suppress(OSError):  # as many are open as may be
            return io.BufferedReader(file.raw.again())
    file.seek(0)
    return io.BytesIO(file.read())


def load(kind: str, file: BinaryIO, size: int) -> Loaded:
    """Read a file of a kind: one of `kinds`, or the import path of a `Loader`, "package.module:name".

    Raises:
        Unreadable: it is damaged, is none of that kind, or what it takes to read it is not there.
    """
    try:
        if kind == kinds.UNKNOWN:
            return _unknown(file, size)
        if ":" in kind:
            return _foreign(kind, file)
        if "/" in kind:
            from . import packed  # noqa: PLC0415 - when such a file comes, as the others

            return packed.read_packed(kind, file, size)
        module, _, function = _READERS[kind].partition(":")
        read = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        value, note = read(file, size)
        return Loaded(value, note[:MOST_NOTE])
    except Unreadable as error:
        if kind == kinds.UNKNOWN:
            raise  # it is said already as what it was to be read
        problem = str(error)
    except MemoryError:
        problem = "there is no memory for what is in it"
    except Exception as error:  # noqa: BLE001 - parsers meet hostile files, and raise what they like
        problem = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    said = NAMES.get(kind) or (kind.partition("/")[0] if "/" in kind else kind.upper())
    problem = f"it cannot be read as {said}: {problem}"[:500]
    if kind in kinds.TEXTS.values():
        file.seek(0)
        return Loaded(text_or_bytes(file.read()), f"{problem}; it is here as it stands in the file")
    raise Unreadable(problem) from None


def import_readers() -> None:
    """Import all readers, for who cannot do it later."""
    for path in _READERS.values():
        importlib.import_module(f"{__package__}.{path.partition(':')[0]}")


def as_text(value: Any) -> str:
    """A text of a value that was loaded: an item a line; for who looks for words in it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(f"{key}: {as_text(item)}" for key, item in value.items())
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        return "\n".join(item if isinstance(item, str) else repr(item) for item in value)
    return "\n".join(map(repr, value)) if isinstance(value, list) else repr(value)


def report(name: str, error: Exception) -> str:
    """What stands in the place of a document that cannot be read."""
    return f"[{name}: {error}]"


def _unknown(file: BinaryIO, size: int) -> Loaded:
    data = file.read()
    value = text_or_bytes(data)
    kind = "" if isinstance(value, str) else kinds.by_content(data[: kinds.HEAD])
    if not kind:
        return Loaded(value)
    file.seek(0)
    return load(kind, file, size)


def _foreign(path: str, file: BinaryIO) -> Loaded:
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise Unreadable(f"its loader {path} is not in the sandbox ({error})") from None
    value, note = found.load(file)
    return Loaded(value, str(note)[:MOST_NOTE])


def is_binary(data: bytes) -> bool:
    """Whether it is no text in UTF-8."""
    return isinstance(text_or_bytes(data), bytes)


def text_or_bytes(data: bytes) -> str | bytes:
    """The text that bytes are in UTF-8, or they themselves."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
