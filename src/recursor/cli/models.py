"""`recursor models`: which models can be had from here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from recursor import config
from recursor.cli import complete, exits, offers, options
from recursor.cli.offers import Listing, Offer
from recursor.cli.text import clean, to_json
from recursor.errors import ConfigError
from recursor.models.presets import PRESETS
from recursor.plugins import nearest


@click.command("models")
@click.argument("provider", required=False, shell_complete=complete.providers)
@click.option(
    "--offline", is_flag=True, help="Ask nobody: what the price list has of providers whose key is set."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.FILE
def command(provider: str | None, *, offline: bool, as_json: bool, file: Path | None) -> None:
    """List models: of local servers that answer, of providers whose key is set, of addresses in the settings.

    Each comes with its window in tokens, its price per million tokens in and out, and the settings that use it.

    Exit codes: 0 listed, 5 PROVIDER does not answer.
    """
    if provider is not None and provider not in PRESETS:
        raise ConfigError(f"unknown provider {provider!r}{nearest(provider, PRESETS)}")
    settings = _every(file)
    found = offers.places(settings.values(), provider)
    listings = (
        [each for each in map(offers.known, found) if each.offers or provider]
        if offline
        else offers.offered(found, every=provider is not None)
    )
    uses = _uses(settings)
    if as_json:
        click.echo(to_json(_as_json(listings, uses), indent=2))
    elif not listings:
        click.echo("no model server answers here, and no key is set: recursor keys set openai", err=True)
    else:
        for line in _lines(listings, uses, offline=offline):
            click.echo(clean(line))
    if provider is not None and listings and all(each.error for each in listings):
        sys.exit(exits.PROVIDER)


def _every(file: Path | None) -> dict[str, config.Settings]:
    """The settings in force, and those under each profile by its name."""
    loaded = options.in_force(file)
    return {"": loaded.settings} | {
        name: config.load(file, profile=name).settings
        for name in loaded.profiles
        if name != loaded.settings.profile
    }


def _uses(settings: dict[str, config.Settings]) -> dict[str, list[str]]:
    """Spec -> what names it. What a profile leaves as it is counts once."""
    found: dict[str, list[str]] = {}
    base = settings[""].uses
    for name, each in settings.items():
        for spec, key in each.uses.items():
            if not name or base.get(spec) != key:
                found.setdefault(spec, []).append(f"profile {name}: {key}" if name else key)
    return found


def _missing(listings: list[Listing], uses: dict[str, list[str]]) -> list[str]:
    """Specs of the settings that no list has, where that of their provider, or of their address, came."""
    there = {offer.spec for each in listings for offer in each.offers}
    came = {each.place.provider for each in listings if each.offers}
    sent = {spec for each in listings if each.offers for spec in each.place.specs}
    return [
        spec for spec in uses
        if spec not in there and (spec in sent or spec.partition("/")[0] in came)
    ]  # fmt: skip


def _as_json(listings: list[Listing], uses: dict[str, list[str]]) -> dict[str, Any]:
    def row(offer: Offer) -> dict[str, Any]:
        price = None if offer.price is None else asdict(offer.price)
        return {
            "spec": offer.spec,
            "window": offer.window,
            "price": price,
            "used_by": uses.get(offer.spec, []),
        }

    places = [
        {
            "provider": each.place.provider or None, "base_url": offers.shown(each.place.base_url),
            "key": each.place.where or None, "error": each.error or None,
            "models": [row(offer) for offer in each.offers],
        }
        for each in listings
    ]  # fmt: skip
    return {"places": places, "not_offered": {spec: uses[spec] for spec in _missing(listings, uses)}}


def _lines(listings: list[Listing], uses: dict[str, list[str]], *, offline: bool) -> Iterator[str]:
    for each in listings:
        place = each.place
        key = f" · key from {place.where}" if place.where else ""
        yield f"{place.provider or 'settings'} · {offers.shown(place.base_url)}{key}"
        if each.error:
            yield f"  {each.error}"
        elif not each.offers:
            yield "  nothing in the price list" if offline else "  it has no models"
        width = max((len(offer.spec) for offer in each.offers), default=0)
        for offer in each.offers:
            used = ", ".join(uses.get(offer.spec, []))
            tokens = f"{offer.window:,}" if offer.window else "?"
            yield f"  {offer.spec:<{width}}  {tokens:>10}  {_price(offer):<18}  {used}".rstrip()
        yield ""
    for spec in _missing(listings, uses):
        yield f"not offered: {spec} ({', '.join(uses[spec])})"


def _price(offer: Offer) -> str:
    if offer.price is None:
        return "price unknown"
    if not offer.price.input and not offer.price.output:
        return "free"
    return f"${offer.price.input:,.2f} / ${offer.price.output:,.2f}"
