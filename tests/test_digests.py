"""Digests of contexts: what a run was given is known again, however it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from recursor.context import prepare

ROWS = '[{"role": "user", "content": "Who?"}, {"role": "user", "content": "Who?"}]'
SAY = "import json, sys; from recursor.context import prepare; print(prepare(eval(sys.argv[1])).digest())"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (json.loads(ROWS), [{"role": "user", "content": "Who?"}, {"role": "user", "content": "Who?"}]),
        (["".join("ab") for _ in range(3)], ["ab"] * 3),
        (
            {"key": [1.5, 2**80, None, True, b"x"]},
            {"".join("key"): [3 / 2, 1 << 80, None, True, bytes([120])]},
        ),
    ],
)
def test_equal_values_have_one_digest(one: Any, other: Any) -> None:
    assert one == other
    assert prepare(one).digest() == prepare(other).digest()


def test_other_values_have_others() -> None:
    values: list[Any] = [
        ["ab"],
        ["a", "b"],
        [["ab"]],
        {"ab": 1},
        {"ab": 1.0},
        {"ab": True},
        "ab",
        None,
    ]
    assert len({prepare(value).digest() for value in values}) == len(values)


def test_a_digest_is_the_same_in_another_process() -> None:
    value = {"set": {"one", "two", "three"}, "rows": json.loads(ROWS)}
    said = subprocess.run(
        [sys.executable, "-c", SAY, repr(value)], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == prepare(value).digest()
