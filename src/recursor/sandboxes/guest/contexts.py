"""From a descriptor to the value that `context` is bound to, and what the root LM is told of it."""

from __future__ import annotations

import codecs
import ctypes
import functools
import json
import marshal
import math
import mmap
import os
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

from . import values
from .documents import Documents, whole
from .images import Image
from .lazy import Lazy
from .loading import MOST_NOTE, Loaded, opened
from .loading import load as read_kind
from .mapped import CODECS, WIDTHS, MappedStr, can_map, mapped
from .patterns import teach_re
from .text import Text

CHUNK = 1 << 17
"""Bytes decoded at once: small enough to stay in the processor's cache."""
SMALL = 1 << 20
RELEASE = 32
"""Chunks after which the pages of what was read are given back."""
LAZY = 1 << 28
"""A text whose `str` would need more bytes than this becomes a `Text` over the mapped file."""
SHARED = 1 << 24
"""Bytes from which a text that is as wide in its file as in memory is mapped and not copied."""
PREVIEW = 400
FIXED = {"ascii": 0x7F, "latin-1": 0xFF, "ucs-2": 0xFFFF, "ucs-4": 0x10FFFF}
"""Forms of texts whose characters have one width -> the bound on the largest."""
_KINDS: dict[type, str] = {MappedStr: "str"}
"""What to call a type of our own that is one of Python's in every respect."""
_PUNCH_HOLE = 0x02 | 0x01
_libc = ctypes.CDLL(None, use_errno=True)


def load(descriptor: int, form: str, size: int) -> Any:
    """Read the value and close the descriptor. Memory is given back as it is read."""
    return loaded(descriptor, form, size).value


def loaded(descriptor: int, form: str, size: int) -> Loaded:
    """The same, with what the root LM is told of the value beside its size."""
    try:
        if form.startswith("file:"):
            return _read_kind(descriptor, size, form.removeprefix("file:"))
        if form == "documents":
            with open(os.dup(descriptor), "rb") as file:
                return whole(file)
        if form == "values":
            return of_values(_read_bytes(descriptor, size))
        value = _READERS[form](descriptor, size)
        return Loaded(value, value.told if isinstance(value, Documents) else "")
    finally:
        os.close(descriptor)


def kind_of(value: Any) -> str:
    """The name of a value's type, as a person knows it."""
    return "dict" if isinstance(value, Lazy) else _KINDS.get(type(value), type(value).__name__)


def describe(value: Any, note: str = "") -> dict[str, str]:
    """Return type, size and a short preview; constant in length whatever the value.

    Args:
        note: what a reader said of it; it goes before the preview.
    """
    if note:
        found = describe(value)
        return {**found, "preview": f"{_clipped(note, MOST_NOTE)}\n{found['preview']}"}
    kind = kind_of(value)
    if isinstance(value, str | Text):
        return {"type": kind, "size": f"{len(value):,} characters", "preview": _ends(value)}
    if isinstance(value, bytes):
        preview = repr(value) if isinstance(value, Image) else _ends(value)
        return {"type": kind, "size": f"{len(value):,} bytes", "preview": preview}
    if isinstance(value, dict):
        rows = [f"{_short(key, 80)}: {_entry(value, key)}" for key in _first(value, 6)]
        return {"type": kind, "size": f"{len(value):,} keys", "preview": _rows(rows, len(value))}
    if isinstance(value, list | tuple):
        rows = [f"[{index}] {_item(item)}" for index, item in enumerate(value[:4])]
        return {"type": kind, "size": f"{len(value):,} items", "preview": _rows(rows, len(value))}
    return {"type": kind, "size": "1 value", "preview": _short(value, PREVIEW)}


def _read_text(descriptor: int, size: int) -> str | Text:
    if size >= SHARED and can_map(descriptor) and _is_ascii(descriptor, size):
        return mapped(descriptor, size, 0x7F)
    return _copy_text(descriptor, size)


def _copy_text(descriptor: int, size: int) -> str | Text:
    count, bound = measure(descriptor, size)
    if count * WIDTHS[bound] > LAZY:
        teach_re()
        return Text(mmap.mmap(descriptor, size, prot=mmap.PROT_READ), count)
    if size < SMALL:
        return os.pread(descriptor, size, 0).decode("utf-8", "surrogatepass")
    return _fill(descriptor, size, count, bound)


def _is_ascii(descriptor: int, size: int) -> bool:
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as view:
        return all(view[offset : offset + CHUNK].isascii() for offset in range(0, size, CHUNK))


