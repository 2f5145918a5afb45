"""How values look to a person, in few words and bounded work, whatever they are.

Built-in types are read past what a subclass says of itself, and no `__repr__` of a model's is called:
an object of another class is shown by its name and its attributes.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from .contexts import kind_of
from .images import Image
from .lazy import Lazy
from .text import Text

MAX_TYPE = 100
MAX_SIZE = 60
MAX_PREVIEW = 200
_MARGIN = 24
"""Characters that the count of what is left out takes."""
_ITEM = 80
"""Characters of an item within another value."""
_PRINTED = frozenset({"datetime", "decimal", "uuid", "pathlib", "re"})
"""Modules of the standard library whose values print themselves in few words."""
_SHAPED = frozenset({"numpy", "pandas", "polars", "torch"})
"""Packages whose values have a `shape`."""
_WORDS: tuple[tuple[type, str, Callable[[Any], int]], ...] = (
    (str, "character", str.__len__),
    (list, "item", list.__len__),
    (dict, "key", dict.__len__),
    (tuple, "item", tuple.__len__),
    (set, "item", set.__len__),
    (bytes, "byte", bytes.__len__),
    (frozenset, "item", frozenset.__len__),
    (deque, "item", deque.__len__),
    (bytearray, "byte", bytearray.__len__),
)
_SINGLE = frozenset({float, complex, bool, type(None), type(Ellipsis), Image})
_BASES: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_ATTRIBUTES: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_NAME: Callable[[type], str] = type.__dict__["__name__"].__get__


def describe(value: Any) -> tuple[str, str, str]:
    """Return type, size ("21,256 characters"; empty for what has none) and preview of any value."""
    kind = _guarded(kind_of, value)
    size, preview = _guarded(_size, value), _guarded(brief, value, MAX_PREVIEW - _MARGIN)
    return clipped(kind, MAX_TYPE), clipped(size, MAX_SIZE), clipped(preview, MAX_PREVIEW)


def _guarded(function: Callable[..., str], *arguments: Any) -> str:
    try:
        return function(*arguments)
    except BaseException:  # noqa: BLE001 - a class of the model's may do anything, and leave with any of them
        return ""


def clipped(text: str, limit: int) -> str:
    """The beginning of a text, in characters that any encoding takes."""
    printable = text[: limit + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= limit else printable[: limit - 1] + "\u2026"


def length_of(value: Any) -> tuple[int, str]:
    """Length and unit of a built-in container, or one derived from it; 0 and "" for all else."""
    kind = type(value)
    for base, unit, length in _WORDS:
        if kind is base or issubclass(kind, base):
            return length(value), unit
    return 0, ""


def state_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object, where they are an ordinary dict, and no property of its class is."""
    for base in _BASES(type(value)):
        descriptor = _ATTRIBUTES(base).get("__dict__")
        if descriptor is not None:
            if type(descriptor) not in (types.GetSetDescriptorType, types.MemberDescriptorType):
                return None
            found = descriptor.__get__(value)
            return found if type(found) is dict else None
    return None


def brief(value: Any, room: int, depth: int = 2) -> str:
    """How a value prints, in about `room` characters, and to some depth."""
    kind = type(value)
    if kind in _SINGLE or _package(kind) in _PRINTED:
        return repr(value)
    if kind is int or kind is range or _package(kind) == "fractions":
        return _brief_integers(value, kind)
    if kind is Text or issubclass(kind, str | bytes | bytearray):
        return _brief_text(value, room)
    for base, signs in ((list, "[]"), (tuple, "()"), (set, "{}"), (frozenset, "{}"), (deque, "[]")):
        if issubclass(kind, base):
            return _brief_items(value, base, signs, room, depth)
    if issubclass(kind, dict):
        return _brief_dict(value, room, depth)
    return _named(value, kind) or _brief_object(value, kind, room, depth)


def _size(value: Any) -> str:
    length, unit = (len(value), "character") if type(value) is Text else length_of(value)
    if unit:
        return f"{length:,} {unit}{'' if length == 1 else 's'}"
    shape = getattr(value, "shape", None) if _package(type(value)) in _SHAPED else None
    return " x ".join(f"{side:,}" for side in shape) if type(shape) is tuple else ""


