"""Texts that all REPLs of this machine map, and files of the user's that become such.

The host reads a long file once, to see how wide its characters are. One of ASCII is mapped as it is.
Another is written once, in characters of one width, into an anonymous file that nobody can change.
It is no worker that says so, since what one says of a file would be believed in others.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recursor.errors import ConfigError, UnreadableFile
from recursor.sandboxes.folders import ONLY_IN_A_REPL, opened
from recursor.sandboxes.guest import contexts
from recursor.sandboxes.guest.images import Image
from recursor.sandboxes.guest.mapped import CODECS
from recursor.sandboxes.handed import anonymous, reopened

READ = 1 << 18
"""Bytes that are read at once."""
SETTLED = 0.05
"""Seconds after which a change of a file shows in its times: they are those of the kernel's last tick."""
_FORMS = {largest: form for form, largest in contexts.FIXED.items()}


class SharedText:
    """A `Source` of characters of one width, in a file that is mapped wherever it is loaded.

    Args:
        descriptor: this object then owns it.
    """

    def __init__(self, form: str, descriptor: int, size: int, origin: str = "") -> None:
        self.form = form
        self.size = size
        self.origin = origin
        self._descriptor = descriptor

    def open(self) -> int:
        return reopened(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


class FileSource:
    """A `Source` of a file of the user's: text if it is UTF-8, else bytes; or what its kind is read as.

    Args:
        size: of the file, as it was found.
        kind: one of `guest.kinds`, or the import path of a loader; it is read in the sandbox. Empty for text or bytes.
        text: whether the file is text all the same, which is then what it is on the host.
    """

    def __init__(self, path: Path, size: int, kind: str = "", *, text: bool = False) -> None:
        self.form = f"file:{kind}" if kind else "file"
        self.opaque = kind not in ("", "image") and not text
        """Whether only a sandbox reads it."""
        self.pictured = kind == "image"
        """Whether it is a picture."""
        self.size = size
        self.origin = str(path)
        self.path = path
        self.within: Sequence[Path] = ()
        """Folders that it may not be out of when it is opened, wherever links lead by then; empty for no such bound."""
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, ...], SharedText | None] | None = None
        """What the file was when it was read, and what came of it."""
        self._hashing = threading.Lock()
        self._hashed: tuple[tuple[int, ...], str] | None = None
        """What it was when it was hashed, and its digest."""

    def open(self) -> int:
        return opened(str(self.path), self.within)

    def value(self) -> Any:
        """Read the whole file as it stands; of a picture, no more than that it is one. Blocks; call it in a thread.

        Raises:
            ConfigError: only a sandbox reads it.
        """
        if self.form == "file:image":
            with os.fdopen(self.open(), "rb") as file:
                return picture(file.read(), self.origin)
        if self.opaque:
            raise ConfigError(ONLY_IN_A_REPL.format(self.origin))
        return contexts.load(self.open(), "file", self.size)

    def digest(self) -> str:
        """Hash the bytes, and what they are read as ("sha256:..."); once for as long as the file does not change.
        Blocks; call it in a thread."""
        with self._hashing, os.fdopen(self.open(), "rb") as file:
            identity, began = _identity(os.fstat(file.fileno())), time.time()
            if self._hashed is None or self._hashed[0] != identity:
                hashing = hashlib.file_digest(file, "sha256")
                hashing.update(self.form.removeprefix("file").encode())
                settled = identity[-1] / 1e9 <= began - SETTLED
                self._hashed = identity if settled else (), "sha256:" + hashing.hexdigest()
            return self._hashed[1]

    def shared(self) -> SharedText | FileSource:
        """Return what a REPL that takes descriptors should load: this source, or one that all can map.

        The file is read when that was not done since it was changed. Blocks; call it in a thread.

        Raises:
            OSError: it cannot be read.
        """
        if self.size < contexts.SHARED or self.form != "file":
            return self
        with self._lock:
            identity = _identity(self.path.stat())
            if self._seen is None or self._seen[0] != identity:
                began = time.time()
                self._seen = identity, self._examine()
                if identity[-1] / 1e9 > began - SETTLED:
                    self._seen = (), self._seen[1]
            return self._seen[1] or self

    def _examine(self) -> SharedText | None:
        """Read the file; return what all REPLs can map, if there is such a thing."""
        with os.fdopen(self.open(), "rb") as file:
            descriptor, size = file.fileno(), self.size
            if os.fstat(descriptor).st_size != size:
                return None
            if _is_ascii(descriptor, size):
                return SharedText("ascii", reopened(descriptor), size, self.origin)
            try:
                _, bound = contexts.measure(descriptor, size, most=contexts.LAZY)
                return SharedText(*written(contexts.decoded(descriptor, size), bound), self.origin)
            except (UnicodeDecodeError, OverflowError):
                return None


def picture(data: bytes, origin: str) -> Image:
    """A picture on its way into a prompt. Raises UnreadableFile where it is none."""
    try:
        return Image(data, origin)
    except ValueError as error:
        raise UnreadableFile(f"{origin or 'the content'}: it cannot be read as a picture: {error}") from None


def written(pieces: Iterable[str], bound: int) -> tuple[str, int, int]:
    """Write a text into an anonymous file that stays as it is; return form, descriptor and bytes.

    Args:
        bound: on the largest character, see `mapped.WIDTHS`.
    """
    descriptor = anonymous()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            for piece in pieces:
                file.write(piece.encode(CODECS[bound], "surrogatepass"))
            size = file.tell()
    except BaseException:
        os.close(descriptor)
        raise
    if hasattr(fcntl, "F_ADD_SEALS"):
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return _FORMS[bound], descriptor, size


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_ascii(descriptor: int, size: int) -> bool:
    piece = bytearray(READ)
    position = 0
    while position < size:
        count = os.preadv(descriptor, [piece], position)
        if not count or not (piece if count == READ else piece[:count]).isascii():
            return False
        position += count
    return True
