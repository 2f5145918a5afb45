"""Keys of providers: found, and kept in a file that only the user can read.

No error and no report shows one. Beside the keys file there is the environment; nothing else is asked.
"""

from __future__ import annotations

import difflib
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from recursor import plugins
from recursor.config import edit, paths
from recursor.config.paths import keys_file
from recursor.errors import ConfigError
from recursor.models import presets
from recursor.tools import signature_of

KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    **{name: preset.keys for name, preset in presets.PRESETS.items() if preset.keys},
    **{name: (f"{name.upper()}_API_KEY",) for name in ("e2b", "daytona", "prime")},
}
"""Provider, or sandbox, -> the environment variables of its key."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
COMMAND_SECONDS = 30
"""A password manager may ask a person; then it should still answer within this."""


def api_key(spec: str) -> str | None:
    """Return the key for a model, "openai/gpt-5"; None when the provider is unknown or none is set.

    Raises:
        ConfigError: as `secret` does.
    """
    provider = spec.partition("/")[0]
    preset = presets.PRESETS.get(provider)
    return _first((*preset.keys, provider)) if preset else None


def secret(variable: str, name: str = "") -> str | None:
    """Return a key: from the environment variable, else from the keys file.

    Args:
        variable: the environment variable, "OPENAI_API_KEY".
        name: the provider's name, which the keys file may use instead, "openai".

    Raises:
        ConfigError: the keys file may be read by others, or is damaged, or its command failed.
    """
    return _first((variable, name))


def _first(names: Sequence[str]) -> str | None:
    """The first that the environment has under these names, else the first that the file has."""
    for name in names:
        found = paths.from_environment(name) if _VARIABLE.fullmatch(name) else ""
        if found:
            return found
    keys = _keys()
    return next((_reveal(name, keys[name]) for name in names if name in keys), None)


def sandbox(name: str, **arguments: Any) -> Any:
    """Make the sandbox that a name or an import path stands for, with its key where it takes one.

    Raises:
        ConfigError: nothing has that name, it does not take the arguments, or as `secret` does.
    """
    kind = plugins.load("recursor.sandboxes", name)
    unknown = arguments.keys() - signature_of(kind).parameters.keys()
    if unknown:
        raise ConfigError(f"the sandbox {name!r} takes no {', '.join(sorted(unknown))}")
    variable = getattr(kind, "key_variable", None)
    if variable:
        arguments["api_key"] = secret(variable, variable.removesuffix("_API_KEY").lower())
    return kind(**arguments)


def stored_keys() -> tuple[str, ...]:
    """Return the names in the keys file, never the values. Raises ConfigError as `secret` does."""
    return tuple(sorted(_keys()))


def by_command(name: str) -> bool:
    """Whether the keys file has a command under a name, not a key."""
    return isinstance(_keys().get(name), dict)


def names_of(name: str) -> tuple[str, ...]:
    """Return what the keys file may call one key: the provider's name and its variables.

    Args:
        name: any of them; that of an environment variable that no provider has stands for itself.

    Raises:
        ConfigError: nothing has such a name.
    """
    for provider, variables in KNOWN.items():
        if name == provider or name in variables:
            return (provider, *variables)
    every = [*KNOWN, *(each for variables in KNOWN.values() for each in variables)]
    close = difflib.get_close_matches(name, every, 1, 0.85)
    if close or not _VARIABLE.fullmatch(name):
        hint = f"; did you mean {close[0]!r}?" if close else ""
        said = repr(name) if re.fullmatch(r"\w{1,24}", name) else "that"  # it may be the key itself
        raise ConfigError(
            f"no provider is called {said}{hint} (known: {', '.join(sorted(KNOWN))}; "
            "or the name of an environment variable, MY_SERVER_KEY)"
        )
    return (name,)


def keep(name: str, key: str | None = None, *, command: str | None = None) -> None:
    """Put a key, or a command that prints it, into the keys file, in place of what it has under any of its names.

    Raises:
        ConfigError: nothing has such a name, no header could hold such a key, or as `secret` does.
    """
    names = names_of(name)
    if command is not None:
        try:
            sound = bool(shlex.split(command))
        except ValueError:
            sound = False
        if not sound:
            raise ConfigError("the command is empty, or its quotation marks do not match")
    elif not key or not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError("that is no key: it is empty, or holds blanks or characters that are not ASCII")
    stored: Any = key if command is None else {"command": command}
    path = keys_file()
    with paths.changing(path):
        kept = _keys()
        text = paths.read(path) if path.exists() else ""
        for other in names:
            if other in kept and other != names[0]:
                text = edit.take(text, (other,))
        paths.replace(path, edit.put(text, (names[0],), stored), mode=0o600)


def drop(name: str) -> None:
    """Take a key out of the keys file, whichever of its names it has there.

    Raises:
        ConfigError: it is not there, or as `secret` does.
    """
    path = keys_file()
    with paths.changing(path):
        kept = _keys()
        names = (name,) if name in kept else names_of(name)
        there = [other for other in names if other in kept]
        if not there:
            raise ConfigError(f"there is no key of {name} in {path} (there are: {', '.join(kept) or 'none'})")
        text = paths.read(path)
        for other in there:
            text = edit.take(text, (other,))
        paths.replace(path, text, mode=0o600)


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
        why = (
            getattr(error, "strerror", None) or "it is no command"
        )  # without the command, which may hold a secret
        raise ConfigError(f"{told} cannot be run: {why}") from error
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{told} gave nothing within {COMMAND_SECONDS} s") from None
    if done.returncode or not done.stdout.strip():
        raise ConfigError(f"{told} failed with exit code {done.returncode} and printed nothing to use")
    return done.stdout.strip().splitlines()[0].strip()
