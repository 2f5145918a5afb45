"""The wires of OpenAI and Anthropic, as a server speaks them: requests read, replies written. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from recursor.context.pictures import is_picture, of_part
from recursor.errors import ConfigError
from recursor.types import Message, Reply, Role


class Refused(Exception):
    """A request that the provider would not take."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, kind, headers)
        self.status, self.message, self.kind, self.headers = status, message, kind, headers


class Chat:
    """The chat-completions wire."""

    def messages(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> list[Message]:
        """Return the request's messages. Raises Refused as the provider would."""
        del headers  # this wire wants none
        if not isinstance(body.get("model"), str) or not body["model"]:
            raise Refused(400, "you must provide a model parameter")
        found = body.get("messages")
        if not isinstance(found, list) or not found:
            raise Refused(400, "Missing required parameter: 'messages'.")
        return [_message(each, ("system", "developer", "user", "assistant")) for each in found]

    def schema(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the schema that the reply shall follow."""
        form = body.get("response_format")
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            return None
        named = form.get("json_schema")
        if not isinstance(named, dict) or not named.get("name"):
            raise Refused(400, "Missing required parameter: 'response_format.json_schema.name'.")
        schema: dict[str, Any] = named.get("schema") or {}
        return schema

    def document(self, reply: Reply, body: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a whole reply."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.reasoning is not None:
            message["reasoning_content"] = reply.reasoning
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": reply.finish_reason or "stop",
        }
        return {
            **self._head("chat.completion", body, number),
            "choices": [choice],
            "usage": self._usage(reply),
        }

    def events(self, reply: Reply, body: Mapping[str, Any], number: int, piece: int) -> list[bytes]:
        """Return a streamed reply. Usage comes in an event of its own, when it is asked for."""
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        head = self._head("chat.completion.chunk", body, number) | ({"usage": None} if asked else {})

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return _event({**head, "choices": [choice]})

        events = [chunk({"role": "assistant", "content": "", "refusal": None})]
        events += [chunk({"reasoning_content": text}) for text in _pieces(reply.reasoning or "", piece)]
        events += [chunk({"content": text}) for text in _pieces(reply.text, piece)]
        events.append(chunk({}, reply.finish_reason or "stop"))
        if asked:
            events.append(_event({**head, "choices": [], "usage": self._usage(reply)}))
        return [*events, b"data: [DONE]\n\n"]

    def error(self, status: int, message: str, kind: str | None) -> dict[str, Any]:
        """Return an error object."""
        known = {401: "invalid_request_error", 429: "requests", 400: "invalid_request_error"}
        return {
            "error": {
                "message": message,
                "type": kind or known.get(status, "server_error"),
                "param": None,
                "code": kind,
            }
        }

    def error_event(self, status: int, message: str) -> bytes:
        """Return an error in the middle of a stream."""
        return _event(self.error(status, message, None))

    def models(self, name: str) -> dict[str, Any]:
        """Return the list of models."""
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "recursor"}],
        }

    def _head(self, kind: str, body: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{number}",
            "object": kind,
            "created": int(time.time()),
            "model": body["model"],
        }

    def _usage(self, reply: Reply) -> dict[str, Any]:
        usage = reply.usage
        said: dict[str, Any] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        return said | ({"cost": reply.cost} if reply.cost else {})


class Messages:
    """The Messages wire."""

    def messages(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> list[Message]:
        """Return the request's messages. Raises Refused as the provider would."""
        if "anthropic-version" not in headers:
            raise Refused(400, "anthropic-version: header is required")
        for name in ("model", "max_tokens", "messages"):
            if not body.get(name):
                raise Refused(400, f"{name}: Field required")
        system = body.get("system") or ""
        opening = [_message({"role": "system", "content": system}, ("system",))] if system else []
        found = [_message(each, ("user", "assistant"), strict=True) for each in body["messages"]]
        marked = str(system).count("cache_control") + str(body["messages"]).count("'cache_control'")
        if marked > 4:
            raise Refused(400, f"A maximum of 4 blocks with cache_control may be provided. Found {marked}.")
        return opening + found

    def schema(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the schema that the reply shall follow."""
        form = (body.get("output_config") or {}).get("format")
        return form.get("schema") if isinstance(form, dict) else None

    def document(self, reply: Reply, body: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a whole reply."""
        content: list[dict[str, Any]] = []
        if reply.reasoning is not None:
            content.append({"type": "thinking", "thinking": reply.reasoning, "signature": "none"})
        content.append({"type": "text", "text": reply.text})
        return self._head(body, number) | {
            "content": content, "stop_reason": self._stop(reply), "usage": self._usage(reply)
        }  # fmt: skip

    def events(self, reply: Reply, body: Mapping[str, Any], number: int, piece: int) -> list[bytes]:
        """Return a streamed reply."""
        begun = {**self._head(body, number), "usage": {**self._usage(reply), "output_tokens": 1}}
        events = [self._event("message_start", message=begun), self._event("ping")]
        blocks = [("text", "text", reply.text)]
        if reply.reasoning is not None:
            blocks.insert(0, ("thinking", "thinking", reply.reasoning))
        for index, (kind, name, text) in enumerate(blocks):
            events.append(
                self._event("content_block_start", index=index, content_block={"type": kind, name: ""})
            )
            for part in _pieces(text, piece):
                delta = {"type": f"{kind}_delta", name: part}
                events.append(self._event("content_block_delta", index=index, delta=delta))
            events.append(self._event("content_block_stop", index=index))
        end = {"stop_reason": self._stop(reply), "stop_sequence": None}
        usage = {"output_tokens": reply.usage.output_tokens}
        return [*events, self._event("message_delta", delta=end, usage=usage), self._event("message_stop")]

    def error(self, status: int, message: str, kind: str | None) -> dict[str, Any]:
        """Return an error object."""
        known = {
            400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
            404: "not_found_error", 413: "request_too_large",
            429: "rate_limit_error", 529: "overloaded_error",
        }  # fmt: skip
        return {
            "type": "error",
            "error": {"type": kind or known.get(status, "api_error"), "message": message},
        }

    def error_event(self, status: int, message: str) -> bytes:
        """Return an error in the middle of a stream."""
        return _event(self.error(status, message, "overloaded_error"), "error")

    def models(self, name: str) -> dict[str, Any]:
        """Return the list of models."""
        entry = {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
        return {"data": [entry], "has_more": False, "first_id": name, "last_id": name}

    def _event(self, kind: str, **fields: Any) -> bytes:
        return _event({"type": kind, **fields}, kind)

    def _head(self, body: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {
            "id": f"msg_{number:024}", "type": "message", "role": "assistant", "model": body["model"],
            "content": [], "stop_reason": None, "stop_sequence": None,
        }  # fmt: skip

    def _stop(self, reply: Reply) -> str:
        words = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
        return words.get(reply.finish_reason or "", "end_turn")

    def _usage(self, reply: Reply) -> dict[str, Any]:
        usage = reply.usage
        return {
            "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
            "cache_creation_input_tokens": usage.cache_write_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
        }


def _message(found: Any, roles: tuple[str, ...], *, strict: bool = False) -> Message:
    """Read one message. `strict` refuses empty text, as Anthropic does."""
    if not isinstance(found, dict) or found.get("role") not in roles:
        raise Refused(400, f"messages: role must be one of {', '.join(roles)}")
    content = found.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(each, dict) for each in blocks):
        raise Refused(400, "messages: content must be a text or a list of blocks")
    texts = [each.get("text") for each in blocks if each.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "messages: text must be a string")
    if strict and not all(str(text).strip() for text in texts):
        raise Refused(400, "messages: text content blocks must contain non-whitespace text")
    role: Role = "system" if found["role"] == "developer" else found["role"]
    return Message(role, "".join(map(str, texts)), tuple(_pictures(blocks)))


def _pictures(blocks: list[dict[str, Any]]) -> Iterator[bytes]:
    for block in filter(is_picture, blocks):
        try:
            yield bytes(of_part(block, "messages"))
        except ConfigError as error:
            raise Refused(400, str(error)) from None


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def encode(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        # A script may hold lone surrogates; the standard library writes them as escapes.
        return json.dumps(document).encode()


def _event(document: Any, name: str = "") -> bytes:
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + encode(document) + b"\n\n"
