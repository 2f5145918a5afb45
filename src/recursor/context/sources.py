"""Values, files and folders as byte streams in a descriptor; each says how to read it.

Of a file the descriptor goes to the REPL. A value is encoded once, piece by piece, into an
anonymous file. Reading is the business of `recursor.sandboxes.guest.contexts`.
"""

from __future__ import annotations

import hashlib
import io
import json
import marshal
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from recursor.context import files
from recursor.context.loaders import is_text, kind_of
from recursor.context.remote import FetchedSource
from recursor.errors import ConfigError
from recursor.files import Content, Placed, Raw, Url
from recursor.sandboxes.files import FileSource, SharedText, picture, written
from recursor.sandboxes.folders import ONLY_IN_A_REPL, FolderSource
from recursor.sandboxes.guest import contexts, kinds, values
from recursor.sandboxes.handed import HandedSource, anonymous

PIECE = 1 << 17
BATCH = 10_000
"""Items of a list that are encoded at once."""
_MARSHAL_VERSION = 4
_MARSHAL_ALIKE = 2
"""The newest that writes equal values alike: later ones also say which objects in them are the same."""


Writable: TypeAlias = BinaryIO | io.RawIOBase
Write: TypeAlias = Callable[[Writable], object]


class _Readable:
    """What the REPL would make of a source, on the host: for small ones."""

    form: str
    size: int

    def open(self) -> int:
        raise NotImplementedError

    def value(self) -> Any:
        """Read the whole value. Blocks; call it in a thread."""
        return contexts.load(self.open(), self.form, self.size)


