"""The chat-completions API: requests, whole replies, and chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from recursor.server.asked import Asked, limits_of, schema_of
from recursor.server.failures import ApiError
from recursor.types import Completion, StopReason, Usage

PIECE = 2_000
"""Characters of an answer in one chunk."""
UNKNOWN = ("audio", "modalities", "functions", "function_call", "prediction")
"""Fields that would change what is answered, and that are not served."""


class Request(msgspec.Struct):
    """What of a request matters here; other fields are taken and have no effect."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    n: int | None = None

    @property
    def wants_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


def read(body: bytes, headers: Mapping[str, str]) -> tuple[Request, Asked]:
    """Check a request. Raises ApiError with what is wrong."""
    try:
        request = msgspec.json.decode(body, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is no request for a chat completion: {error}") from None
    if request.n not in (None, 1):
        raise ApiError(400, "n must be 1: an RLM gives one answer", param="n")
    for index, message in enumerate(request.messages):
        _check(index, message)
    if not any(message["role"] == "user" for message in request.messages):
        raise ApiError(400, "messages hold no user message to take the question from", param="messages")
    asked = Asked(
        request.model,
        request.messages,
        schema_of(request.response_format),
        limits_of(request.metadata, headers),
    )
    return request, asked


def _check(index: int, message: Mapping[str, Any]) -> None:
    where = f"messages[{index}]"
    if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
        raise ApiError(400, f"{where}.role is none of the API's", param=where)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    for part in content if isinstance(content, list) else [None]:
        if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
            raise ApiError(400, f"{where}.content must be a text or a list of text parts", param=where)


def document(done: Completion, request: Request, created: float) -> dict[str, Any]:
    """The whole reply."""
    message = {"role": "assistant", "content": text_of(done.answer), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(done)}
    return {
        "id": identity(done.run_id), "object": "chat.completion", "created": int(created), "model": request.model,
        "choices": [choice], "usage": usage_of(done.usage),
    }  # fmt: skip


class Chunks:
    """The events of one stream, as bytes."""

    def __init__(self, request: Request, created: float) -> None:
        self._request = request
        self._created = int(created)
        self._id = ""

    def opening(self, run_id: str) -> bytes:
        self._id = identity(run_id)
        return self._chunk({"role": "assistant", "content": ""})

    def reasoning(self, text: str) -> bytes:
        """What the RLM does meanwhile, as several providers name it."""
        return self._chunk({"reasoning_content": text})

    def closing(self, done: Completion) -> Iterator[bytes]:
        """The answer, why it ended, and what it used."""
        text = text_of(done.answer)
        for start in range(0, len(text), PIECE):
            yield self._chunk({"content": text[start : start + PIECE]})
        yield self._chunk({}, finish_reason(done))
        if self._request.wants_usage:
            yield event({**self._common(), "choices": [], "usage": usage_of(done.usage)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._common(), "choices": [choice]}
        return event({**chunk, "usage": None} if self._request.wants_usage else chunk)

    def _common(self) -> dict[str, Any]:
        return {
            "id": self._id, "object": "chat.completion.chunk", "created": self._created,
            "model": self._request.model,
        }  # fmt: skip


def event(value: Any) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


def encoded(value: Any) -> bytes:
    """JSON in ASCII, lone surrogates spelt."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def identity(run_id: str) -> str:
    return f"chatcmpl-{run_id}"


def text_of(answer: Any) -> str:
    """An answer as content: a text as it is, any other value as JSON."""
    if answer is None:
        return ""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)


def finish_reason(done: Completion) -> str:
    return "stop" if done.stop_reason is StopReason.ANSWERED else "length"


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of the whole tree of runs."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def models(names: list[str]) -> dict[str, Any]:
    """The list of models."""
    rows = [
        {"id": name, "object": "model", "created": int(time.time()), "owned_by": "recursor"} for name in names
    ]
    return {"object": "list", "data": rows}
