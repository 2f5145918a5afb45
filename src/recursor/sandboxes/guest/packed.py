"""Readers of one file that is packed (gzip, bzip2, xz), and of texts and documents of other times.

A packed file is what is in it, by its name without the last suffix, else by its first bytes. What is packed twice
stays bytes: a file can be made that unpacks to itself.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from . import archives, kinds, loading
from .loading import Loaded, Unreadable

MOST_UTF16 = 1 << 28
"""Bytes of a text in UTF-16."""


def read_packed(kind: str, file: BinaryIO, size: int) -> Loaded:
    """Read what is in a file of a kind such as "gzip/csv"."""
    packing, _, inner = kind.partition("/")
    data = _unpacked(packing, file, size)
    if "/" in inner or kinds.stays_text(inner, len(data)):
        inner = kinds.UNKNOWN
    if inner == kinds.UNKNOWN:
        inner = kinds.by_content(data[: kinds.HEAD]) if loading.is_binary(data) else ""
    if not inner or "/" in inner:
        return Loaded(loading.text_or_bytes(data), f"unpacked from {packing}")
    value, note = loading.load(inner, io.BytesIO(data), len(data))
    return Loaded(value, f"{note}; unpacked from {packing}" if note else f"unpacked from {packing}")


def read_utf16(file: BinaryIO, size: int) -> Loaded:
    """A text that begins with the mark of UTF-16; bytes, where it is none."""
    if size > MOST_UTF16:
        raise Unreadable("it is a text in UTF-16 of more than 256 MB: make one in UTF-8 of it")
    data = file.read()
    try:
        text = data.decode("utf-16")
    except UnicodeDecodeError:
        return Loaded(data)
    return Loaded(data) if "\0" in text else Loaded(text, "decoded from UTF-16")


def read_old(file: BinaryIO, size: int) -> Loaded:  # noqa: ARG001 - as all readers
    """Refuse what Office wrote before 2007, before a model is paid to look at its bytes."""
    raise Unreadable(
        "it is of the format that Office had before 2007 (.doc, .xls, .ppt), or of Outlook (.msg): "
        "save it as .docx, .xlsx, .pptx or .eml"
    )


def _unpacked(packing: str, file: BinaryIO, size: int) -> bytes:
    with _opened(packing, file) as opened:
        data = opened.read(archives.MOST_MEMBER + 1)
    if len(data) > archives.MOST_MEMBER:
        raise Unreadable(f"it unpacks to more than {archives.MOST_MEMBER >> 20} MB: unpack it first")
    if len(data) > max(1 << 20, archives.MOST_RATIO * size):
        raise Unreadable("it unpacks like a bomb")
    return data


def _opened(packing: str, file: BinaryIO) -> io.BufferedIOBase:
    """What unpacks a file. Where Python was built without it, that is an error of this file, and of no other."""
    match packing:
        case "gzip":
            import gzip  # noqa: PLC0415

            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            import bz2  # noqa: PLC0415

            return bz2.BZ2File(file)
        case _:
            import lzma  # noqa: PLC0415

            return lzma.LZMAFile(file)
