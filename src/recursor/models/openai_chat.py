"""The chat-completions wire of OpenAI, which most servers speak, with what they do differently.

One request gives one reply or one `ModelError`. Does not speak the Responses wire, and sends no tools:
a root LM writes code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from recursor.errors import ModelError
from recursor.models import prices, schemas
from recursor.models.documents import decode, unreadable
from recursor.models.failures import Request, reported
from recursor.models.http import Endpoint
from recursor.types import Message, Reply, Schema, Usage

_FINISH = {
    "": None,
    "eos": "stop",
    "end_turn": "stop",
    "function_call": "tool_calls",
    "max_tokens": "length",
    "model_length": "length",
}
_RAW_EVENTS = 3


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    thinking: list[_Part] | str | None = None


class _Message(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _Completion(msgspec.Struct):
    """A whole reply, or one event of a stream."""

    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Any = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _CostDetails(msgspec.Struct):
    upstream_inference_cost: float | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's word for cached tokens."""
    cost: float | None = None
    """OpenRouter's bill, in dollars."""
    is_byok: bool | None = None
    cost_details: _CostDetails | None = None


class OpenAIChat:
    """A model behind an address that speaks chat completions."""

    def __init__(
        self,
        name: str,
        model: str,
        endpoint: Endpoint,
        *,
        price_list: str | None = None,
        options: Mapping[str, Any] | None = None,
        length_field: str = "max_tokens",
        schemas: bool = True,
    ) -> None:
        """Describe the model.

        Args:
            name: as the user wrote it.
            model: as the server calls it.
            price_list: see `Preset.price_list`.
            options: further fields of the request body, as "temperature" or "reasoning_effort".
                Those under "extra_body" are put beside the others; "max_tokens" is sent as `length_field`.
            schemas: whether the server takes a JSON Schema; otherwise the prompt asks for it.
        """
        self._name = name
        self._model = model
        self._endpoint = endpoint
        self._price_list = price_list
        self._schemas = schemas
        fields = dict(options or {})
        fields |= fields.pop("extra_body", {})
        if "max_tokens" in fields:
            fields[length_field] = fields.pop("max_tokens")
        self._options = fields

    def __repr__(self) -> str:
        return f"OpenAIChat({self._name!r}, {self._endpoint.url!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def priced(self) -> bool:
        """Whether the cost of a call will be known. OpenRouter says it itself."""
        return self._price_list == "openrouter" or prices.known(self._price_list, self._model)

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt; see `recursor.protocols.Model`."""
        request = Request(self._name, self._endpoint.url, sum(len(each.content) for each in messages))
        body = self._body(messages, schema)
        reading = _Reading(request)
        if on_text is None:
            data = await self._endpoint.post(body, request)
            reading.take(data)
            if reading.finish is None:
                raise unreadable(data, "it has no message", request)
        else:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            await self._stream(body, reading, on_text)
        return self._reply(reading)

    def _body(self, messages: Sequence[Message], schema: Schema | None) -> dict[str, Any]:
        sent = [{"role": each.role, "content": each.content} for each in messages]
        body: dict[str, Any] = {"model": self._model, "messages": sent, **self._options}
        if schema is not None and self._schemas:
            strict = schemas.constrainable(schema)
            form = {"name": "reply", "schema": dict(schema), "strict": strict}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None:
            sent[-1]["content"] += "\n\n" + schemas.instruction(schema)
        return body

    async def _stream(
        self, body: Mapping[str, Any], reading: _Reading, on_text: Callable[[str], None]
    ) -> None:
        try:
            async with contextlib.aclosing(self._endpoint.stream(body, reading.request)) as events:
                async for event in events:
                    if event.data == "[DONE]":
                        return
                    piece = reading.take(event.data.encode())
                    if piece:
                        on_text(piece)
        except ModelError:
            # Cut after its last word: the reply is whole, and paid for.
            if reading.finish is None:
                raise
        if reading.finish is None:
            raise ModelError(
                f"{reading.request.model} at {reading.request.url}: the reply broke off after "
                f"{len(reading.text):,} characters",
                retryable=True,
            )

    def _reply(self, reading: _Reading) -> Reply:
        usage, billed = _usage(reading.usage)
        model = reading.model or self._model
        cost = billed
        if cost is None and usage is not None:
            cost = prices.price(self._price_list, model, usage)
            if cost is None:
                cost = prices.price(self._price_list, self._model, usage)
        elif cost is None and self._price_list == prices.LOCAL:
            cost = 0.0
        finish = reading.finish
        return Reply(
            reading.text or reading.refusal,
            usage or Usage(calls=1),
            cost,
            model,
            _FINISH.get(finish, finish) if finish is not None else None,
            reading.reasoning or None,
            reading.raw,
        )


class _Reading:
    """A reply while it comes in: one document, or the events of a stream."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.finish: str | None = None
        self.model = ""
        self.usage: Any = None
        self.refusal = ""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._documents: list[dict[str, Any]] = []
        self._whole = False

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def raw(self) -> dict[str, Any]:
        """The document; of a stream, its last events."""
        return self._documents[-1] if self._whole else {"events": self._documents}

    def take(self, data: bytes) -> str:
        """Add one document and return the text in it.

        Raises:
            ModelError: it holds an error, or is no chat completion.
        """
        document, read = decode(data, _Completion, self.request)
        self._documents = [*self._documents[1 - _RAW_EVENTS :], document]
        choice = read.choices[0] if read.choices else _Choice()
        error = read.error or choice.error
        if error:
            raise reported(error, self.request)
        if read.choices is None and read.usage is None:
            raise unreadable(data, "it has no choices", self.request)
        self.model = read.model or self.model
        self.usage = read.usage or self.usage
        piece = self._add(choice.delta or choice.message or _Message())
        if choice.finish_reason is not None:
            self.finish = choice.finish_reason
        elif choice.message is not None:
            self.finish = self.finish or ""
        self._whole = self._whole or choice.message is not None
        return piece

    def _add(self, message: _Message) -> str:
        text, thought = _split(message.content)
        self._text.append(text)
        self._reasoning.append(message.reasoning_content or message.reasoning or thought)
        self.refusal += message.refusal or ""
        return text


