"""What model servers and providers offer: their lists of models, with windows and prices. Sends keys only to their
own provider, in a header.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from recursor import config
from recursor.cli import endpoints, windows
from recursor.cli.described import own_of
from recursor.cli.fetch import Unreachable, fetch
from recursor.errors import ConfigError
from recursor.models.anthropic_messages import VERSION
from recursor.models.presets import PRESETS, Preset, preset_for
from recursor.models.prices import Price, listed, names, window
from recursor.record import public_url

MOST_PAGES = 20
MOST_ASKED = 50
"""Models of a local server that are asked for their window."""
MOST_TOKENS = 10**12
"""Of a window; what a server says beyond that is none."""
_WINDOWS = ("context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens",
            "inputTokenLimit")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that can be had."""

    spec: str
    window: int | None
    """Tokens of input and output."""
    price: Price | None
    """None is not known."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address that models are asked for at."""

    provider: str
    """Empty at a base URL that belongs to none."""
    base_url: str
    key: Callable[[], str | None]
    where: str
    """Where its key is from; empty when it has none."""
    specs: tuple[str, ...] = ()
    """At a base URL: those that the settings send there."""

    @property
    def preset(self) -> Preset:
        return PRESETS.get(self.provider, Preset(""))


@dataclass(frozen=True, slots=True)
class Listing:
    """What a place offers, or why nobody knows."""

    place: Place
    offers: tuple[Offer, ...] = ()
    error: str = ""


def places(settings: Iterable[config.Settings], provider: str | None = None) -> list[Place]:
    """Return where models may be had: local servers, providers whose key is set, addresses of the settings.

    Args:
        provider: only this one, whether or not its key is set.

    Raises:
        ConfigError: the keys file may be read by others, or is damaged.
    """
    keys = endpoints.detect_keys()
    found = [
        Place(name, preset.base_url, partial(config.api_key, f"{name}/"), keys.get(name, ""))
        for name, preset in PRESETS.items()
        if preset.base_url and (name == provider or (provider is None and (preset.local or name in keys)))
    ]
    for base_url, uses in _addresses(settings).items():
        specs = tuple(dict.fromkeys(spec for spec, _ in uses))
        preset = preset_for(specs[0], base_url)
        own = next((name for _, name in uses if name), None)
        key = partial(config.secret, own, own) if own else partial(config.api_key, specs[0])
        if provider in (None, preset.provider):
            found.append(Place(preset.provider, base_url, key, own or keys.get(preset.provider, ""), specs))
    return found


def offered(found: list[Place], *, every: bool) -> list[Listing]:
    """Ask all places at once.

    Args:
        every: whether local servers that do not answer are in the list, too.
    """
    if not found:
        return []
    with ThreadPoolExecutor(min(32, len(found))) as pool:
        listings = list(pool.map(_listing, found))
    return [
        each for each in listings if every or each.place.specs or not (each.place.preset.local and each.error)
    ]


def known(place: Place) -> Listing:
    """What the price list has of a provider, and at an address of the settings what they name; asks nobody."""
    if place.specs:
        return Listing(place, tuple(_known(spec, preset_for(spec, place.base_url)) for spec in place.specs))
    of = [f"{place.provider}/{name}" for name in names(place.preset.price_list) if endpoints.answers(name)]
    return Listing(place, tuple(_known(spec, place.preset) for spec in of))


def _known(spec: str, preset: Preset) -> Offer:
    name = spec.removeprefix(f"{preset.provider}/")
    return Offer(spec, window(preset.price_list, name), listed(preset.price_list, name))


def _addresses(settings: Iterable[config.Settings]) -> dict[str, list[tuple[str, str | None]]]:
    """Base URL -> specs that the settings send there, and the names of keys of theirs."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for each in settings:
        for spec in each.uses:
            own = own_of(spec, each)
            base_url = own.base_url or each.base_url
            if base_url:
                found.setdefault(base_url, []).append((spec, own.key))
    return found


def _listing(place: Place) -> Listing:
    try:
        key = place.key()
        rows = list(_rows(place, _headers(place, key), 1.0 if place.preset.local else 5.0))
    except (Unreachable, ConfigError) as error:
        return Listing(place, error=str(error))
    found = [offer for row in rows if (offer := _offer(place, row)) is not None]
    found = [each for each in found if endpoints.answers(each.spec)]
    if place.preset.local:
        found = _with_windows(place, found)
    return Listing(place, tuple(sorted(found, key=lambda offer: offer.spec)))


def _headers(place: Place, key: str | None) -> dict[str, str]:
    if place.preset.wire == "anthropic":
        return {**VERSION, **({"x-api-key": key} if key else {})}
    return {"Authorization": f"Bearer {key}"} if key else {}


def _rows(place: Place, headers: Mapping[str, str], connect: float) -> Iterator[dict[str, Any]]:
    parts = urlsplit(place.base_url)
    path, more = parts.path.rstrip("/"), "limit=1000" if place.preset.wire == "anthropic" else ""
    if place.preset.wire == "anthropic" and not path.endswith("/v1"):
        path += "/v1"
    after = ""
    for _ in range(MOST_PAGES):
        query = "&".join(filter(None, (parts.query, more, f"after_id={after}" if after else "")))
        page = fetch(
            parts._replace(path=f"{path}/models", query=query).geturl(), headers=headers, connect=connect
        )
        rows = page if isinstance(page, list) else page.get("data") if isinstance(page, dict) else None
        if not isinstance(rows, list):
            raise Unreachable("it answers, but with no list of models")
        yield from (row for row in rows if isinstance(row, dict))
        last = page.get("last_id") if isinstance(page, dict) and page.get("has_more") is True else None
        if not isinstance(last, str) or not last.isprintable() or last == after or "&" in last:
            return
        after = last


def _offer(place: Place, row: Mapping[str, Any]) -> Offer | None:
    name = row.get("id")
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        return None
    name = name.removeprefix("models/")  # as Gemini has it
    of = preset_for(place.specs[0], place.base_url).price_list if place.specs else place.preset.price_list
    tokens = next((row[each] for each in _WINDOWS if _is_window(row.get(each))), None)
    prefix = f"{place.provider}/" if place.provider else ""
    return Offer(prefix + name, tokens or window(of, name), _price(row.get("pricing")) or listed(of, name))


def _is_window(said: Any) -> bool:
    return isinstance(said, int) and not isinstance(said, bool) and 0 < said <= MOST_TOKENS


def _price(said: Any) -> Price | None:
    """What OpenRouter says of a price, in dollars per token."""
    if not isinstance(said, dict) or not {"prompt", "completion"} <= said.keys():
        return None
    try:
        found = [float(said[name]) * 1e6 for name in ("prompt", "completion")]
    except (TypeError, ValueError):
        return None
    return Price(*found) if all(0 <= each < math.inf for each in found) else None


def _with_windows(place: Place, offers: list[Offer]) -> list[Offer]:
    def asked(offer: Offer) -> Offer:
        found = windows.window_of(offer.spec, place.base_url)
        return Offer(offer.spec, found.now or found.most or offer.window, offer.price)

    with ThreadPoolExecutor(8) as pool:
        return [*pool.map(asked, offers[:MOST_ASKED]), *offers[MOST_ASKED:]]


def shown(base_url: str) -> str:
    """An address as it may be shown."""
    return public_url(base_url) or ""
