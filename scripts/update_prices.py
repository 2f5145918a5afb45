"""Write src/recursor/models/prices.json from the installed genai-prices package.

The file holds, per provider, rows of [patterns, tiers, window]. A pattern is one character and a text:
"=" equal, "^" prefix, "$" suffix, "~" contained, "/" regular expression. A tier is [from how many
input tokens, input, output, cached input, cache write], in US dollars per million tokens, null
where unsaid. The window, tokens of input and output together, is left out where it is not known.
Of prices that change with the hour the dearest is kept, so that a budget holds.
Batch and flex prices are left out.

    python scripts/update_prices.py
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data import providers

TARGET = Path(__file__).parents[1] / "src/recursor/models/prices.json"
FIELDS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
PROVIDERS = (
    "openai", "azure", "anthropic", "google", "groq", "deepseek", "mistral", "together", "fireworks",
    "openrouter",
)  # fmt: skip
MAKERS = (
    "openai/", "anthropic/", "google/", "deepseek/", "qwen/", "meta-llama/", "mistralai/", "moonshotai/",
    "x-ai/", "z-ai/", "minimax/",
)  # fmt: skip
"""Whose models are taken from OpenRouter's list, which is as long as all the others together."""


def main() -> None:
    """Write the file and say how large it is."""
    found = {provider.id: provider for provider in providers}
    rows = {name: [row for model in found[name].models if (row := row_of(name, model))] for name in PROVIDERS}
    lines = [
        json.dumps(name)
        + ":[\n"
        + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows[name])
        + "\n]"
        for name in PROVIDERS
    ]
    source = json.dumps(f"genai-prices {version('genai-prices')}, {datetime.now(UTC).date()}")
    TARGET.write_text(
        '{"source":' + source + ',"providers":{\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8"
    )
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {sum(map(len, rows.values()))} models")


def row_of(provider: str, model: types.ModelInfo) -> list[Any] | None:
    """Return one model's row; None when it is none that answers with text, or not wanted."""
    if provider == "google" and not model.id.startswith(("gemini", "gemma")):
        return None
    if provider == "openrouter" and not model.id.startswith(MAKERS):
        return None
    prices = current(model)
    tiers = tiers_of(prices)
    patterns = patterns_of(model.match)
    if not patterns or tiers[0][1] is None or tiers[0][2] is None:
        return None
    return [patterns, tiers, *([model.context_window] if model.context_window else [])]


def current(model: types.ModelInfo) -> types.ModelPrice:
    """Return the price that holds today."""
    if not isinstance(model.prices, list):
        return model.prices
    today = datetime.now(UTC).date()
    dated = [each for each in model.prices if started(each, today)]
    hourly = [each for each in dated if isinstance(each.constraint, types.TimeOfDateConstraint)]
    if hourly:
        return max((each.prices for each in dated), key=lambda prices: tiers_of(prices)[0][1] or 0)
    return dated[-1].prices


def started(price: types.ConditionalPrice, today: date) -> bool:
    """Say whether a price is in force on a day."""
    return not isinstance(price.constraint, types.StartDateConstraint) or price.constraint.start_date <= today


def tiers_of(prices: types.ModelPrice) -> list[list[float | None]]:
    """Return rows of [from, input, output, cached input, cache write]."""
    starts = {0}
    for name in FIELDS:
        value = getattr(prices, name)
        if isinstance(value, types.TieredPrices):
            starts |= {tier.start for tier in value.tiers}
    return [[start, *(at(getattr(prices, name), start) for name in FIELDS)] for start in sorted(starts)]


def at(value: Any, start: int) -> float | None:
    """Return one price at a number of input tokens."""
    if isinstance(value, types.TieredPrices):
        value = next((tier.price for tier in reversed(value.tiers) if tier.start <= start), value.base)
    if value is None:
        return None
    return int(value) if value == int(value) else float(value)


def patterns_of(clause: Any) -> list[str]:  # noqa: PLR0911  # one line per kind of clause
    """Return a clause as patterns, any of which has to match."""
    match clause:
        case types.ClauseEquals(equals=text):
            return ["=" + text]
        case types.ClauseStartsWith(starts_with=text):
            return ["^" + text]
        case types.ClauseEndsWith(ends_with=text):
            return ["$" + text]
        case types.ClauseContains(contains=text):
            return ["~" + text]
        case types.ClauseRegex(regex=text):
            return ["/" + text]
        case types.ClauseOr(or_=clauses):
            return [pattern for each in clauses for pattern in patterns_of(each)]
        case types.ClauseAnd(and_=[types.ClauseStartsWith(starts_with=text), types.ClauseRegex(regex=regex)]):
            return [f"/(?=^{re.escape(text)})(?={regex})"]
    print(f"left out, a pattern of a kind that the file has no sign for: {clause}")
    return []


if __name__ == "__main__":
    main()
