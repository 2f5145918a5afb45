"""The responses API: requests, whole replies, and events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from recursor.server.asked import Asked, Headers, check_messages, decoded, expected_of, limits_of, resumed
from recursor.server.attached import taken_out
from recursor.server.choice import chosen
from recursor.server.failures import ApiError
from recursor.server.form import PIECE, encoded, text_of
from recursor.server.functions import Call, functions_of
from recursor.server.sessions import Going, named
from recursor.server.work import Outcome
from recursor.types import Usage

ELSEWHERE = ("prompt",)
"""Fields that need what is not kept or done here."""


class Request(msgspec.Struct):
    """What of a request matters here; other fields are taken and have no effect."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    prompt: Any = None


def read(body: bytes, headers: Headers) -> tuple[Form, Asked]:
    """Check a request. Raises ApiError with what is wrong."""
    request = decoded(body, Request)
    for name in ELSEWHERE:
        if getattr(request, name):
            raise ApiError(
                400,
                f"{name} is not served here",
                "unsupported_parameter",
                name,
            )
    if request.background and request.store is False:
        raise ApiError(400, "a response in the background must be stored", param="background")
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    said = [message for index, item in enumerate(items) for message in _messages(index, item)]
    if request.instructions:
        said.insert(0, {"role": "system", "content": request.instructions})
    messages, context = taken_out(said, "input")
    going = _going(request, headers)
    check_messages(
        messages, "input", goes_on=going is not None and going.kind in ("response", "conversation")
    )
    expected = expected_of((request.text or {}).get("format"), "text.format")
    choice = chosen(functions_of(request.tools, nested=False), request.tool_choice)
    asked = Asked(
        request.model,
        messages,
        context,
        choice.expected if choice.forced else expected,
        limits_of(request.metadata, headers),
        choice,
        request.parallel_tool_calls is not False,
        going,
        resume=resumed(headers),
    )
    request.input = ""  # which is in the messages
    return Form(request), asked


def _going(request: Request, headers: Headers) -> Going | None:
    """The conversation that a response is a part of: later ones may go on from it, unless it is not stored."""
    conversation = request.conversation
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    if request.previous_response_id and conversation:
        raise ApiError(400, "pass previous_response_id or conversation, not both", param="conversation")
    if request.previous_response_id:
        return Going("response", request.previous_response_id)
    if conversation:
        return Going("conversation", str(conversation))
    found = named(request.metadata, headers.get("X-Recursor-Session"))
    return found or (None if request.store is False else Going("new"))


