"""Settings as one frozen tree: its keys, the types of their values, and what is wrong with one. Pure.

A key is a tuple of names, ("limits", "max_cost"); as text it is written as TOML has it, `limits.max_cost` or
`models."openai/gpt-5".temperature`. A table is a dataclass, or a mapping of names to dataclasses.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from recursor.config.settings import ModelSettings, Settings
from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.models.prices import Price
from recursor.plugins import nearest

Key: TypeAlias = tuple[str, ...]
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def parsed(text: str) -> Key:
    """Return the key that a person wrote. The name of a model may stand without quotation marks.

    Raises:
        ConfigError: it is no key.
    """
    key = _as_toml(text)
    if key is None or not _is_key(key):
        loose = re.fullmatch(r"(profiles\.[^.]+\.)?models\.(.+)", text)
        if loose:
            profile, rest = loose.groups()
            key = (*(profile.split(".")[:2] if profile else ()), "models", *_of_model(rest))
    if key is None:
        raise ConfigError(f"{text!r} is no key: write one as limits.max_cost")
    return key


def _of_model(text: str) -> Key:
    """A model, whose name may have dots, and what is set of it."""
    head, _, last = text.rpartition(".")
    if head.endswith(".price") and last in _types(Price):
        return (_unquoted(head.removesuffix(".price")), "price", last)
    # No field has a digit in its name, and what follows the last dot of a model's nearly always has.
    return (_unquoted(head), last) if head and re.fullmatch("[a-z_]+", last) else (_unquoted(text),)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def written(key: Key) -> str:
    """Return a key as TOML has it."""
    return ".".join(name if _BARE.fullmatch(name) else quoted(name) for name in key)


def quoted(text: str) -> str:
    """Return a TOML string. Raises ConfigError for what UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text!r} is not UTF-8") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def in_profile(key: Key) -> Key:
    """Return what a key means: of `profiles.cheap.model`, `model`.

    Raises:
        ConfigError: it is a profile itself, or a key that no profile has.
    """
    if key[0] != "profiles":
        return key
    if len(key) < 3:
        raise ConfigError(f"{written(key)} is a table of settings: name one of them, as profiles.cheap.model")
    if key[2] in ("profile", "profiles"):
        raise ConfigError(f"{written(key)}: a profile names no other one")
    return key[2:]


