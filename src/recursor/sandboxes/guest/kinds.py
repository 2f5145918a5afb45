"""What kind a file is of, by its name or its first bytes. No file is opened here."""

from __future__ import annotations

from .images import media_type

MOST_TEXT = 1 << 26
"""Bytes up to which a file of text becomes rows or another value; a larger one stays text."""
MOST_OF = {"html": 1 << 23, "yaml": 1 << 22, "mbox": 1 << 28}
"""The same for kinds whose readers are slow, or whose files are large."""
HEAD = 512
"""Bytes at the beginning of a file that tell its kind."""
UNKNOWN = "?"
"""The kind of a file whose name tells nothing: a text, or what its first bytes say, or bytes."""
TEXTS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".eml": "eml",
    ".mbox": "mbox",
}
"""Files that are texts all the same: by suffix, how they are read."""
BINARIES = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".xlsx": "xlsx",
    ".pptx": "pptx",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".zip": "zip",
    ".tar": "tar",
    ".tgz": "tar",
    ".tar.gz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
    ".parquet": "parquet",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".gif": "image",
    ".webp": "image",
}
PACKINGS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
"""Files that are another file, packed: of the kind "gzip/csv" where the name tells what is in it, else "gzip/?"."""
_PLAIN = frozenset(BINARIES.values()) | {UNKNOWN, "utf16", "old"}
OPAQUE = _PLAIN | {f"{each}/{kind}" for each in PACKINGS.values() for kind in (*_PLAIN, *TEXTS.values())}
"""Kinds that are nothing a model could read before they are converted."""
_MAGIC = (
    (0, b"%PDF-", "pdf"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"SQLite format 3\0", "sqlite"),
    (0, b"PAR1", "parquet"),
    (257, b"ustar", "tar"),
    (0, b"\x1f\x8b\x08", "gzip/?"),
    (0, b"BZh", "bzip2/?"),
    (0, b"\xfd7zXZ\0", "xz/?"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old"),
    (0, b"\xff\xfe", "utf16"),
    (0, b"\xfe\xff", "utf16"),
)


def by_name(name: str) -> str:
    """The kind that a file's name tells; `UNKNOWN` where it tells none."""
    last = name.rpartition("/")[2].lower()
    for suffix, kind in (*TEXTS.items(), *BINARIES.items()):
        if last.endswith(suffix):
            return kind
    for suffix, packing in PACKINGS.items():
        if last.endswith(suffix):
            inner = by_name(last.removesuffix(suffix))
            return f"{packing}/{UNKNOWN if '/' in inner else inner}"
    return UNKNOWN


def stays_text(kind: str, size: int) -> bool:
    """Whether a file is text that is too large to be read as more."""
    return kind in TEXTS.values() and size > MOST_OF.get(kind, MOST_TEXT)


def by_content(head: bytes) -> str:
    """The kind that the first bytes of a file tell, for files that are no text; empty where they tell none."""
    for start, magic, kind in _MAGIC:
        if head.startswith(magic, start):
            return kind
    return "image" if media_type(head) else ""