def _messages(index: int, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An item as messages of a chat: none for reasoning, which says nothing of what was asked."""
    match item.get("type", "message"):
        case "message":
            return [{"role": item.get("role"), "content": _content(item.get("content"))}]
        case "function_call" | "custom_tool_call" as kind:
            name, field = ("custom", "input") if kind == "custom_tool_call" else ("function", "arguments")
            call = {"id": item.get("call_id"), "type": name}
            said = {"name": item.get("name"), field: item.get(field)}
            return [{"role": "assistant", "content": None, "tool_calls": [{**call, name: said}]}]
        case "function_call_output" | "custom_tool_call_output":
            output = _content(item.get("output"))
            return [{"role": "tool", "tool_call_id": item.get("call_id"), "content": output}]
        case "reasoning":
            return []
        case str(kind) if kind.endswith(("_call", "_call_output")):  # of tools that another server has
            return [{"role": "assistant", "content": json.dumps(item)}]
    raise ApiError(
        400, f"input[{index}]: items of this type are not served here", param=f"input[{index}].type"
    )


def _content(content: Any) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Any:
    """A part, as chat completions have it."""
    match part.get("type") if isinstance(part, dict) else None:
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": part.get("text")}
        case "input_file":
            return {"type": "file", "file": part}
    return part


class Form:
    """How one reply is said."""

    def __init__(self, request: Request) -> None:
        self.stream = bool(request.stream)
        self.background = bool(request.background)
        self.stored = request.store is not False
        self.response: Mapping[str, Any] = {}
        self._request = request
        self._created = int(time.time())
        self._id = ""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._thought: list[str] = []

    def document(self, outcome: Outcome) -> Mapping[str, Any]:
        """The whole reply."""
        self._id = outcome.id
        self.response = self._response(outcome, self._items(outcome))
        return self.response

    def opening(self, reply_id: str) -> Iterator[bytes]:
        self._id = reply_id
        self.response = self._response()
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self._response())

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
        yield from self._reasoned()
        for item in self._items(outcome):
            place = len(self._output)
            yield from self._message(item, place) if item["type"] == "message" else self._call(item, place)
            self._output.append(item)
        self.response = self._response(outcome, self._output)
        yield self._event(f"response.{self.response['status']}", response=self.response)

    def failed(self, error: ApiError) -> Iterator[bytes]:
        yield from self._reasoned()
        told = {"code": error.code or error.body()["error"]["type"], "message": error.message}
        self.response = {**self._response(), "status": "failed", "error": told, "output": self._output}
        yield self._event("response.failed", response=self.response)

    def cancelled(self) -> Iterator[bytes]:
        """The end of one that its client has stopped."""
        yield from self._reasoned()
        self.response = {**self._response(), "status": "cancelled", "output": self._output}
        yield self._event("response.cancelled", response=self.response)

    def _reasoned(self) -> Iterator[bytes]:
        if not self._thought:
            return
        text = "".join(self._thought)
        item = {
            "id": f"rs_{self._id}",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text}],
        }
        yield self._event("response.reasoning_summary_text.done", **self._summary(), text=text)
        yield self._part("response.reasoning_summary_part.done", text)
        yield self._event("response.output_item.done", output_index=0, item=item)
        self._output.append(item)

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
        name = {} if custom else {"name": item["name"]}
        begun = {**item, "status": "in_progress", field: ""}
        yield self._event("response.output_item.added", output_index=place, item=begun)
        yield self._event(f"response.{kind}.delta", **at, delta=item[field])
        yield self._event(f"response.{kind}.done", **at, **name, **{field: item[field]})
        yield self._event("response.output_item.done", output_index=place, item=item)

    def _items(self, outcome: Outcome) -> list[dict[str, Any]]:
        if outcome.calls:
            return [_item(call) for call in outcome.calls]
        part = {"type": "output_text", "text": text_of(outcome), "annotations": [], "logprobs": []}
        status = "completed" if outcome.answered else "incomplete"
        message = {"id": f"msg_{self._id}", "type": "message", "status": status, "role": "assistant"}
        return [{**message, "content": [part]}]

    def _response(self, outcome: Outcome | None = None, output: Any = ()) -> dict[str, Any]:
        request, status, why = self._request, "in_progress", None
        if outcome is not None:
            status = "completed" if outcome.calls or outcome.answered else "incomplete"
            why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": f"resp_{self._id}", "object": "response", "created_at": self._created, "status": status,
            "background": self.background, "error": None,
            "incomplete_details": why, "instructions": request.instructions,
            "metadata": request.metadata or {}, "model": request.model, "output": list(output),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "tool_choice": request.tool_choice or "auto", "tools": request.tools or [],
            "temperature": None, "top_p": None, "previous_response_id": request.previous_response_id,
            "store": request.store is not False, "conversation": self._conversation(),
            "text": request.text or {"format": {"type": "text"}},
            "usage": None if outcome is None else usage_of(outcome.usage),
        }  # fmt: skip

    def _conversation(self) -> Any:
        named = self._request.conversation
        return {"id": named} if isinstance(named, str) and named else named or None

    def _summary(self) -> dict[str, Any]:
        return {"item_id": f"rs_{self._id}", "output_index": 0, "summary_index": 0}

    def _part(self, kind: str, text: str) -> bytes:
        return self._event(kind, **self._summary(), part={"type": "summary_text", "text": text})

    def _event(self, kind: str, **rest: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **rest}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def _item(call: Call) -> dict[str, Any]:
    function = call.function
    kind, field, letters = (
        ("custom_tool_call", "input", "ctc") if function.custom else ("function_call", "arguments", "fc")
    )
    return {
        "id": f"{letters}_{call.id.removeprefix('call_')}", "type": kind, "status": "completed",
        "call_id": call.id, "name": function.name, field: call.arguments,
        **({"namespace": function.namespace} if function.namespace else {}),
    }  # fmt: skip


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of the whole tree of runs."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
