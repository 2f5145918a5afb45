"""Functions for large texts that code in a REPL finds by name: `chunk`, `grep`; `search` stands in `ranking`.

They take a text (`str` or `Text`) or several (a mapping by name, or a list), return positions in
characters beside what they found, and never make a `str` of a whole `Text`.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

from .lazy import Lazy
from .loading import as_text
from .text import Text

SIZE = 100_000
LIMIT = 1000
SHOWN = 100
"""Records whose text is shown of a list of them."""
WIDE = 200
"""Characters shown of one record."""
LINE = 2000
"""Characters of a line that are kept, around the match."""
_BORDERS = {"characters": (), "lines": ("\n", " "), "paragraphs": ("\n\n", "\n", " ")}

Name: TypeAlias = str | int | None
"""Of a document: its key, its place in a list, or None where there is one text alone."""


class Piece(str):
    """A part of a text, with its place.

    Attributes:
        start, end: offsets in characters.
        document: the key or the place in a list of the text it is from; None where there is but one.
    """

    start: int
    end: int
    document: Any

    def __new__(cls, text: str, start: int, document: Any = None) -> Piece:
        piece = super().__new__(cls, text)
        piece.start, piece.end, piece.document = start, start + len(text), document
        return piece

    def place(self) -> str:
        where = "" if self.document is None else f"{self.document}:"
        return f"{where}{self.start:,}-{self.end:,}"


class Pieces(Sequence[Piece]):
    """Pieces of texts, cut when they are asked for."""

    def __init__(self, texts: Mapping[Any, Any], spans: Mapping[Any, Sequence[tuple[int, int]]]) -> None:
        self._texts = texts
        self._names = list(spans)
        borders = self._borders = list(spans.values())
        self._before = [0, *itertools.accumulate(map(len, borders))]

    def __len__(self) -> int:
        return self._before[-1]

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError("there is no such piece")
        at = bisect.bisect_right(self._before, number) - 1
        start, end = self._borders[at][number - self._before[at]]
        name = self._names[at]
        return Piece(text_at(self._texts, name)[start:end], start, name)

    def __repr__(self) -> str:
        return f"<{len(self):,} pieces; the first is {self[0].place()}>" if len(self) else "<0 pieces>"


class Hit(NamedTuple):
    """A line in which a pattern was found."""

    document: Any
    """The key or the place in a list of the text it is from; None where there is but one."""
    number: int
    """Of the line, from 1."""
    position: int
    """Of the match in the text, in characters."""
    line: str
    """Without its end; of a very long one what is around the match."""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __repr__(self) -> str:
        where = "" if self.document is None else f"{self.document}:"
        rows = [*self.before, f"{where}{self.number}: {_brief(self.line)}", *self.after]
        return "\n".join(rows[:1] if len(rows) == 1 else [*map(_brief, rows), "--"])


class Found(list[Any]):
    """A list that prints one record a line, and says whether there are more.

    Attributes:
        limit: the number at which the search stopped; None when it went through.
    """

    limit: int | None = None

    def __repr__(self) -> str:
        rows = [_row(record) for record in self[:SHOWN]]
        if len(self) > SHOWN:
            rows.append(f"... and {len(self) - SHOWN:,} more in this list")
        if self.limit is not None:
            rows.append(f"[stopped at limit={self.limit:,}: there may be more]")
        return "\n".join(rows) or "[nothing found]"

    __str__ = __repr__


def chunk(text: Any, size: int = SIZE, overlap: int = 0, by: str = "lines") -> Pieces:
    """Cut a text, or each of several, into pieces of at most `size` characters at natural borders.

    Args:
        overlap: about how many characters a piece shares with the one before.
        by: "lines", "paragraphs" (ended by an empty line) or "characters" (exactly `size`). Where a
            piece holds no such border it is cut at the next finer one.

    Returns:
        A sequence of `str` with `start`, `end` and `document`; each is made when it is taken.
    """
    if by not in _BORDERS:
        raise ValueError(f'by must be "lines", "paragraphs" or "characters", not {by!r}')
    if not 0 <= overlap < size:
        raise ValueError("size must be positive and larger than overlap")
    texts = held(text, "chunk")
    borders = _BORDERS[by]
    return Pieces(
        texts, {name: list(spans(each, size, overlap, borders)) for name, each in texts_of(texts, "chunk")}
    )


def grep(
    pattern: str | re.Pattern[str],
    text: Any,
    *,
    context: int = 0,
    limit: int | None = LIMIT,
    ignore_case: bool = False,
) -> Found:
    """Find the lines of a text, or of several, that hold a match of a regular expression.

    Args:
        pattern: `^` and `$` are the ends of lines. A compiled one is taken as it is.
        context: lines before and after each that are kept too.
        limit: how many lines to find at most; None for all.

    Returns:
        A list of `Hit(document, number, position, line, before, after)`, one for each line.
    """
    flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
    compiled = re.compile(pattern, flags) if isinstance(pattern, str) else pattern
    found = Found()
    every = (hit for name, each in texts_of(text, "grep") for hit in _hits(compiled, name, each, context))
    found += every if limit is None else itertools.islice(every, limit)
    found.limit = limit if limit is not None and len(found) >= limit else None
    return found


def texts_of(source: Any, function: str) -> Iterator[tuple[Any, str | Text]]:
    """The texts that a source stands for, with their names. Bytes among them are left out."""
    if isinstance(source, str | Text):
        yield None, source
        return
    if not isinstance(source, Mapping | list | tuple | Pieces):
        raise TypeError(f"{function} takes a text, or a dict or list of texts, not {type(source).__name__}")
    for name, text in source.items() if isinstance(source, Mapping) else enumerate(source):
        if isinstance(text, str | Text):
            yield name, text
        elif isinstance(source, Lazy) and not isinstance(text, bytes):
            yield name, as_text(text)  # a table, pages: an item a line
        elif not isinstance(text, bytes):
            raise TypeError(
                f"{function} takes texts: item {name!r} is of type {type(text).__name__}; make a list of str first"
            )


def text_at(texts: Mapping[Any, Any], name: Any) -> str | Text:
    """One of them, as `texts_of` gives it."""
    value = texts[name]
    return value if isinstance(value, str | Text) else as_text(value)


def held(source: Any, function: str) -> Mapping[Any, Any]:
    """The texts by name, as they are now; those of a folder stay in it."""
    return source if isinstance(source, Lazy) else dict(texts_of(source, function))


def spans(text: str | Text, size: int, overlap: int, borders: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of pieces, in order."""
    start, length = 0, len(text)
    while start < length:
        end = min(start + size, length)
        if end < length:
            end = _border(text, start, end, borders)
        yield start, end
        if end == length:
            return
        after = end
        if overlap:
            after = max(start + 1, end - overlap)
            line = text.find("\n", after, end - 1) if borders else -1
            after = after if line < 0 else line + 1
        start = after