def _read_fixed(largest: int, descriptor: int, size: int) -> str | Text:
    """Characters of one width, with a bound on the largest: see `mapped`."""
    if size and can_map(descriptor):
        return mapped(descriptor, size // WIDTHS[largest], largest)
    if largest == 0x7F:
        return _copy_text(descriptor, size)
    return _read_bytes(descriptor, size).decode(CODECS[largest], "surrogatepass")


def measure(descriptor: int, size: int, most: float = math.inf) -> tuple[int, int]:
    """Return the number of characters and a bound on the largest, holding one chunk at a time.

    Raises:
        UnicodeDecodeError: it is no text.
        OverflowError: as a `str` it would have more than `most` bytes.
    """
    count, bound = 0, 0x7F
    for piece in decoded(descriptor, size):
        count += len(piece)
        bound = max(bound, bound_of(piece))
        if count * WIDTHS[bound] > most:
            raise OverflowError
    return count, bound


def decoded(descriptor: int, size: int) -> Iterator[str]:
    """Yield the characters of a UTF-8 file, some at a time. Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    for offset in range(0, size, CHUNK):
        chunk = os.pread(descriptor, min(CHUNK, size - offset), offset)
        yield decoder.decode(chunk, final=offset + CHUNK >= size)


def bound_of(piece: str) -> int:
    """The bound on the largest character."""
    if piece.isascii():
        return 0x7F
    try:
        piece.encode("latin-1")
    except UnicodeEncodeError:
        one_unit_each = len(piece.encode("utf-16-le", "surrogatepass")) == 2 * len(piece)
        return 0xFFFF if one_unit_each else 0x10FFFF
    return 0xFF


def _fill(descriptor: int, size: int, count: int, bound: int) -> str:
    """Build one `str` in place, so that the text exists once: PyUnicode_New, then CopyCharacters."""
    api = ctypes.pythonapi
    api.PyUnicode_New.restype = ctypes.py_object
    api.PyUnicode_New.argtypes = [ctypes.c_ssize_t, ctypes.c_uint32]
    copy = api.PyUnicode_CopyCharacters
    copy.restype = ctypes.c_ssize_t
    copy.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.py_object, ctypes.c_ssize_t, ctypes.c_ssize_t]
    text = api.PyUnicode_New(count, bound)
    position = 0
    for index, piece in enumerate(decoded(descriptor, size)):
        copy(id(text), position, piece, 0, len(piece))
        position += len(piece)
        if (index + 1) % RELEASE == 0:
            _release(descriptor, (index + 1 - RELEASE) * CHUNK, RELEASE * CHUNK)
    return text  # type: ignore[no-any-return]


def _release(descriptor: int, offset: int, length: int) -> None:
    """Give the pages of a memfd back; a descriptor of a user's file is read-only and refuses."""
    _libc.fallocate(descriptor, _PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(length))


def _read_bytes(descriptor: int, size: int) -> bytes:
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else memoryview(b"") as view:
        return bytes(view)


def _read_file(descriptor: int, size: int) -> Any:
    try:
        return _read_text(descriptor, size)
    except UnicodeDecodeError:
        return _read_bytes(descriptor, size)


def _read_kind(descriptor: int, size: int, kind: str) -> Loaded:
    with opened(descriptor, size) as file:
        return read_kind(kind, file, size)


def _read_marshal(descriptor: int, _size: int) -> Any:
    with open(os.dup(descriptor), "rb") as file:
        kind = json.loads(file.readline())
        if kind["type"] == "list":
            items: list[Any] = []
            for _ in range(kind["parts"]):
                items += marshal.load(file)  # noqa: S302 - written by the host, read in the sandbox
            return items
        return marshal.load(file)  # noqa: S302 - as above


def of_values(data: bytes) -> Loaded:
    """The value that is encoded so."""
    value = values.decode("values", data, bounded=False)
    count = data.count(values.A_PICTURE)
    if not count:
        return Loaded(value)
    what = "a picture" if isinstance(value, Image) else f"{count:,} of the values in it are pictures"
    return Loaded(value, f"{what}; `llm_query(prompt, images=[...])` shows one, or several, to a model")


def _read_folder(descriptor: int, _size: int) -> Documents:
    return Documents(descriptor, _read_document)


def _read_document(descriptor: int, size: int, kind: str) -> Any:
    return _read_kind(descriptor, size, kind).value if kind else _read_file(descriptor, size)


_READERS: dict[str, Callable[[int, int], Any]] = {
    "text": _read_text,
    **{form: functools.partial(_read_fixed, largest) for form, largest in FIXED.items()},
    "bytes": _read_bytes,
    "file": _read_file,
    "marshal": _read_marshal,
    "folder": _read_folder,
}


def _ends(value: Any) -> str:
    if len(value) <= PREVIEW:
        return _clipped(repr(value[:]), PREVIEW + 100)
    return f"{repr(value[:PREVIEW])[: PREVIEW - 100]} ... {repr(value[-PREVIEW:])[-100:]}"


def _entry(value: dict[Any, Any], key: Any) -> str:
    unread = value.unread(key) if isinstance(value, Lazy) else ""
    return unread or _item(value[key])


def _item(value: Any) -> str:
    if isinstance(value, Image):
        return repr(value)
    if isinstance(value, str | bytes) and len(value) > 80:
        unit = "bytes" if isinstance(value, bytes) else "characters"
        return f"{type(value).__name__} of {len(value):,} {unit}, {repr(value[:60])[:60]}..."
    if isinstance(value, list | dict | tuple) and len(value) > 4:
        return f"{type(value).__name__} of {len(value):,}"
    return _short(value, 100)


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60


def _short(value: Any, limit: int) -> str:
    return _clipped(_BRIEF.repr(value), limit)


def _clipped(text: str, limit: int) -> str:
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= limit else printable[: limit - 3] + "..."


def _rows(rows: list[str], total: int) -> str:
    more = [f"... and {total - len(rows):,} more"] if total > len(rows) else []
    return "\n".join([*rows, *more])


def _first(items: Any, count: int) -> list[Any]:
    return [item for item, _ in zip(items, range(count), strict=False)]
