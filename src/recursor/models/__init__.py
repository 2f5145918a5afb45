"""Models: a spec such as "openai/gpt-5" becomes something that answers prompts.

Importing this imports no HTTP client; the first model does. Reads no environment and no file:
`recursor.config` does, and passes the key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from typing import Any

from recursor.errors import ConfigError
from recursor.models.anthropic_messages import VERSION, AnthropicMessages
from recursor.models.around import Around
from recursor.models.bound import IN_FLIGHT
from recursor.models.gate import Gated, Rates
from recursor.models.http import READ_TIMEOUT, Endpoint, Key, close, require_key
from recursor.models.openai_chat import OpenAIChat
from recursor.models.presets import PRESETS, Preset, preset_for, split
from recursor.models.prices import Price, known, price
from recursor.models.retry import OnRetry, Retries, RetryBudget, Retrying
from recursor.models.wire import Wire

__all__ = [
    "IN_FLIGHT", "PRESETS", "Around", "Gated", "OnRetry", "Preset", "Price", "Rates", "Retries", "RetryBudget",
    "Retrying", "close", "known", "preset_for", "price", "resolve",
]  # fmt: skip

_SALT = os.urandom(16)


def resolve(
    spec: str,
    *,
    base_url: str | None = None,
    api_key: Key = None,
    options: Mapping[str, Any] | None = None,
    rates: Rates = Rates(),  # noqa: B008 - frozen
    window: int | None = None,
    vision: bool | None = None,
    read_timeout: float = READ_TIMEOUT,
    own_price: Price | None = None,
) -> Gated:
    """Return the model that a spec names, behind its endpoint's gate. It does not retry.

    Args:
        spec: "provider/model". With a base URL, also a plain model name, which speaks chat completions.
        base_url: where the server is, the "/v1" included.
        api_key: the key, or a function that returns it and is asked before each request.
        options: further fields of each request body, as "temperature".
        rates: bounds of this model's own. Without any, it shares the gate of all models with
            its address and key.
        window: tokens of input and output that it takes; None takes the list's.
        vision: whether it takes pictures; None goes by its name, where that tells.
        read_timeout: seconds that the server may be silent.
        own_price: what it costs; None goes by the list.

    Raises:
        ConfigError: the provider is unknown, no model is named, a key or an address is missing, or
            a value is none that makes sense.
    """
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise ConfigError(f"window must be a whole number of tokens, not {window!r}")
    if isinstance(read_timeout, bool) or not isinstance(read_timeout, int | float) or not read_timeout > 0:
        raise ConfigError(f"the timeout must be a number of seconds above 0, not {read_timeout!r}")
    preset, model = split(spec, base_url)
    address = preset.base_url
    assert address is not None, "split has seen to it"
    inner: Wire
    if preset.wire == "anthropic":
        root = address.rstrip("/")
        path = "/messages" if root.endswith(("/v1", "/messages")) else "/v1/messages"
        endpoint = Endpoint(
            root, path, key=api_key, key_header="x-api-key", headers=VERSION, read_timeout=read_timeout
        )
        inner = AnthropicMessages(
            spec, model, endpoint, price_list=preset.price_list, options=options, window=window, vision=vision,
            price=own_price,
        )  # fmt: skip
    else:
        endpoint = Endpoint(address, "/chat/completions", key=api_key, read_timeout=read_timeout)
        inner = OpenAIChat(
            spec,
            model,
            endpoint,
            price_list=preset.price_list,
            options=options,
            window=window,
            price=own_price,
            vision=vision,
            length_field=preset.length_field,
            schemas=preset.schemas,
        )
    if preset.needs_key:
        require_key(endpoint, spec, preset.keys)
    account: tuple[Hashable, ...] = (endpoint.url, _account(api_key))
    return Gated(inner, rates, endpoint=account if rates == Rates() else (*account, inner.identity))


def _account(key: Key) -> Hashable:
    """Return what tells one key from another and does not reveal it. A function stands for itself."""
    return hashlib.blake2b(key.encode(), key=_SALT).digest() if isinstance(key, str) else key
