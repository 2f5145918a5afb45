"""Where files of ours are, and how they are read and replaced; the environment variables that are read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recursor.errors import ConfigError


def config_file() -> Path:
    """Return where the user's settings are, whether or not the file exists."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "config.toml"


def keys_file() -> Path:
    """Return where the user's keys are, whether or not the file exists."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "keys.toml"


def default_store() -> Path:
    """Return where runs are recorded unless a setting says otherwise."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "runs.db"


def color_allowed() -> bool:
    """Whether NO_COLOR (no-color.org) is unset or empty."""
    return not os.environ.get("NO_COLOR")


def redrawing_allowed() -> bool:
    """Whether the terminal is one that can move its cursor, and this is no CI job."""
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown") and not os.environ.get("CI")


def in_environment(variable: str) -> bool:
    """Whether an environment variable holds something."""
    return bool(os.environ.get(variable, "").strip())


def from_environment(variable: str) -> str:
    """Return what an environment variable holds, without blanks around it."""
    return os.environ.get(variable, "").strip() if variable else ""


def read(path: Path) -> str:
    """Return the text of a file of ours as it is, a mark of its encoding included.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error


def table(text: str, path: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises ConfigError when it is none."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file of ours meanwhile. Makes its folder.

    Raises:
        ConfigError: the folder cannot be made or opened.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot change {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def replace(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file so that it is there as it was, or whole as it shall be. A link stays one: its target changes.

    Args:
        mode: permissions; None keeps those of the file, and is 0600 for a new one.

    Raises:
        ConfigError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if mode is None:
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                os.fchmod(descriptor, mode)
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, target)  # noqa: PTH105 - it is a str
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108 - as above
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _xdg(variable: str, fallback: str) -> Path:
    """A directory of ours. The XDG specification says to ignore a relative path."""
    base = Path(os.environ.get(variable) or "")
    try:
        return (base if base.is_absolute() else Path.home() / fallback) / "recursor"
    except RuntimeError as error:
        raise ConfigError(f"this user has no home directory: set {variable}") from error
