"""What a run read of its context: frozen values, as a viewer takes them.

All offsets are half-open and count characters (code points, as `str` does), never bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from recursor.coverage.ranges import union

Kind: TypeAlias = Literal["sub-call", "output", "opening"]
"""Of a reading: the prompt of a plain sub-call; what code printed, as a root LM was shown it; what a root LM was
told first, with previews of its context, or with all of it where it answered directly."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A text that a model has read."""

    call: str
    """The id of the model call in whose prompt it was first."""
    kind: Kind
    text: str
    run: str = ""
    """The id of the run that made the call."""
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """A text of a context."""

    name: str
    """An expression that gives it in the REPL: `context`, `context['a.txt']`, `context[3]['body']`."""
    text: str | None
    """None for bytes that are no text."""
    length: int = 0
    """Where there is no text: bytes."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A call that read something of the context."""

    call: str
    kind: Kind
    run: str
    turn: int


@dataclass(frozen=True, slots=True)
class Span:
    """A passage of a document that calls have read, whole and without a break."""

    start: int
    end: int
    calls: tuple[str, ...]
    ambiguous: bool = False
    """Whether the same passage stands, or may stand, elsewhere in the context too: that may be what was read."""


class Bucket(NamedTuple):
    """One of equally wide parts of a document."""

    length: int
    read: int
    """Characters of it that were read."""
    readings: int
    """Times that a call read any of it."""


@dataclass(frozen=True, slots=True)
class DocumentCoverage:
    """What was read of a document."""

    name: str
    length: int
    """Characters; bytes where it is no text."""
    spans: tuple[Span, ...] = ()
    """In order of their start. They overlap where calls read different passages."""
    known: bool = True
    """Whether it can be said at all: not of bytes that are no text, nor of fewer than 8 characters."""

    def read_ranges(self) -> tuple[tuple[int, int], ...]:
        """The characters that were read, as ranges that do not touch."""
        return tuple(union((span.start, span.end) for span in self.spans))

    def unread_ranges(self) -> tuple[tuple[int, int], ...]:
        """The characters that nobody read; empty when that is not known."""
        ends = [0, *(edge for span in self.read_ranges() for edge in span), self.length]
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return tuple((start, end) for start, end in pairs if start < end) if self.known else ()

    @property
    def read(self) -> int:
        """Characters that were read."""
        return sum(end - start for start, end in self.read_ranges())

    @property
    def ambiguous(self) -> int:
        """Characters among them that are in ambiguous spans alone."""
        sure = union((span.start, span.end) for span in self.spans if not span.ambiguous)
        return self.read - sum(end - start for start, end in sure)

    @property
    def share(self) -> float:
        """The part that was read, from 0 to 1; 1 for an empty document."""
        return self.read / self.length if self.length else 1.0

    def calls_at(self, offset: int) -> tuple[str, ...]:
        """The calls that read this character, each once, in order of their passages."""
        at = bisect_right(self.spans, offset, key=lambda span: span.start)
        return tuple(
            dict.fromkeys(call for span in self.spans[:at] if offset < span.end for call in span.calls)
        )

    def strip(self, count: int) -> tuple[Bucket, ...]:
        """Cut the document into equally wide parts, for a picture of fixed width; fewer where it is shorter."""
        count = max(1, min(count, self.length))
        edges = [self.length * index // count for index in range(count + 1)]
        read, readings = [0] * count, [0] * (count + 1)
        for start, end in self.read_ranges():
            for index in range(bisect_right(edges, start) - 1, bisect_right(edges, end - 1)):
                read[index] += min(end, edges[index + 1]) - max(start, edges[index])
        for span in self.spans:
            readings[bisect_right(edges, span.start) - 1] += len(span.calls)
            readings[bisect_right(edges, span.end - 1)] -= len(span.calls)
        total, buckets = 0, []
        for index in range(count):
            total += readings[index]
            buckets.append(Bucket(edges[index + 1] - edges[index], read[index], total))
        return tuple(buckets)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which parts of a context any model has read in a run and its children.

    A passage counts as read by a call when the call's prompt holds it verbatim, with 32 characters or
    more, or as a whole document; see docs/coverage.md for the exact rule. What code alone looked at is
    not read.
    """

    documents: tuple[DocumentCoverage, ...]
    readers: tuple[Reader, ...] = ()
    """The calls in all spans, in order."""
    common: int = 0
    """Characters of prompts that stand at more than 64 places of the context, and are counted at none."""

    @property
    def length(self) -> int:
        """Characters of all documents of which it is known."""
        return sum(document.length for document in self.documents if document.known)

    @property
    def read(self) -> int:
        """Characters that were read."""
        return sum(document.read for document in self.documents)

    @property
    def ambiguous(self) -> int:
        """Characters among them that are in ambiguous spans alone."""
        return sum(document.ambiguous for document in self.documents)

    @property
    def share(self) -> float:
        """The part that was read, from 0 to 1; 1 for an empty context."""
        return self.read / self.length if self.length else 1.0

    def document(self, name: str) -> DocumentCoverage:
        """The document of this name. Raises KeyError when there is none."""
        for document in self.documents:
            if document.name == name:
                return document
        raise KeyError(name)

    def calls_at(self, document: str, offset: int) -> tuple[str, ...]:
        """The calls that read this character of a document."""
        return self.document(document).calls_at(offset)

    def spans_of(self, call: str) -> tuple[tuple[str, Span], ...]:
        """What a call read: (name of the document, span)."""
        return self.reads_of([call])[call]

    def reads_of(self, calls: Iterable[str]) -> dict[str, tuple[tuple[str, Span], ...]]:
        """The same for several calls."""
        reads: dict[str, list[tuple[str, Span]]] = {call: [] for call in calls}
        for document in self.documents if reads else ():
            for span in document.spans:
                for call in span.calls:
                    if call in reads:
                        reads[call].append((document.name, span))
        return {call: tuple(spans) for call, spans in reads.items()}

    def to_json(self, buckets: int | None = None) -> dict[str, Any]:
        """This as JSON: `calls` once, and spans as [start, end, numbers of their calls, ambiguous].

        Args:
            buckets: give a strip of so many buckets in place of the spans, [length, read, readings] each; and in
                place of the calls how many there are of each kind, as `readers`.
        """
        numbers = {reader.call: number for number, reader in enumerate(self.readers)}
        return {
            "length": self.length,
            "read": self.read,
            "ambiguous": self.ambiguous,
            "common": self.common,
            **(
                self._calls() if buckets is None else {"readers": Counter(each.kind for each in self.readers)}
            ),
            "documents": [
                {
                    "name": document.name,
                    "length": document.length,
                    "known": document.known,
                    "read": document.read,
                    "ambiguous": document.ambiguous,
                }
                | (
                    {"spans": list(_rows(document.spans, numbers))}
                    if buckets is None
                    else {"strip": document.strip(buckets)}
                )
                for document in self.documents
            ],
        }

    def _calls(self) -> dict[str, Any]:
        return {
            "calls": [
                {"id": reader.call, "kind": reader.kind, "run_id": reader.run, "turn": reader.turn}
                for reader in self.readers
            ]
        }


def _rows(spans: Sequence[Span], numbers: dict[str, int]) -> Iterator[list[Any]]:
    for span in spans:
        yield [span.start, span.end, [numbers[call] for call in span.calls], span.ambiguous]
