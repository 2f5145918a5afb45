"""Models: a spec such as "openai/gpt-5" becomes something that answers prompts.

Importing this imports no HTTP client; the first query does. Reads no environment and no file:
`recursor.config` does, and passes the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recursor.models.anthropic_messages import VERSION, AnthropicMessages
from recursor.models.http import READ_TIMEOUT, Endpoint, Key, close, require_key
from recursor.models.openai_chat import OpenAIChat
from recursor.models.presets import PRESETS, Preset, preset_for, split
from recursor.models.prices import known, price
from recursor.models.retry import OnRetry, Retrying

__all__ = ["PRESETS", "OnRetry", "Preset", "Retrying", "close", "known", "preset_for", "price", "resolve"]


def resolve(
    spec: str,
    *,
    base_url: str | None = None,
    api_key: Key = None,
    options: Mapping[str, Any] | None = None,
    read_timeout: float = READ_TIMEOUT,
    on_retry: OnRetry | None = None,
) -> Retrying:
    """Return the model that a spec names; it retries.

    Args:
        spec: "provider/model". With a base URL, also a plain model name, which speaks chat completions.
        base_url: where the server is, the "/v1" included.
        api_key: the key, or a function that returns it and is asked before each request.
        options: further fields of each request body, as "temperature".
        read_timeout: seconds that the server may be silent.

    Raises:
        ConfigError: the provider is unknown, no model is named, or a key or an address is missing.
    """
    preset, model = split(spec, base_url)
    address = preset.base_url
    assert address is not None, "split has seen to it"
    inner: OpenAIChat | AnthropicMessages
    if preset.wire == "anthropic":
        root = address.rstrip("/")
        path = "/messages" if root.endswith(("/v1", "/messages")) else "/v1/messages"
        endpoint = Endpoint(
            root, path, key=api_key, key_header="x-api-key", headers=VERSION, read_timeout=read_timeout
        )
        inner = AnthropicMessages(spec, model, endpoint, price_list=preset.price_list, options=options)
    else:
        endpoint = Endpoint(address, "/chat/completions", key=api_key, read_timeout=read_timeout)
        inner = OpenAIChat(
            spec,
            model,
            endpoint,
            price_list=preset.price_list,
            options=options,
            length_field=preset.length_field,
            schemas=preset.schemas,
        )
    if preset.needs_key:
        require_key(endpoint, spec, preset.keys)
    return Retrying(inner, on_retry=on_retry)
