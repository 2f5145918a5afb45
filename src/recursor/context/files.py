"""Files and folders of the user's, found and named; their content is read in the sandbox."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from recursor.context.ignored import Ignored
from recursor.context.loaders import head_of, is_text, kind_of
from recursor.context.remote import FetchedSource, document
from recursor.errors import ConfigError
from recursor.files import Url
from recursor.sandboxes.files import FileSource
from recursor.sandboxes.folders import Document, FolderSource


def of_file(path: Path, *, raw: bool = False) -> FileSource:
    """Return the source for a file: as its kind is read, or as it stands. Raises ConfigError."""
    size = _regular(path).st_size
    kind = "" if raw else kind_of(path.name, size, head_of(path))
    return FileSource(path, size, kind, text=is_text(kind))


def of_folders(
    paths: Sequence[Path | Url], origin: str, *, raw: bool = False, under: str = ""
) -> FolderSource:
    """Return the source for all files in folders, and files: a mapping of relative paths, and of addresses.

    Args:
        under: where relative paths begin; empty is the working directory.

    Raises:
        ConfigError: one of them cannot be read.
    """
    walk = _Walk(raw, under)
    documents: list[Document] = []
    fetched = []
    for path in paths:
        if isinstance(path, Url):
            fetched.append(FetchedSource(path))
            documents.append(document(fetched[-1]))
        else:
            documents += walk.documents(path, whole_names=len(paths) > 1)
    told = "; ".join(walk.told())
    if not documents:
        raise ConfigError(f"context: there is no file in {origin!r}" + (f" ({told})" if told else ""))
    return FolderSource(documents, origin, told, fetched, walk.outside)


class _Walk:
    """Finds files. Hidden ones below a folder are left out, as is what git ignores in a repository, and links that lead
    out of the folder: who made it, and maybe not who names it, chose what they lead to.

    In a repository files of text stay text: there a page of HTML or a table is source code.
    """

    def __init__(self, raw: bool, under: str) -> None:
        self.left_out = 0
        self.outside: list[str] = []
        """Links that lead out of their folder."""
        self._raw = raw
        self._under = under

    def told(self) -> Iterator[str]:
        """What is left out."""
        if self.left_out:
            yield f"{self.left_out:,} files and folders are left out, since git ignores them"
        if self.outside:
            yield f"{len(self.outside):,} links to files are left out, since they lead out of the folder"

    def documents(self, path: Path, *, whole_names: bool) -> Iterator[Document]:
        place = Path(self._under, path)
        if not is_folder(place):
            name = str(path) if whole_names else path.name
            yield self._document(name, str(place), _regular(place), is_code=False)
            return
        top = str(place)
        ignored, within = Ignored.of(place), place.resolve()
        for entry in self._files(top, ignored):
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(within):
                self.outside.append(entry.path)
                continue
            below = entry.path[len(top) :].lstrip("/")
            shown = os.path.join(path, below) if whole_names else below  # noqa: PTH118 - of the same kind
            try:
                status = entry.stat()
            except FileNotFoundError:  # it is gone since
                continue
            if not os.access(entry.path, os.R_OK):
                raise ConfigError(f"context: {entry.path!r} cannot be read: permission denied")
            yield self._document(shown, entry.path, status, is_code=ignored is not None)

    def _files(self, folder: str, ignored: Ignored | None) -> Iterator[os.DirEntry[str]]:
        """Files in order of their names, then those of each folder; links to folders are not followed."""
        with suppress(PermissionError), os.scandir(folder) as found:
            entries = sorted((each for each in found if not each.name.startswith(".")), key=lambda e: e.name)
            if ignored is not None:
                every = len(entries)
                entries = [
                    each
                    for each in entries
                    if not ignored.ignores(each.name, is_folder=each.is_dir(follow_symlinks=False))
                ]
                self.left_out += every - len(entries)
            yield from (entry for entry in entries if _is_file(entry))
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inside = ignored.within((entry.name,), Path(entry.path)) if ignored is not None else None
                    yield from self._files(entry.path, inside)

    def _document(self, name: str, path: str, status: os.stat_result, *, is_code: bool) -> Document:
        kind = "" if self._raw else kind_of(name, status.st_size)
        if is_code and is_text(kind):
            kind = ""
        return Document(name, path, status.st_size, status.st_mtime_ns, kind)


def is_folder(path: Path) -> bool:
    """Whether it is one; no path that cannot be is."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; links in a circle are none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _regular(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ConfigError(f"context: there is no file or folder {str(path)!r}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"context: {str(path)!r} cannot be read: {getattr(error, 'strerror', error)}"
        ) from None
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
        raise ConfigError(f"context: {str(path)!r} is neither a file nor a folder")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"context: {str(path)!r} cannot be read: permission denied")
    return status
