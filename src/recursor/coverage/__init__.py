"""Context coverage: which parts of a context any model has read, as code coverage says it of code; and evidence:
what an answer stands in.

Pure: texts in, frozen values out. Where the texts come from is the business of `recursor.review`.
"""

from recursor.coverage.cover import cover, matcher_of, texts
from recursor.coverage.evidence import Evidence, Found, Item, Part, Source, trace
from recursor.coverage.values import (
    Bucket,
    Coverage,
    Document,
    DocumentCoverage,
    Kind,
    Reader,
    Reading,
    Span,
)

__all__ = [
    "Bucket",
    "Coverage",
    "Document",
    "DocumentCoverage",
    "Evidence",
    "Found",
    "Item",
    "Kind",
    "Part",
    "Reader",
    "Reading",
    "Source",
    "Span",
    "cover",
    "matcher_of",
    "texts",
    "trace",
]
