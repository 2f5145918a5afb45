"""Settings in force: defaults, then the user's file, then a profile of it, then flags.

There is no file of a project: whoever wrote a repository must not say where data and keys are sent, nor how
code is held in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recursor.config import paths, tree
from recursor.config.settings import Settings, check_routes
from recursor.config.tree import Key
from recursor.errors import ConfigError
from recursor.plugins import nearest


@dataclass(frozen=True, slots=True)
class Config:
    """Settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted key -> "default", a file's path, a profile in it, or the flag."""
    profiles: tuple[str, ...] = ()
    """Those that the file has."""

    @property
    def store_path(self) -> Path:
        return Path(self.settings.store).expanduser() if self.settings.store else paths.default_store()


def load(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, profile: str | None = None
) -> Config:
    """Merge defaults, a file, a profile and flags.

    Args:
        file: settings to read; must exist. None reads the user's file where there is one.
        flags: dotted key -> value, {"limits.max_cost": 2.0}; one that is None was not given.
        profile: None takes the one that the file names, if it does.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, or a value is wrong.
    """
    path = file or paths.config_file()
    text = paths.read(path) if file or path.is_file() else ""
    return merged(text, path, flags or {}, profile)


def merged(
    text: str, path: Path, flags: Mapping[str, Any] | None = None, profile: str | None = None
) -> Config:
    """Return the settings that a file's text stands for; as `load`."""
    given = paths.table(text, path)
    profiles = _profiles(given.pop("profiles", {}), str(path))
    layers = {str(path): _layer(given, str(path))}
    named = profile or layers[str(path)].get(("profile",))
    values, origins = dict(layers[str(path)]), dict.fromkeys(layers[str(path)], str(path))
    if named is not None:
        if named not in profiles:
            raise ConfigError(f"{path}: unknown profile {named!r}{nearest(named, profiles)}")
        _lay(values, origins, profiles[named] | {("profile",): named}, f"profile {named} in {path}")
        origins["profile",] = "--profile" if profile else str(path)
    for name, value in (flags or {}).items():
        if value is not None:
            key, origin = tuple(name.split(".")), "--" + name.rpartition(".")[2].replace("_", "-")
            values[key], origins[key] = tree.checked(key, value, origin), origin
    try:
        settings: Settings = tree.built(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    told = dict.fromkeys((tree.written(key) for key, _ in tree.rows(settings)), "default")
    told |= {tree.written(key): origin for key, origin in origins.items()}
    check_routes(settings, told)
    return Config(settings, told, tuple(profiles))


def _layer(table: Mapping[str, Any], origin: str) -> dict[Key, Any]:
    return {key: tree.checked(key, value, origin) for key, value in tree.leaves(table, origin)}


def _profiles(table: Any, path: str) -> dict[str, dict[Key, Any]]:
    """Each profile of a file: one that is not used is checked, too."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: profiles must be a table, not {table!r}")
    found = {}
    for name, inner in table.items():
        where = f"{path}: {tree.written(('profiles', name))}"
        if not isinstance(inner, dict):
            raise ConfigError(f"{where} must be a table, not {inner!r}")
        if not name.strip():
            raise ConfigError(f"{where} has no name")
        found[name] = _layer(inner, where)
        if ("profile",) in found[name]:
            raise ConfigError(f"{where}: a profile names no other one")
    return found


def _lay(values: dict[Key, Any], origins: dict[Key, str], above: Mapping[Key, Any], origin: str) -> None:
    """Put one layer over what is below it. A model there replaces the routes that stood in its place."""
    if ("model",) in above and ("routes",) not in above:
        for name in ("routes", "allow"):
            values.pop((name,), None)
            origins.pop((name,), None)
    values.update(above)
    origins.update(dict.fromkeys(above, origin))
