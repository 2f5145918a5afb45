"""Reader of PDF, by pypdfium2 where that is installed."""

from __future__ import annotations

import importlib
from typing import Any, BinaryIO

from .loading import Loaded, Unreadable

MOST_PDF = 1 << 28
MOST_PAGES = 5_000


def read_pdf(file: BinaryIO, size: int) -> Loaded:
    """A list with the text of each page."""
    try:
        pypdfium2: Any = importlib.import_module("pypdfium2")
    except ImportError:
        raise Unreadable(
            "pypdfium2 is not installed where the code runs: pip install 'recursor[files]'"
        ) from None
    if size > MOST_PDF:
        raise Unreadable(f"it has {size:,} bytes; at most {MOST_PDF:,} are read")
    try:
        document = pypdfium2.PdfDocument(file.read())
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Unreadable("it is encrypted, and opens with a password only") from None
        raise Unreadable(str(error)) from None
    try:
        count = len(document)
        pages, damaged = [], []
        for number in range(min(count, MOST_PAGES)):
            try:
                page = document[number]
                text = page.get_textpage()
                pages.append(text.get_text_bounded().replace("\r\n", "\n"))
                text.close()
                page.close()
            except pypdfium2.PdfiumError:
                pages.append("")
                damaged.append(number)
    finally:
        document.close()
    note = f"PDF, {count:,} pages; context[i] is page i + 1"
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
