"""Folders on their way into REPLs: documents are given out pack by pack, as code in a REPL takes them.

Nothing is read before. A REPL that asks for a document gets a read-only descriptor of its file, or,
where it is small, an anonymous file with it and its neighbours. See `guest.documents` for the
protocol. What a REPL asks for is a number among those that there are, and one at a time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from recursor.errors import ConfigError, SandboxError
from recursor.sandboxes.guest import contexts, kinds
from recursor.sandboxes.guest.documents import ALONE, INDEX, NUMBER
from recursor.sandboxes.handed import anonymous

ONLY_IN_A_REPL = "{} holds what is read in a REPL and nowhere else: it cannot be put into one plain call"
MAX_COUNT = 1000
"""Documents of a pack."""
_PIECE = 1 << 17


class Document(NamedTuple):
    """A file, as it was found."""

    name: str
    path: str
    size: int
    changed: int
    """When, in nanoseconds."""
    kind: str = ""
    """One of `guest.kinds`, as which it is read in the sandbox; empty for text or bytes."""


class Fetched(Protocol):
    """What keeps a document that was fetched."""

    @property
    def decisions(self) -> tuple[Any, ...]:
        """What was decided about the hosts that were asked for it."""


class FolderSource:
    """A `Source` of documents by name."""

    form = "folder"

    def __init__(
        self,
        documents: Sequence[Document],
        origin: str,
        told: str = "",
        fetched: Sequence[Fetched] = (),
        outside: Sequence[str] = (),
    ) -> None:
        """Keep what was found.

        Args:
            told: what the root LM is told of it, such as what was left out.
            fetched: holds documents that were fetched.
            outside: links that were left out, since they lead out of their folder.
        """
        self.outside = tuple(outside)
        self._fetched = fetched
        self.decisions = tuple(decision for each in fetched for decision in each.decisions)
        """What was decided about the hosts that were asked for documents."""
        self.origin = origin
        self.within: Sequence[Path] = ()
        """Folders that no file that is opened may be out of, wherever links lead by then; empty for no such bound."""
        self._told = told
        self._documents = documents
        self._digest: str | None = None
        self._firsts = _packs(documents)
        self.size = len(self._head()) + sum(document.size for document in documents)

    @property
    def documents(self) -> Sequence[Document]:
        """The files, as they were found."""
        return self._documents

    def open(self) -> int:
        """Return a socket that gives out documents until the other end is closed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Packs that nobody takes are memory, and descriptors on their way, which a user has a thousand of in all.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as there is: some packs
        threading.Thread(target=self._serve, args=(ours,), daemon=True, name="recursor-folder").start()
        return theirs.detach()

    def whole(self) -> Whole:
        """All documents in one file, for a REPL that takes no descriptors. Blocks; call it in a thread."""
        return Whole(self)

    @property
    def opaque(self) -> bool:
        """Whether there are documents that only a sandbox reads."""
        return any(document.kind in kinds.OPAQUE - {kinds.UNKNOWN} for document in self._documents)

    def with_texts_as_they_stand(self) -> FolderSource:
        """The same, in which files of text are nothing more."""
        plain = [
            each._replace(kind="") if each.kind not in kinds.OPAQUE else each for each in self._documents
        ]
        found = FolderSource(plain, self.origin, self._told, self._fetched, self.outside)
        found.within = self.within
        return found

    def value(self) -> dict[str, Any]:
        """Read all documents, as they stand in their files. Blocks; call it in a thread.

        Raises:
            ConfigError: there are some that only a sandbox reads.
        """
        if self.opaque:
            raise ConfigError(ONLY_IN_A_REPL.format(self.origin))
        plain = FolderSource([each._replace(kind="") for each in self._documents], self.origin)
        plain.within = self.within
        value: dict[str, Any] = contexts.load(plain.whole().open(), "documents", plain.size)
        return value

    def digest(self) -> str:
        """Hash names, sizes and contents, once ("sha256:..."): others are refused. Blocks; call it in a thread."""
        if self._digest is None:
            hashing = hashlib.sha256(self._head())
            for document in self._documents:
                with self._opened(document) as file:
                    while piece := file.read(_PIECE):
                        hashing.update(piece)
            self._digest = "sha256:" + hashing.hexdigest()
        return self._digest

    def write(self, file: BinaryIO) -> None:
        """Write a line of JSON, [[name, size, kind], ...], and the documents one after another."""
        file.write(self._head())
        for document in self._documents:
            with self._opened(document) as content:
                shutil.copyfileobj(content, file, _PIECE)

    def _head(self) -> bytes:
        head = [[document.name, document.size, document.kind] for document in self._documents]
        return json.dumps(head).encode() + b"\n"

    def _opened(self, document: Document) -> BinaryIO:
        """Open the file, if it is still the one that was found."""
        try:
            descriptor = opened(document.path, self.within)
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns) == (document.size, document.changed):
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
        except OSError as error:
            raise SandboxError(f"{document.name!r} cannot be read: {error.strerror}") from None
        raise SandboxError(f"{document.name!r} was changed after the run had begun")

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while len(request := connection.recv(NUMBER.size)) == NUMBER.size:
                (number,) = NUMBER.unpack(request)
                try:
                    with self._pack(number) as file:
                        socket.send_fds(connection, [request], [file.fileno()])
                except (SandboxError, OSError) as problem:
                    connection.send(request + str(problem).encode("utf-8", "replace")[:2000])

    def _pack(self, number: int) -> BinaryIO:
        if number == INDEX:
            head = [[each.name, each.size, each.kind] for each in self._documents]
            index = {"documents": head, "packs": self._firsts, "told": self._told}
            return _file_of(json.dumps(index).encode())
        if not 0 <= number < len(self._firsts):
            raise SandboxError("there is no such pack")
        end = self._firsts[number + 1] if number + 1 < len(self._firsts) else len(self._documents)
        documents = self._documents[self._firsts[number] : end]
        if documents[0].size >= ALONE:
            return self._opened(documents[0])
        contents = []
        for document in documents:
            with self._opened(document) as file:
                contents.append(file.read(document.size))
            if len(contents[-1]) != document.size:
                raise SandboxError(f"{document.name!r} was changed while it was read")
        return _file_of(b"".join(contents))


