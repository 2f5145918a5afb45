"""A model server on the loopback interface that speaks the wires of OpenAI and Anthropic.

For tests and benchmarks of anything that calls a model over HTTP. It fails on request, as the
providers do: with a status, a broken stream, garbage, or silence. It checks requests as strictly
as the providers do where that catches mistakes. It has no tools, images or other modalities.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from recursor.errors import ModelError
from recursor.protocols import Model
from recursor.testing.scripted import Script, ScriptedModel
from recursor.types import Message, Reply, Role

if TYPE_CHECKING:
    from aiohttp import web

Break: TypeAlias = Literal["cut", "garbage", "hang", "error"]
"""How a reply breaks.

"cut": the connection ends in the middle of it. "garbage": a web page with status 200.
"hang": nothing ever comes. "error": an error object with status 200; in a stream, after its first half.
"""


@dataclass(frozen=True, slots=True)
class _Fault:
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    kind: str | None = None
    how: Break | None = None
    body: bytes | None = None
    content_type: str = ""


class _Refused(Exception):
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


class ModelServer:
    """A server to use in a `with` statement, from sync and async tests alike.

    Attributes:
        requests: the decoded bodies, in the order of their arrival.
        headers: the headers of each request, names in lower case.
        refused: how many requests came while there were too many.
        most_at_once: requests that were answered at once, at most.
    """

    def __init__(
        self,
        model_or_replies: Model | Script,
        *,
        latency: float = 0.0,
        api_key: str | None = None,
        piece: int = 24,
        max_concurrency: int | None = None,
    ) -> None:
        """Say what it answers.

        Args:
            model_or_replies: any model, or a script as `ScriptedModel` takes it.
            latency: seconds before each reply, when a script is given.
            api_key: what every request has to bring; None takes all.
            piece: characters in each event of a stream.
            max_concurrency: requests that are answered at once; one above that is refused with status 429.
        """
        self._model: Model = (
            model_or_replies
            if isinstance(model_or_replies, Model)
            else ScriptedModel(model_or_replies, latency=latency)
        )
        self._api_key = api_key
        self._piece = piece
        self._max_concurrency = max_concurrency
        self._at_once = 0
        self.most_at_once = 0
        self.refused = 0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._faults: deque[_Fault] = deque()
        self._ids = itertools.count(1)
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failed: BaseException | None = None

    def __repr__(self) -> str:
        return f"ModelServer({self._model!r})"

    @property
    def url(self) -> str:
        """The base URL, "http://127.0.0.1:PORT/v1"."""
        assert self._port, "the server runs within its with statement"
        return f"http://127.0.0.1:{self._port}/v1"

    def fail_next(
        self,
        n: int = 1,
        status: int = 429,
        *,
        retry_after: float | str | None = None,
        message: str | None = None,
        code: str | None = None,
    ) -> None:
        """Refuse the next `n` requests.

        Args:
            retry_after: seconds or an HTTP date, sent as the header.
            message: of the error object; without it one that fits the status.
            code: the error object's type (and OpenAI's code); without it the one that fits the status.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        said = f"scripted failure with status {status}" if message is None else message
        self._faults.extend(_Fault(status, headers, said, code) for _ in range(n))

    def break_next(self, n: int = 1, how: Break = "cut") -> None:
        """Break the next `n` replies."""
        self._faults.extend(_Fault(how=how) for _ in range(n))

    def send_next(self, body: bytes | Mapping[str, Any], content_type: str = "application/json") -> None:
        """Answer the next request with these bytes, or with this JSON document, and status 200."""
        data = body if isinstance(body, bytes) else _encode(body)
        self._faults.append(_Fault(body=data, content_type=content_type))

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="model server", daemon=True)
        self._thread.start()
        started.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits in __enter__
            self._failed = error
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        from aiohttp import web  # noqa: PLC0415  # 0.3 s, and only who starts a server needs it

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
            await site.start()
            self._port = runner.addresses[0][1]
            started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        wire = _Messages() if "anthropic-version" in request.headers else _Chat()
        try:
            self._check_key(request.headers)
        except _Refused as refused:
            return _json(refused.status, wire.error(refused.status, refused.message, refused.kind))
        return _json(200, wire.models(self._model.name))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _Chat())

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, _Messages())

    async def _answer(self, request: web.Request, wire: _Chat | _Messages) -> web.StreamResponse:
        if self._at_once == self._max_concurrency:
            self.refused += 1
            return _json(429, wire.error(429, "too many requests at once", None))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._accept(request, wire)
        finally:
            self._at_once -= 1

    async def _accept(self, request: web.Request, wire: _Chat | _Messages) -> web.StreamResponse:
        try:
            body = await self._receive(request)
            fault = self._faults.popleft() if self._faults else _Fault()
            if fault.status:
                raise _Refused(fault.status, fault.message, fault.kind, fault.headers)
            if fault.body is not None:
                return _bytes(fault.body, fault.content_type)
            if fault.how == "hang":
                await asyncio.Event().wait()
            messages = wire.messages(body, request.headers)
            reply = await self._model.query(messages, schema=wire.schema(body))
        except _Refused as refused:
            return _json(
                refused.status, wire.error(refused.status, refused.message, refused.kind), refused.headers
            )
        except ModelError as error:
            status = error.status if error.status and error.status >= 400 else 500
            return _json(status, wire.error(status, str(error), None))
        return await self._send(request, body, reply, wire, fault)

    async def _send(
        self, request: web.Request, body: dict[str, Any], reply: Reply, wire: _Chat | _Messages, fault: _Fault
    ) -> web.StreamResponse:
        """Send a reply, whole or broken."""
        number = next(self._ids)
        if fault.how == "garbage":
            return _bytes(b"<html><body>Welcome to nginx!</body></html>", "text/html")
        if body.get("stream"):
            return await self._stream(request, wire.events(reply, body, number, self._piece), wire, fault)
        if fault.how == "error":
            return _json(200, wire.error(500, "scripted failure", None))
        document = wire.document(reply, body, number)
        return await _half(request, _encode(document)) if fault.how == "cut" else _json(200, document)

    async def _receive(self, request: web.Request) -> dict[str, Any]:
        data = await request.read()
        self._check_key(request.headers)
        try:
            body: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Refused(400, f"the body is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise _Refused(400, "the body is no JSON object")
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._api_key is None:
            return
        given = headers.get("Authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        if given != self._api_key:
            # As the providers do: what came is told back.
            raise _Refused(401, f"Incorrect API key provided: {given}.", "authentication_error")

    async def _stream(
        self, request: web.Request, events: list[bytes], wire: _Chat | _Messages, fault: _Fault
    ) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415  # see _serve

        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        sent = events[: len(events) // 2] if fault.how in ("cut", "error") else events
        with contextlib.suppress(ConnectionResetError):  # the client has gone
            for event in sent:
                await response.write(event)
            if fault.how == "error":
                await response.write(wire.error_event(500, "scripted failure in a stream"))
            if fault.how == "cut":
                _disconnect(request)
            else:
                await response.write_eof()
        return response


class _Chat:
    """The chat-completions wire."""

    def messages(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> list[Message]:
        """Return the request's messages. Raises _Refused as the provider would."""
        del headers  # this wire wants none
        if not isinstance(body.get("model"), str) or not body["model"]:
            raise _Refused(400, "you must provide a model parameter")
        found = body.get("messages")
        if not isinstance(found, list) or not found:
            raise _Refused(400, "Missing required parameter: 'messages'.")
        return [_message(each, ("system", "developer", "user", "assistant")) for each in found]

    def schema(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the schema that the reply shall follow."""
        form = body.get("response_format")
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            return None
        named = form.get("json_schema")
        if not isinstance(named, dict) or not named.get("name"):
            raise _Refused(400, "Missing required parameter: 'response_format.json_schema.name'.")
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


class _Messages:
    """The Messages wire."""

    def messages(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> list[Message]:
        """Return the request's messages. Raises _Refused as the provider would."""
        if "anthropic-version" not in headers:
            raise _Refused(400, "anthropic-version: header is required")
        for name in ("model", "max_tokens", "messages"):
            if not body.get(name):
                raise _Refused(400, f"{name}: Field required")
        system = body.get("system") or ""
        opening = [_message({"role": "system", "content": system}, ("system",))] if system else []
        found = [_message(each, ("user", "assistant"), strict=True) for each in body["messages"]]
        marked = str(system).count("cache_control") + str(body["messages"]).count("'cache_control'")
        if marked > 4:
            raise _Refused(400, f"A maximum of 4 blocks with cache_control may be provided. Found {marked}.")
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
        raise _Refused(400, f"messages: role must be one of {', '.join(roles)}")
    content = found.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(each, dict) for each in blocks):
        raise _Refused(400, "messages: content must be a text or a list of blocks")
    texts = [each.get("text") for each in blocks if each.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise _Refused(400, "messages: text must be a string")
    if strict and not all(str(text).strip() for text in texts):
        raise _Refused(400, "messages: text content blocks must contain non-whitespace text")
    role: Role = "system" if found["role"] == "developer" else found["role"]
    return Message(role, "".join(map(str, texts)))


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _encode(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        # A script may hold lone surrogates; the standard library writes them as escapes.
        return json.dumps(document).encode()


def _event(document: Any, name: str = "") -> bytes:
    prefix = f"event: {name}\n".encode() if name else b""
    return prefix + b"data: " + _encode(document) + b"\n\n"


def _json(status: int, document: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    from aiohttp import web  # noqa: PLC0415  # see ModelServer._serve

    return web.Response(
        body=_encode(document), status=status, headers=headers, content_type="application/json"
    )


def _bytes(data: bytes, content_type: str) -> web.Response:
    from aiohttp import web  # noqa: PLC0415  # see ModelServer._serve

    return web.Response(body=data, content_type=content_type)


async def _half(request: web.Request, data: bytes) -> web.StreamResponse:
    from aiohttp import web  # noqa: PLC0415  # see ModelServer._serve

    response = web.StreamResponse(
        headers={"Content-Type": "application/json", "Content-Length": str(len(data))}
    )
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    _disconnect(request)
    return response


def _disconnect(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
