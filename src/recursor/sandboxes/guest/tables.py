"""Readers of texts that hold values: CSV, JSON, JSON Lines, YAML."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, BinaryIO

from .loading import Loaded, Unreadable

DELIMITERS = ",;\t|"
SAMPLE = 20
"""Lines by which the delimiter is found."""
DEEPEST = 200
"""Levels of a YAML document."""
MOST_NODES = 5_000_000
"""Values that a YAML document may come to, those behind its aliases counted each time."""


def decoded(data: bytes) -> tuple[str, str]:
    """The text, and what there is to say of its encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16"), "decoded from UTF-16"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), "it is no UTF-8: decoded from Windows-1252"


def read_csv(file: BinaryIO, size: int) -> Loaded:
    """A list of dicts by the names in the first row; of lists, where that row holds no names."""
    text, note = decoded(file.read())
    if "\0" in text:
        raise Unreadable("there are NUL characters in it")
    delimiter = _delimiter(text)
    before = csv.field_size_limit(max(size, 1 << 17))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in reader if row]
        lines = reader.line_num
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)
    one_line_each = lines == len(rows)
    value, said = by_header(rows, "line" if one_line_each else "")
    return Loaded(value, "; ".join(filter(None, (f"CSV, every cell a str, {said}", note))))


def _delimiter(text: str) -> str:
    """The character that cuts the first lines into the same number of cells, and into most."""
    sample = text[: 1 << 16]
    found = {each: _widths(sample, each, strict=True) for each in DELIMITERS}
    if not any(found.values()):  # quotes are used as they should not be
        found = {each: _widths(sample, each, strict=False) for each in DELIMITERS}
    best, most = ",", (0, 1)
    for each, widths in found.items():
        if not widths:
            continue
        usual = max(set(widths), key=widths.count)
        score = (widths.count(usual) if usual > 1 else 0, usual)
        if score > most:
            best, most = each, score
    return best


def _widths(sample: str, delimiter: str, *, strict: bool) -> list[int]:
    """How many cells the first rows have; none where a quote says that it is no such table."""
    stream = io.StringIO(sample, newline="")
    widths: list[int] = []
    try:
        for row in csv.reader(stream, delimiter=delimiter, strict=strict):
            widths += [len(row)] if row else []
            if len(widths) == SAMPLE:
                break
    except csv.Error:
        if stream.tell() < len(sample):  # else it ends within a cell, as the sample may
            return []
    return widths


def by_header(rows: list[list[Any]], unit: str, first: int = 1) -> tuple[list[Any], str]:
    """Rows as dicts, where the first holds names, and what to say of them.

    Args:
        unit: what a row is in the file: "line", "row"; empty where they do not go together.
        first: the number of the first.
    """
    if not rows:
        return [], "without a row"
    where = f"; context[i] is {unit} i + {{}}" if unit else ""
    names = rows[0]
    if not _are_names(names):
        return rows, f"rows of cells without a header{where.format(first)}"
    width, odd, found = len(names), [], []
    for number, row in enumerate(rows[1:]):
        item = dict(zip(names, row, strict=False))
        if len(row) != width:
            odd.append(number)
            item.update(dict.fromkeys(names[len(row) :]))
            if len(row) > width:
                item[None] = row[width:]
        found.append(item)
    ragged = ""
    if odd:
        ragged = (
            f"; {len(odd):,} rows have more or fewer cells than the header, the first is context[{odd[0]}]: None "
            "stands for a missing cell, and what is too much is under the key None"
        )
    columns = ", ".join(map(str, names[:30])) + (f" and {width - 30} more" if width > 30 else "")
    return found, f"columns: {columns[:600]}{where.format(first + 1)}{ragged}"


def _are_names(cells: list[Any]) -> bool:
    """Whether cells can be names of columns: texts, no two the same, none empty or a number."""
    if len(set(map(str, cells))) != len(cells):
        return False
    return all(isinstance(cell, str) and cell.strip() and not _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def read_json(file: BinaryIO, _size: int) -> Loaded:
    """The value."""
    try:
        return Loaded(json.loads(decoded(file.read())[0]), "from JSON")
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def read_jsonl(file: BinaryIO, _size: int) -> Loaded:
    """A list with the value of each line; lines that are none are told by number."""
    found: list[Any] = []
    bad: list[tuple[int, str]] = []
    blank = number = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            blank += 1
            continue
        try:
            found.append(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
        except (ValueError, RecursionError) as error:
            bad.append((number, str(error) or type(error).__name__))
    if bad and not found:
        raise Unreadable(f"no line of it is JSON; line {bad[0][0]}: {bad[0][1]}")
    note = "from JSON Lines"
    if not bad and not blank:
        note += "; context[i] is line i + 1"
    if bad:
        lines = ", ".join(str(line) for line, _ in bad[:20]) + (", ..." if len(bad) > 20 else "")
        note += f"; {len(bad):,} of {number:,} lines are no JSON and left out: {lines} (the first: {bad[0][1][:100]})"
    return Loaded(found, note)


def read_yaml(file: BinaryIO, _size: int) -> Loaded:
    """The value; a list of them, where there are several documents. Needs PyYAML."""
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unreadable(
            "PyYAML is not installed where the code runs: pip install 'recursor[files]'"
        ) from None
    text = decoded(file.read())[0]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, loader))
        for node in yaml.compose_all(text, loader):
            if _count(node, {}, set()) > MOST_NODES:
                raise Unreadable(f"its aliases stand for more than {MOST_NODES:,} values")
        documents = list(yaml.load_all(text, loader))
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise Unreadable(" ".join(str(error).split())) from None
    if len(documents) == 1:
        return Loaded(documents[0], "from YAML")
    return Loaded(documents, f"from YAML, {len(documents):,} documents")


def _check_depth(events: Any) -> None:
    depth = 0
    for event in events:
        depth += {"Start": 1, "End": -1}.get(
            type(event).__name__[:-5].removeprefix("Sequence").removeprefix("Mapping"), 0
        )
        if depth > DEEPEST:
            raise Unreadable(f"it is nested more than {DEEPEST} deep")


def _count(node: Any, seen: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for. Raises Unreadable where it holds itself."""
    if node is None or isinstance(node.value, str):
        return 1
    key = id(node)
    if key in above:
        raise Unreadable("an alias in it stands for what it is in")
    if key not in seen:
        above.add(key)
        items = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        seen[key] = 1 + sum(_count(item, seen, above) for item in items)
        above.discard(key)
    return seen[key]
