"""Values leave a REPL and enter it exactly, and hostile bytes are refused."""

from __future__ import annotations

import json
import math
import random
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recursor.sandboxes.guest.values import MAX_DEPTH, NotPlain, decode, encode

_ANY_TEXT = st.text(st.characters())
_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _ANY_TEXT | st.binary()
    | st.dates() | st.times() | st.datetimes() | st.timedeltas() | st.decimals(allow_nan=False)
    | st.fractions() | st.complex_numbers(allow_nan=False)
)  # fmt: skip
_KEYS = st.none() | st.integers() | _ANY_TEXT | st.tuples(st.integers(), _ANY_TEXT)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(_KEYS, inner) | st.sets(_KEYS),
    max_leaves=20,
)


@given(_VALUES)
def test_a_plain_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    back = decode(*encode(value))
    assert back == value
    assert type(back) is type(value)


@given(st.sampled_from(["text", "bytes", "values", "pickle", ""]), st.binary() | st.text().map(str.encode))
def test_any_bytes_decode_or_raise_value_error(form: str, data: bytes) -> None:
    with suppress(ValueError):
        decode(form, data)


_TAGS = ["set", "dict", "int", "float", "decimal", "datetime", "fraction", "complex", "x"]
_HOSTILE = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(_TAGS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$", "a"]), inner),
)


@given(_HOSTILE)
def test_any_json_decodes_or_raises_value_error(value: Any) -> None:
    with suppress(ValueError):
        decode("values", json.dumps(value).encode())


def test_what_json_lacks_survives() -> None:
    value = {
        1: (2**70, -(2**200)), "$": [math.inf, -math.inf], "when": [datetime.now(UTC), date.min, time.max, timedelta(3, 4, 5)],
        "money": Decimal("1.10"), "part": Fraction(1, 3), "raw": b"\0\xff", "set": {1, (2, "3")}, "lone": "\ud800",
    }  # fmt: skip
    assert decode(*encode(value)) == value
    assert math.isnan(decode(*encode(math.nan)))


def test_subclasses_become_the_plain_type_below() -> None:
    Point = namedtuple("Point", "x y")

    class Word(str):
        pass

    back = decode(*encode([Point(1, 2), Word("a"), True]))
    assert back == [(1, 2), "a", True]
    assert [type(item) for item in back] == [tuple, str, bool]


@dataclass
class Foreign:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, Foreign(1)]}, r"value\['a'\]\[1\] is of type .*Foreign.*dataclasses\.asdict"),
        ((n for n in "ab"), r"generator.*list\(value\)"),
        (len, "builtin_function_or_method"),
    ],
)
def test_what_cannot_leave_is_named_with_its_place(value: Any, text: str) -> None:
    with pytest.raises(NotPlain, match=text):
        encode(value)


def test_a_fraction_that_would_take_minutes_to_reduce_is_refused_on_both_sides() -> None:
    with pytest.raises(NotPlain, match=r"value\['part'\] is a Fraction of more than 4,300 digits"):
        encode({"part": Fraction(3**10_000, 7)})
    halves = "/".join("1" + random.Random(seed).randbytes(1 << 20).hex() for seed in (1, 2))
    with pytest.raises(ValueError, match="too many digits"):
        decode("values", json.dumps({"$": ["fraction", halves]}).encode())
    large = Fraction(2**14_000, 3**8_000)
    assert decode(*encode(large)) == large


@pytest.mark.parametrize(
    "text", ["1e999999999", "-1E-999999999", "1e4300", f"0.{'7' * 4300}", f"{'7' * 4301}"]
)
def test_a_decimal_that_stands_for_too_many_digits_is_refused_on_both_sides(text: str) -> None:
    with pytest.raises(NotPlain, match=r"value\[1\] is a Decimal of more than 4,300 digits; return str"):
        encode([1, Decimal(text)])
    with pytest.raises(ValueError, match="too many digits"):
        decode("values", json.dumps({"$": ["decimal", text]}).encode())


def test_other_decimals_survive() -> None:
    value = [Decimal(text) for text in ("0", "-0", "1e4299", "1e-4299", "0.10", "-Infinity", "7" * 4300)]
    back = decode(*encode(value))
    assert [str(each) for each in back] == [str(each) for each in value]
    assert decode(*encode(Decimal("NaN"))).is_nan()


def test_a_cycle_is_named() -> None:
    cyclic: list[Any] = [1]
    cyclic.append({"again": cyclic})
    with pytest.raises(NotPlain, match=r"\[1\]\['again'\] contains itself"):
        encode(cyclic)


def test_a_value_nested_too_deep_is_named_and_one_at_the_bound_survives() -> None:
    def nested(depth: int) -> Any:
        value: Any = "x"
        for _ in range(depth):
            value = [value]
        return value

    assert decode(*encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(NotPlain, match="deeper than"):
        encode(nested(MAX_DEPTH + 1))


def test_nesting_bombs_and_container_bombs_are_refused() -> None:
    for data in (b"[" * 1_000_000, b'{"a":' * 1_000_000, b"[" + b"{}," * 4_000_000 + b"{}]"):
        with pytest.raises(ValueError):
            decode("values", data)
