"""Reader of Excel files (xlsx): the values that their cells show, not their formulas."""

from __future__ import annotations

import datetime
import re
import zipfile
from typing import Any, BinaryIO

from .loading import Loaded, Unreadable
from .markup import parse
from .office import content, package, targets
from .tables import by_header

MOST_CELLS = 10_000_000
WIDEST = 16_384
LONGEST = 1 << 20
_DATES = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
"""Built-in formats of numbers that show dates or times."""
_QUOTED = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.')


class Strings:
    """The texts that sheets refer to by number."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._text: list[str] = []
        self._open = False
        self._phonetic = 0

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._open = name == "t" and not self._phonetic
        self._phonetic += name == "rPh"

    def text(self, text: str) -> None:
        if self._open:
            self._text.append(text)

    def end(self, name: str) -> None:
        if name == "t":
            self._open = False
        elif name == "rPh":
            self._phonetic -= 1
        elif name == "si":
            self.found.append("".join(self._text))
            self._text = []


class Sheet:
    """Collects the cells of a sheet."""

    def __init__(self, strings: list[str], dates: set[int], epoch: datetime.datetime) -> None:
        self.rows: list[list[Any]] = []
        self._strings, self._dates, self._epoch = strings, dates, epoch
        self._kind = self._style = ""
        self._column = self._next = self._cells = 0
        self._text: list[str] = []
        self._open = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            number = int(attributes.get("r") or len(self.rows) + 1)
            if not len(self.rows) < number <= LONGEST:
                raise Unreadable(f"its rows are in disorder at row {number:,}")
            self.rows += [[] for _ in range(number - len(self.rows))]
            self._next = 0
        elif name == "c":
            self._kind, self._style = attributes.get("t", "n"), attributes.get("s", "0")
            self._column = _column(attributes["r"]) if "r" in attributes else self._next
            self._text = []
        elif name in ("v", "t"):
            self._open = True

    def text(self, text: str) -> None:
        if self._open:
            self._text.append(text)

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            self._open = False
        elif name == "c" and self.rows:
            row = self.rows[-1]
            if not len(row) <= self._column < WIDEST:
                raise Unreadable("its cells are in disorder")
            self._cells += self._column + 1 - len(row)
            if self._cells > MOST_CELLS:
                raise Unreadable(f"a sheet of it has more than {MOST_CELLS:,} cells")
            row += [None] * (self._column - len(row))
            row.append(self._value("".join(self._text)))
            self._next = self._column + 1

    def _value(self, text: str) -> Any:
        if self._kind == "s":
            return self._strings[int(text)] if text else None
        if self._kind in ("str", "inlineStr", "e", "d"):
            return text
        if not text:
            return None
        if self._kind == "b":
            return text == "1"
        number = float(text)
        if int(self._style or 0) in self._dates:
            return self._date(number)
        return int(number) if number.is_integer() and abs(number) < 1 << 53 else number

    def _date(self, number: float) -> Any:
        try:
            moment = self._epoch + datetime.timedelta(days=number)
        except (OverflowError, ValueError):
            return number
        if 0 <= number < 1:
            return moment.time()
        moment = (moment + datetime.timedelta(microseconds=500)).replace(microsecond=0)
        return moment.date() if number.is_integer() else moment


def _column(place: str) -> int:
    """The number of the column in a place such as "AB12", from 0."""
    number = 0
    for letter in place[:4].upper():
        if not "A" <= letter <= "Z":
            break
        number = number * 26 + ord(letter) - 64
    return number - 1


def read_xlsx(file: BinaryIO, _size: int) -> Loaded:
    """The rows of each sheet by its name: dicts where the first row holds names, else lists."""
    archive = package(file, "xl/workbook.xml", "Excel file")
    strings = Strings()
    if "xl/sharedStrings.xml" in archive.NameToInfo:
        parse(content(archive, "xl/sharedStrings.xml"), strings.start, strings.end, strings.text)
    dates = _dates(archive)
    names, epoch = _workbook(archive)
    sheets: dict[str, list[Any]] = {}
    said, broken = [], []
    for name, part in names:
        sheet = Sheet(strings.found, dates, epoch)
        try:
            parse(content(archive, part), sheet.start, sheet.end, sheet.text)
        except (ValueError, IndexError, KeyError, zipfile.BadZipFile) as error:
            broken.append(f"{name!r} cannot be read: {error}")
            continue
        sheets[name], shape = _rows(sheet.rows)
        said.append(f"{name!r}: {len(sheets[name]):,} rows, {shape}")
    if broken and not sheets:
        raise Unreadable("; ".join(broken[:5]))
    return Loaded(sheets, "; ".join(["Excel, rows by sheet (i counts from 0)", *broken[:5], *said[:20]]))


def _rows(cells: list[list[Any]]) -> tuple[list[Any], str]:
    while cells and not any(cell is not None for cell in cells[-1]):
        cells.pop()
    first = next((number for number, row in enumerate(cells) if row), 0)
    width = max(map(len, cells), default=0)
    if len(cells) * width > MOST_CELLS:
        raise Unreadable(f"a sheet of it has more than {MOST_CELLS:,} cells")
    rows, shape = by_header([row + [None] * (width - len(row)) for row in cells[first:]], "row", first + 1)
    return rows, shape.replace("context[i]", "[i]").replace("context[", "[")


def _workbook(archive: zipfile.ZipFile) -> tuple[list[tuple[str, str]], datetime.datetime]:
    """(name, part) of each sheet, in order; and the day from which dates count."""
    parts = targets(archive, "xl/workbook.xml")
    found: list[tuple[str, str]] = []
    epoch = datetime.datetime(1899, 12, 30)

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal epoch
        if name == "sheet" and "worksheets/" in parts.get(attributes.get("id", ""), ""):
            found.append((attributes.get("name", ""), parts[attributes["id"]]))
        elif name == "workbookPr" and attributes.get("date1904") in ("1", "true"):
            epoch = datetime.datetime(1904, 1, 1)

    parse(content(archive, "xl/workbook.xml"), start, lambda _: None, lambda _: None)
    return found, epoch


def _dates(archive: zipfile.ZipFile) -> set[int]:
    """The styles of cells whose numbers are dates or times."""
    if "xl/styles.xml" not in archive.NameToInfo:
        return set()
    formats: dict[int, str] = {}
    found: set[int] = set()
    among = False
    number = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal among, number
        if name == "numFmt":
            formats[int(attributes.get("numFmtId", 0))] = attributes.get("formatCode", "")
        elif name == "cellXfs":
            among = True
        elif name == "xf" and among:
            identity = int(attributes.get("numFmtId", 0))
            code = _QUOTED.sub("", formats.get(identity, "")).lower()
            if identity in _DATES or set("ymdhs") & set(code.replace("general", "")):
                found.add(number)
            number += 1

    def end(name: str) -> None:
        nonlocal among
        among = among and name != "cellXfs"

    parse(content(archive, "xl/styles.xml"), start, end, lambda _: None)
    return found
