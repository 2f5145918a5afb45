"""The responses API: requests. Their replies are made in `response_form`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recursor.server.asked import Asked
from recursor.server.failures import ApiError
from recursor.server.request import Headers, asked_of, decoded, refuse, terms_of
from recursor.server.response_form import Form, ResponsesRequest
from recursor.server.sessions import Going, named

REFUSED: Mapping[str, Sequence[Any]] = {"moderation": (), "prompt": ({},), "top_logprobs": (0,)}
"""Fields that ask for what no reply here has, and the values with which they do not."""
LOGPROBS = "message.output_text.logprobs"


def read(body: bytes, headers: Headers) -> tuple[Form, Asked]:
    """Check a request. Raises ApiError with what is wrong."""
    request = decoded(body, ResponsesRequest)
    refuse(request, REFUSED)
    if LOGPROBS in (request.include or ()):
        raise ApiError(400, f"{LOGPROBS} is not served here", "unsupported_parameter", "include")
    if request.background and request.store is False:
        raise ApiError(400, "a response in the background must be stored", param="background")
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    said = [message for index, item in enumerate(items) for message in _messages(index, item)]
    if request.instructions:
        said.insert(0, {"role": "system", "content": request.instructions})
    terms = terms_of(request, headers, (request.text or {}).get("format"), chat=False)
    asked = asked_of(terms, said, headers, _going(request, headers))
    request.input = ""  # which is in the messages
    return Form(request), asked


def _going(request: ResponsesRequest, headers: Headers) -> Going | None:
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
