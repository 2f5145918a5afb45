"""Addresses as sources: what is fetched becomes a file like any other, whose origin is the address."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from recursor.context.loaders import is_text, kind_of
from recursor.errors import ConfigError
from recursor.files import Url
from recursor.sandboxes.files import FileSource
from recursor.sandboxes.folders import Document
from recursor.sandboxes.guest import kinds
from recursor.sandboxes.handed import reopened

if TYPE_CHECKING:
    from recursor.context.fetching import Fetched, Permit

PERMIT: ContextVar[Permit] = ContextVar("permit", default=lambda _host: None)
"""Asked about each host before anything is fetched from it."""
_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "text/html": "html", "application/xhtml+xml": "html", "text/csv": "csv", "text/tab-separated-values": "csv",
        "application/json": "json", "application/x-ndjson": "jsonl", "application/jsonl": "jsonl",
        "application/yaml": "yaml", "text/yaml": "yaml", "application/pdf": "pdf", "application/zip": "zip",
        "application/x-tar": "tar", "application/vnd.sqlite3": "sqlite", "application/vnd.apache.parquet": "parquet",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
        "image/png": "image", "image/jpeg": "image", "image/gif": "image", "image/webp": "image",
    }
)  # fmt: skip
"""Kinds by what servers call them."""


class FetchedSource(FileSource):
    """A `Source` of a file that was fetched. It has no name, and is gone with this object."""

    def __init__(self, url: Url) -> None:
        """Fetch it. Raises ConfigError."""
        fetched = _fetch(url)
        kind = _kind(url, fetched)
        self._fetched = fetched = fetched if kind or url.raw else _as_utf8(fetched)
        super().__init__(Path(_path(fetched)), fetched.size, kind, text=is_text(kind))
        self.origin = url.shown
        self.decisions = fetched.decisions
        """What was decided about the hosts that were asked for it."""

    def open(self) -> int:
        return reopened(self._fetched.file.fileno())

    def __del__(self) -> None:
        fetched = getattr(self, "_fetched", None)
        if fetched is not None:
            fetched.file.close()


def document(source: FetchedSource) -> Document:
    """What was fetched as one of the documents of a folder, which is there as long as the source is."""
    status = source.path.stat()
    kind = source.form.removeprefix("file").removeprefix(":")
    return Document(source.origin, str(source.path), source.size, status.st_mtime_ns, kind)


def _fetch(url: Url) -> Fetched:
    from recursor.context import fetching  # noqa: PLC0415 - imports ssl, which few runs need

    if not isinstance(url.url, str):
        raise ConfigError(f"Url takes an address, not {type(url.url).__name__}")
    bounds = fetching.Bounds(url.max_bytes, url.max_time, url.allow_private)
    return fetching.fetch(url.url, bounds, PERMIT.get())


def _as_utf8(fetched: Fetched) -> Fetched:
    from recursor.context import fetching  # noqa: PLC0415 - as above

    return fetching.as_utf8(fetched)


def _path(fetched: Fetched) -> str:
    from recursor.context import fetching  # noqa: PLC0415 - as above

    return fetching.path_of(fetched.file)


def _kind(url: Url, fetched: Fetched) -> str:
    """What it is read as: by its name; else by what the server says; else by its first bytes."""
    if url.raw:
        return ""
    name = unquote(urlsplit(fetched.address).path).rpartition("/")[2]
    kind = kind_of(name, fetched.size, b"")
    said = _TYPES.get(fetched.media_type, "")
    if said and (not kind or said == "html") and not kinds.stays_text(said, fetched.size):
        return said
    return kind or kind_of("", fetched.size, os.pread(fetched.file.fileno(), kinds.HEAD, 0))
