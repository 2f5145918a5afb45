"""Reader of HTML: its text, with headings, links, lists and tables as one writes them in plain text.

The tags are found here, since the time of `html.parser` may grow with the square of what is hostile.
"""

from __future__ import annotations

import re
from html import unescape
from typing import BinaryIO

from .loading import Loaded, Unreadable
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
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>")
_ATTRIBUTE = re.compile(r"(?<![\w-])(href|alt)\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'>]+)", re.IGNORECASE)
_UNPARSED = {
    name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "textarea", "title")
}
"""Elements in which there are no tags, and what ends each."""
LONGEST_TAG = 1 << 14
MOST_TRIED = 1 << 28
"""Characters that may be looked at for the ends of tags that are none."""
_SPACES = re.compile(r"[ \t\r\n\f]+")


class Reader:
    """Collects the text of a page."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.title = ""
        self._hidden: list[str] = []
        self._in_title = False
        self._preformatted = 0
        self._links: list[str] = []
        self._cells = 0
        """Cells of the row so far."""

    def read(self, page: str) -> None:
        """Take the whole page. Raises Unreadable where it is no page but an attack."""
        position, tried = 0, 0
        while (at := page.find("<", position)) >= 0:
            self._data(page[position:at])
            found = _TAG.match(page, at, at + LONGEST_TAG)
            if found:
                position = found.end()
                if found[1]:
                    self._end(found[2].lower())
                else:
                    position = self._element(found[2].lower(), found[3], page, position)
            elif page.startswith("<!--", at):
                position = _after(page, "-->", at + 4)
            elif page.startswith(("<!", "<?", "</"), at):
                position = _after(page, ">", at)
            else:
                end = _after(page, ">", at)
                if end - at > LONGEST_TAG and end < len(page) and page[at + 1].isalpha():
                    position = end  # a picture in its tag, as it were
                    continue
                self._data("<")
                position = at + 1
                tried += end - at
                if tried > MOST_TRIED:
                    raise Unreadable("it is full of tags that do not end")
        self._data(page[position:])

    def _element(self, tag: str, attributes: str, page: str, position: int) -> int:
        """Begin an element; return where to go on."""
        self._start(
            tag,
            {name.lower(): unescape(value.strip("\"'")) for name, value in _ATTRIBUTE.findall(attributes)},
        )
        end = _UNPARSED.get(tag)
        if end is None:
            return position
        found = end.search(page, position)
        stop = found.start() if found else len(page)
        self._data(page[position:stop])
        return stop

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
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
        self._begin(tag, attributes)

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
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
            self._links.append(attributes.get("href", ""))
        elif tag == "img" and (alt := attributes.get("alt")):
            self.parts.append(f"[{alt}]")

    def _end(self, tag: str) -> None:
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

    def _data(self, data: str) -> None:
        if self._in_title and len(self.title) < 1000:
            self.title += unescape(data[:1000])
        if self._in_title or self._hidden or not data:
            return
        data = unescape(data)
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


def _after(page: str, end: str, start: int) -> int:
    """The place after an end; where there is none, that of the end of the page."""
    found = page.find(end, start)
    return len(page) if found < 0 else found + len(end)


def read_html(file: BinaryIO, _size: int) -> Loaded:
    """The text of the page."""
    data = file.read()
    text, note = _decoded(data)
    reader = Reader()
    reader.read(text)
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
