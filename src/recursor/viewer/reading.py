"""What a run read of its context and what its answer stands in, as the page asks for it.

Reads the context whole, once: what is found is kept while somebody looks at it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recursor import review
from recursor.coverage import Coverage, Document, Evidence, cover, matcher_of, trace
from recursor.coverage.evidence import strings
from recursor.errors import ConfigError, TrajectoryError
from recursor.trajectory.view import Trajectories

PASSAGE = 4000
"""Characters of a document that are shown at once."""
ITEMS = 500
"""Values of an answer whose evidence is told."""
PLACES = 50
"""Places of one part of an answer that are told."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found of one run. `documents` is empty where the context is not at hand."""

    documents: Sequence[Document]
    evidence: Evidence
    texts: dict[str, str]
    """The strings of the answer, by path."""


def read(recorded: Trajectories, run_id: str) -> Reading:
    """Compare a run's context and answer with all that models read and said. Takes seconds for a large one."""
    run = recorded.run(run_id)
    texts = {path: text for path, text in strings(run.answer) if text is not None}
    said = review.said(recorded, run.id)
    try:
        documents = review.given(recorded, run)
    except ConfigError as missing:
        return Reading((), trace(run.answer, said, unknown=str(missing)), texts)
    matcher = matcher_of(documents)
    covered = cover(documents, review.readings(recorded, run.id), matcher)
    found = trace(run.answer, said, documents=documents, matcher=matcher, coverage=covered)
    return Reading(documents, found, texts)


def coverage(found: Reading) -> dict[str, Any]:
    """The coverage with all its spans; or why it is not known, with no documents."""
    covered = found.evidence.coverage
    return {"unknown": _why(found) if covered is None else None, **(covered or Coverage(())).to_json()}


def passage(found: Reading, number: int, start: int) -> dict[str, Any]:
    """Some text of a document, cut where what was read begins and ends.

    Raises:
        TrajectoryError: there is no such document, or its text is not known.
    """
    covered = found.evidence.coverage
    if covered is None:
        raise TrajectoryError(_why(found))
    text = found.documents[number].text if number < len(found.documents) else None
    if text is None:
        raise TrajectoryError(f"there is no text of document {number}")
    start = min(start, max(0, len(text) - 1))
    end = min(len(text), start + PASSAGE)
    spans = covered.documents[number].spans
    near = [
        span for span in spans[: bisect_left(spans, end, key=lambda span: span.start)] if span.end > start
    ]
    edges = sorted(
        {start, end, *(edge for span in near for edge in (span.start, span.end) if start < edge < end)}
    )
    numbers = {reader.call: place for place, reader in enumerate(covered.readers)}
    pieces = []
    for left, right in pairwise(edges):
        over = [span for span in near if span.start <= left and span.end >= right]
        calls = dict.fromkeys(numbers[call] for span in over for call in span.calls)
        unsure = bool(over) and all(span.ambiguous for span in over)
        pieces.append({"text": text[left:right], "calls": list(calls), "ambiguous": unsure})
    return {"start": start, "end": end, "pieces": pieces}


def evidence(found: Reading) -> dict[str, Any]:
    """Where the answer stands, with the texts that do."""
    told = found.evidence.to_json()
    total = len(told["items"])
    known = [item for item in told["items"] if item["parts"]]
    unknown = [item for item in told["items"] if not item["parts"]]
    items = [_item(item, found.texts.get(item["path"])) for item in [*known, *unknown][:ITEMS]]
    return {"unknown": told["unknown"], "items": items, "total": total, "reads": told["reads"]}


def _item(item: dict[str, Any], text: str | None) -> dict[str, Any]:
    parts = [
        {
            "start": part["start"], "end": part["end"], "found": part["found"][:PLACES],
            "text": (text or "")[part["start"] : min(part["end"], part["start"] + PASSAGE)],
        }
        for part in item["parts"][:PLACES]
    ]  # fmt: skip
    return {"path": item["path"], "text": text and text[:PASSAGE], "parts": parts}


def _why(found: Reading) -> str:
    return found.evidence.unknown or "there was no context"
