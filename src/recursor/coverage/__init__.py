"""Context coverage: which parts of a context any model has read, as code coverage says it of code.

Pure: texts in, frozen values out.
"""

from recursor.coverage.cover import cover, texts
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
    "Kind",
    "Reader",
    "Reading",
    "Span",
    "cover",
    "texts",
]
