"""The chat-completions API: requests, whole replies, and chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from recursor.server.asked import Asked, Headers, check_messages, decoded, expected_of, limits_of, resumed
from recursor.server.attached import taken_out
from recursor.server.choice import chosen
from recursor.server.failures import ApiError
from recursor.server.form import PIECE, event, text_of
from recursor.server.functions import Call, functions_of
from recursor.server.sessions import named
from recursor.server.work import Outcome
from recursor.types import Usage

ELSEWHERE = ("functions", "function_call", "audio", "modalities")
"""Fields that ask for another kind of answer."""


class Request(msgspec.Struct):
    """What of a request matters here; other fields are taken and have no effect."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    n: int | None = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Any = None


def read(body: bytes, headers: Headers) -> tuple[Form, Asked]:
    """Check a request. Raises ApiError with what is wrong."""
    request = decoded(body, Request)
    if request.n not in (None, 1):
        raise ApiError(400, "n must be 1: an RLM gives one answer", param="n")
    for name in ELSEWHERE:
        if getattr(request, name) not in (None, [], ["text"], "none"):
            raise ApiError(400, f"{name} is not served here", "unsupported_parameter", name)
    messages, context = taken_out(request.messages, "messages")
    check_messages(messages, "messages")
    expected = expected_of(request.response_format, "response_format")
    choice = chosen(functions_of(request.tools, nested=True), request.tool_choice)
    asked = Asked(
        request.model,
        messages,
        context,
        choice.expected if choice.forced else expected,
        limits_of(request.metadata, headers),
        choice,
        request.parallel_tool_calls is not False,
        named(request.metadata, headers.get("X-Recursor-Session")),
        resume=resumed(headers),
    )
    request.messages = []  # a reply repeats none of them
    return Form(request), asked


class Form:
    """How one reply is said."""

    def __init__(self, request: Request) -> None:
        self.stream = bool(request.stream)
        self.background = self.stored = False
        self.response: Mapping[str, Any] = {}
        self._request = request
        self._wants_usage = bool((request.stream_options or {}).get("include_usage"))
        self._created = int(time.time())
        self._id = ""

    def document(self, outcome: Outcome) -> Mapping[str, Any]:
        """The whole reply."""
        message: dict[str, Any] = {"role": "assistant", "content": text_of(outcome), "refusal": None}
        if outcome.calls:
            message["content"] = None
            message["tool_calls"] = [_call(call) for call in outcome.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(outcome)}
        return {
            "id": f"chatcmpl-{outcome.id}", "object": "chat.completion", "created": self._created,
            "model": self._request.model, "choices": [choice], "usage": usage_of(outcome.usage),
        }  # fmt: skip

    def opening(self, reply_id: str) -> Iterator[bytes]:
        self._id = f"chatcmpl-{reply_id}"
        yield self._chunk({"role": "assistant", "content": ""})

    def reasoning(self, text: str) -> Iterator[bytes]:
        """What the RLM does meanwhile, as several providers name it."""
        yield self._chunk({"reasoning_content": text})

    def waiting(self) -> Iterator[bytes]:
        yield b": working\n\n"

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The answer or the calls, why it ended, and what it used."""
        text = "" if outcome.calls else text_of(outcome)
        for start in range(0, len(text), PIECE):
            yield self._chunk({"content": text[start : start + PIECE]})
        for index, call in enumerate(outcome.calls):
            yield self._chunk({"tool_calls": [{"index": index, **_call(call)}]})
        yield self._chunk({}, finish_reason(outcome))
        if self._wants_usage:
            yield event({**self._common(), "choices": [], "usage": usage_of(outcome.usage)})
        yield b"data: [DONE]\n\n"

    def cancelled(self) -> Iterator[bytes]:
        """Never asked for: nobody can stop one but by going away."""
        yield from ()

    def failed(self, error: ApiError) -> Iterator[bytes]:
        yield event(error.body())

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._common(), "choices": [choice]}
        return event({**chunk, "usage": None} if self._wants_usage else chunk)

    def _common(self) -> dict[str, Any]:
        return {
            "id": self._id, "object": "chat.completion.chunk", "created": self._created,
            "model": self._request.model,
        }  # fmt: skip


def _call(call: Call) -> dict[str, Any]:
    kind, field = ("custom", "input") if call.function.custom else ("function", "arguments")
    return {"id": call.id, "type": kind, kind: {"name": call.function.name, field: call.arguments}}


def finish_reason(outcome: Outcome) -> str:
    if outcome.calls:
        return "tool_calls"
    return "stop" if outcome.answered else "length"


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
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "recursor"} for name in names]
    return {"object": "list", "data": rows}
