"""The Messages wire of Anthropic.

Prompt caching: the system text and the last two user messages end in a cache breakpoint, so that
each prompt of an append-only conversation reads what the one before it wrote.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from recursor.models import schemas
from recursor.models.documents import count, decode, text, unreadable
from recursor.models.failures import Request, reported
from recursor.models.http import WHOLE
from recursor.models.sse import ServerEvent
from recursor.models.wire import Reading, Wire
from recursor.sandboxes.guest.images import media_type
from recursor.types import Message, Schema, Usage

VERSION = {"anthropic-version": "2023-06-01"}

_MAX_TOKENS = 16_384
"""Of a reply, where the options do not say; the wire wants a number."""
_SMALLER = (("claude-3-5", 8_192), ("claude-3-7", _MAX_TOKENS), ("claude-3", 4_096), ("claude-2", 4_096))
"""What older models allow at most, by prefix."""
_STRUCTURED = re.compile(r"claude-(opus|sonnet|haiku)-4-[5-9]\b")
"""Models that are known to take output_config.format; others are asked in the prompt."""
_CACHED: Any = {"type": "ephemeral"}


class _Block(msgspec.Struct):
    """A content block, or a piece of one."""

    type: str = ""
    text: str | None = None
    thinking: Any = None
    stop_reason: str | None = None


class _Answer(msgspec.Struct):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    model: Any = None
    usage: Any = None
    type: str = ""
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    message: _Answer | None = None
    content_block: _Block | None = None
    delta: _Block | None = None
    usage: Any = None
    error: Any = None


class AnthropicMessages(Wire):
    """A model behind an address that speaks Messages."""

    def _body(self, messages: Sequence[Message], schema: Schema | None) -> dict[str, Any]:
        limit = next((tokens for prefix, tokens in _SMALLER if self._model.startswith(prefix)), _MAX_TOKENS)
        body: dict[str, Any] = {"model": self._model, "max_tokens": limit, **self._options}
        wish = ""
        if schema is not None:
            if _STRUCTURED.search(self._model) and schemas.constrainable(schema):
                form = {"type": "json_schema", "schema": dict(schema)}
                body["output_config"] = {**body.get("output_config", {}), "format": form}
            else:
                wish = schemas.instruction(schema)
        system, turns = conversation(messages, wish)
        if system:
            body["system"] = [{"type": "text", "text": system, "cache_control": _CACHED}]
        body["messages"] = turns
        return body

    def _reading(self, request: Request) -> Reading:
        return _Reading(request)


class _Reading(Reading):
    FINISH: ClassVar = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._usage: dict[str, Any] = {}

    def take_whole(self, data: bytes) -> str:
        self.raw, read = decode(data, _Answer, self.request)
        if read.error:
            raise reported(read.error, self.request)
        if read.content is None:
            raise unreadable(data, "it has no content", self.request)
        for block in read.content:
            self._add(block)
        self._update(read)
        self.finish, self.ended = read.stop_reason, True
        return self.text

    def take_event(self, event: ServerEvent) -> str:
        if not event.data.strip():  # some servers keep a connection alive so
            return ""
        data = event.data.encode()
        if event.event == WHOLE:
            return self.take_whole(data)
        document, read = decode(data, _Event, self.request)
        self._keep(document)
        if read.error:
            raise reported(read.error, self.request)
        if read.message is not None:
            self._update(read.message)
        piece = "".join(self._add(block) for block in (read.content_block, read.delta) if block is not None)
        if isinstance(read.usage, dict):
            self._count(read.usage)
        if read.type == "message_delta" and read.delta is not None and read.delta.stop_reason is not None:
            self.finish, self.ended = read.delta.stop_reason, True
        self.ended = self.ended or read.type == "message_stop"
        return piece

    def counted(self) -> tuple[Usage | None, float | None]:
        return _usage(self._usage), None

    def _update(self, read: _Answer) -> None:
        self.model = text(read.model) or self.model
        if isinstance(read.usage, dict):
            self._count(read.usage)

    def _count(self, usage: dict[str, Any]) -> None:
        """Take counts: cumulative ones, of which a later event may name only some."""
        self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _add(self, block: _Block) -> str:
        said = block.text or ""
        self._text.append(said)
        self._reasoning.append(text(block.thinking))
        return said


def conversation(messages: Sequence[Message], wish: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Return the system text, and the turns as the wire wants them.

    The wire takes no empty text and no two turns of one role in a row. Only the system messages
    at the beginning are the system text: a later one becomes a user's, since a system text
    that changes would make every cached prefix worthless.

    Args:
        wish: what to add to the last user turn, behind the cached part.
    """
    first = next((index for index, each in enumerate(messages) if each.role != "system"), len(messages))
    system = "\n\n".join(each.content for each in messages[:first] if each.content.strip())
    turns: list[dict[str, Any]] = []
    for each in messages[first:]:
        role = "assistant" if each.role == "assistant" else "user"
        blocks = [_picture(image) for image in each.images]
        if each.content.strip():
            blocks.append({"type": "text", "text": each.content})
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "(no text)"}]})
    asked = [turn for turn in turns if turn["role"] == "user"]
    for turn in asked[-2:]:
        turn["content"][-1]["cache_control"] = _CACHED
    if wish:
        asked[-1]["content"].append({"type": "text", "text": wish})
    return system, turns


def _picture(image: bytes) -> dict[str, Any]:
    source = {"type": "base64", "media_type": media_type(image), "data": b64encode(image).decode()}
    return {"type": "image", "source": source}


def _usage(said: dict[str, Any]) -> Usage | None:
    """Return what the counts say, one by one; None when they do not say how much was read and written."""
    read, written = count(said.get("input_tokens")), count(said.get("output_tokens"))
    if read is None or written is None:
        return None
    cached = count(said.get("cache_read_input_tokens")) or 0
    stored = count(said.get("cache_creation_input_tokens")) or 0
    return Usage(
        # The wire counts apart what was read from the cache and written to it.
        input_tokens=read + cached + stored,
        output_tokens=written,
        cached_tokens=cached,
        cache_write_tokens=stored,
        calls=1,
    )
