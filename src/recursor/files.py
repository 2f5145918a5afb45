"""How files become contexts: what to pass where a plain Path is not what is meant, and loaders of one's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeAlias, runtime_checkable

AnyPath: TypeAlias = str | os.PathLike[str]
_USER = re.compile(r"^([^/]*//)[^/]*@")


@dataclass(frozen=True, slots=True)
class Raw:
    """Files as they stand: texts, or bytes where they are no UTF-8; nothing is converted.

    Args:
        paths: a file, a folder, or a list of them.
    """

    paths: AnyPath | Sequence[AnyPath]


@dataclass(frozen=True, slots=True)
class Placed:
    """Files and folders that were given by names in a folder: they are read there, and keep their names.

    Args:
        given: a list of paths, or `Raw` of such.
        folder: where names begin that begin at no root.
    """

    given: Any
    folder: str


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file that is in no file: from a pipe, a request, a mailbox.

    Args:
        data: its bytes.
        name: what it is called; its suffix tells the kind. Without one the first bytes do.
    """

    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Url:
    """A file behind an address, which the host fetches before the run.

    Args:
        url: http:// or https://, without user name and password.
        allow_private: whether it may be on this machine, or in a network of its own.
        max_bytes: more are not fetched.
        max_time: seconds for all of it.
        raw: whether it is taken as it stands, as in `Raw`.
    """

    url: str
    allow_private: bool = False
    max_bytes: int = 1 << 30
    max_time: float = 300.0
    raw: bool = False

    @property
    def shown(self) -> str:
        """The address as it is told and recorded: users, passwords and what follows a question mark may be secrets."""
        plain, mark, _ = self.url.partition("#")[0].partition("?")
        plain = _USER.sub(r"\1", plain)
        return f"{plain}?…" if mark else plain


@runtime_checkable
class Loader(Protocol):
    """Reads files of a kind. Offered in the entry-point group "recursor.loaders", as an object.

    The host imports it to learn its suffixes. `load` is called in the sandbox, where the object is
    imported by the same path: what it needs must be installed there, too. Files are hostile, and the
    sandbox is what holds them. `recursor.testing.check_loader` tries one.
    """

    @property
    def suffixes(self) -> Sequence[str]:
        """Ends of names, with their dot and in lower case: [".dbf"]. They go before those that are built in."""

    def load(self, file: BinaryIO) -> tuple[Any, str]:
        """Return a plain value, and what the root LM should be told of it, such as columns or pages.

        Args:
            file: at its beginning; it can be sought in.

        Raises:
            ValueError: it is damaged; the text says how, for a person.
        """
