"""Reader of HTML: its text, with headings, links, lists and tables as one writes them in plain text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import BinaryIO

from .loading import Loaded
from .tables import decoded

_HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "head"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav",
    "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul",
})  # fmt: skip
_APART = frozenset({"p", "table", "pre", "ul", "ol", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6"})
"""Blocks with an empty line before them."""
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{1,40})", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\r\n\f]+")


class Reader(HTMLParser):
    """Collects the text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title = ""
        self._hidden: list[str] = []
        self._in_title = False
        self._preformatted = 0
        self._links: list[str] = []
        self._cells = 0
        """Cells of the row so far."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        if tag in ("body", "main"):
            self._hidden.clear()  # a head that does not end hides nothing
        if tag in _HIDDEN:
            self._hidden.append(tag)
        if self._hidden:
            return
        if tag in _BLOCKS:
            self._break(2 if tag in _APART else 1)
        self._begin(tag, dict(attrs))

    def _begin(self, tag: str, attributes: dict[str, str | None]) -> None:
        """What stands before the text of an element that is shown."""
        if tag in _HEADINGS:
            self.parts.append(_HEADINGS[tag])
        elif tag == "li":
            self.parts.append("- ")
        elif tag == "tr":
            self._cells = 0
        elif tag in ("td", "th"):
            self.parts.append(" | " if self._cells else "")
            self._cells += 1
        elif tag == "pre":
            self._preformatted += 1
        elif tag == "a":
            self._links.append(attributes.get("href") or "")
        elif tag == "img" and (alt := attributes.get("alt")):
            self.parts.append(f"[{alt}]")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
            return
        if self._hidden:
            return
        if tag == "a" and self._links:
            link = self._links.pop()
            if link and not link.startswith(("#", "javascript:", "data:")):
                self.parts.append(f" ({link})")
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag in _BLOCKS:
            self._break()

    def handle_data(self, data: str) -> None:
        if self._in_title and len(self.title) < 1000:
            self.title += data
        if self._in_title or self._hidden or not data:
            return
        if not self._preformatted:
            data = _SPACES.sub(" ", data)
            if not self.parts or self.parts[-1].endswith(("\n", " ")):
                data = data.lstrip(" ")
        if data:
            self.parts.append(data)

    def _break(self, lines: int = 1) -> None:
        """End the line, unless it is empty; two leave an empty one."""
        while self.parts and not self.parts[-1].strip(" "):
            self.parts.pop()
        if self.parts:
            last = self.parts[-1].rstrip(" ") if not self._preformatted else self.parts[-1]
            self.parts[-1] = last + "\n" * max(0, lines - (len(last) - len(last.rstrip("\n"))))


def read_html(file: BinaryIO, _size: int) -> Loaded:
    """The text of the page."""
    data = file.read()
    text, note = _decoded(data)
    reader = Reader()
    reader.feed(text)
    reader.close()
    title = " ".join(reader.title.split())[:200]
    said = f"the text of a page of HTML{f', its title: {title}' if title else ''}"
    return Loaded("".join(reader.parts).strip() + "\n", "; ".join(filter(None, (said, note))))


def _decoded(data: bytes) -> tuple[str, str]:
    """As the page says, where it is no UTF-8."""
    said = _CHARSET.search(data[:4096])
    if said and said[1].lower() not in (b"utf-8", b"utf8"):
        name = said[1].decode("ascii")
        try:
            return data.decode(name, "replace"), f"decoded from {name}"
        except (LookupError, ValueError):
            pass
    return decoded(data)