def rows(settings: Any, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every setting as key and value, in order; of named tables, what is set."""
    types = get_type_hints(type(settings))
    for each in fields(settings):
        value, key = getattr(settings, each.name), (*prefix, each.name)
        named = isinstance(value, Mapping) and _table(types[each.name])[1]
        if is_dataclass(value):
            yield from rows(value, key)
        elif named:
            for name, inner in value.items():
                yield from ((at, item) for at, item in rows(inner, (*key, name)) if item is not None)
        else:
            yield key, value


def leaves(
    table: Mapping[str, Any], origin: str, kind: Any = Settings, prefix: Key = ()
) -> Iterator[tuple[Key, Any]]:
    """Yield what a table of a file sets, by key.

    Raises:
        ConfigError: a key is unknown, or no table where one belongs.
    """
    types = _types(kind)
    for name, value in table.items():
        key = (*prefix, name)
        if name not in types:
            raise ConfigError(f"{origin}: {_unknown(key, kind)}")
        inner, named = _table(types[name])
        if inner is None:
            yield key, value
            continue
        for at, each in _tables(key, value, origin) if named else [(key, value)]:
            if not isinstance(each, dict):
                raise ConfigError(f"{origin}: {written(at)} must be a table, not {each!r}")
            yield from leaves(each, origin, inner, at)


def checked(key: Key, value: Any, origin: str) -> Any:
    """Return a value as the type of its key.

    Raises:
        ConfigError: the key is unknown, or the value is wrong.
    """
    kind, expected = kind_of(key, origin)
    try:
        converted = msgspec.convert(value, expected)
        if all(each.default is not MISSING or each.default_factory is not MISSING for each in fields(kind)):
            kind(**{key[-1]: converted})
    except msgspec.ValidationError as error:
        choices = _choices(expected)
        wanted = f"expected {' or '.join(map(repr, choices))}" if choices else _plainly(str(error))
        raise ConfigError(f"{origin}: {written(key)}: {wanted}, not {value!r}") from error
    except ConfigError as error:
        table = "" if kind in (Settings, Limits) else f"{written(key[:-1])}: "
        raise ConfigError(f"{origin}: {table}{error}") from error
    return converted


def kind_of(key: Key, origin: str = "") -> tuple[Any, Any]:
    """Return the dataclass that a key is a field of, and the type of its value.

    Raises:
        ConfigError: the key is unknown, or a table.
    """
    said = f"{origin}: " if origin else ""
    kind, expected = _found(key, said)
    if expected is None:
        raise ConfigError(
            f"{said}{written(key)} is a table: name one of its keys ({', '.join(_types(kind))})"
        )
    return kind, expected


def is_table(key: Key) -> bool:
    """Whether a key stands for a table, and not for a value. Raises ConfigError where it is unknown."""
    return _found(key, "")[1] is None


def built(values: Mapping[Key, Any], kind: Any = Settings, prefix: Key = ()) -> Any:
    """Return a dataclass of values that were checked.

    Raises:
        ConfigError: a value is missing, or two do not go together.
    """
    given: dict[str, Any] = {}
    for name, expected in _types(kind).items():
        below = {key[1:]: value for key, value in values.items() if key[0] == name}
        inner, named = _table(expected)
        if not below:
            continue
        if inner is None:
            given[name] = below[()]
        elif named:
            given[name] = {
                each: built({key[1:]: value for key, value in below.items() if key[0] == each}, inner,
                            (*prefix, name, each))
                for each in dict.fromkeys(key[0] for key in below)
            }  # fmt: skip
        else:
            given[name] = built(below, inner, (*prefix, name))
    missing = [
        each.name for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING and each.name not in given
    ]  # fmt: skip
    if missing:
        raise ConfigError(f"[{written(prefix)}] needs {' and '.join(missing)}")
    return kind(**given)


def every_key(kind: Any = Settings, prefix: Key = ()) -> Iterator[Key]:
    """Yield every key that there is; "*" stands for the name of a model, or another that is the user's."""
    for name, expected in _types(kind).items():
        inner, named = _table(expected)
        if inner is None:
            yield (*prefix, name)
        else:
            yield from every_key(inner, (*prefix, name, *(["*"] if named else [])))


def _found(key: Key, said: str) -> tuple[Any, Any]:
    """As `kind_of`; of a table, its dataclass and None."""
    kind: Any = Settings
    at = 0
    while at < len(key):
        types = _types(kind)
        if key[at] not in types:
            raise ConfigError(said + _unknown(key[: at + 1], kind))
        inner, named = _table(types[key[at]])
        if inner is None:
            if at + 1 < len(key):
                raise ConfigError(f"{said}{written(key[: at + 1])} is no table: it has no {key[at + 1]!r}")
            return kind, types[key[at]]
        at += 2 if named else 1
        kind = inner
    return kind, None


def _as_toml(text: str) -> Key | None:
    try:
        found: Any = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return None
    names: list[str] = []
    while isinstance(found, dict):
        if len(found) != 1:
            return None
        ((name, found),) = found.items()
        names.append(name)
    return tuple(names)


def _is_key(key: Key) -> bool:
    try:
        kind_of(in_profile(key))
    except ConfigError:
        return False
    return True


def _unknown(key: Key, kind: Any) -> str:
    hint = "; a further field of each request goes into extra_body" if kind is ModelSettings else ""
    return f"unknown key {written(key)!r}{nearest(key[-1], _types(kind))}{hint}"


def _tables(key: Key, value: Any, origin: str) -> Iterable[tuple[Key, Any]]:
    if not isinstance(value, dict):
        raise ConfigError(f"{origin}: {written(key)} must be a table, not {value!r}")
    for name, inner in value.items():
        if not name.strip() or inner == {}:
            raise ConfigError(f"{origin}: [{written((*key, name))}] has no {'settings' if name else 'name'}")
        yield (*key, name), inner


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@functools.cache
def _table(expected: Any) -> tuple[Any, bool]:
    """Of a type: the dataclass that it is, None where it is a value; and whether it maps names to such."""
    for kind in (expected, *get_args(expected)):
        if is_dataclass(kind):
            return kind, get_origin(expected) is Mapping
    return None, False


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
