"""Readers of e-mail: one message (eml) and mailboxes of many (mbox). Nothing in a message is followed or fetched.

The package `email` is imported when there is some: few REPLs need what it takes.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

from .archives import Members
from .loading import Loaded, Unreadable
from .tables import decoded
from .web import read_html

MOST_MESSAGES = 200_000
MOST_PARTS = 10_000
DEEPEST = 50
"""Levels of parts in parts."""
MOST_DECODED = 1 << 16
"""Characters of a header whose encoded words are decoded, which takes time with the square of their number."""
FIELDS = "from, to, cc, subject, date, id, in_reply_to, text, attachments"
_BEGIN = re.compile(rb"(?:\A|\n\r?\n)From [^\n]*\n")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
_SUFFIXES = {
    "text/plain": ".txt", "text/html": ".html", "text/csv": ".csv", "application/pdf": ".pdf", "message/rfc822": ".eml",
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", "application/json": ".json",
}  # fmt: skip
"""For parts without a name."""


class Attachments(Members):
    """Attachments of a message by name."""

    def _what(self) -> str:
        return "attachments"


def read_eml(file: BinaryIO, _size: int) -> Loaded:
    """The message as a dict."""
    message = _message(file.read())
    if not any(message[name] for name in ("from", "to", "subject", "date", "id")):
        raise Unreadable("it has none of the headers of a message")
    names = ", ".join(map(repr, list(message["attachments"])[:20]))
    return Loaded(message, f"an e-mail, a dict of {FIELDS}" + (f" (by name: {names})" if names else ""))


def read_mbox(file: BinaryIO, _size: int) -> Loaded:
    """A list of its messages."""
    messages, broken = [], []
    for number, data in enumerate(_split(file.read())):
        if number == MOST_MESSAGES:
            raise Unreadable(f"it has more than {MOST_MESSAGES:,} messages")
        try:
            messages.append(_message(data))
        except Exception as error:  # noqa: BLE001 - the parser meets hostile messages, and raises what it likes
            messages.append({"text": f"[message {number + 1}: it cannot be read: {error}]"})
            broken.append(str(number + 1))
    note = f"a mailbox, each message a dict of {FIELDS}; context[i] is message i + 1"
    if broken:
        note += f"; cannot be read: {len(broken):,} ({', '.join(broken[:20])})"
    return Loaded(messages, note)


def _split(data: bytes) -> Iterator[bytes]:
    """The messages of a mailbox, without the lines that stand between them."""
    begins = [(found.start(), found.end()) for found in _BEGIN.finditer(data)]
    if not begins or begins[0][0] != 0:
        raise Unreadable("it does not begin with a line From")
    ends = [start + 1 for start, _ in begins[1:]] + [len(data)]
    for (_, start), end in zip(begins, ends, strict=True):
        yield _QUOTED.sub(rb"\1", data[start:end])


def _message(data: bytes) -> dict[str, Any]:
    message = importlib.import_module("email").message_from_bytes(data)
    parts = _Parts()
    texts = parts.collect(message, 0)
    return {
        "from": _header(message, "from"),
        "to": _header(message, "to"),
        "cc": _header(message, "cc"),
        "subject": _header(message, "subject"),
        "date": _date(_header(message, "date")),
        "id": _header(message, "message-id"),
        "in_reply_to": _header(message, "in-reply-to"),
        "text": "\n\n".join(text.strip("\r\n") for text in texts).replace("\r\n", "\n"),
        "attachments": Attachments(parts.attached) if parts.attached else {},
    }


class _Parts:
    """The parts of one message."""

    def __init__(self) -> None:
        self.attached: dict[str, tuple[int, Callable[[], bytes]]] = {}
        self._seen = 0

    def collect(self, part: Any, depth: int) -> list[str]:
        """Return the texts that are to be read, of alternatives the plainest; keep what is attached."""
        self._seen += 1
        if self._seen > MOST_PARTS or depth > DEEPEST:
            raise Unreadable(f"it has more than {MOST_PARTS:,} parts, or {DEEPEST} levels of them")
        kind = part.get_content_type()
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            children = part.get_payload()
            found = [self.collect(child, depth + 1) for child in children]
            if kind != "multipart/alternative":
                return [text for texts in found for text in texts]
            plain = (
                texts
                for child, texts in zip(children, found, strict=True)
                if child.get_content_type() != "text/html" and any(text.strip() for text in texts)
            )
            return next(plain, next(filter(None, found), []))
        name = part.get_filename()
        named = name is not None or part.get_content_disposition() == "attachment"
        if kind in ("text/plain", "text/html") and not named:
            return [_text(part)]
        self._attach(part, kind, name)
        return []

    def _attach(self, part: Any, kind: str, name: Any) -> None:
        plain = _plain(name) or f"part {self._seen}{_SUFFIXES.get(kind, '')}"
        if kind == "message/rfc822" and not plain.lower().endswith(".eml"):
            plain += ".eml"
        while plain in self.attached:
            plain = f"{self._seen} {plain}"
        payload = part.get_payload()
        size = len(payload) * 3 // 4 if isinstance(payload, str) else 0
        self.attached[plain] = size, partial(_content, part)


def _content(part: Any) -> bytes:
    """The bytes of what is attached."""
    if part.is_multipart():
        inner = part.get_payload()
        return b"\n".join(bytes(each) for each in inner)
    if part.get_content_maintype() == "text" and part.get_content_charset("utf-8") not in (
        "utf-8",
        "us-ascii",
    ):
        return _decoded(part).encode()
    return part.get_payload(decode=True) or b""


def _text(part: Any) -> str:
    text = _decoded(part)
    if part.get_content_type() == "text/plain":
        return text
    data = text.encode("utf-8", "replace")
    return str(read_html(io.BytesIO(data), len(data)).value)


def _decoded(part: Any) -> str:
    data: bytes = part.get_payload(decode=True) or b""
    try:
        return data.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeDecodeError):
        return decoded(data)[0]


def _header(message: Any, name: str) -> str | None:
    values = message.get_all(name)
    return ", ".join(_plain(value) for value in values) if values else None


def _plain(value: Any) -> str:
    """A header as a person reads it, in one line."""
    header: Any = importlib.import_module("email.header")
    try:
        short = len(str(value)) <= MOST_DECODED
        text = str(header.make_header(header.decode_header(value))) if short else str(value)
    except Exception:  # noqa: BLE001 - charsets that are none, and encodings that are broken
        text = str(value)
    return " ".join(text.encode("utf-8", "replace").decode().split()) if value is not None else ""


def _date(text: str | None) -> Any:
    try:
        return importlib.import_module("email.utils").parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError, OverflowError, IndexError):
        return text
