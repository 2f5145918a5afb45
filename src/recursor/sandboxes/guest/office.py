"""Readers of Word and PowerPoint files: XML in a ZIP, of which nothing is run and nothing fetched."""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO

from .loading import Loaded, Unreadable
from .markup import parse

MOST_PART = 1 << 28
"""Bytes of one part of a file, unpacked."""
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How a file of the old formats begins, and one of the new that is encrypted."""


def package(file: BinaryIO, part: str, what: str) -> zipfile.ZipFile:
    """Open a file of Office's. Raises Unreadable where it is none, or lacks what its kind has."""
    if file.read(len(_COMPOUND)) == _COMPOUND:
        encrypted = "EncryptedPackage".encode("utf-16-le") in file.read(MOST_PART)
        raise Unreadable(
            "it is encrypted, and opens with a password only"
            if encrypted
            else "it is of the old format (.doc, .xls, .ppt): save it anew"
        )
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Unreadable(str(error)) from None
    if part not in archive.NameToInfo:
        raise Unreadable(f"it is no {what}: it has no {part}")
    return archive


def content(archive: zipfile.ZipFile, part: str) -> bytes:
    """Unpack one part, within bounds."""
    with archive.open(part) as file:
        data = file.read(MOST_PART + 1)
    if len(data) > MOST_PART:
        raise Unreadable(f"{part} unpacks to more than {MOST_PART:,} bytes")
    return data


class Paragraphs:
    """Collects texts of paragraphs; the rows of tables as lines of cells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._text: list[str] = []
        self._rows: list[list[str]] = []
        """Of each table that is open, the cells of its row."""
        self._cells: list[list[str]] = []
        """Of each cell that is open, its paragraphs."""
        self._in_text = False
        self._prefix = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "t":
            self._in_text = True
        elif name == "tab":
            self._text.append("\t")
        elif name in ("br", "cr"):
            self._text.append("\n")
        elif name == "pStyle":
            self._prefix = _prefix(attributes.get("val", ""))
        elif name == "tr":
            self._rows.append([])
        elif name == "tc":
            self._cells.append([])

    def text(self, text: str) -> None:
        if self._in_text:
            self._text.append(text)

    def end(self, name: str) -> None:
        if name == "t":
            self._in_text = False
        elif name == "p":
            line, self._text = self._prefix + "".join(self._text), []
            self._prefix = ""
            (self._cells[-1] if self._cells else self.lines).append(line)
        elif name == "tc" and self._cells:
            cell = " ".join(filter(None, self._cells.pop()))
            if self._rows:
                self._rows[-1].append(cell)
        elif name == "tr" and self._rows:
            row = " | ".join(self._rows.pop())
            (self._cells[-1] if self._cells else self.lines).append(row)


def _prefix(style: str) -> str:
    heading = re.fullmatch(r"(?:Heading|berschrift|Titre)([1-9])", style)
    if heading:
        return "#" * int(heading[1]) + " "
    return {"Title": "# ", "ListBullet": "- ", "ListParagraph": "- "}.get(style, "")


def _text_of(data: bytes) -> list[str]:
    found = Paragraphs()
    parse(data, found.start, found.end, found.text)
    return found.lines


def read_docx(file: BinaryIO, _size: int) -> Loaded:
    """The text, a paragraph a line, with headings; rows of tables as cells between bars; notes after it."""
    archive = package(file, "word/document.xml", "Word file")
    lines = _text_of(content(archive, "word/document.xml"))
    note = f"the text of a Word file, {len(lines):,} paragraphs and rows of tables"
    for part, what in (
        ("word/footnotes.xml", "footnotes"),
        ("word/endnotes.xml", "endnotes"),
        ("word/comments.xml", "comments"),
    ):
        if part in archive.NameToInfo:
            more = [line for line in _text_of(content(archive, part)) if line.strip()]
            lines += ["", f"[{what}]", *more] if more else []
            note += f", with {what} at the end" if more else ""
    return Loaded("\n".join(lines) + "\n", note)


def read_pptx(file: BinaryIO, _size: int) -> Loaded:
    """A list with the text of each slide, the speaker's notes after it."""
    archive = package(file, "ppt/presentation.xml", "PowerPoint file")
    slides = []
    order = _slides(archive)
    for part in order:
        lines = [line for line in _text_of(content(archive, part)) if line.strip()]
        notes = next((each for each in targets(archive, part).values() if "/notesSlides/" in each), "")
        if notes in archive.NameToInfo:
            said = [line for line in _text_of(content(archive, notes)) if line.strip() and not line.isdigit()]
            lines += ["", "[notes]", *said] if said else []
        slides.append("\n".join(lines))
    return Loaded(slides, f"PowerPoint, {len(slides):,} slides; context[i] is slide i + 1")


def _slides(archive: zipfile.ZipFile) -> list[str]:
    """The parts of the slides, in order."""
    parts = targets(archive, "ppt/presentation.xml")
    found: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "sldId" and attributes.get("id") in parts:
            found.append(parts[attributes["id"]])

    parse(content(archive, "ppt/presentation.xml"), start, lambda _: None, lambda _: None)
    return [part for part in found if part in archive.NameToInfo]


def targets(archive: zipfile.ZipFile, part: str) -> dict[str, str]:
    """The parts that a part refers to, by the ids under which it does."""
    folder, _, name = part.rpartition("/")
    relations = f"{folder}/_rels/{name}.rels"
    found: dict[str, str] = {}
    if relations not in archive.NameToInfo:
        return found

    def start(element: str, attributes: dict[str, str]) -> None:
        if element == "Relationship" and attributes.get("TargetMode") != "External":
            found[attributes.get("Id", "")] = _resolved(folder, attributes.get("Target", ""))

    parse(content(archive, relations), start, lambda _: None, lambda _: None)
    return found


def _resolved(folder: str, target: str) -> str:
    parts = [] if target.startswith("/") else folder.split("/")
    for step in target.split("/"):
        if step == "..":
            del parts[-1:]
        elif step not in ("", "."):
            parts.append(step)
    return "/".join(parts)
