"""Text of contexts and models on its way into JSON."""

from __future__ import annotations


def clean(text: str) -> str:
    """Text without lone surrogates, which have no place in UTF-8; all else is left as it is."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
