"""Who clients are: a file with the hashes of their keys, and what each may use.

    [alice]
    key = "sha256:5e88..."
    requests_per_minute = 60
    max_runs = 4
    max_cost_per_day = 5.00
    max_cost = 100.00
    metrics = true

A key has 256 random bits, so that nobody finds it by trying, however fast the hash is: what a slow hash is for,
passwords that people choose, does not arise, and each request is checked in a microsecond.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from recursor.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client, and its bounds; None is none."""

    key: str = ""
    """The hash of its key."""
    requests_per_minute: int | None = None
    max_runs: int | None = None
    """At work at once."""
    max_cost_per_day: float | None = None
    """US dollars, from midnight to midnight UTC."""
    max_cost: float | None = None
    """US dollars, for ever."""
    metrics: bool = False
    """Whether it may read /metrics, which name all clients."""
    name: str = ""

    @property
    def has_budget(self) -> bool:
        return self.max_cost is not None or self.max_cost_per_day is not None


ANYBODY = Client(name="anybody", metrics=True)
"""Who asks a server without keys."""


class Keys:
    """The clients of a file, which is read again when it was changed: a key that is taken out opens nothing any more.

    Raises:
        ConfigError: the file cannot be read, or says what it may not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)
        self._clients = read(path)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def client(self, key: str) -> Client | None:
        """Who has a key; None when nobody does."""
        self._look()
        return self._clients.get(hashed(key))

    def _look(self) -> None:
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        try:
            self._clients = read(self.path)
        except ConfigError:
            self._clients = {}  # a file that is gone or broken lets nobody in
        self._stamp = stamp


def read(path: Path) -> dict[str, Client]:
    """The clients of a file by the hashes of their keys. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file of keys at {path}: `recursor serve --key-file {path} --add-key NAME` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the keys in {path}: {error}") from error
    found: dict[str, Client] = {}
    for name, row in table.items():
        try:
            client = msgspec.convert({**row, "name": name} if isinstance(row, dict) else row, Client)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: [{name}]: {error}") from None
        if not NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name!r} is no name: letters, digits, _ and -, 64 at most")
        if not HASH.fullmatch(client.key):
            raise ConfigError(f'{path}: [{name}] needs key = "sha256:...", as --add-key writes it')
        bounds = (client.requests_per_minute, client.max_runs, client.max_cost_per_day, client.max_cost)
        if any(bound is not None and not 0 < bound < float("inf") for bound in bounds):
            raise ConfigError(f"{path}: [{name}]: a bound must be above 0")
        if client.key in found:
            raise ConfigError(f"{path}: {found[client.key].name} and {name} have one key")
        found[client.key] = client
    if not found:
        raise ConfigError(f"{path} holds no key: make one with --add-key NAME")
    return found


def add(path: Path, name: str) -> str:
    """Make a key and put its hash into a file, which is made when it is not there. Return the key: nothing keeps it.

    Raises:
        ConfigError: the name is taken or none, or the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a key: letters, digits, _ and -, 64 at most")
    if path.exists() and path.stat().st_size and any(each.name == name for each in read(path).values()):
        raise ConfigError(f"{path} has a key for {name} already")
    key = f"rk-{secrets.token_urlsafe(32)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "a", encoding="utf-8") as file:  # noqa: PTH123 - Path takes no descriptor
            file.write(f'\n[{name}]\nkey = "{hashed(key)}"\n')
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return key


def oldest_of_most(names: Sequence[str]) -> int:
    """Of what clients have, by their names and oldest first: the place of the oldest of the client that has the most.

    So what one client asks for takes nothing from another that has less.
    """
    return names.index(Counter(names).most_common(1)[0][0])


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
