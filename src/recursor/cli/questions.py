"""Files of questions: a line each, as JSON, as a row of a table, or as plain text.

A file is copied before it is read: what is asked is what was checked, whoever writes to it meanwhile. It is read
line by line, each time anew, so that a hundred thousand questions are never held at once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from recursor.cli.contexts import is_address
from recursor.errors import ConfigError
from recursor.files import Raw, Url
from recursor.plugins import nearest
from recursor.questions import Question, Shapes
from recursor.sandboxes.handed import reopened

Form: TypeAlias = Literal["jsonl", "csv", "tsv", "text", "either"]
"""How a file is read; "either" is JSON where a line begins as an object or a string of it does, else text."""
FORMS: dict[str, Form] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
}  # fmt: skip
KEYS = ("id", "question", "context", "path", "schema")
SHOWN = 10
"""Wrong lines that are named."""
FIELD = 1 << 30
"""Characters of the largest field of a table."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a question stands."""

    line: int
    id: str | int | None


class Questions:
    """The questions of a file, in order; may be read any number of times.

    Args:
        path: "-" is standard input.
        raw: whether files that questions name are given as they stand.

    Raises:
        ConfigError: it cannot be read.
    """

    def __init__(self, path: str, *, raw: bool = False) -> None:
        self.name = "standard input" if path == "-" else path
        self._raw = raw
        self._folder = Path(path).parent if path != "-" else Path()
        self._form: Form = "either" if path == "-" else FORMS.get(Path(path).suffix.lower(), "text")
        self.count = 0
        self._copy = _copy(path)

    def __del__(self) -> None:
        if hasattr(self, "_copy"):
            os.close(self._copy)

    def check(self) -> None:
        """Read all of it.

        Raises:
            ConfigError: lines are wrong; the text names the first of them. Or there is no question.
        """
        problems: list[str] = []
        shapes, seen = Shapes(None), dict[str | int, int]()
        for line, given in self._lines():
            try:
                question = self._question(line, given)
                shapes.of(question)
                if question.id.id is not None and (first := seen.setdefault(question.id.id, line)) != line:
                    raise ConfigError(f"the id {question.id.id!r} is that of line {first}, too")
                self.count += 1
            except ConfigError as error:
                problems.append(f"{self.name}, line {line}: {error}")
        if problems:
            more = len(problems) - SHOWN
            told = [*problems[:SHOWN], f"and {more:,} more" if more > 0 else ""]
            raise ConfigError("\n".join(filter(None, told)))
        if not self.count:
            raise ConfigError(f"{self.name} has no question in it")

    def __iter__(self) -> Iterator[Question]:
        for line, given in self._lines():
            yield self._question(line, given)

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """Numbers of lines, and what they hold: text, a mapping of a row, or the error that it is."""
        with os.fdopen(reopened(self._copy), "rb") as file:
            file.seek(0)
            if self._form in ("csv", "tsv"):
                yield from _rows(file, "," if self._form == "csv" else "\t")
                return
            for number, data in enumerate(file, 1):
                text = _decoded(data, first=number == 1)
                if isinstance(text, ConfigError) or text.strip():
                    yield number, text

    def _question(self, line: int, given: Any) -> Question:
        """Raises ConfigError where a line holds none."""
        if isinstance(given, ConfigError):
            raise given
        found = self._parsed(given.strip()) if isinstance(given, str) else given
        if isinstance(found, str):
            found = {"question": found}
        if not isinstance(found, dict):
            raise ConfigError("a line is an object with a question, or a text in quotes")
        unknown = next((key for key in found if key not in KEYS), None)
        if unknown is not None:
            raise ConfigError(f"unknown key {unknown!r}{nearest(unknown, KEYS)}")
        text, name = found.get("question"), found.get("id")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError("question must be a text that is not empty")
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise ConfigError("id must be a text or a whole number")
        schema = found.get("schema")
        if not isinstance(schema, dict | None):
            raise ConfigError("schema must be a JSON Schema, an object")
        return Question(text, self._context(found), schema, Place(line, name))

    def _parsed(self, text: str) -> Any:
        if self._form == "text" or (self._form == "either" and text[:1] not in ("{", '"')):
            return text
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            plain = "; a file of plain questions ends in .txt" if text[:1] not in ("{", '"') else ""
            raise ConfigError(f"this is no JSON ({str(error)[:100]}){plain}") from None

    def _context(self, found: dict[str, Any]) -> Any:
        paths = found.get("path")
        if paths is None:
            return found.get("context")
        if found.get("context") is not None:
            raise ConfigError("context is data, path names files: there may be one of them")
        several = isinstance(paths, list)
        named = paths if several else [paths]
        if not named or not all(isinstance(path, str) and path and "\0" not in path for path in named):
            raise ConfigError("path must be the name of a file or folder, or a list of such")
        where = [Url(path, raw=self._raw) if is_address(path) else self._file(path) for path in named]
        given: Any = where if several else where[0]
        return Raw(given) if self._raw and not any(isinstance(path, Url) for path in where) else given

    def _file(self, name: str) -> Path:
        path = self._folder / name
        if not path.exists():
            raise ConfigError(f"no such file or folder: {path}")
        if not (path.is_file() or path.is_dir()) or not os.access(path, os.R_OK):
            raise ConfigError(f"{path} cannot be read")
        return path


def _rows(file: BinaryIO, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Rows of a table by the names of its columns, without those that are empty."""
    csv.field_size_limit(FIELD)
    head: list[str] | None = None
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                yield line, ConfigError(f"the table cannot be read on: {error}")
                return
            if not any(field.strip() for field in row):
                continue
            if head is None:
                head = [name.strip() for name in row]
                if "question" not in head:
                    yield (
                        line,
                        ConfigError("a table begins with the names of its columns; one must be question"),
                    )
                    return
            elif len(row) != len(head):
                yield line, ConfigError(f"the table has {len(head)} columns, and this row has {len(row)}")
            else:
                yield line, _schema_of(dict(zip(head, row, strict=True)))


def _schema_of(fields: dict[str, Any]) -> Any:
    """The fields of a row that are not empty, with the schema read that one of them may hold."""
    fields = {name: field for name, field in fields.items() if field}
    if "schema" in fields:
        try:
            fields["schema"] = json.loads(fields["schema"])
        except (ValueError, RecursionError) as error:
            return ConfigError(f"schema is no JSON ({str(error)[:100]})")
    return fields


def _decoded(data: bytes, *, first: bool) -> str | ConfigError:
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        return ConfigError(f"this is no UTF-8 ({error.reason})")


def _copy(path: str) -> int:
    """A descriptor of an unnamed file with the same content."""
    with tempfile.TemporaryFile() as copy:
        try:
            if path == "-":
                shutil.copyfileobj(sys.stdin.buffer, copy)
            else:
                with Path(path).open("rb") as file:
                    shutil.copyfileobj(file, copy)
            copy.flush()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        return os.dup(copy.fileno())
