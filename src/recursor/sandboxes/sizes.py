"""How much a REPL is given, wherever it runs."""

from __future__ import annotations

MEMORY = 2 << 30
"""Bytes that a REPL may allocate, beside what its context needs."""
PER_CONTEXT_BYTE = 6
"""A text takes up to four bytes a character; code copies pieces of it."""
SCRATCH = 64 << 20
"""Bytes of the private /tmp."""
