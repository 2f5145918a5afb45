"""The chat-completions wire of OpenAI, which most servers speak, with what they do differently.

Does not speak the Responses wire, and sends no tools: a root LM writes code.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec

from recursor.models import schemas
from recursor.models.documents import count, decode, dollars, table, text, unreadable
from recursor.models.failures import Request, reported
from recursor.models.http import WHOLE, Endpoint
from recursor.models.prices import Price
from recursor.models.sse import ServerEvent
from recursor.models.wire import Reading, Wire
from recursor.sandboxes.guest.images import media_type
from recursor.types import Message, Schema, Usage


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    thinking: Any = None


class _Message(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | list[_Part] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: Any = None
    error: Any = None


class _Completion(msgspec.Struct):
    """A whole reply, or one event of a stream."""

    choices: list[_Choice] | None = None
    usage: Any = None
    model: Any = None
    error: Any = None


class OpenAIChat(Wire):
    """A model behind an address that speaks chat completions."""

    STREAMED: ClassVar = {"stream": True, "stream_options": {"include_usage": True}}

    def __init__(
        self,
        name: str,
        model: str,
        endpoint: Endpoint,
        *,
        price_list: str | None = None,
        options: Mapping[str, Any] | None = None,
        window: int | None = None,
        price: Price | None = None,
        vision: bool | None = None,
        length_field: str = "max_tokens",
        schemas: bool = True,
    ) -> None:
        """Describe the model; see `Wire`.

        Args:
            length_field: what the option "max_tokens" is sent as.
            schemas: whether the server takes a JSON Schema; otherwise the prompt asks for it.
        """
        super().__init__(
            name,
            model,
            endpoint,
            price_list=price_list,
            options=options,
            window=window,
            vision=vision,
            price=price,
        )
        self._schemas = schemas
        if "max_tokens" in self._options:
            self._options[length_field] = self._options.pop("max_tokens")

    @property
    def priced(self) -> bool:
        """Whether the cost of a call will be known. OpenRouter says it itself."""
        return self._price_list == "openrouter" or super().priced

    def _body(self, messages: Sequence[Message], schema: Schema | None) -> dict[str, Any]:
        sent = [{"role": each.role, "content": _content(each)} for each in messages]
        body: dict[str, Any] = {"model": self._model, "messages": sent, **self._options}
        if schema is not None and self._schemas:
            strict = schemas.constrainable(schema)
            form = {"name": "reply", "schema": dict(schema), "strict": strict}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None:
            asked = replace(messages[-1], content=f"{messages[-1].content}\n\n{schemas.instruction(schema)}")
            sent[-1]["content"] = _content(asked)
        return body

    def _reading(self, request: Request) -> Reading:
        return _Reading(request)


def _content(message: Message) -> str | list[dict[str, Any]]:
    """The content of a message on this wire: parts where there are pictures, which go before the text."""
    if not message.images:
        return message.content
    urls = [f"data:{media_type(image)};base64,{b64encode(image).decode()}" for image in message.images]
    pictures: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*pictures, {"type": "text", "text": message.content}]


class _Reading(Reading):
    FINISH: ClassVar = {
        "": None,
        "eos": "stop",
        "end_turn": "stop",
        "function_call": "tool_calls",
        "max_tokens": "length",
        "model_length": "length",
    }

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._usage: Any = None
        self._refusal = ""

    @property
    def text(self) -> str:
        return super().text or self._refusal

    def take_whole(self, data: bytes) -> str:
        document, piece = self._take(data)
        if not self.ended:
            raise unreadable(data, "it has no message", self.request)
        self.raw = document
        return piece

    def take_event(self, event: ServerEvent) -> str:
        if not event.data.strip():  # some servers keep a connection alive so
            return ""
        if event.data == "[DONE]":
            self.closed = True
            return ""
        document, piece = self._take(event.data.encode())
        if event.event == WHOLE:
            self.raw = document
        else:
            self._keep(document)
        return piece

    def counted(self) -> tuple[Usage | None, float | None]:
        return _usage(self._usage)

    def _take(self, data: bytes) -> tuple[dict[str, Any], str]:
        """Add one document; return it and the text in it."""
        document, read = decode(data, _Completion, self.request)
        choice = read.choices[0] if read.choices else _Choice()
        error = read.error or choice.error
        if error:
            raise reported(error, self.request)
        if read.choices is None and read.usage is None:
            raise unreadable(data, "it has no choices", self.request)
        self.model = text(read.model) or self.model
        self._usage = read.usage or self._usage
        piece = self._add(choice.delta or choice.message or _Message())
        if choice.finish_reason is not None:
            self.finish, self.ended = str(choice.finish_reason), True
        elif choice.message is not None:
            self.ended = True
        return document, piece

    def _add(self, message: _Message) -> str:
        said, thought = _split(message.content)
        self._text.append(said)
        self._reasoning.append(text(message.reasoning_content) or text(message.reasoning) or thought)
        self._refusal += text(message.refusal)
        return said


def _split(content: str | list[_Part] | None) -> tuple[str, str]:
    """Return the text and the reasoning in a message's content."""
    if content is None or isinstance(content, str):
        return content or "", ""
    said = "".join(part.text or "" for part in content)
    return said, "".join(_thought(part.thinking) for part in content)


def _thought(thinking: Any) -> str:
    """What a part thinks: a text, or parts that have one (Mistral)."""
    if isinstance(thinking, list):
        return "".join(text(table(part).get("text")) for part in thinking)
    return text(thinking)


def _usage(said: Any) -> tuple[Usage | None, float | None]:
    """Return what a usage object says and the provider's bill; None for what it does not say.

    Field by field: the reply is paid for, and one odd field makes the others no less true.
    """
    usage = table(said)
    # OpenRouter's bill, in dollars. Who brings a key of his own pays the provider beside.
    cost = dollars(usage.get("cost"))
    if cost is not None and usage.get("is_byok") is True:
        cost += dollars(table(usage.get("cost_details")).get("upstream_inference_cost")) or 0.0
    read = count(usage.get("prompt_tokens"))
    if read is None:
        return None, cost
    written = count(usage.get("completion_tokens")) or 0
    # Gemini and xAI leave reasoning out of completion_tokens, and bill it.
    written = max(written, (count(usage.get("total_tokens")) or 0) - read)
    details = table(usage.get("prompt_tokens_details"))
    # The second is DeepSeek's word for it.
    cached = count(details.get("cached_tokens")) or count(usage.get("prompt_cache_hit_tokens")) or 0
    cached = min(cached, read)
    thought = table(usage.get("completion_tokens_details")).get("reasoning_tokens")
    return Usage(
        input_tokens=read,
        output_tokens=written,
        cached_tokens=cached,
        cache_write_tokens=min(count(details.get("cache_write_tokens")) or 0, read - cached),
        reasoning_tokens=count(thought) or 0,
        calls=1,
    ), cost
