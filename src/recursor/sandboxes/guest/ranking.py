"""`search`: passages of large texts, the best first, by SQLite's full-text index (FTS5, bm25).

An index is made at the first search of a text and kept for the next ones; it lies in memory. The
passages themselves are not in it: they are cut from the text.
"""

from __future__ import annotations

import re
import threading
import weakref
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from .helpers import Found, Piece, held, spans, text_at, texts_of
from .lazy import Lazy

PASSAGE = 1000
"""Characters of a passage, at most."""
KEPT = 4
"""Indexes that are kept."""
_HASH = 1 << 26
"""Bytes of postings that are gathered before they are written out in order."""
_TERM = re.compile(r'"([^"]*)"|(\w+)')


class _Index:
    """The passages of some texts, by their words."""

    def __init__(self, texts: Mapping[Any, Any]) -> None:
        import sqlite3  # noqa: PLC0415 - no run that does not search shall wait for it

        self.texts = texts
        self._starts = array("q")
        self._ends = array("q")
        self._places = array("q")
        self._names: list[Any] = []
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        weakref.finalize(self, self._database.close)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(text, content = '', tokenize = 'porter unicode61')"
        )
        self._database.execute("INSERT INTO passages(passages, rank) VALUES('hashsize', ?)", (_HASH,))
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO passages(rowid, text) VALUES(?, ?)", self._rows())
        self._database.execute("COMMIT")

    def _rows(self) -> Iterator[tuple[int, str]]:
        for place, (name, text) in enumerate(texts_of(self.texts, "search")):
            self._names.append(name)
            for start, end in spans(text, PASSAGE, 0, ("\n\n", "\n", " ")):
                self._places.append(place)
                self._starts.append(start)
                self._ends.append(end)
                yield len(self._starts) - 1, text[start:end].encode("utf-8", "replace").decode()

    def search(self, query: str, limit: int) -> Iterator[Piece]:
        words = [phrase or word for phrase, word in _TERM.findall(query)]
        terms = " OR ".join(f'"{word}"' for word in dict.fromkeys(words) if re.search(r"\w", word))
        if not terms:
            raise ValueError("the query holds no word to search for")
        rows = self._database.execute(
            "SELECT rowid FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT ?", (terms, limit)
        )
        for (row,) in rows.fetchall():
            name = self._names[self._places[row]]
            text = text_at(self.texts, name)
            yield Piece(text[self._starts[row] : self._ends[row]], self._starts[row], name)

    def covers(self, texts: Mapping[Any, Any]) -> bool:
        """Whether it is of these very texts."""
        if isinstance(texts, Lazy) or isinstance(self.texts, Lazy):
            return texts is self.texts
        return len(texts) == len(self.texts) and all(
            one is other and name == named
            for (name, one), (named, other) in zip(texts.items(), self.texts.items(), strict=True)
        )


_indexes: list[_Index] = []
_lock = threading.Lock()


def search(query: str, text: Any, *, limit: int = 10) -> Found:
    """Rank passages of a text, or of several, by how well they match the words of a query (bm25).

    Words match in all their English forms and in either case, any of them is enough, and what stands
    in double quotes matches as a phrase. The first search of a text makes an index of it.

    Returns:
        A list of `str` of at most 1,000 characters with `start`, `end` and `document`, the best first.
    """
    texts = held(text, "search")
    with _lock:
        index = next((each for each in _indexes if each.covers(texts)), None)
        if index is None:
            del _indexes[: max(0, len(_indexes) - KEPT + 1)]
            index = _Index(texts)
        else:
            _indexes.remove(index)
        _indexes.append(index)
        return Found(index.search(query, limit))
