"""Readers of ZIP and tar: a mapping of paths to what is in them. Nothing is written anywhere.

A bomb is refused by its number of members, their size, their ratio, and the depth of archives in archives.
Links, devices and paths that lead out of the archive are left out.
"""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

from . import kinds, loading
from .images import named
from .loading import Loaded, Unreadable

MOST_MEMBERS = 100_000
MOST_MEMBER = 1 << 28
"""Bytes of one member, unpacked."""
MOST_TAR = 1 << 29
"""Bytes of all members of a tar, which has to be read whole."""
MOST_RATIO = 300
"""How much larger a member of more than a megabyte may be than what it is packed into."""
DEEPEST = 3
_depth = threading.local()


def read_zip(file: BinaryIO, size: int) -> Loaded:
    """The members by their paths; a file of Office's is read as what it is."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Unreadable(str(error)) from None
    for part, kind in (
        ("word/document.xml", "docx"),
        ("xl/workbook.xml", "xlsx"),
        ("ppt/presentation.xml", "pptx"),
    ):
        if part in archive.NameToInfo and "[Content_Types].xml" in archive.NameToInfo:
            return loading.load(kind, file, size)
    infos = archive.infolist()
    _check_count(len(infos))
    _check_overlap(infos)
    members: dict[str, Callable[[], bytes]] = {}
    left_out: list[str] = []
    for info in infos:
        if info.is_dir():
            continue
        if odd := _refused(info):
            left_out.append(f"{info.filename[:100]} ({odd})")
        else:
            members[info.filename] = lambda info=info: _unpacked(archive, info)  # type: ignore[misc]
    if left_out and not members and all(each.endswith("(encrypted)") for each in left_out):
        raise Unreadable("it is encrypted, and opens with a password only")
    return _read(members, left_out, "ZIP")


def _check_count(count: int) -> None:
    if count > MOST_MEMBERS:
        raise Unreadable(f"it has {count:,} members; at most {MOST_MEMBERS:,} are read")


def _check_overlap(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share their bytes: a small file could hold any number of large ones."""
    end = 0
    for info in sorted(infos, key=lambda each: each.header_offset):
        if info.header_offset < end:
            raise Unreadable("its members overlap")
        end = info.header_offset + 30 + info.compress_size


def _refused(info: zipfile.ZipInfo) -> str:
    """Why a member is left out; empty for one that is not."""
    if info.flag_bits & 1:
        return "encrypted"
    if info.file_size > MOST_MEMBER:
        return f"{info.file_size:,} bytes"
    if info.file_size > 1 << 20 and info.file_size > MOST_RATIO * max(1, info.compress_size):
        return "it unpacks like a bomb"
    return _odd(info.filename) or ("a link" if info.external_attr >> 28 == 0xA else "")


def _odd(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    return (
        "it leads out of the archive"
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
        else ""
    )


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise Unreadable("it has another size than the archive says")
    return data


def read_tar(file: BinaryIO, size: int) -> Loaded:
    """The members by their paths."""
    members: dict[str, Callable[[], bytes]] = {}
    left_out: list[str] = []
    total = count = 0
    note = ""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for info in archive:
                count += 1
                _check_count(count)
                if info.isdir():
                    continue
                odd = _odd(info.name) or ("" if info.isreg() else "a link or a device")
                if odd:
                    left_out.append(f"{info.name[:100]} ({odd})")
                    continue
                total += info.size
                if total > MOST_TAR or total > max(1 << 20, MOST_RATIO * size):
                    raise Unreadable(f"it unpacks to more than {total:,} bytes")
                content = archive.extractfile(info)
                assert content is not None
                data = content.read()
                members[info.name.removeprefix("./")] = lambda data=data: data  # type: ignore[misc]
    except (tarfile.TarError, OSError, EOFError) as error:
        if not members:
            raise Unreadable(str(error) or "it is cut short") from None
        note = f"damaged after {len(members):,} members: {error}"
    return _read(members, left_out, "tar", note)


def _read(members: dict[str, Callable[[], bytes]], left_out: list[str], what: str, note: str = "") -> Loaded:
    """Unpack and read the members, each as its kind; what cannot be read says why in its place."""
    depth = getattr(_depth, "now", 0)
    if depth >= DEEPEST:
        raise Unreadable(f"it is an archive in {DEEPEST} others")
    values: dict[str, Any] = {}
    broken: list[str] = []
    total = 0
    _depth.now = depth + 1
    try:
        for name, unpack in members.items():
            try:
                data = unpack() if total < MOST_TAR else b""
                total += len(data)
                if total >= MOST_TAR:
                    raise Unreadable(f"the archive unpacks to {MOST_TAR:,} bytes or more")
                values[name] = member(name, data)
            except Exception as error:  # noqa: BLE001 - zlib and lzma have errors of their own
                values[name] = loading.report(name, error)
                broken.append(f"{name[:100]} ({error})")
    finally:
        _depth.now = depth
    said = [f"{what}, its {len(values):,} files by path", note]
    for names, how in ((broken, "cannot be read"), (left_out, "left out")):
        if names:
            said.append(f"{how}: {len(names):,} ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})")
    return Loaded(values, "; ".join(filter(None, said)))


def member(name: str, data: bytes) -> Any:
    """The value of a document whose bytes are here."""
    kind = kinds.by_name(name)
    if kinds.stays_text(kind, len(data)):
        kind = kinds.UNKNOWN
    return named(loading.load(kind, io.BytesIO(data), len(data)).value, name)
