"""Reader of PDF, by pypdfium2 where that is installed."""

from __future__ import annotations

import importlib
from typing import Any, BinaryIO

from .images import Image
from .loading import Loaded, Unreadable
from .pictures import png

MOST_PDF = 1 << 28
MOST_PAGES = 5_000
PIXELS = 1_600
MOST_PIXELS = 6_000
"""Of the longer side of a page that is drawn."""
_RGB = 2
"""How pdfium calls three bytes a pixel."""


class Page(str):
    """The text of a page, which can be had as a picture, too."""

    _pdf: bytes
    _number: int

    def __new__(cls, text: str, pdf: bytes, number: int) -> Page:
        page = super().__new__(cls, text)
        page._pdf, page._number = pdf, number
        return page

    def image(self, pixels: int = PIXELS) -> Image:
        """The page as a picture, for `llm_query(prompt, images=...)`.

        Args:
            pixels: of its longer side.
        """
        pypdfium2: Any = importlib.import_module("pypdfium2")
        if not 0 < pixels <= MOST_PIXELS:
            raise ValueError(f"pixels must be a number from 1 to {MOST_PIXELS:,}, not {pixels!r}")
        document = pypdfium2.PdfDocument(self._pdf)
        try:
            page = document[self._number]
            scale = pixels / max(1.0, *page.get_size())
            drawn = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False, force_bitmap_format=_RGB)
            rows = bytes(drawn.buffer)
            return Image(png(rows, drawn.width, drawn.height, drawn.stride), f"page {self._number + 1}")
        finally:
            document.close()


def read_pdf(file: BinaryIO, size: int) -> Loaded:
    """A list of its pages."""
    try:
        pypdfium2: Any = importlib.import_module("pypdfium2")
    except ImportError:
        raise Unreadable(
            "pypdfium2 is not installed where the code runs: pip install 'recursor[files]'"
        ) from None
    if size > MOST_PDF:
        raise Unreadable(f"it has {size:,} bytes; at most {MOST_PDF:,} are read")
    try:
        data = file.read()
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("it is encrypted, and opens with a password only") from None
        raise Unreadable(str(error)) from None
    try:
        count = len(document)
        pages: list[Page] = []
        damaged: list[int] = []
        for number in range(min(count, MOST_PAGES)):
            try:
                page = document[number]
                text = page.get_textpage()
                pages.append(Page(text.get_text_bounded().replace("\r\n", "\n"), data, number))
                text.close()
                page.close()
            except pypdfium2.PdfiumError:
                pages.append(Page("", data, number))
                damaged.append(number)
    finally:
        document.close()
    note = f"PDF, {count:,} pages; context[i] is page i + 1, `context[i].image()` its picture for `llm_query`"
    if count > MOST_PAGES:
        note += f"; only the first {MOST_PAGES:,} are here"
    empty = [number + 1 for number, text in enumerate(pages) if not text.strip() and number not in damaged]
    for numbers, what in (
        (damaged, "damaged"),
        ([each - 1 for each in empty], "without text (pictures of it?)"),
    ):
        if numbers:
            listed = ", ".join(str(number + 1) for number in numbers[:20])
            note += f"; {what}: {len(numbers):,} pages ({listed}{', ...' if len(numbers) > 20 else ''})"
    return Loaded(pages, note)
