"""What a block did to the variables of the REPL: for who looks at a run, not for the model.

What it cannot see:
- a change deep inside: of what is in the items of a container, or in the attributes of an object, only the
  length counts;
- a change in the middle of a container of more than `SAMPLE` items that keeps its length;
- a change inside of a container, but for its length, when those before it have used up `WORK`;
- a new value at the address of the one before it, with the same length and ends;
- keys that others have taken the place of, but for the last;
- anything, while there are more than `MANY` variables.
A variable that is bound anew to an equal small value is not changed.
"""

from __future__ import annotations

import itertools
import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from .previews import clipped, describe, length_of, state_of

MOST = 50
"""Variables that are told of after a block; of the others the number."""
MANY = 10_000
"""Variables beyond which none is looked at: a block must not take longer for it."""
MAX_NAME = 100
SAMPLE = 16
"""Items of a container that are compared."""
WORK = 4096
"""Items that are compared after a block."""
SMALL = 256
"""Characters or bytes up to which a value is held, to be compared."""
_ENDS = 32
_SCALARS = frozenset({int, float, complex, bool, type(None)})
_SIZED = frozenset({str, bytes, bytearray, list, tuple, dict, set, frozenset, deque})
_PLAIN = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
"""What only another one in its place changes."""
_Mark: TypeAlias = tuple[Any, ...]
"""(value,) of a small one; else (address, length, a sample of what is inside)."""


class Variables:
    """Remembers what variables were, to say what became of them."""

    def __init__(self) -> None:
        self._seen: dict[str, _Mark] = {}

    def changes(self, variables: Mapping[Any, Any]) -> dict[str, Any]:
        """Compare with what was there at the last call.

        Returns:
            {} where nothing differs; else {"variables": [[name, type, size, preview, "new" | "changed" |
            "gone"], ...] of the first `MOST` that do, "more_variables": how many others}.
        """
        if len(variables) > MANY:
            return {}
        found: list[list[str]] = []
        more, work = 0, WORK
        seen = self._seen
        for name, value in list(variables.items()):
            before = seen.get(name)
            if (before is not None and before[0] is value and len(before) == 1) or type(name) is not str:
                continue
            try:
                now = _mark(value, work, before)
            except BaseException:  # noqa: BLE001 - a class of the model's may do anything
                now = id(value), 0, None
            work -= len(now[2] or ()) if len(now) == 3 else 0
            seen[name] = now
            if before is not None and _same(before, now):
                continue
            if len(found) < MOST:
                found.append([clipped(name, MAX_NAME), *describe(value), "changed" if before else "new"])
            else:
                more += 1
        if len(seen) > len(variables):
            gone = [name for name in seen if name not in variables]
            for name in gone:
                del seen[name]
            room = MOST - len(found)
            found += [[clipped(name, MAX_NAME), "", "", "", "gone"] for name in gone[:room]]
            more += len(gone[room:])
        return {"variables": found, "more_variables": more} if found else {}


def _same(before: _Mark, now: _Mark) -> bool:
    if len(before) == 1 and len(now) == 1:
        return type(before[0]) is type(now[0]) and bool(before[0] == now[0])
    if len(before) == 3 == len(now) and None in (before[2], now[2]):  # one was not looked into
        return before[:2] == now[:2]
    return before == now


def _mark(value: Any, work: int, before: _Mark | None) -> _Mark:
    """What to compare a value by; asks nothing of a class that the model wrote."""
    kind = type(value)
    if kind in _SCALARS:
        return (value,)
    if kind is str or kind is bytes:
        length = len(value)
        if length <= SMALL:
            return (value,)
        middle = length // 2
        ends = value[:_ENDS], value[middle : middle + _ENDS], value[-_ENDS:]
        return id(value), length, (hash(ends),)
    length = length_of(value)[0]
    if work > 0:
        return id(value), length, _sampled(value, kind, length)
    kept = before[2] if before is not None and before[:2] == (id(value), length) else None
    return id(value), length, kept


def _sampled(value: Any, kind: type, length: int) -> _Mark | None:
    """What some items are, the first and the last among them; None for what has none."""
    if kind is list or kind is tuple or issubclass(kind, list | tuple):
        base: Any = list if issubclass(kind, list) else tuple
        if length <= SAMPLE:
            return _glances(base.__iter__(value))
        third = SAMPLE // 3
        steps = slice(third), slice(third, -third, length // third), slice(-third, None)
        return _glances(itertools.chain.from_iterable(base.__getitem__(value, step) for step in steps))
    if issubclass(kind, dict):
        return _sampled_dict(value, length)
    for base in (set, frozenset, deque):
        if issubclass(kind, base):
            return _glances(itertools.islice(base.__iter__(value), SAMPLE))
    if issubclass(kind, bytearray):
        part = bytearray.__getitem__
        return bytes(part(value, slice(_ENDS))), bytes(part(value, slice(-_ENDS, None)))
    state = None if issubclass(kind, _PLAIN) else state_of(value)
    return None if state is None else _sampled_dict(state, len(state))


def _sampled_dict(value: dict[Any, Any], length: int) -> _Mark:
    if not length:
        return ()
    values: Any = dict.values(value)
    last = _glances([next(reversed(dict.keys(value)))])
    if length <= SAMPLE:
        return _glances(values) + last
    half = SAMPLE // 2
    return (
        _glances(itertools.islice(values, half)) + _glances(itertools.islice(reversed(values), half)) + last
    )


def _glances(items: Iterable[Any]) -> _Mark:
    """Numbers themselves; of all else the address, and the length where it has one."""
    return tuple([
        item if (kind := type(item)) in _SCALARS
        else (id(item), len(item)) if kind in _SIZED
        else id(item)
        for item in items
    ])  # fmt: skip
