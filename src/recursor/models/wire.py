"""What the wires have in common: a model behind an address, and a reply while it comes in."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from recursor.errors import ConfigError, ModelError
from recursor.models import prices
from recursor.models.documents import mended
from recursor.models.failures import Request
from recursor.models.http import Body, Endpoint, encode
from recursor.models.sse import ServerEvent
from recursor.threads import in_thread
from recursor.types import Message, Reply, Schema, Usage

_OURS = frozenset({"model", "messages", "stream", "stream_options"})
"""Fields of a request body that are no options."""
_EVENTS = 3
ASIDE = 1 << 18
"""Bytes of pictures from which a request is written in a thread."""
_BLIND = (
    r"(^|/)(gpt-3\.5|gpt-4(-0|-32k|$)|gpt-oss|o1-mini|o1-preview|o3-mini|claude-(2|instant)|deepseek-(chat|reasoner|r1|v3)"
    r"|codestral|mixtral|mistral-7b|llama-?3(\.[13])?-|qwen3-coder|kimi-k2-)"
)
"""Names of models that are known to take text alone; compiled when it is first asked."""


class Wire(ABC):
    """A model behind an address. One request gives one reply or one `ModelError`."""

    STREAMED: ClassVar[Mapping[str, Any]] = {"stream": True}
    """Fields that ask for a stream."""

    def __init__(
        self,
        name: str,
        model: str,
        endpoint: Endpoint,
        *,
        price_list: str | None = None,
        options: Mapping[str, Any] | None = None,
        window: int | None = None,
        price: prices.Price | None = None,
        vision: bool | None = None,
    ) -> None:
        """Describe the model.

        Args:
            name: as the user wrote it.
            model: as the server calls it.
            price_list: see `Preset.price_list`.
            options: further fields of the request body, as "temperature". Those under
                "extra_body" are put beside the others.
            window: tokens of input and output that it takes; None takes the list's.
            price: in place of the list's.
            vision: whether it takes pictures; None goes by its name, where that tells.

        Raises:
            ConfigError: an option is no JSON, or a field that is not the user's to set.
        """
        self._name = name
        self._model = model
        self._endpoint = endpoint
        self._price_list = price_list
        fields = dict(options or {})
        extra = fields.pop("extra_body", {})
        if not isinstance(extra, Mapping):
            raise ConfigError(f"{name}: extra_body must be a dict of fields, not {extra!r}")
        self._options = fields | dict(extra)
        self._window = window
        self._price = price
        self._vision = vision
        wrong = sorted(_OURS & self._options.keys())
        if wrong:
            raise ConfigError(f"{name}: {wrong[0]!r} is no option: recursor sets it")
        try:
            self._identity = _canonical({"model": name, "url": endpoint.url, "options": self._options})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: an option is no JSON value: {error}") from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, {self._endpoint.url!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def host(self) -> str:
        """Where the model is called, "api.openai.com"."""
        return self._endpoint.host

    @property
    def priced(self) -> bool:
        """Whether the cost of a call will be known."""
        return self._price is not None or prices.known(self._price_list, self._model)

    @property
    def window(self) -> int | None:
        """Tokens of input and output that the model takes; None when that is not known."""
        return self._window or prices.window(self._price_list, self._model)

    @property
    def vision(self) -> bool | None:
        """Whether the model takes pictures; None when that is not known."""
        if self._vision is None and re.search(_BLIND, self._model.lower()):
            return False
        return self._vision

    @property
    def identity(self) -> str:
        """What a reply depends on beside the messages and the schema, as canonical JSON. No key."""
        return self._identity

    def price(self, usage: Usage) -> float | None:
        """Return what a call costs, in US dollars; None when that is not known."""
        if self._price is not None:
            return self._price.of(usage)
        return prices.price(self._price_list, self._model, usage)

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt; see `recursor.protocols.Model`."""
        size = sum(each.size for each in messages)
        request = Request(self._name, self._endpoint.url, size, self.window)
        fields = {} if on_text is None else self.STREAMED
        if sum(len(image) for each in messages for image in each.images) > ASIDE:
            body: Body = await in_thread(lambda: encode({**self._body(messages, schema), **fields}))
        else:
            body = {**self._body(messages, schema), **fields}
        reading = self._reading(request)
        if on_text is None:
            reading.take_whole(await self._endpoint.post(body, request))
        else:
            await self._stream(body, reading, on_text)
        return self._reply(reading)

    @abstractmethod
    def _body(self, messages: Sequence[Message], schema: Schema | None) -> dict[str, Any]:
        """Return the request."""

    @abstractmethod
    def _reading(self, request: Request) -> Reading:
        """Return what reads the reply."""

    async def _stream(self, body: Body, reading: Reading, on_text: Callable[[str], None]) -> None:
        try:
            async with contextlib.aclosing(self._endpoint.stream(body, reading.request)) as events:
                async for event in events:
                    piece = reading.take_event(event)
                    if piece:
                        on_text(mended(piece))
                    if reading.closed:
                        break
        except ModelError:
            # Cut after its last word: the reply is whole, and paid for.
            if not reading.ended:
                raise
        if not reading.ended:
            raise ModelError(
                f"{reading.request.model} at {reading.request.url}: the reply broke off after "
                f"{len(reading.text):,} characters",
                retryable=True,
            )

    def _reply(self, reading: Reading) -> Reply:
        usage, billed = reading.counted()
        model = reading.model or self._model
        cost = self._cost(model, usage) if billed is None else billed
        return Reply(
            mended(reading.text),
            usage or Usage(calls=1),
            cost,
            model,
            reading.finish_reason,
            mended(reading.reasoning) or None,
            reading.raw,
        )

    def _cost(self, model: str, usage: Usage | None) -> float | None:
        """Return what the price says: the user's, or that of the name that the server gave or else of ours."""
        if usage is None:
            return 0.0 if self._price_list == prices.LOCAL and self._price is None else None
        cost = None if self._price else prices.price(self._price_list, model, usage)
        return self.price(usage) if cost is None else cost


class Reading(ABC):
    """A reply while it comes in: one document, or the events of a stream.

    Attributes:
        ended: the reply is whole, whatever may follow.
        closed: nothing follows.
        finish: why it ended, in the provider's word.
        model: the name that the server gave.
        raw: the document; of a stream, its last events.
    """

    FINISH: ClassVar[Mapping[str, str | None]]
    """The provider's words for a finish reason that are not ours."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ended = False
        self.closed = False
        self.finish: str | None = None
        self.model = ""
        self.raw: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, in our words."""
        return None if self.finish is None else self.FINISH.get(self.finish, self.finish)

    @abstractmethod
    def take_whole(self, data: bytes) -> str:
        """Read a reply that was not streamed, and return its text.

        Raises:
            ModelError: it holds an error, or is no reply.
        """

    @abstractmethod
    def take_event(self, event: ServerEvent) -> str:
        """Read one event of a stream, and return the text in it.

        Raises:
            ModelError: it is an error, or no event of this wire.
        """

    def _keep(self, document: dict[str, Any]) -> None:
        """Keep the last events of a stream, where finish and usage are."""
        self.raw = {"events": [*self.raw.get("events", [])[1 - _EVENTS :], document]}

    @abstractmethod
    def counted(self) -> tuple[Usage | None, float | None]:
        """Return what the reply says of its usage, and the provider's bill; None for what it does not say."""


def _canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
