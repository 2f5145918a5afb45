"""From an answer back to what it stands in: replies, printed output, tools' results, the context. Pure.

Only what stands there verbatim is evidence, by the rule of `matching`: 32 characters or more, or a whole
string of at least 8 that is not within a word. Numbers, and strings that code put together, have none:
where they came from is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from recursor.coverage.cover import MAX_DEPTH
from recursor.coverage.index import MOST, SHORTEST
from recursor.coverage.matching import Matcher
from recursor.coverage.short import SHORTEST_WHOLE
from recursor.coverage.values import Coverage, Document, Span

Origin: TypeAlias = Literal["context", "reply", "child", "output", "variable", "tool", "code"]
"""Of a text in which a part of an answer stands: the context; the reply to a sub-call; the answer of a child run;
what a block printed; the preview of a variable that a block set; what a tool returned; code that the root LM wrote."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text that an answer may have come from."""

    origin: Origin
    where: str
    """Name of the document; id of the call, of the child run, of the tool call; "turn.block"; "turn.block name"."""
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A place where a part of an answer stands, verbatim."""

    origin: Origin
    where: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """Characters of a string in an answer, and where the same stand."""

    start: int
    end: int
    found: tuple[Found, ...]
    """At most 64 of each origin: what stands at more places tells nothing."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value in an answer."""

    path: str
    """As RFC 9535 writes it: "$" for the answer itself, "$['names'][0]"."""
    text: str | None
    """None for what is no string, of which nothing is known."""
    parts: tuple[Part, ...] = ()
    """In order of their start; they may overlap. Empty when nothing is known."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where an answer came from, as far as that is beyond doubt."""

    items: tuple[Item, ...]
    coverage: Coverage | None = None
    """What calls read of the context; None where there is no context, or it is not at hand."""
    unknown: str = ""
    """Why nothing is known of the context; empty where it is."""
    reads: Mapping[str, tuple[tuple[str, Span], ...]] = field(default_factory=dict)
    """For each call whose reply is evidence: (document, span) that its prompt held."""

    def item(self, path: str = "$") -> Item:
        """The value at a path. Raises KeyError when there is none."""
        for item in self.items:
            if item.path == path:
                return item
        raise KeyError(path)

    def to_json(self) -> dict[str, Any]:
        """This as JSON, without the coverage."""
        return {
            "unknown": self.unknown or None,
            "items": [
                {
                    "path": item.path,
                    "length": None if item.text is None else len(item.text),
                    "parts": [
                        {
                            "start": part.start,
                            "end": part.end,
                            "found": [
                                {"in": each.origin, "where": each.where, "start": each.start, "end": each.end}
                                for each in part.found
                            ],
                        }
                        for part in item.parts
                    ],
                }
                for item in self.items
            ],
            "reads": {
                call: [
                    {"document": name, "start": span.start, "end": span.end, "ambiguous": span.ambiguous}
                    for name, span in spans
                ]
                for call, spans in self.reads.items()
            },
        }


def trace(
    answer: Any,
    sources: Iterable[Source],
    *,
    documents: Sequence[Document] = (),
    matcher: Matcher | None = None,
    coverage: Coverage | None = None,
    unknown: str = "",
) -> Evidence:
    """Say where the strings of an answer stand.

    Args:
        sources: taken one by one, and not kept.
        documents: of the context.
        matcher: of these documents; see `matcher_of`.
        coverage: what calls read of these documents.
        unknown: why there are none, where that is not known.
    """
    leaves = list(strings(answer))
    places: list[dict[tuple[Origin, int, int], list[Found]]] = [{} for _ in leaves]
    index = Matcher([text or "" for _, text in leaves])
    for source in sources:
        for piece in index.pieces(source.text).pieces:
            found = Found(source.origin, source.where, piece.start, piece.end)
            for number, offset in piece.places:
                here = source.origin, offset, offset + piece.end - piece.start
                places[number].setdefault(here, []).append(found)
    if matcher is not None:
        for number, (_, text) in enumerate(leaves):
            for start, end, found in _in_context(text or "", documents, matcher):
                places[number].setdefault(("context", start, end), []).append(found)
    items = tuple(Item(path, text, _parts(found)) for (path, text), found in zip(leaves, places, strict=True))
    calls = {
        found.where: None
        for item in items
        for part in item.parts
        for found in part.found
        if found.origin == "reply"
    }
    return Evidence(items, coverage, unknown, coverage.reads_of(calls) if coverage else {})


def strings(answer: Any) -> Iterator[tuple[str, str | None]]:
    """Every value in an answer that holds no others, with its path; None for what is no string."""
    waiting: list[tuple[str, Any, int]] = [("$", answer, 0)]
    while waiting:
        path, item, depth = waiting.pop()
        if isinstance(item, set | frozenset):  # in the order in which they are printed as JSON
            item = sorted(item, key=lambda each: (type(each).__name__, str(each)))
        if isinstance(item, Mapping | list | tuple) and depth < MAX_DEPTH:
            pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
            listed = not isinstance(item, Mapping)
            below = [(f"{path}[{key if listed else _quoted(key)}]", each, depth + 1) for key, each in pairs]
            waiting += reversed(below)
        else:
            yield path, item if isinstance(item, str) else None


def _quoted(key: Any) -> str:
    return "'" + str(key).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _in_context(
    text: str, documents: Sequence[Document], matcher: Matcher
) -> Iterator[tuple[int, int, Found]]:
    """(start, end, place) of the parts of a string that stand in the context."""
    if SHORTEST_WHOLE <= len(text) < SHORTEST:
        for number, offset in matcher.places_of(text) or ():
            yield 0, len(text), Found("context", documents[number].name, offset, offset + len(text))
        return
    for piece in matcher.pieces(text).pieces:
        for number, offset in piece.places:
            end = offset + piece.end - piece.start
            yield piece.start, piece.end, Found("context", documents[number].name, offset, end)


def _parts(places: Mapping[tuple[Origin, int, int], Sequence[Found]]) -> tuple[Part, ...]:
    """Parts with their places; of each origin those that lie in no longer one, nor stand everywhere."""
    parts: dict[tuple[int, int], list[Found]] = {}
    reached: dict[Origin, int] = {}
    for origin, start, end in sorted(places, key=lambda here: (here[1], -here[2], here[0])):
        if end <= reached.get(origin, -1):
            continue
        reached[origin] = end
        found = places[origin, start, end]
        if len(found) <= MOST:
            parts.setdefault((start, end), []).extend(found)
    return tuple(Part(start, end, tuple(found)) for (start, end), found in sorted(parts.items()))
