"""Settings and secrets. The only module that reads files and environment variables for them.

Settings are one frozen tree: defaults, then the user's TOML file, then flags. Environment variables
hold secrets, never settings; beside those only the XDG directories and NO_COLOR are read. An unknown
key is an error, and so is a value of the wrong type. A secret never enters the tree: it is read when a
model is called, and no error and no report shows it.
"""

from __future__ import annotations

import inspect
import os
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from recursor import plugins
from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.models import presets
from recursor.plugins import nearest
from recursor.routing import Routes

COMMAND_SECONDS = 30
"""A password manager may ask a person; then it should still answer within this."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run uses unless a flag says otherwise."""

    model: str | None = None
    """The root LM, "openai/gpt-5". None looks for one: see `recursor.cli.endpoints`."""
    sub_model: str | None = None
    """The sub-LM; None is the root LM."""
    routes: tuple[dict[str, Any], ...] = ()
    """In place of both: [[routes]] tables, as `recursor.routing.Route` has fields."""
    allow: tuple[str, ...] = ()
    """With routes: further models that code may ask for by name."""
    base_url: str | None = None
    """Endpoint of the models; None is the one that the provider's name stands for."""
    sandbox: str = "process"
    dialect: str = "default"
    strategy: Literal["rlm", "direct", "auto"] = "rlm"
    """"direct" answers by one plain call, "auto" does so where the input is small."""
    cache: Literal["workspace"] | None = None
    """"workspace" takes replies that any run in the store was given to the same request."""
    record: bool = True
    """Whether runs are recorded in the store."""
    store: str | None = None
    """Path of the store; None is runs.db in the state directory."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Config:
    """Settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted key -> "default", a file's path, or the flag."""

    @property
    def store_path(self) -> Path:
        return Path(self.settings.store).expanduser() if self.settings.store else default_store()


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


