"""Where models can be had from this machine: local servers, and keys that are set.

Looks at loopback ports and at the names of keys; sends nothing anywhere else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from recursor import config
from recursor.cli.fetch import Unreachable, fetch
from recursor.config import keys
from recursor.models.presets import PRESETS, Preset

CONNECT_SECONDS = 0.25
REPLY_SECONDS = 2.0
SUGGESTED = {
    "openai": "openai/gpt-5-mini",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "openrouter": "openrouter/openai/gpt-5-mini",
    "groq": "groq/openai/gpt-oss-120b",
    "deepseek": "deepseek/deepseek-chat",
    "mistral": "mistral/mistral-medium-latest",
}
"""A model to begin with for each provider whose key may be set. Flags and settings name any other."""
NOT_FOR_TEXT = ("embed", "whisper", "rerank", "bge-", "tts", "clip")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local server that answered."""

    provider: str
    base_url: str
    models: tuple[str, ...]
    """As the server names them; those that answer no prompts are left out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that was found, and why it was taken."""

    model: str
    reason: str


def detect_endpoints() -> tuple[Endpoint, ...]:
    """Return the local model servers that answer now. Takes a third of a second when there is none."""
    local = [preset for preset in PRESETS.values() if preset.local]
    with ThreadPoolExecutor(len(local)) as pool:
        return tuple(found for found in pool.map(probe, local) if found)


def detect_keys() -> dict[str, str]:
    """Return provider -> where its key is set. Names only; nothing is revealed.

    Raises:
        ConfigError: the keys file may be read by others, or is damaged.
    """
    return {name: where for name, where in all_keys().items() if name in PRESETS}


def all_keys() -> dict[str, str]:
    """As `detect_keys`, with those of sandboxes, and what else the keys file has."""
    left = dict.fromkeys(config.stored_keys())
    found: dict[str, str] = {}
    for name, variables in keys.KNOWN.items():
        kept = [each for each in (*variables, name) if each in left]
        for each in kept:
            del left[each]
        variable = next(filter(config.in_environment, variables), None)
        if variable is not None:
            found[name] = f"environment variable {variable}"
        elif kept:
            found[name] = _kept(kept[0])
    return found | {name: _kept(name) for name in left}


def _kept(name: str) -> str:
    return f"{config.keys_file()}{', by a command' if keys.by_command(name) else ''}"


def choose() -> Choice | None:
    """Pick a model when none was named: a local server first (free, and nothing leaves the machine)."""
    for endpoint in detect_endpoints():
        if endpoint.models:
            spec = f"{endpoint.provider}/{endpoint.models[0]}"
            return Choice(spec, f"{endpoint.provider} answers at {endpoint.base_url}")
    keys = detect_keys()
    for provider, model in SUGGESTED.items():
        if provider in keys:
            return Choice(model, f"its key is set ({keys[provider]})")
    return None


def probe(preset: Preset) -> Endpoint | None:
    """Return what answers at a provider's usual address; None when nothing does, or nothing that we know."""
    base = preset.base_url or ""
    try:
        listed = fetch(f"{base}/models", connect=CONNECT_SECONDS, reply=REPLY_SECONDS)
    except Unreachable:  # no server, or none that we know
        return None
    rows = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        return None
    names = [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    return Endpoint(preset.provider, base, tuple(filter(answers, names)))


def answers(model: str) -> bool:
    """Whether a model is one that answers prompts, by its name."""
    return not any(mark in model.lower() for mark in NOT_FOR_TEXT)
