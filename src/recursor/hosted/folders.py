"""Files that a host may name: below folders that the operator allows, wherever links lead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from recursor.context import FolderSource, Source, prepare
from recursor.errors import ConfigError
from recursor.sandboxes.files import FileSource

MAX_PATHS = 1000


class Folders:
    """Folders that may be read.

    Raises:
        ConfigError: one of them is no folder.
    """

    def __init__(self, allowed: Sequence[Path]) -> None:
        self.allowed = tuple(path.resolve() for path in allowed)
        for path in self.allowed:
            if not path.is_dir():
                raise ConfigError(f"--allow: {path} is no folder")

    def context(self, paths: Sequence[str]) -> Source:
        """The context that paths stand for; relative ones are below an allowed folder. Blocks; call it in a thread.

        No file of it is read that is out of these folders by the time it is opened.

        Raises:
            ConfigError: one of them is not there, or is not to be read, or holds a link that leads elsewhere.
        """
        if not paths or len(paths) > MAX_PATHS:
            raise ConfigError(f"paths: name between 1 and {MAX_PATHS:,} files and folders")
        found = [self._allowed(path) for path in paths]
        source = prepare(found[0] if len(found) == 1 else found)
        assert isinstance(source, FolderSource | FileSource), "paths are files and folders"
        source.within = self.allowed
        for path in map(Path, source.outside if isinstance(source, FolderSource) else ()):
            if not self._holds(path.resolve()):
                raise ConfigError(f"paths: {path} is a link that leads out of what may be read: {self._told}")
        return source

    def _allowed(self, path: str) -> Path:
        if not self.allowed:
            raise ConfigError(
                "paths: this server reads no files; the operator allows folders with --allow DIR"
            )
        try:
            places = [(folder / path).resolve() for folder in self.allowed]
            inside = [place for place in places if self._holds(place)]
            if not inside:  # whether it exists is nobody's business
                raise ConfigError(
                    f"paths: {path[:300]!r} is not below a folder that may be read: {self._told}"
                )
            for place in inside:
                with suppress(FileNotFoundError, NotADirectoryError):
                    place.stat()
                    return place
        except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a NUL
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"paths: {path[:300]!r} cannot be read") from None
        raise ConfigError(f"paths: there is no {path[:300]!r} in {self._told}")

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.allowed)

    @property
    def _told(self) -> str:
        return ", ".join(map(str, self.allowed))