class EncodedSource(_Readable):
    """A value, encoded into an anonymous file that the REPL owns and frees as it reads.

    It is encoded once ahead, so that a value that cannot be is refused early, and again if a
    REPL has to be started anew: no second copy is kept for that.
    """

    def __init__(self, form: str, write: Write, origin: str = "", data: Any = None) -> None:
        """Encode once.

        Args:
            data: the value itself, where its encoding is not the only one for it.
        """
        self.form = form
        self.origin = origin
        self.data = data
        self.pictured = False
        """Whether there are pictures in it."""
        self._write = write
        self._first: int | None = None
        self._first, self.size = self._encode()

    def open(self) -> int:
        first, self._first = self._first, None
        return first if first is not None else self._encode()[0]

    def digest(self) -> str:
        """Hash the value ("sha256:..."): the same for equal ones. Blocks; call it in a thread."""
        hashing = _Hashing()
        if self.form == "marshal":
            _write_marshal(self.data, hashing, _MARSHAL_ALIKE)
        else:
            self._write(hashing)
        return "sha256:" + hashing.sha256.hexdigest()

    def _encode(self) -> tuple[int, int]:
        descriptor = anonymous()
        try:
            with open(descriptor, "wb", closefd=False) as file:
                self._write(file)
                file.flush()
                size = file.tell()
            os.lseek(descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, size

    def __del__(self) -> None:
        if self._first is not None:
            os.close(self._first)


class TextSource(SharedText):
    """A long `str`, in one anonymous file that all REPLs map: written once, and never again by anyone."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest: str | None = None
        bound = 0x7F
        for piece in _pieces(text):
            bound = max(bound, contexts.bound_of(piece))
        super().__init__(*written(_pieces(text), bound))

    def value(self) -> str:
        return self._text

    def digest(self) -> str:
        """Hash the text as UTF-8, once ("sha256:..."). Blocks; call it in a thread."""
        if self._digest is None:
            hashing = hashlib.sha256()
            for piece in _pieces(self._text):
                hashing.update(piece.encode("utf-8", "surrogatepass"))
            self._digest = "sha256:" + hashing.hexdigest()
        return self._digest


class ContentSource(EncodedSource):
    """The content of a file, which is read in the sandbox as its kind is."""

    def __init__(self, content: Content) -> None:
        data = bytes(content.data)
        kind = kind_of(content.name, len(data), data[: kinds.HEAD])
        self.opaque = kind != "image" and not is_text(kind)
        """Whether only a sandbox reads it."""
        super().__init__(f"file:{kind}" if kind else "file", lambda file: file.write(data), content.name)
        self.pictured = kind == "image"

    def digest(self) -> str:
        """Hash the bytes, and what they are read as ("sha256:..."). Blocks; call it in a thread."""
        hashing = _Hashing()
        self._write(hashing)
        hashing.write(self.form.removeprefix("file").encode())
        return "sha256:" + hashing.sha256.hexdigest()

    def value(self) -> Any:
        """The content as it stands. Raises ConfigError where only a sandbox reads it."""
        if self.opaque:
            raise ConfigError(ONLY_IN_A_REPL.format(self.origin or "the content"))
        if self.form == "file:image":
            with os.fdopen(self.open(), "rb") as file:
                return picture(file.read(), self.origin)
        return contexts.load(self.open(), "file", self.size)


class AliasSource(_Readable):
    """Another name for what is in the REPL already.

    Args:
        name: under which it was loaded there.
        source: from which.
    """

    form = "alias"

    def __init__(self, name: str, source: Source) -> None:
        self._name = name.encode()
        self._source = source
        self.origin: str = source.origin
        self.size = len(self._name)

    def open(self) -> int:
        descriptor = anonymous()
        os.pwrite(descriptor, self._name, 0)
        return descriptor

    def value(self) -> Any:
        return self._source.value()

    def digest(self) -> str:
        """Hash the value ("sha256:..."). Blocks; call it in a thread."""
        return self._source.digest()


Source: TypeAlias = FileSource | TextSource | EncodedSource | FolderSource | HandedSource | AliasSource


def prepare(context: Any) -> Source:  # noqa: PLR0911 - one for each kind
    """Return the source for a context.

    Args:
        context: str (always text), bytes, Path (file or folder), `files.Url` (which is fetched), a list of Paths and
            Urls, `files.Raw`, `files.Content`, or plain data: list, tuple, dict and what they hold; or a source,
            which is returned.

    Raises:
        ConfigError: a missing or unreadable path, or a value that a REPL cannot hold; named.
    """
    if isinstance(context, str) and len(context) >= contexts.SHARED:
        return TextSource(context)
    if isinstance(context, str):
        return EncodedSource("text", lambda file: _write_text(context, file))
    if isinstance(context, bytes | bytearray | memoryview):
        return EncodedSource("bytes", lambda file: file.write(context))
    if isinstance(context, os.PathLike):
        path = Path(context)
        return files.of_folders([path], str(path)) if files.is_folder(path) else files.of_file(path)
    if (
        isinstance(context, list | tuple)
        and context
        and all(isinstance(item, os.PathLike | Url) for item in context)
    ):
        found = [item if isinstance(item, Url) else Path(item) for item in context]
        return files.of_folders(found, _named(context))
    if isinstance(context, Url):
        return FetchedSource(context)
    if isinstance(context, Source):
        return context
    if isinstance(context, Raw | Placed):
        return _raw(context.paths) if isinstance(context, Raw) else _placed(context)
    if isinstance(context, Content):
        return ContentSource(context)
    return _data(context)


def _raw(paths: Any) -> Source:
    several = isinstance(paths, list | tuple)
    given = [Path(each) for each in paths] if several else [Path(paths)]
    if not several and not files.is_folder(given[0]):
        return files.of_file(given[0], raw=True)
    return files.of_folders(given, _named(given), raw=True)


def _placed(context: Placed) -> Source:
    raw = isinstance(context.given, Raw)
    given = list(context.given.paths if raw else context.given)
    found = [each if isinstance(each, Url) else Path(each) for each in given]
    return files.of_folders(found, _named(given), raw=raw, under=context.folder)


def _named(paths: Sequence[Any]) -> str:
    return ", ".join(path.shown if isinstance(path, Url) else str(path) for path in paths[:5])


def same(one: Source, other: Source) -> bool:
    """Whether two sources hold the same value. Blocks; call it in a thread.

    Plain data counts as the same when it is equal and in the same order, whichever way it is
    encoded. A folder counts as different from a dict with its documents.
    """
    if one is other:
        return True
    if {one.form, other.form} == {"marshal", "values"}:
        return _plain_digest(one) == _plain_digest(other)
    wide = one.form != other.form and {one.form, other.form} & {"latin-1", "ucs-2", "ucs-4"}
    return bool(one.size == other.size or wide) and one.digest() == other.digest()


def _plain_digest(source: Source) -> str:
    """The digest of plain data in the encoding that every value has."""
    if not isinstance(source, EncodedSource) or source.form != "marshal":
        return source.digest()
    hashing = hashlib.sha256()
    for piece in values.pieces(source.data):
        hashing.update(piece)
    return "sha256:" + hashing.hexdigest()


def _data(value: Any) -> Source:
    """Plain data: marshal where it takes the value (fast), else our own encoding (more types)."""
    _check(value)
    try:
        _check_exact(value)
        return EncodedSource("marshal", lambda file: _write_marshal(value, file), data=value)
    except ValueError:
        pass
    try:
        _, data = values.encode(value)
    except values.NotPlain as error:
        raise ConfigError(
            f"context: {str(error).replace('cannot leave the', 'cannot be given to a')}"
        ) from None
    source = EncodedSource("values", lambda file: file.write(data))
    source.pictured = values.A_PICTURE in data
    return source


def _check(value: Any) -> None:
    if not isinstance(value, list | tuple | dict | set | frozenset | int | float | complex | type(None)):
        advice = ": pass data.to_dict('records')" if hasattr(value, "to_dict") else ""
        raise ConfigError(
            f"context: a {type(value).__module__}.{type(value).__qualname__} cannot be given to a REPL; "
            f"pass str, bytes, Path, list or dict{advice}"
        )


_SCALARS = frozenset({str, bytes, int, float, bool, complex, type(None)})


def _check_exact(value: Any, depth: int = 0) -> None:
    """Raise ValueError for what marshal would change: a subclass, or anything with a buffer."""
    kind = type(value)
    if kind in _SCALARS:
        return
    if depth > values.MAX_DEPTH or kind not in (list, tuple, dict, set, frozenset):
        raise ValueError
    for items in (value.keys(), value.values()) if kind is dict else (value,):
        if not set(map(type, items)) <= _SCALARS:
            for item in items:
                _check_exact(item, depth + 1)


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _write_text(text: str, file: Writable) -> None:
    for piece in _pieces(text):
        file.write(piece.encode("utf-8", "surrogatepass"))


def _write_marshal(value: Any, file: Writable, version: int = _MARSHAL_VERSION) -> None:
    batched = type(value) is list
    parts = -(-len(value) // BATCH) if batched else 1
    file.write(json.dumps({"type": "list" if batched else "value", "parts": parts}).encode() + b"\n")
    if not batched:
        file.write(marshal.dumps(value, version))
        return
    for start in range(0, len(value), BATCH):
        file.write(marshal.dumps(value[start : start + BATCH], version))


class _Hashing(io.RawIOBase):
    """A file that keeps the digest of what is written, and nothing else."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position
