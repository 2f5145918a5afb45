"""The responses API: what a reply repeats of its request, and replies as documents and as events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from recursor.server.failures import ApiError
from recursor.server.form import PIECE, encoded, text_of
from recursor.server.functions import Call
from recursor.server.request import Request
from recursor.server.work import Outcome
from recursor.types import Usage

ERRORS = {"upstream_rate_limit": "rate_limit_exceeded", "context_length_exceeded": "invalid_prompt"}
"""Codes of errors, as responses have them; all others are a "server_error"."""
REPEATED = (
    "max_output_tokens", "max_tool_calls", "prompt_cache_key", "reasoning", "safety_identifier", "temperature", "top_p",
    "user",
)  # fmt: skip
"""Fields of a request that have no effect, and that a reply says again."""


class ResponsesRequest(Request, kw_only=True):
    """What of a request matters here, or is repeated in replies; other fields are taken and have no effect."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    text: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    moderation: Any = None
    prompt: Any = None
    top_logprobs: Any = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None


class Form:
    """How one reply is said.

    Args:
        created: when it was asked for, in seconds since 1970; None for now.
        first: the number of its first event.

    Attributes:
        request: as it came, without its input.
        number: of the next event.
    """

    def __init__(self, request: ResponsesRequest, created: float | None = None, first: int = 0) -> None:
        self.request = request
        self.stream = bool(request.stream)
        self.background = bool(request.background)
        self.stored = request.store is not False
        self.response: Mapping[str, Any] = {}
        self._created = int(time.time() if created is None else created)
        self._id = ""
        self.number = first
        self._thought: list[str] = []
        self._whole: Mapping[str, Any] | None = None

    @staticmethod
    def again(request: ResponsesRequest, document: Mapping[str, Any], first: int) -> Form:
        """Of a response that was told in part before."""
        form = Form(request, document["created_at"], first)
        form._id = document["id"].removeprefix("resp_")
        form.response = document
        return form

    def document(self, outcome: Outcome) -> Mapping[str, Any]:
        """The whole reply, the same however often it is asked for."""
        if self._whole is None:
            self._id = outcome.id
            self._whole = self._response(outcome, [*self._thoughts(), *self._items(outcome)])
        self.response = self._whole
        return self._whole

    def opening(self, reply_id: str) -> Iterator[bytes]:
        self._id = reply_id
        self.response = self._response()
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def reasoning(self, text: str) -> Iterator[bytes]:
        """What the RLM does meanwhile, as the summary of a reasoning."""
        if not self._thought:
            item = {"id": f"rs_{self._id}", "type": "reasoning", "summary": []}
            yield self._event("response.output_item.added", output_index=0, item=item)
            yield self._part("response.reasoning_summary_part.added", "")
        self._thought.append(text)
        yield self._event("response.reasoning_summary_text.delta", **self._summary(), delta=text)

    def waiting(self) -> Iterator[bytes]:
        """An event: there are clients to which comments are no sign of life."""
        yield self._event("response.in_progress", response=self._response())

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The answer or the calls, why it ended, and what it used."""
        response = self.document(outcome)
        yield from self._reasoned()
        for place, item in enumerate(response["output"]):
            if item["type"] == "message":
                yield from self._message(item, place)
            elif item["type"] != "reasoning":
                yield from self._call(item, place)
        yield self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> Iterator[bytes]:
        kind = error.code or error.body()["error"]["type"]
        code = ERRORS.get(kind, "invalid_prompt" if error.status == 400 else "server_error")
        told = {"code": code, "message": error.message, "type": kind}
        self.response = {**self._response(None, self._thoughts()), "status": "failed", "error": told}
        yield from self._reasoned()
        yield self._event("response.failed", response=self.response)

    def cancelled(self) -> Iterator[bytes]:
        """The end of one that its client has stopped. The API has no event of its own for that."""
        self.response = {**self._response(None, self._thoughts()), "status": "cancelled"}
        yield from self._reasoned()
        yield self._event("response.incomplete", response=self.response)

    def _thoughts(self) -> list[dict[str, Any]]:
        """The reasoning so far, as items."""
        if not self._thought:
            return []
        summary = [{"type": "summary_text", "text": "".join(self._thought)}]
        return [{"id": f"rs_{self._id}", "type": "reasoning", "summary": summary}]

    def _reasoned(self) -> Iterator[bytes]:
        """The end of the reasoning, where there was some."""
        for item in self._thoughts():
            text = item["summary"][0]["text"]
            yield self._event("response.reasoning_summary_text.done", **self._summary(), text=text)
            yield self._part("response.reasoning_summary_part.done", text)
            yield self._event("response.output_item.done", output_index=0, item=item)

    def _message(self, item: Mapping[str, Any], place: int) -> Iterator[bytes]:
        at = {"item_id": item["id"], "output_index": place, "content_index": 0}
        part = item["content"][0]
        begun = {**item, "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=place, item=begun)
        yield self._event("response.content_part.added", **at, part={**part, "text": ""})
        for start in range(0, len(part["text"]), PIECE):
            delta = part["text"][start : start + PIECE]
            yield self._event("response.output_text.delta", **at, delta=delta, logprobs=[])
        yield self._event("response.output_text.done", **at, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **at, part=part)
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _call(self, item: Mapping[str, Any], place: int) -> Iterator[bytes]:
        at = {"item_id": item["id"], "output_index": place}
        custom = item["type"] == "custom_tool_call"
        kind, field = (
            ("custom_tool_call_input", "input") if custom else ("function_call_arguments", "arguments")
        )
        begun = {**item, field: ""} if custom else {**item, field: "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=place, item=begun)
        yield self._event(f"response.{kind}.delta", **at, delta=item[field])
        yield self._event(f"response.{kind}.done", **at, **{field: item[field]})
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _items(self, outcome: Outcome) -> list[dict[str, Any]]:
        if outcome.calls:
            return [_item(call) for call in outcome.calls]
        part = {"type": "output_text", "text": text_of(outcome), "annotations": [], "logprobs": []}
        status = "completed" if outcome.answered else "incomplete"
        message = {"id": f"msg_{self._id}", "type": "message", "status": status, "role": "assistant"}
        return [{**message, "content": [part]}]

    def _response(self, outcome: Outcome | None = None, output: Any = ()) -> dict[str, Any]:
        request, status, why = self.request, "in_progress", None
        if outcome is not None:
            status = "completed" if outcome.calls or outcome.answered else "incomplete"
            why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        text = request.text or {}
        return {
            "id": f"resp_{self._id}", "object": "response", "created_at": self._created, "status": status,
            "completed_at": time.time() if status == "completed" else None,
            "background": self.background, "error": None,
            "incomplete_details": why, "instructions": request.instructions,
            "metadata": {name: value if isinstance(value, str) else encoded(value).decode()
                         for name, value in (request.metadata or {}).items()},
            "model": request.model, "output": list(output),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "tool_choice": request.tool_choice or "auto", "tools": request.tools or [],
            "previous_response_id": request.previous_response_id,
            "store": request.store is not False, "conversation": self._conversation(),
            "text": {**text, "format": text.get("format") or {"type": "text"}},
            "service_tier": "default", "truncation": request.truncation or "disabled",
            **{name: getattr(request, name) for name in REPEATED},
            "usage": None if outcome is None else usage_of(outcome.usage),
        }  # fmt: skip

    def _conversation(self) -> Any:
        named = self.request.conversation
        return {"id": named} if isinstance(named, str) and named else named or None

    def _summary(self) -> dict[str, Any]:
        return {"item_id": f"rs_{self._id}", "output_index": 0, "summary_index": 0}

    def _part(self, kind: str, text: str) -> bytes:
        return self._event(kind, **self._summary(), part={"type": "summary_text", "text": text})

    def _event(self, kind: str, **rest: Any) -> bytes:
        value = {"type": kind, "sequence_number": self.number, **rest}
        self.number += 1
        return b"event: " + kind.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def _item(call: Call) -> dict[str, Any]:
    function = call.function
    place = {"namespace": function.namespace} if function.namespace else {}
    named = {"call_id": call.id, "name": function.name, **place}
    number = call.id.removeprefix("call_")
    if function.custom:
        return {"id": f"ctc_{number}", "type": "custom_tool_call", **named, "input": call.arguments}
    return {
        "id": f"fc_{number}", "type": "function_call", "status": "completed", **named, "arguments": call.arguments,
    }  # fmt: skip


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of the whole tree of runs."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
