"""The chat-completions API: requests, whole replies, and chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recursor.server.asked import Asked
from recursor.server.failures import ApiError
from recursor.server.form import PIECE, event, text_of
from recursor.server.functions import Call
from recursor.server.request import Headers, Request, asked_of, decoded, refuse, terms_of
from recursor.server.sessions import named
from recursor.server.work import Outcome
from recursor.types import Usage

MAX_STOPS = 4
REFUSED: Mapping[str, Sequence[Any]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "logprobs": (False,),
    "modalities": (["text"], []),
    "moderation": (),
    "n": (1,),
    "top_logprobs": (0,),
    "web_search_options": (),
}
"""Fields that ask for what no reply here has, and the values with which they do not."""


class ChatRequest(Request, kw_only=True):
    """What of a request matters here; other fields are taken and have no effect."""

    messages: list[dict[str, Any]]
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    service_tier: str | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: Any = None
    modalities: Any = None
    moderation: Any = None
    n: Any = None
    top_logprobs: Any = None
    web_search_options: Any = None


def read(body: bytes, headers: Headers) -> tuple[Form, Asked]:
    """Check a request. Raises ApiError with what is wrong."""
    request = decoded(body, ChatRequest)
    refuse(request, REFUSED)
    if isinstance(request.stop, list) and len(request.stop) > MAX_STOPS:
        raise ApiError(400, f"stop has {MAX_STOPS} texts at most", param="stop")
    terms = terms_of(request, headers, request.response_format, chat=True)
    going = named(request.metadata, headers.get("X-Recursor-Session"))
    asked = asked_of(terms, request.messages, headers, going)
    request.messages = []  # a reply repeats none of them
    return Form(request), asked


class Form:
    """How one reply is said."""

    def __init__(self, request: ChatRequest) -> None:
        self.stream = bool(request.stream)
        self.stored = False
        self.response: Mapping[str, Any] = {}
        self._request = request
        self._wants_usage = bool((request.stream_options or {}).get("include_usage"))
        self._tier = {} if request.service_tier is None else {"service_tier": "default"}
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or ()
        free = (request.response_format or {}).get("type", "text") == "text"
        self._stops = [stop for stop in stops if stop and free]
        self._created = int(time.time())
        self._id = ""

    def document(self, outcome: Outcome) -> Mapping[str, Any]:
        """The whole reply."""
        message: dict[str, Any] = {"role": "assistant", "content": self._text(outcome), "refusal": None}
        if outcome.calls:
            message["content"] = None
            message["tool_calls"] = [_call(call) for call in outcome.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(outcome)}
        return {
            "id": f"chatcmpl-{outcome.id}", "object": "chat.completion", "created": self._created,
            "model": self._request.model, "choices": [choice], "usage": usage_of(outcome.usage), **self._tier,
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
        text = "" if outcome.calls else self._text(outcome)
        for start in range(0, len(text), PIECE):
            yield self._chunk({"content": text[start : start + PIECE]})
        for index, call in enumerate(outcome.calls):
            yield self._chunk({"tool_calls": [{"index": index, **_call(call)}]})
        yield self._chunk({}, finish_reason(outcome))
        if self._wants_usage:
            yield event({**self._common(), "choices": [], "usage": usage_of(outcome.usage)})
        yield b"data: [DONE]\n\n"

    def failed(self, error: ApiError) -> Iterator[bytes]:
        yield event(error.body())

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._common(), "choices": [choice]}
        return event({**chunk, "usage": None} if self._wants_usage else chunk)

    def _common(self) -> dict[str, Any]:
        return {
            "id": self._id, "object": "chat.completion.chunk", "created": self._created,
            "model": self._request.model, **self._tier,
        }  # fmt: skip

    def _text(self, outcome: Outcome) -> str:
        """The answer, up to the first of the texts that are to stop it."""
        text = text_of(outcome)
        return text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))]


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
