"""Lines at the bottom of a terminal that change in place, while others scroll up above them.

Invariants: what is shown is overwritten, never erased first, in one write that terminals which know
synchronized output show at once; a frame that did not change writes nothing; nothing is set that would
have to be put back (no hidden cursor, no other screen), so a process that dies leaves a sane terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import terminal_size
from typing import TextIO

from recursor.cli.lines import Row

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}
"""Colours of the terminal's own palette that are readable on light and on dark backgrounds."""
_COLORS = ("red", "green", "cyan")


def painted(row: Row, *, color: bool) -> str:
    """A line with its styles as escape sequences."""
    parts = []
    for style, text in row:
        codes = [_CODES[word] for word in style.split() if color or word not in _COLORS]
        parts.append(f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and text.strip() else text)
    return "".join(parts).rstrip()


class Region:
    """The bottom of a terminal.

    Args:
        file: the terminal.
        size: what its size is now.
        color: whether colours are wanted.
    """

    def __init__(self, file: TextIO, size: Callable[[], terminal_size], *, color: bool) -> None:
        self._file = file
        self._size = size
        self._color = color
        self._shown: list[str] = []
        self._columns = 0
        self._lost = False

    def draw(self, above: Sequence[Row], frame: Sequence[Row]) -> None:
        """Let lines scroll up, and show a frame below them instead of the one before."""
        size = self._size()
        frame = frame[: max(1, size.lines - 1)]
        painted_frame = [painted(row, color=self._color) for row in frame]
        resized = bool(self._columns) and size.columns != self._columns
        if self._lost or (not above and painted_frame == self._shown and not resized):
            return
        lines = [*(painted(row, color=self._color) for row in above), *painted_frame]
        if not frame:
            lines.append("")
        text = self._to_top() + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"
        self._write(f"\x1b[?2026h{text}\x1b[?2026l")
        self._shown, self._columns = painted_frame, size.columns

    def forget(self) -> None:
        """Leave what is shown where it is, and go on below: others may have written."""
        if self._shown:
            self._write("\r\n")
        self._shown = []

    def _to_top(self) -> str:
        """Go to where the frame begins. A terminal that became narrower may have wrapped lines of it, of which some
        then stay: to go farther up would overwrite what was said, in terminals that cut lines instead."""
        return f"\r\x1b[{len(self._shown) - 1}A" if len(self._shown) > 1 else "\r"

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except (OSError, ValueError):  # the terminal is gone, and a run does not end of that
            self._lost = True
