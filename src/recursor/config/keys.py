"""Keys of providers: found, and kept in a file that only the user can read.

No error and no report shows one. Beside the keys file there is the environment; nothing else is asked.
"""

from __future__ import annotations

import inspect
import shlex
import stat
import subprocess
import tomllib
from typing import Any

from recursor import plugins
from recursor.config import paths
from recursor.config.paths import keys_file
from recursor.errors import ConfigError
from recursor.models import presets

COMMAND_SECONDS = 30
"""A password manager may ask a person; then it should still answer within this."""


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
    found = paths.from_environment(variable)
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
