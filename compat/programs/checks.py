"""Says one line of JSON for each check, on standard output: what `run.py` reads."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

ANSWER = "It is 42; yes."
WEATHER = {
    "name": "get_weather",
    "description": "Say the weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def check(what: str) -> Callable[[Callable[[], Any]], None]:
    """Run a function at once; it passes when it raises nothing."""

    def run(function: Callable[[], Any]) -> None:
        why = ""
        try:
            function()
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        print(json.dumps({"check": what, "why": why}), flush=True)

    return run


def same(found: Any, wanted: Any) -> None:
    assert found == wanted, f"{found!r} is not {wanted!r}"
