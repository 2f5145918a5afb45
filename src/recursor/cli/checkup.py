"""`recursor doctor --model`: whether a model's server takes prompts as long as a run's, or cuts them."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from dataclasses import asdict

import click

from recursor import config
from recursor.cli import canary, described, exits, windows
from recursor.cli.canary import Outcome
from recursor.cli.text import clean, money, to_json
from recursor.lm import LM
from recursor.models.presets import PRESETS

PLACES = ("the beginning", "the first message", "the middle", "the end")
"""Where the code words stand."""


def check(spec: str, settings: config.Settings, *, tokens: int | None, sure: bool, as_json: bool) -> int:
    """Try a model, say what came of it, and return the exit code.

    Args:
        tokens: of the prompt; None is what a run sends.
        sure: whether nobody is asked before money is spent.
    """
    own = described.own_of(spec, settings)
    base_url = own.base_url or settings.base_url
    local = windows.window_of(spec, base_url, load=True)
    model = described.described(spec, settings, local.now)
    size = tokens or canary.size_for(model.window)
    for line in _plan(model, local, size, given=own.window is not None):
        click.echo(clean(line), err=True)
    if not (sure or _free(model) or _agreed()):
        return exits.USAGE
    outcome = asyncio.run(canary.examine(model, size))
    local = windows.window_of(spec, base_url)
    if as_json:
        told = {"model": spec, "window": model.window, "local": asdict(local), **asdict(outcome)}
        click.echo(to_json(told, indent=2))
    else:
        for line in (*_lines(outcome), *_advice(spec, outcome, local)):
            click.echo(clean(line))
    return exits.ANSWERED if outcome.verdict in ("whole", "refused") else exits.FAILED


def _plan(model: LM, local: windows.Window, size: int, *, given: bool) -> list[str]:
    known = f"{model.window:,} tokens" if model.window else "not known; 128,000 tokens are assumed"
    source = " (the settings say so)" if given else " (the server says so)" if local.now else ""
    most = f"; the model was made for {local.most:,}" if local.most and local.most != model.window else ""
    cost = model.price(canary.estimate(size))
    told = "nothing" if cost == 0 else "not known" if cost is None else f"about {money(cost)}"
    return [
        f"Model   {model.name} at {model.host}",
        f"Window  {known}{source}{most}",
        f"Prompt  {size:,} tokens, about: as many as a run sends before it sums up its old turns",
        f"Cost    {told}",
    ]


def _free(model: LM) -> bool:
    """Whether there is nothing to pay: a local provider, or an address of this machine."""
    preset = PRESETS.get(model.name.partition("/")[0])
    host = model.host or ""
    try:
        here = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        here = host == "localhost"
    return here or (preset is not None and preset.local)


def _agreed() -> bool:
    if sys.stdin.isatty() and sys.stderr.isatty():
        return bool(click.confirm("Send it?", err=True))
    click.echo("not sent: it may cost money, and nobody can be asked here; --yes sends it", err=True)
    return False


def _lines(outcome: Outcome) -> list[str]:
    counted = "it does not say how many" if outcome.counted is None else f"{outcome.counted:,}"
    said = [f"Sent {outcome.sent:,} tokens, about; the server counted: {counted}."]
    if outcome.verdict == "refused":
        return [
            f"THE PROMPT IS REFUSED: {outcome.said}",
            "A run makes its prompts shorter then: nothing is lost, but a call.",
        ]
    lost = [place for place, found in zip(PLACES, outcome.found, strict=True) if not found]
    back = f"Code words that came back: {len(outcome.found) - len(lost)} of {len(outcome.found)}"
    said.append(back + (f"; lost at {', '.join(lost)}." if lost else "."))
    if not outcome.able:
        said.append(
            "Of a short prompt they do not all come back either: this model is too weak to tell by them."
        )
    return (
        said
        + {
            "whole": ["The prompt arrives whole."],
            "cut": [
                "THE SERVER CUTS PROMPTS AND DOES NOT SAY SO: a run would answer from what is left of them."
            ],
            "unclear": [
                "NOT CLEAR: it counted the whole prompt, but did not give back what stands in it. It cuts after it has "
                "counted, or the model overlooks things in prompts of this length."
            ],
        }[outcome.verdict]
    )


def _advice(spec: str, outcome: Outcome, local: windows.Window) -> list[str]:
    provider, _, model = spec.partition("/")
    takes = local.now or (outcome.counted if outcome.verdict == "cut" else None)
    if outcome.verdict == "whole" and not (takes and takes < windows.SMALL):
        return []
    said = [f"It takes {takes:,} tokens."] if takes else []
    more = windows.remedy(provider, model, local.most)
    if more:
        said.append(f"For a larger window: {more}")
    if outcome.verdict != "whole":
        key = config.written(("models", spec, "window"))
        said.append(f"Or have recursor keep to it: recursor config set '{key}' {takes or 'TOKENS'}")
    return said