def _package(kind: type) -> str:
    """Where a class was defined; empty unless it is found there, since any class may say any module."""
    attributes = _ATTRIBUTES(kind)
    module = attributes.get("__module__") or type.__getattribute__(kind, "__module__")
    if type(module) is not str or type(sys.modules.get(module)) is not types.ModuleType:
        return ""
    found = (state_of(sys.modules[module]) or {}).get(_NAME(kind))
    return module.partition(".")[0] if found is kind else ""


def _brief_integers(value: Any, kind: type) -> str:
    """An int, or what consists of some: `repr` takes time that grows with the square of their digits."""
    if kind is int:
        bits = value.bit_length()
        return repr(value) if bits <= MAX_PREVIEW else f"<an integer of {bits:,} bits>"
    if kind is range:
        return f"range({', '.join(_brief_integers(each, int) for each in (value.start, value.stop, value.step))})"
    return f"{_brief_integers(value.numerator, int)}/{_brief_integers(value.denominator, int)}"


def _brief_text(value: Any, room: int) -> str:
    base: Any = next((base for base in (str, bytes, bytearray) if issubclass(type(value), base)), Text)
    length = base.__len__(value)
    if length <= room:
        return repr(base.__getitem__(value, slice(0, length)))
    head, tail = room * 2 // 3, room // 5
    ends = slice(head), slice(length - tail, length)
    return " ... ".join(repr(base.__getitem__(value, end)) for end in ends)


def _brief_items(value: Any, base: Any, signs: str, room: int, depth: int) -> str:
    length = base.__len__(value)
    if length and not depth:
        return f"{kind_of(value)} of {length:,}"
    shown: list[str] = []
    for item in base.__iter__(value):
        if room < 8:
            break
        shown.append(_guarded(brief, item, min(room, _ITEM), depth - 1))
        room -= len(shown[-1]) + 2
    inner = ", ".join(shown) + ("," if base is tuple and length == 1 else "")
    inner = f"{signs[0]}{inner}{_more(length - len(shown))}{signs[1]}"
    plain = type(value) in (list, tuple) or (type(value) is set and length)
    return inner if plain else f"{kind_of(value)}({inner if length else ''})"


def _brief_dict(value: Any, room: int, depth: int) -> str:
    length = dict.__len__(value)
    if isinstance(value, Lazy):
        names = ", ".join(brief(name, _ITEM) for name in itertools.islice(dict.__iter__(value), 3))
        return f"{names}{', ...' if length > 3 else ''}"
    if length and not depth:
        return f"{kind_of(value)} of {length:,}"
    inner = f"{{{_brief_pairs(value, lambda key: _guarded(brief, key, 40, 0) + ': ', room, depth)}}}"
    return inner if type(value) is dict else f"{kind_of(value)}({inner})"


def _brief_pairs(items: dict[Any, Any], key_of: Callable[[Any], str], room: int, depth: int) -> str:
    shown: list[str] = []
    for key, item in dict.items(items):
        if room < 8:
            break
        shown.append(key_of(key)[:60] + _guarded(brief, item, min(room, _ITEM), depth - 1))
        room -= len(shown[-1]) + 2
    return ", ".join(shown) + _more(dict.__len__(items) - len(shown))


def _more(count: int) -> str:
    return f", ... {count:,} more" if count else ""


def _named(value: Any, kind: type) -> str:
    """What says all by its name; empty for what does not."""
    if issubclass(kind, type):
        return f"<class {_plain(_NAME(value))}>"
    if issubclass(kind, types.ModuleType):
        return f"<module {_plain((state_of(value) or {}).get('__name__'))!r}>"
    if kind in (types.FunctionType, types.BuiltinFunctionType):
        return f"<function {_plain(value.__name__)}>"
    return ""


def _plain(name: Any) -> str:
    """A name, read past what a class of the model's makes of text."""
    return str.__str__(name) if isinstance(name, str) else "?"


def _brief_object(value: Any, kind: type, room: int, depth: int) -> str:
    if issubclass(kind, BaseException):
        return kind_of(value) + brief(BaseException.__dict__["args"].__get__(value), room, 1)
    state = None if _package(kind) in _SHAPED else state_of(value)
    if state is None or not depth:
        return f"<{kind_of(value)}>"
    inner = _brief_pairs(state, lambda key: f"{key}=" if type(key) is str else "?=", room, depth)
    return f"{kind_of(value)}({inner})"
