"""What a call costs and what fits into one, by a list that ships with the package (see scripts/update_prices.py).

A price that is not known is None, never 0. Prices are the public ones for immediate calls:
no batch, flex or contract prices.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

import msgspec

from recursor.errors import ConfigError
from recursor.types import Usage

LOCAL = "local"
"""The price list of providers that run on the user's own machines: everything costs 0."""

_Tier: TypeAlias = tuple[int, float, float, float | None, float | None]
"""From how many input tokens, then dollars per million: input, output, cached input, cache write."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars per million tokens.

    Attributes:
        input: tokens that are neither read from a cache nor written into it.
        cached_input: read from a cache; None costs what input does.
        cache_write: written into a cache; None costs what input does.

    Raises:
        ConfigError: a price that is no number of dollars.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if value is None and name.startswith("cache"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be US dollars per million tokens, not {value!r}")

    def of(self, usage: Usage) -> float:
        """Return what a call cost, in US dollars."""
        plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        dollars = (
            plain * self.input
            + usage.cached_tokens * (self.input if self.cached_input is None else self.cached_input)
            + usage.cache_write_tokens * (self.input if self.cache_write is None else self.cache_write)
            + usage.output_tokens * self.output
        )
        return dollars / 1e6


class _Row(msgspec.Struct, frozen=True, array_like=True):
    patterns: list[str]
    tiers: list[_Tier]
    window: int | None = None


class _PriceList(msgspec.Struct, frozen=True):
    source: str
    providers: dict[str, list[_Row]]


def price(provider: str | None, model: str, usage: Usage) -> float | None:
    """Return what a call cost, in US dollars; None when that is not known.

    Args:
        provider: a price list's name, `Preset.price_list`.
        model: as the provider names it.
    """
    if provider == LOCAL:
        return 0.0
    row = _row(provider, model)
    if row is None:
        return None
    # Providers bill all tokens at the rate of the tier that the input falls in.
    tier = next(tier for tier in reversed(row.tiers) if usage.input_tokens >= tier[0])
    return Price(*tier[1:]).of(usage)


def known(provider: str | None, model: str) -> bool:
    """Say whether `price` will know, so that a bound on cost can be refused before anything is paid."""
    return provider == LOCAL or _row(provider, model) is not None


def listed(provider: str | None, model: str) -> Price | None:
    """Return the list's price of a short prompt; None when that is not known."""
    if provider == LOCAL:
        return Price(0.0, 0.0)
    row = _row(provider, model)
    return None if row is None else Price(*row.tiers[0][1:])


def names(provider: str | None) -> list[str]:
    """Return the models that the list has by their whole names, sorted."""
    rows = _price_list().providers.get(provider or "", [])
    return sorted({pattern[1:] for row in rows for pattern in row.patterns if pattern[0] == "="})


def window(provider: str | None, model: str) -> int | None:
    """Return how many tokens of input and output a model takes; None when that is not known."""
    row = _row(provider, model)
    return None if row is None else row.window


@functools.lru_cache(maxsize=1024)
def _row(provider: str | None, model: str) -> _Row | None:
    if provider is None:
        return None
    rows = _price_list().providers.get(provider, [])
    if provider == "azure":  # where OpenAI's models cost what they cost at OpenAI
        rows = [*rows, *_price_list().providers["openai"]]
    wanted = model.lower()
    # Exact names first: a prefix may be that of a dearer sister.
    for exact in (True, False):
        for row in rows:
            if any((pattern[0] == "=") is exact and _matches(pattern, wanted) for pattern in row.patterns):
                return row
    return None


def _matches(pattern: str, model: str) -> bool:
    sign, text = pattern[0], pattern[1:].lower() if pattern[0] != "/" else pattern[1:]
    match sign:
        case "=":
            return model == text
        case "^":
            return model.startswith(text)
        case "$":
            return model.endswith(text)
        case "~":
            return text in model
        case _:
            return re.search(text, model, re.IGNORECASE) is not None


@functools.cache
def _price_list() -> _PriceList:
    return msgspec.json.decode(Path(__file__).with_name("prices.json").read_bytes(), type=_PriceList)