def load(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """Merge defaults, a file and flags.

    Args:
        file: settings to read; must exist. None reads the user's file where there is one.
        flags: dotted key -> value, {"limits.max_cost": 2.0}; one that is None was not given.

    Raises:
        ConfigError: the file is missing or no TOML, a key is unknown, or a value is wrong.
    """
    path = file or config_file()
    given = _toml(path) if file or path.is_file() else {}
    layers = {str(path): dict(_leaves(given, Settings, str(path)))}
    for key, value in (flags or {}).items():
        if value is not None:
            layers["--" + key.rpartition(".")[2].replace("_", "-")] = {key: value}
    origins = {key: "default" for key, _ in rows(Settings())}
    tree: dict[str, Any] = {"limits": {}}
    for origin, values in layers.items():
        for key, value in values.items():
            table, _, name = key.rpartition(".")
            (tree[table] if table else tree)[name] = _checked(key, value, origin)
            origins[key] = origin
    limits = Limits(**tree.pop("limits"))
    settings = Settings(**tree, limits=limits)
    _check_routes(settings, origins)
    return Config(settings, origins)


def rows(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting as dotted key and value, in order."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from rows(value, f"{prefix}{each.name}.")
        else:
            yield prefix + each.name, value


def api_key(spec: str) -> str | None:
    """Return the key for a model, "openai/gpt-5"; None when the provider is unknown or none is set.

    Raises:
        ConfigError: as `secret` does.
    """
    provider = spec.partition("/")[0]
    preset = presets.PRESETS.get(provider)
    found = (secret(variable, provider) for variable in preset.keys) if preset else ()
    return next(filter(None, found), None)


def secret(variable: str, name: str = "") -> str | None:
    """Return a key: from the environment variable, else from the keys file.

    Args:
        variable: the environment variable, "OPENAI_API_KEY".
        name: the provider's name, which the keys file may use instead, "openai".

    Raises:
        ConfigError: the keys file may be read by others, or is damaged, or its command failed.
    """
    found = os.environ.get(variable, "").strip() if variable else ""
    if found:
        return found
    keys = _keys()
    for key in (variable, name):
        if key and key in keys:
            return _reveal(key, keys[key])
    return None


def sandbox(name: str, **arguments: Any) -> Any:
    """Make the sandbox that a name or an import path stands for, with its key where it takes one.

    Raises:
        ConfigError: nothing has that name, it does not take the arguments, or as `secret` does.
    """
    kind = plugins.load("recursor.sandboxes", name)
    unknown = arguments.keys() - inspect.signature(kind).parameters.keys()
    if unknown:
        raise ConfigError(f"the sandbox {name!r} takes no {', '.join(sorted(unknown))}")
    variable = getattr(kind, "key_variable", None)
    if variable:
        arguments["api_key"] = secret(variable, variable.removesuffix("_API_KEY").lower())
    return kind(**arguments)


def stored_keys() -> tuple[str, ...]:
    """Return the names in the keys file, never the values. Raises ConfigError as `secret` does."""
    return tuple(sorted(_keys()))


def in_environment(variable: str) -> bool:
    """Whether an environment variable holds something."""
    return bool(os.environ.get(variable, "").strip())


def _xdg(variable: str, fallback: str) -> Path:
    """A directory of ours. The XDG specification says to ignore a relative path."""
    base = Path(os.environ.get(variable) or "")
    try:
        return (base if base.is_absolute() else Path.home() / fallback) / "recursor"
    except RuntimeError as error:
        raise ConfigError(f"this user has no home directory: set {variable}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _leaves(table: Mapping[str, Any], kind: Any, origin: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    types = get_type_hints(kind)
    for name, value in table.items():
        if name not in types:
            raise ConfigError(f"{origin}: unknown key {prefix + name!r}{nearest(name, types)}")
        if not is_dataclass(types[name]):
            yield prefix + name, value
        elif isinstance(value, dict):
            yield from _leaves(value, types[name], origin, f"{prefix}{name}.")
        else:
            raise ConfigError(f"{origin}: {prefix + name} must be a table, not {value!r}")


def _checked(key: str, value: Any, origin: str) -> Any:
    table, _, name = key.rpartition(".")
    expected = get_type_hints(Limits if table else Settings)[name]
    try:
        converted = msgspec.convert(value, expected)
        if table:
            Limits(**{name: converted})
    except msgspec.ValidationError as error:
        choices = _choices(expected)
        wanted = f"expected {' or '.join(map(repr, choices))}" if choices else _plainly(str(error))
        raise ConfigError(f"{origin}: {key}: {wanted}, not {value!r}") from error
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return converted


def _check_routes(settings: Settings, origins: Mapping[str, str]) -> None:
    if settings.allow and not settings.routes:
        raise ConfigError(f"{origins['allow']}: allow goes with [[routes]], and there are none")
    if settings.routes:
        try:
            Routes.from_table({"routes": list(settings.routes), "allow": list(settings.allow)})
        except ConfigError as error:
            raise ConfigError(f"{origins['routes']}: {error}") from error


def _choices(expected: Any) -> tuple[Any, ...]:
    """The values that a Literal takes, alone or beside None; empty for another type."""
    for kind in (expected, *get_args(expected)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()


def _plainly(message: str) -> str:
    """A validator's sentence in the words of a TOML file."""
    message = message.replace(" | null", "").replace("Expected", "expected").partition(", got")[0]
    for ours, theirs in (("`int`", "a whole number"), ("`str`", "a string"), ("`bool`", "true or false"),
                         ("`float`", "a number"), ("`array`", "a list"), ("`object`", "a table")):  # fmt: skip
        message = message.replace(ours, theirs)
    return message


def _keys() -> dict[str, Any]:
    try:
        path = keys_file()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ConfigError):  # there is none
        return {}
    if mode & 0o077:
        raise ConfigError(
            f"{path} holds keys and may be read by others (mode {mode:04o}): "
            f"chmod 600 {shlex.quote(str(path))}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # its text may hold a piece of a key
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise ConfigError(f'{path}{where} is not TOML: write keys as openai = "..."') from None


def _reveal(name: str, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, dict) and set(value) == {"command"} and isinstance(value["command"], str):
        return _from_command(name, value["command"])
    raise ConfigError(f'{keys_file()}: {name} must be a string or {{command = "..."}}')


def _from_command(name: str, command: str) -> str:
    told = f"{keys_file()}: the command of {name}"
    try:
        arguments = shlex.split(command)
        done = subprocess.run(  # noqa: S603 - the user's own command, from a file only they can write
            arguments, stdout=subprocess.PIPE, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{told} cannot be run: {type(error).__name__}") from error
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{told} gave nothing within {COMMAND_SECONDS} s") from None
    if done.returncode or not done.stdout.strip():
        raise ConfigError(f"{told} failed with exit code {done.returncode} and printed nothing to use")
    return done.stdout.strip().splitlines()[0].strip()
