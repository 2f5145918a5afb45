"""Arguments of tools: they reach the host exactly, large ones without a detour, and hostile bytes are refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Bench
from recursor.sandboxes.guest.toolcalls import APART, MOST_APART, Place, pack, unpack
from recursor.types import ToolCall

_LONG = st.integers(APART - 1, APART + 1)
_ARGUMENTS = (
    st.none() | st.integers() | st.text(st.characters()) | st.binary() | st.tuples(st.booleans())
    | st.dictionaries(st.text(max_size=3) | st.just("$"), st.integers(), max_size=3)
    | st.builds(lambda size, last: "a" * size + last, _LONG, st.characters())
    | st.builds(lambda size: b"\xff" * size, _LONG)
)  # fmt: skip
_NAMED = st.dictionaries(st.text(st.characters(), max_size=5) | st.just("$"), _ARGUMENTS, max_size=4)


@given(st.lists(_ARGUMENTS, max_size=4), _NAMED)
def test_arguments_come_back_equal_and_of_their_types(args: list[Any], kwargs: dict[str, Any]) -> None:
    back, named = unpack(*pack(args, kwargs))
    assert (list(back), named) == (args, kwargs)
    assert list(map(type, [*back, *named.values()])) == list(map(type, [*args, *kwargs.values()]))


def test_more_long_arguments_than_may_stand_apart_come_back_too() -> None:
    args = ["x" * APART] * (MOST_APART + 2)
    places, data = pack(args, {"last": b"y" * APART})
    assert len(places) == MOST_APART
    assert unpack(places, data) == (tuple(args), {"last": b"y" * APART})


_SIZES = st.integers(0, 40)
_PLACES: st.SearchStrategy[Place] = st.tuples(
    st.integers(-3, 3) | st.text(max_size=2), st.sampled_from(["text", "bytes", "values", ""]), _SIZES
)
_BYTES = st.binary(max_size=40) | st.sampled_from(
    [b"[[null, 1], []]", b'[[], [["a", null]]]', b'[[], [["a"]]]', b"[[], [[1, 2]]]", b"[[]]", b"null\xff"]
)


@given(st.lists(_PLACES, max_size=4), _BYTES, st.binary(max_size=40))
def test_any_bytes_are_arguments_or_raise_value_error(places: list[Place], one: bytes, other: bytes) -> None:
    with suppress(ValueError):
        args, kwargs = unpack(places, one + other)
        assert isinstance(args, tuple)
        assert all(type(name) is str for name in kwargs)


@pytest.mark.parametrize("size", [10, APART, 1 << 20, (1 << 20) + 1, 5_000_000])
async def test_a_tool_gets_what_it_was_given_whatever_its_size(bench: Bench, size: int) -> None:
    code = f"lookup(1, b'\\xff' * {size}, more='\\u20ac' * {size}, end={{'$': (2,)}})"
    assert (await bench.run(code)).error is None
    (call,) = [call for call in bench.host.calls if isinstance(call, ToolCall)]
    assert call.args == (1, b"\xff" * size)
    assert call.kwargs == {"more": "\u20ac" * size, "end": {"$": (2,)}}