def _border(text: str | Text, start: int, end: int, borders: Sequence[str]) -> int:
    for border in borders:
        found = text.rfind(border, start, end)
        if found > start:
            return found + len(border)
    return end


def _hits(pattern: re.Pattern[str], name: Any, text: str | Text, context: int) -> Iterator[Hit]:
    counted, number, until = 0, 1, -1
    matches = text.finditer(pattern) if isinstance(text, Text) else pattern.finditer(text)
    for match in matches:
        position = match.start()
        if position <= until:
            continue  # in the line of the hit before
        start = text.rfind("\n", 0, position) + 1
        until = text.find("\n", position)
        until = len(text) if until < 0 else until
        number += text.count("\n", counted, start)
        counted = start
        line = text[max(start, position - LINE // 2) : min(until, position + LINE)][:LINE]
        before, after = _around(text, start, until, context) if context else ((), ())
        yield Hit(name, number, position, line, before, after)


def _around(text: str | Text, start: int, end: int, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines before the one that begins at `start`, and after the one that ends at `end`."""
    before: list[str] = []
    after: list[str] = []
    while start > 0 and len(before) < count:
        begin = text.rfind("\n", 0, start - 1) + 1
        before.insert(0, text[begin : min(start - 1, begin + LINE)])
        start = begin
    while end < len(text) and len(after) < count:
        stop = text.find("\n", end + 1)
        stop = len(text) if stop < 0 else stop
        after.append(text[end + 1 : min(stop, end + 1 + LINE)])
        end = stop
    return tuple(before), tuple(after)


def _brief(line: str) -> str:
    return line if len(line) <= WIDE else f"{line[:WIDE]}..."


def _row(record: Any) -> str:
    return (
        f"{record.place()}: {_brief(' '.join(record[:LINE].split()))}"
        if isinstance(record, Piece)
        else repr(record)
    )
