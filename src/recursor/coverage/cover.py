"""Documents and readings -> coverage. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recursor.coverage.matching import SHORTEST_WHOLE, Matcher
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
        readings: taken one by one, and not kept.
        matcher: of these documents, where there is one already.
    """
    matcher = matcher or matcher_of(documents)
    spans: list[dict[tuple[int, int], tuple[list[str], bool]]] = [{} for _ in documents]
    readers: dict[str, Reader] = {}
    common = 0
    for reading in readings:
        found = matcher.pieces(reading.text)
        common += found.common
        for piece in found.pieces:
            readers.setdefault(reading.call, Reader(reading.call, reading.kind, reading.run, reading.turn))
            ambiguous = len(piece.places) > 1 or not piece.complete
            for number, offset in piece.places:
                here = offset, offset + piece.end - piece.start
                calls, _ = spans[number].setdefault(here, ([], ambiguous))
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