def _split(content: str | list[_Part] | None) -> tuple[str, str]:
    """Return the text and the reasoning in a message's content."""
    if content is None or isinstance(content, str):
        return content or "", ""
    text, thought = [], []
    for part in content:
        text.append(part.text or "")
        thinking = part.thinking
        thought.append(thinking if isinstance(thinking, str) else "".join(_split(thinking)))
    return "".join(text), "".join(thought)


def _usage(said: Any) -> tuple[Usage | None, float | None]:
    """Return what a usage object says and the provider's bill; None for what it does not say."""
    try:
        read = msgspec.convert(said, _Usage)
    except msgspec.ValidationError:
        # The reply is paid for: better without its usage than lost.
        return None, None
    details = read.prompt_tokens_details or _PromptDetails()
    output = read.completion_tokens or 0
    if read.total_tokens is not None:
        # Gemini and xAI leave reasoning out of completion_tokens, and bill it.
        output = max(output, read.total_tokens - read.prompt_tokens)
    usage = Usage(
        input_tokens=read.prompt_tokens,
        output_tokens=output,
        cached_tokens=details.cached_tokens or read.prompt_cache_hit_tokens or 0,
        cache_write_tokens=details.cache_write_tokens or 0,
        reasoning_tokens=(read.completion_tokens_details or _CompletionDetails()).reasoning_tokens or 0,
        calls=1,
    )
    cost = read.cost
    if cost is not None and read.is_byok and read.cost_details is not None:
        cost += read.cost_details.upstream_inference_cost or 0.0
    return usage, cost
