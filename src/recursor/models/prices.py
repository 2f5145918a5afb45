"""What a call costs and what fits into one, by a list that ships with the package (see scripts/update_prices.py).

A price that is not known is None, never 0. Prices are the public ones for immediate calls:
no batch, flex or contract prices.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from typing import Any, TypeAlias

import msgspec

from recursor.types import Usage

LOCAL = "local"
"""The price list of providers that run on the user's own machines: everything costs 0."""

_Tier: TypeAlias = tuple[int, float, float, float | None, float | None]
"""From how many input tokens, then dollars per million: input, output, cached input, cache write."""


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
    _, fresh, output, cached, write = next(
        tier for tier in reversed(row.tiers) if usage.input_tokens >= tier[0]
    )
    plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    dollars = (
        plain * fresh
        + usage.cached_tokens * (fresh if cached is None else cached)
        + usage.cache_write_tokens * (fresh if write is None else write)
        + usage.output_tokens * output
    )
    return dollars / 1e6


def known(provider: str | None, model: str) -> bool:
    """Say whether `price` will know, so that a bound on cost can be refused before anything is paid."""
    return provider == LOCAL or _row(provider, model) is not None


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
    data: Any = importlib.resources.files("recursor.models").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(data, type=_PriceList)
