"""Readers of ZIP and tar: a mapping of paths to what is in them. Nothing is written anywhere.

A bomb is refused by its number of members, their size, their ratio, and the depth of archives in archives.
Links, devices and paths that lead out of the archive are left out.
"""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

from . import kinds, loading
from .images import named
from .lazy import Lazy
from .loading import Loaded, Unreadable

MOST_MEMBERS = 100_000
MOST_MEMBER = 1 << 28
"""Bytes of one member, unpacked."""
MOST_TAR = 1 << 29
"""Bytes of all members of a tar that is packed, which has to be unpacked whole."""
MOST_RATIO = 300
"""How much larger a member of more than a megabyte may be than what it is packed into."""
DEEPEST = 3
_depth = threading.local()


class Members(Lazy):
    """Members of an archive by their paths, each unpacked and read as its kind when it is taken.

    Args:
        members: how many bytes each has, and what unpacks it.
    """

    def __init__(self, members: Mapping[str, tuple[int, Callable[[], bytes]]]) -> None:
        self._depth = getattr(_depth, "now", 0) + 1
        if self._depth > DEEPEST:
            raise Unreadable(f"it is an archive in {DEEPEST} others")
        self._unpack = [unpack for _, unpack in members.values()]
        super().__init__((name, size, _kind(name, size)) for name, (size, _) in members.items())

    def _read(self, number: int, name: str) -> Any:
        before = getattr(_depth, "now", 0)
        _depth.now = self._depth
        try:
            return member(name, self._unpack[number]())
        except Unreadable as error:
            return loading.report(name, error)
        except Exception as error:  # noqa: BLE001 - zlib and lzma have errors of their own
            return loading.report(name, Unreadable(f"it cannot be read: {error or type(error).__name__}"))
        finally:
            _depth.now = before

    def _what(self) -> str:
        return "files of an archive"


def read_zip(file: BinaryIO, size: int) -> Loaded:
    """The members by their paths; a file of Office's is read as what it is."""
    try:
        archive = zipfile.ZipFile(loading.kept(file))
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
    members: dict[str, tuple[int, Callable[[], bytes]]] = {}
    left_out: list[str] = []
    for info in infos:
        if info.is_dir():
            continue
        if odd := _refused(info):
            left_out.append(f"{info.filename[:100]} ({odd})")
        else:
            members[info.filename] = info.file_size, partial(_unpacked, archive, info)
    if left_out and not members and all(each.endswith("(encrypted)") for each in left_out):
        raise Unreadable("it is encrypted, and opens with a password only")
    return _told(Members(members), left_out, "ZIP")


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
    """The members by their paths. A tar that is packed is unpacked here, since it has no places to go to."""
    head = file.read(6)
    file.seek(0)
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    source = file if packed else loading.kept(file)
    members: dict[str, tuple[int, Callable[[], bytes]]] = {}
    left_out: list[str] = []
    total = count = 0
    note = ""
    try:
        archive = tarfile.open(fileobj=source, mode="r|*" if packed else "r:")  # noqa: SIM115 - members are read later
        for info in archive:
            count += 1
            _check_count(count)
            if info.isdir():
                continue
            if odd := _refused_of_tar(info):
                left_out.append(f"{info.name[:100]} ({odd})")
                continue
            name = info.name.removeprefix("./")
            if not packed:
                members[name] = info.size, partial(_piece, source, info.offset_data, info.size)
                continue
            total += info.size
            if total > MOST_TAR or total > max(1 << 20, MOST_RATIO * size):
                raise Unreadable(f"it unpacks to more than {total:,} bytes")
            content = archive.extractfile(info)
            assert content is not None
            members[name] = info.size, partial(bytes, content.read())
    except (tarfile.TarError, OSError, EOFError) as error:
        if not members:
            raise Unreadable(str(error) or "it is cut short") from None
        note = f"damaged after {len(members):,} members: {error}"
    return _told(Members(members), left_out, "tar", note)


def _refused_of_tar(info: tarfile.TarInfo) -> str:
    if not info.isreg() or info.issparse():
        return _odd(info.name) or "a link or a device"
    return _odd(info.name) or (f"{info.size:,} bytes" if info.size > MOST_MEMBER else "")


def _piece(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise Unreadable("it cannot be read: the archive is cut short")
    return data


def _told(members: Members, left_out: list[str], what: str, note: str = "") -> Loaded:
    said = [f"{what}, its {len(members):,} files by path", note]
    for reports, how in ((members.broken(), "cannot be read"), (left_out, "left out")):
        if reports:
            first = ", ".join(str(each)[:200] for each in reports[:8])
            said.append(f"{how}: {len(reports):,} ({first}{', ...' if len(reports) > 8 else ''})")
    return Loaded(members, "; ".join(filter(None, said)))


def _kind(name: str, size: int) -> str:
    kind = kinds.by_name(name)
    return kinds.UNKNOWN if kinds.stays_text(kind, size) else kind


def member(name: str, data: bytes) -> Any:
    """The value of a document whose bytes are here. Raises Unreadable."""
    kind = _kind(name, len(data))
    return named(loading.load(kind, io.BytesIO(data), len(data)).value, name)
