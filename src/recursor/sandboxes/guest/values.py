"""Plain Python values <-> bytes, exactly, without pickle.

A value is None, bool, int of any size, float (NaN and infinities too), complex, str (lone
surrogates too), bytes, list, tuple, dict with any plain keys, set, frozenset, or a date, time,
datetime, timedelta, Decimal or Fraction, or a picture; nested to `MAX_DEPTH`. It comes back equal and of the
same type (a subclass comes back as the plain type below it).

The bytes are either of three forms: "text" (UTF-8, surrogates allowed), "bytes", or "values": JSON
in which everything that JSON lacks is an object with the single key "$". `decode` is safe on
hostile bytes: it returns a value or raises ValueError, never anything else, in bounded memory.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

from .images import Image

MAX_DEPTH = 200
MAX_CONTAINERS = 3_000_000
MAX_ITEMS = 20_000_000
MAX_BYTES = 1 << 29
MAX_VALUES_BYTES = 1 << 26
"""For the form "values", which takes many times its bytes in memory."""
MAX_DIGITS = 4300
"""Python's own bound on the digits of an int that it prints. The halves of a fraction have no more either, nor has
what a Decimal stands for: whoever makes an int of 1e999999999 is busy for hours."""
HASHING = 2.0
"""Seconds within which a set or a dict must be built: hostile keys may all collide."""
PIECE = 1 << 12
"""Items of a long list or dict that `pieces` encodes at once."""
T = TypeVar("T")
A_PICTURE = b'{"$": ["image", "'
"""What stands in the form "values" where a picture is, and nowhere else."""
_SMALL_INT = 1 << 53
_TOO_LONG = 10**MAX_DIGITS
_dumps = json.dumps
_loads = json.JSONDecoder().decode
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')


class NotPlain(TypeError):
    """The value holds something that cannot leave the REPL; the text says what and where."""

    __module__ = "builtins"  # a traceback then shows the bare name


def encode(value: Any) -> tuple[str, bytes]:
    """Return (form, bytes).

    Raises:
        NotPlain: an unknown type, a cycle, or too deep; named with its path, as in `answer["x"][3]`.
    """
    if value is None:
        return "values", b"null"
    if isinstance(value, str):
        return "text", str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray | memoryview) and not isinstance(value, Image):
        return "bytes", bytes(value)
    return "values", written(_plain(value, [], set()))


def plain(value: Any, place: str) -> Any:
    """Return what JSON can hold and what stands for the value. Raises NotPlain as `encode` does.

    Args:
        place: what follows "value" where the text names it, as in "[3]".
    """
    return value if type(value) in _AS_IS else _plain(value, [place], set())


def written(standing: Any) -> bytes:
    """Return the bytes of the form "values" of what stands for a value. Raises NotPlain when it is too much."""
    data = _dumps(standing).encode("ascii")
    problem = _too_much(data)
    if problem:
        raise NotPlain(f"the value has {problem}; return less of it, or one str")
    return data


def pieces(value: Any) -> list[bytes]:
    """Return the bytes of the form "values", whatever the type and without a bound on their number.

    Joined they are what `encode` returns for a list or a dict. A long one is encoded piece by piece.

    Raises:
        NotPlain: as in `encode`.
    """
    kind = type(value)
    if kind is list:
        parts = (_list_piece(value, start) for start in range(0, len(value), PIECE))
    elif kind is dict and not _needs_pairs(value):
        parts = (_dict_piece(items, id(value)) for items in _batches(value.items()))
    else:
        return [_dumps(_plain(value, [], set())).encode("ascii")]
    found = [part[1:-1].encode("ascii") for part in parts]
    separated = [piece for part in found for piece in (b", ", part)][1:]
    return [b"[" if kind is list else b"{", *separated, b"]" if kind is list else b"}"]


def decode(form: str, data: bytes | bytearray, *, bounded: bool = True) -> Any:
    """Return the value that `encode` was given. Raises ValueError on anything else.

    Args:
        bounded: whether the bytes may be hostile. A REPL, which has bounds of its own, says False.
    """
    if form == "text":
        return data.decode("utf-8", "surrogatepass")
    if form == "bytes":
        return bytes(data)
    if form != "values":
        raise ValueError(f"unknown form {form!r}")
    problem = _too_much(data) if bounded else ""
    if problem:
        raise ValueError(problem)
    try:
        return _revive(_loads(str(data, "utf-8")), 0, _in_time if bounded else iter)
    except (TypeError, KeyError, ArithmeticError, RecursionError, AttributeError) as error:
        raise ValueError(f"not an encoded value: {type(error).__name__}") from None


def _too_much(data: bytes | bytearray) -> str:
    """What makes the JSON too costly to hold; empty when nothing does."""
    if len(data) <= MAX_CONTAINERS:
        return ""
    if len(data) > MAX_VALUES_BYTES:
        return f"more than {MAX_VALUES_BYTES:,} bytes encoded"
    if data.count(b"{") + data.count(b"[") > MAX_CONTAINERS or data.count(b",") > MAX_ITEMS:
        outside = _STRINGS.sub(b"", data)
        if outside.count(b"{") + outside.count(b"[") > MAX_CONTAINERS:
            return f"more than {MAX_CONTAINERS:,} lists, dicts and the like"
        if outside.count(b",") > MAX_ITEMS:
            return f"more than {MAX_ITEMS:,} items"
    return ""


def _plain(value: Any, path: list[str], above: set[int]) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, int):
        number = int(value)
        if abs(number) >= _TOO_LONG:
            raise NotPlain(f"{_where(path)} is an int of more than {MAX_DIGITS:,} digits; return hex(value)")
        return number if -_SMALL_INT < number < _SMALL_INT else {"$": ["int", hex(number)]}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$": ["float", repr(float(value))]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        return _container(value, path, above)
    if isinstance(value, Decimal | Fraction) and _is_long(value):
        raise NotPlain(
            f"{_where(path)} is a {kind.__name__} of more than {MAX_DIGITS:,} digits; return str(value)"
        )
    for plain_type, name, write in _SCALARS:
        if isinstance(value, plain_type):
            return {"$": [name, write(value)]}
    raise NotPlain(
        f"{_where(path)} is of type {kind.__module__}.{kind.__qualname__}, which cannot leave the REPL; "
        f"convert it to plain values (str, numbers, list, dict, ...){_advice(value)}"
    )


def _container(value: Any, path: list[str], above: set[int]) -> Any:
    if id(value) in above:
        raise NotPlain(f"{_where(path)} contains itself; break the cycle before returning it")
    if len(path) >= MAX_DEPTH:
        raise NotPlain(f"{_where(path[:3])} is nested deeper than {MAX_DEPTH} levels; flatten it")
    above.add(id(value))
    try:
        if isinstance(value, dict):
            return _mapping(value, path, above)
        items: list[Any] = []
        append, scalar = items.append, _AS_IS
        for index, item in enumerate(value):
            if type(item) in scalar:
                append(item)
                continue
            path.append(f"[{index}]")
            append(_plain(item, path, above))
            path.pop()
    finally:
        above.discard(id(value))
    if isinstance(value, list):
        return items
    if isinstance(value, tuple):
        return {"$": ["tuple", items]}
    items.sort(key=None if all(type(item) is str for item in items) else _dumps)
    return {"$": ["frozenset" if isinstance(value, frozenset) else "set", items]}


def _mapping(value: dict[Any, Any], path: list[str], above: set[int]) -> Any:
    plain: dict[str, Any] = {}
    pairs: list[list[Any]] = []
    as_pairs = _needs_pairs(value)
    for key, item in value.items():
        path.append(f"[{_brief(key)}]")
        encoded = _plain(item, path, above)
        if as_pairs:
            pairs.append([_plain(key, path, above), encoded])
        else:
            plain[key] = encoded
        path.pop()
    return {"$": ["dict", pairs]} if as_pairs else plain


def _needs_pairs(value: dict[Any, Any]) -> bool:
    return "$" in value or any(type(key) is not str for key in value)


def _list_piece(value: list[Any], start: int) -> str:
    items = []
    for index, item in enumerate(value[start : start + PIECE], start):
        items.append(item if type(item) in _AS_IS else _plain(item, [f"[{index}]"], {id(value)}))
    return _dumps(items)


def _dict_piece(items: list[tuple[str, Any]], whole: int) -> str:
    return _dumps({key: _plain(item, [f"[{_brief(key)}]"], {whole}) for key, item in items})


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, PIECE)):
        yield batch


def _revive(value: Any, depth: int, timed: Callable[[Iterable[Any]], Iterator[Any]]) -> Any:
    if depth > 2 * MAX_DEPTH + 4:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return [item if type(item) in _AS_IS else _revive(item, depth + 1, timed) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: _revive(item, depth + 1, timed) for key, item in value.items()}
    if len(value) != 1:
        raise ValueError("a tagged value has one key")
    name, data = value["$"]
    if name == "dict":
        pairs = ((_revive(key, depth + 1, timed), _revive(item, depth + 1, timed)) for key, item in data)
        return dict(timed(pairs))
    if name in _COLLECTIONS:
        return _COLLECTIONS[name](timed(_revive(item, depth + 1, timed) for item in data))
    if not isinstance(data, str) or name not in _READERS:
        raise ValueError("an unknown tag")
    return _READERS[name](data)


def _in_time(items: Iterable[Any]) -> Iterator[Any]:
    """Pass items on; raise ValueError when who takes them needs too long."""
    deadline = monotonic() + HASHING
    for index, item in enumerate(items):
        if index % 500 == 499 and monotonic() > deadline:
            raise ValueError("its keys take too long to hash")
        yield item


def _where(path: list[str]) -> str:
    return "the value" if not path else "value" + "".join(path[:12]) + ("..." if len(path) > 12 else "")


def _brief(key: Any) -> str:
    text = repr(key) if isinstance(key, str | int | float | bool | tuple | None) else type(key).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _advice(value: Any) -> str:
    for method, call in (("tolist", ".tolist()"), ("to_dict", ".to_dict()"), ("isoformat", ".isoformat()")):
        if hasattr(type(value), method):
            return f", for instance with {call}"
    if hasattr(type(value), "keys"):
        return ", for instance with dict(value)"
    if hasattr(type(value), "__dataclass_fields__"):
        return ", for instance with dataclasses.asdict(value)"
    if hasattr(type(value), "__next__"):
        return ", for instance with list(value)"
    return ""


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("too many digits")
    number = int(text, 16)
    if abs(number) >= _TOO_LONG:
        raise ValueError("too many digits")
    return number


def _is_long(value: Decimal | Fraction) -> bool:
    if isinstance(value, Fraction):
        return bool(max(abs(value.numerator), value.denominator) >= _TOO_LONG)
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and max(abs(value.adjusted()), abs(exponent)) >= MAX_DIGITS


def _decimal(text: str) -> Decimal:
    value = Decimal(text[: 2 * MAX_DIGITS])
    if len(text) > 2 * MAX_DIGITS or _is_long(value):
        raise ValueError("too many digits")
    return value


def _aware(value: datetime | time) -> str:
    offset = value.utcoffset()
    zone = timezone(offset) if offset is not None else None
    return value.replace(tzinfo=zone).isoformat()


def _duration(text: str) -> timedelta:
    days, seconds, microseconds = (int(part) for part in text.split(","))
    return timedelta(days, seconds, microseconds)


def _ratio(text: str) -> Fraction:
    numerator, denominator = text.split("/")
    return Fraction(
        _integer(numerator), _integer(denominator)
    )  # which reduces it, in the square of its digits


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_AS_IS = frozenset({str, bool, type(None)})
_COLLECTIONS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS: list[tuple[Any, str, Callable[[Any], str]]] = [
    (Image, "image", lambda value: f"{base64.b64encode(bytes(value)).decode('ascii')} {value.source}"),
    ((bytes, bytearray, memoryview), "bytes", lambda value: base64.b64encode(bytes(value)).decode("ascii")),
    (datetime, "datetime", _aware),
    (date, "date", date.isoformat),
    (time, "time", _aware),
    (timedelta, "timedelta", lambda value: f"{value.days},{value.seconds},{value.microseconds}"),
    (Decimal, "decimal", str),
    (Fraction, "fraction", lambda value: f"{value.numerator:x}/{value.denominator:x}"),
    (complex, "complex", lambda value: f"{value.real!r},{value.imag!r}"),
]
_READERS: dict[str, Callable[[str], Any]] = {
    "int": _integer,
    "float": float,
    "bytes": _base64,
    "image": lambda text: Image(_base64(text.partition(" ")[0]), text.partition(" ")[2]),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": _duration,
    "decimal": _decimal,
    "fraction": _ratio,
    "complex": lambda text: complex(*(float(part) for part in text.split(","))),
}
