"""A context for many runs: prepared once, and as cheap for each as it can be."""

from __future__ import annotations

import os
import threading
from typing import Any

from recursor.context.sources import EncodedSource, Source, prepare
from recursor.sandboxes.handed import reopened


class KeptSource(EncodedSource):
    """A value that is encoded once, whoever loads it and however often; that keeps its bytes in memory."""

    def __init__(self, source: EncodedSource) -> None:
        """Take over what was encoded."""
        self.form, self.size, self.origin, self.data = source.form, source.size, source.origin, source.data
        self.opaque: bool = getattr(source, "opaque", False)
        """Whether only a sandbox reads it."""
        self._source = source
        self._first = None
        self._digest: str | None = None
        self._lock = threading.Lock()
        self._kept = source.open()

    def open(self) -> int:
        return reopened(self._kept)

    def value(self) -> Any:
        return self._source.value()

    def digest(self) -> str:
        """Hash the value once, as it was then ("sha256:..."). Blocks; call it in a thread."""
        with self._lock:
            if self._digest is None:
                self._digest = self._source.digest()
            return self._digest

    def __del__(self) -> None:
        if hasattr(self, "_kept"):
            os.close(self._kept)


def keep(context: Any) -> Source:
    """Return a source that any number of REPLs load, at once and one after another. Blocks; call it in a thread.

    A long text, a file and a folder are that already: REPLs map them, or read what they take. Any other value is
    encoded once, and each REPL decodes it.

    Raises:
        ConfigError: as `prepare`.
    """
    source = prepare(context)
    return KeptSource(source) if isinstance(source, EncodedSource) else source
