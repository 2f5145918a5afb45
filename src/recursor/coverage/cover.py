"""Documents and readings -> coverage. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recursor.coverage.index import Piece
from recursor.coverage.matching import Matcher
from recursor.coverage.short import SHORTEST_WHOLE
from recursor.coverage.values import Coverage, Document, DocumentCoverage, Reader, Reading, Span

MAX_DEPTH = 500
"""Of nested lists and mappings; what lies deeper is not looked at."""


def matcher_of(documents: Sequence[Document]) -> Matcher:
    """The index of some documents, which serves any number of questions."""
    return Matcher([document.text or "" for document in documents])


def cover(
    documents: Sequence[Document], readings: Iterable[Reading], matcher: Matcher | None = None
) -> Coverage:
    """Say which passages of documents stand in which readings; see `matching` for the rule.

    Args:
        readings: taken one by one, and not kept. Where one holds escapes, as `repr` and JSON write them, it is
            read as what they stand for, too.
        matcher: of these documents, where there is one already.
    """
    matcher = matcher or matcher_of(documents)
    spans: list[dict[tuple[int, int], tuple[list[str], bool]]] = [{} for _ in documents]
    readers: dict[str, Reader] = {}
    common = 0
    for reading in readings:
        found = matcher.pieces(reading.text)
        common += found.common
        plain = unescaped(reading.text)
        also = () if plain == reading.text else matcher.pieces(plain).pieces
        passages = _passages(found.pieces, also)
        if passages:
            reader = Reader(reading.call, reading.kind, reading.run, reading.turn)
            readers.setdefault(reading.call, reader)
        for number, start, end, ambiguous in passages:
            calls, _ = spans[number].setdefault((start, end), ([], ambiguous))
            if not calls or calls[-1] != reading.call:
                calls.append(reading.call)
    return Coverage(
        tuple(
            _document(document, [Span(*here, tuple(calls), unsure) for here, (calls, unsure) in sorted(found.items())])
            for document, found in zip(documents, spans, strict=True)
        ),
        tuple(readers.values()),
        common,
    )  # fmt: skip


def _passages(*views: Sequence[Piece]) -> list[tuple[int, int, int, bool]]:
    """(document, start, end, ambiguous) of pieces; what one view has of a passage of the other is left out."""
    found = sorted(
        {
            (number, offset, offset + piece.end - piece.start, len(piece.places) > 1 or not piece.complete)
            for pieces in views
            for piece in pieces
            for number, offset in piece.places
        },
        key=lambda passage: (passage[0], passage[1], -passage[2]),
    )
    if not all(views):
        return found
    kept: list[tuple[int, int, int, bool]] = []
    for passage in found:
        if not kept or passage[0] != kept[-1][0] or passage[2] > kept[-1][2]:
            kept.append(passage)
    return kept


_ESCAPE = re.compile(
    r"""\\(?:[abfnrtv"'/\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4})"""
)
_ESCAPED = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


def unescaped(text: str) -> str:
    """A text with what `repr` and JSON write for line breaks, quotes and other characters made these again."""
    plain = _ESCAPE.sub(_character, text) if "\\" in text else text
    return _PAIR.sub(lambda pair: _joined(pair.group()), plain) if plain is not text else text


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _character(escape: re.Match[str]) -> str:
    kind, digits = escape.group()[1], escape.group()[2:]
    return chr(int(digits, 16)) if digits else _ESCAPED.get(kind, kind)


def _joined(pair: str) -> str:
    return pair.encode("utf-16", "surrogatepass").decode("utf-16")


def _document(document: Document, spans: Sequence[Span]) -> DocumentCoverage:
    length = document.length if document.text is None else len(document.text)
    known = document.text is not None and (length >= SHORTEST_WHOLE or not length)
    return DocumentCoverage(document.name, length, tuple(spans), known)


def texts(name: str, value: Any) -> Iterator[Document]:
    """The texts in a variable of a REPL: itself, or the strings in its lists and mappings, by path.

    Bytes that are UTF-8 are text. Keys, numbers and sets are none.
    """
    waiting: list[tuple[str, Any, int]] = [(name, value, 0)]
    while waiting:
        path, item, depth = waiting.pop()
        if isinstance(item, bytes):
            yield _decoded(path, item)
        elif isinstance(item, str):
            yield Document(path, item)
        elif isinstance(item, Mapping | list | tuple) and depth < MAX_DEPTH:
            pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
            below = [(f"{path}[{key!r}]", each, depth + 1) for key, each in pairs]
            waiting += reversed(below)


def _decoded(path: str, data: bytes) -> Document:
    try:
        return Document(path, data.decode("utf-8"))
    except UnicodeDecodeError:
        return Document(path, None, len(data))
