"""The providers that are known by name: which wire they speak, where, and with which key.

A table and its look-up. Reads no environment: `recursor.config` does, with the names given here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from recursor.errors import ConfigError
from recursor.models.prices import listed

Wire: TypeAlias = Literal["chat", "anthropic"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider."""

    provider: str
    """What a spec begins with; empty for a plain model name at a base URL."""
    wire: Wire = "chat"
    base_url: str | None = None
    """Where the wire's path is appended; None when the user has to give it."""
    keys: tuple[str, ...] = ()
    """Environment variables that hold the key, the first that is set wins. Empty: no key needed."""
    price_list: str | None = None
    """Its name in prices.json, "local" where nothing is to pay; None when nothing is known."""
    local: bool = False
    """It runs on the user's own machines."""
    schemas: bool = True
    """Takes a JSON Schema as the reply's format; otherwise the prompt asks for it."""
    length_field: str = "max_tokens"
    """How the provider calls the bound of a reply's tokens."""
    needs_key: bool = True
    """Whether a call without a key is refused before it is made."""


def _local(provider: str, base_url: str) -> Preset:
    return Preset(provider, "chat", base_url, price_list="local", local=True, needs_key=False)


PRESETS = {
    preset.provider: preset
    for preset in (
        Preset("openai", "chat", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "openai",
               length_field="max_completion_tokens"),
        Preset("azure", "chat", None, ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"), "azure",
               length_field="max_completion_tokens"),
        Preset("anthropic", "anthropic", "https://api.anthropic.com/v1", ("ANTHROPIC_API_KEY",), "anthropic"),
        Preset("openrouter", "chat", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), "openrouter"),
        Preset("gemini", "chat", "https://generativelanguage.googleapis.com/v1beta/openai",
               ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "google"),
        Preset("groq", "chat", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), "groq"),
        Preset("deepseek", "chat", "https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",), "deepseek",
               schemas=False),
        Preset("mistral", "chat", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), "mistral"),
        Preset("together", "chat", "https://api.together.xyz/v1", ("TOGETHER_API_KEY",), "together"),
        Preset("fireworks", "chat", "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",),
               "fireworks"),
        _local("ollama", "http://127.0.0.1:11434/v1"),
        _local("lmstudio", "http://127.0.0.1:1234/v1"),
        _local("llamacpp", "http://127.0.0.1:8080/v1"),
        _local("vllm", "http://127.0.0.1:8000/v1"),
    )
}  # fmt: skip


def preset_for(spec: str, base_url: str | None = None) -> Preset:
    """Return the preset that a spec stands for, with the base URL that will be used.

    Raises:
        ConfigError: as `split`.
    """
    return split(spec, base_url)[0]


def split(spec: str, base_url: str | None = None) -> tuple[Preset, str]:
    """Take "provider/model" apart.

    With a base URL the provider only says which wire is spoken: a key becomes optional and the
    price unknown, since anyone may be behind it. Local providers stay free. A spec
    whose first part is no known provider is then a plain model name.

    Raises:
        ConfigError: no model is named, the provider is unknown, or a base URL is missing.
    """
    provider, slash, model = spec.partition("/")
    preset = PRESETS.get(provider) if slash else None
    if base_url is None:
        if preset is None:
            raise ConfigError(_unknown(spec, provider if slash else ""))
        if preset.base_url is None:
            raise ConfigError(
                f'"{spec}" needs a base_url: for Azure https://RESOURCE.openai.azure.com/openai/v1'
            )
    if preset is None:
        preset, model = Preset(""), spec
    if not model.strip():
        raise ConfigError(f'"{spec}" names no model: write provider/model, as in openai/gpt-5')
    if base_url is None:
        return preset, model
    if preset.base_url is None and preset.provider:  # Azure: every user has an address of his own
        return replace(preset, base_url=base_url), model
    prices = preset.price_list if preset.local else None
    return replace(preset, base_url=base_url, price_list=prices, needs_key=False), model


def _unknown(spec: str, provider: str) -> str:
    known = ", ".join(PRESETS)
    if not provider:
        named = [
            name for name, preset in PRESETS.items() if not preset.local and listed(preset.price_list, spec)
        ]
        hint = f'did you mean "{named[0]}/{spec}"? ' if named else ""
        return (
            f'"{spec}" names no provider: {hint}write provider/model, or give a base_url. Providers: {known}'
        )
    near = difflib.get_close_matches(provider, PRESETS, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return f'unknown provider "{provider}" in "{spec}": {hint}known are {known}; or give a base_url'
