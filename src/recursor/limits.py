"""What a run may use; `recursor.ledger` counts against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from recursor.errors import ConfigError

_WHOLE = ("max_turns", "max_tokens", "max_depth", "max_calls", "max_subcalls_in_flight", "max_errors")
_MOST = 1e300
MAX_CONCURRENCY = 8
"""Questions of a batch that are answered at once, unless it is said."""
SHARED = ("max_time", "max_tokens", "max_cost", "max_calls")
"""Bounds that all runs of a tree use up together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run, children included. None is no bound.

    Attributes:
        max_turns: replies of the root LM; then it gets one more to answer from what it has.
        max_time: seconds for the whole run.
        max_cell_time: seconds that one code block may run by itself, waiting for sub-calls aside.
        max_tokens: input and output tokens of all calls together.
        max_cost: US dollars; needs models whose price is known.
        max_calls: model calls, those of the root LM and of children included.
        max_depth: depth at which `rlm_query` is a plain call; the root is depth 0. With 1, the paper's
            setting, all sub-calls are plain; with 2 the root may start child RLMs, and so on.
        max_subcalls_in_flight: calls of sub-LMs and of children that are out at once.
        max_errors: turns in a row in which nothing worked: a block failed, or none ran.

    Raises:
        ConfigError: a bound that is no positive number.
    """

    max_turns: int = 30
    max_time: float | None = None
    max_cell_time: float | None = 120.0
    max_tokens: int | None = None
    max_cost: float | None = None
    max_calls: int | None = None
    max_depth: int | None = 1
    max_subcalls_in_flight: int | None = None
    max_errors: int | None = None

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if value is None and name != "max_turns":
                continue
            whole = name in _WHOLE
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            least = 0 if name in ("max_cost", "max_depth") else 1 if whole else math.ulp(0.0)
            if not right or not least <= value <= _MOST:
                expected = "a whole number" if whole else "a number"
                bound = "of at least 1" if whole and least else "of at least 0" if not least else "above 0"
                raise ConfigError(f"Limits.{name} must be {expected} {bound}, not {value!r}")

    def within(self, other: Limits) -> Limits:
        """These limits, none of them larger than the other's."""
        return Limits(**{name: _lesser(getattr(self, name), getattr(other, name)) for name in _NAMES})

    def raised(self, before: Mapping[str, Any]) -> frozenset[str]:
        """Those of the bounds that a whole tree shares which are larger than they were, by their stop reasons."""
        pairs = ((name, getattr(self, name), before.get(name)) for name in SHARED)
        return frozenset(name for name, now, was in pairs if was is not None and (now is None or now > was))

    def with_changes(self, changes: Mapping[str, Any]) -> Limits:
        """These limits with other values for some. Raises ConfigError for an unknown name or a bad value."""
        for name in changes:
            if name not in _NAMES:
                raise ConfigError(f"there is no limit {name!r}, only {', '.join(_NAMES)}")
        return replace(self, **changes)


_NAMES = tuple(each.name for each in fields(Limits))


def _lesser(one: Any, two: Any) -> Any:
    return one if two is None else two if one is None else min(one, two)
