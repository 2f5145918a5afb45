"""Arguments of a tool <-> bytes. Long texts and bytes among them stand apart, as they are.

The bytes are the JSON of `[args, [[name, value], ...]]` (see `values`), with None for each argument
that stands apart, and then those, one after another. `unpack` is safe on hostile bytes: it returns
arguments or raises ValueError, never anything else, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from . import values

APART = 1 << 12
"""Characters or bytes from which an argument stands apart."""
MOST_APART = 64
Place: TypeAlias = tuple[int | str, str, int]
"""Position or name of an argument that stands apart, the form of its bytes, and their number."""

_encode, _plain, _written = values.encode, values.plain, values.written


def pack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Place], bytes]:
    """Return where arguments stand apart, and the bytes of all.

    Raises:
        NotPlain: as in `values.encode`.
    """
    places: list[Place] = []
    apart: list[bytes] = []

    def said(key: int | str, value: Any) -> Any:
        if isinstance(value, str | bytes) and len(value) >= APART and len(places) < MOST_APART:
            form, data = _encode(value)
            places.append((key, form, len(data)))
            apart.append(data)
            return None
        return _plain(value, f"[{key!r}]")

    positional = [said(index, value) for index, value in enumerate(args)]
    named = [[name, said(name, value)] for name, value in kwargs.items()]
    return places, b"".join([_written([positional, named]), *apart])


def unpack(places: Sequence[Place], data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `pack` was given. Raises ValueError on anything else."""
    start = len(data) - sum(size for _, _, size in places)
    if start < 0:
        raise ValueError("fewer bytes than announced")
    positional, named = _arguments(values.decode("values", data[:start]))
    for key, form, size in places:
        if form not in ("text", "bytes"):
            raise ValueError(f"what stands apart is text or bytes, not {form!r}")
        value = values.decode(form, data[start : start + size])
        start += size
        if isinstance(key, str):
            named[key] = value
        elif 0 <= key < len(positional):
            positional[key] = value
        else:
            raise ValueError("an argument stands apart that has no place")
    return tuple(positional), named


def _arguments(said: Any) -> tuple[list[Any], dict[str, Any]]:
    match said:
        case [list(positional), list(pairs)]:
            named = {}
            for pair in pairs:
                match pair:
                    case [str(name), value]:
                        named[name] = value
                    case _:
                        raise ValueError("an argument without a name")
            return positional, named
    raise ValueError("not a list of arguments and one of named ones")