class Whole:
    """The documents of a folder as one stream of bytes."""

    form = "documents"

    def __init__(self, folder: FolderSource) -> None:
        self._folder = folder
        self.size = folder.size
        self.origin = folder.origin

    def open(self) -> int:
        """Return a new descriptor at offset 0 that the caller owns. Blocks; call it in a thread."""
        with os.fdopen(anonymous(), "w+b") as file:
            self._folder.write(file)
            file.seek(0)
            return os.dup(file.fileno())


def opened(path: str, within: Sequence[Path]) -> int:
    """Open a file to be read; a pipe that is in its place by now holds nobody up.

    Args:
        within: folders that it must be in, as it is found now, however it is called; empty for no such bound.

    Raises:
        OSError: it cannot be opened, or is not in them.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if within and not any(_place(descriptor).is_relative_to(folder) for folder in within):
            raise PermissionError(errno.EACCES, "it leads out of what may be read", path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _place(descriptor: int) -> Path:
    """Where an open file is."""
    if hasattr(fcntl, "F_GETPATH"):
        found = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(found.rstrip(b"\0")))
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _packs(documents: Sequence[Document]) -> list[int]:
    """The first document of each pack."""
    firsts: list[int] = []
    room, before = 0, ALONE
    for number, document in enumerate(documents):
        room -= document.size
        if room < 0 or before >= ALONE or document.size >= ALONE or number - firsts[-1] >= MAX_COUNT:
            firsts.append(number)
            room = ALONE - document.size
        before = document.size
    return firsts


def _file_of(data: bytes) -> BinaryIO:
    file = os.fdopen(anonymous(), "w+b")
    file.write(data)
    file.seek(0)
    return file
