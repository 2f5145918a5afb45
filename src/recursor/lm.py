"""`LM`: a language model with settings of its own, to give to an `RLM`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from recursor import config, models
from recursor.errors import ConfigError
from recursor.models.around import Around
from recursor.models.http import READ_TIMEOUT, Key
from recursor.types import Message, Reply, Schema

_SETTINGS = (
    "base_url", "api_key", "window", "vision", "max_concurrency", "requests_per_minute", "tokens_per_minute", "timeout",
    "price",
)  # fmt: skip


class LM(Around):
    """A language model behind an endpoint.

    A spec alone, "openai/gpt-5", does where nothing is to be set. May be used by many `RLM`s at once.

    >>> LM("openai/gpt-5", reasoning_effort="low", requests_per_minute=500)
    """

    def __init__(
        self,
        spec: str,
        *,
        base_url: str | None = None,
        api_key: Key = None,
        window: int | None = None,
        vision: bool | None = None,
        max_concurrency: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = READ_TIMEOUT,
        price: models.Price | None = None,
        **options: Any,
    ) -> None:
        """Describe the model. Sends nothing.

        Args:
            spec: "provider/model". With a base URL also a plain model name.
            base_url: where the server is, the "/v1" included.
            api_key: the key, or a function that returns it and is asked before each request. None
                reads the environment or the keys file.
            window: tokens of input and output that it takes; None takes what the list says.
            vision: whether it takes pictures. None goes by its name, and asks where that does not tell.
            max_concurrency: calls that are out at once; None finds out what the endpoint takes.
            requests_per_minute: None is no bound.
            tokens_per_minute: of input and output; None is no bound.
            timeout: seconds that the server may be silent.
            price: US dollars per million tokens; None goes by the provider's bill, or the list.
            **options: further fields of each request, as `temperature=0`. Those in `extra_body` too,
                for names that are ours.

        Raises:
            ConfigError: any of these is wrong.
        """
        for name in options:
            close = difflib.get_close_matches(name, _SETTINGS, 1, 0.8)
            if close:
                raise ConfigError(
                    f"LM: did you mean {close[0]!r} by {name!r}? A field of the request that is "
                    f"called so goes into extra_body={{...}}"
                )
        rates = models.Rates(max_concurrency, requests_per_minute, tokens_per_minute)
        key = config.api_key(spec) if api_key is None else api_key
        super().__init__(
            models.resolve(
                spec, base_url=base_url, api_key=key, options=options, rates=rates, window=window,
                vision=vision, read_timeout=timeout, own_price=price,
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"LM({self.name!r})"

    def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """Answer one prompt; see `recursor.protocols.Model`."""
        return self.model.query(messages, schema=schema, on_text=on_text)
