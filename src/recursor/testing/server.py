"""A model server on the loopback interface that speaks the wires of OpenAI and Anthropic.

For tests and benchmarks of anything that calls a model over HTTP. It fails on request, as the
providers do: with a status, a broken stream, garbage, or silence. It checks requests as strictly
as the providers do where that catches mistakes. It has no tools, images or other modalities.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import msgspec

from recursor.errors import ModelError
from recursor.protocols import Model
from recursor.testing.scripted import Script, ScriptedModel
from recursor.testing.wires import Chat, Messages, Refused, encode
from recursor.types import Reply

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
        data = body if isinstance(body, bytes) else encode(body)
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
        wire = Messages() if "anthropic-version" in request.headers else Chat()
        try:
            self._check_key(request.headers)
        except Refused as refused:
            return _json(refused.status, wire.error(refused.status, refused.message, refused.kind))
        return _json(200, wire.models(self._model.name))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Chat())

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, Messages())

    async def _answer(self, request: web.Request, wire: Chat | Messages) -> web.StreamResponse:
        if self._at_once == self._max_concurrency:
            self.refused += 1
            return _json(429, wire.error(429, "too many requests at once", None))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._accept(request, wire)
        finally:
            self._at_once -= 1

    async def _accept(self, request: web.Request, wire: Chat | Messages) -> web.StreamResponse:
        try:
            body = await self._receive(request)
            fault = self._faults.popleft() if self._faults else _Fault()
            if fault.status:
                raise Refused(fault.status, fault.message, fault.kind, fault.headers)
            if fault.body is not None:
                return _bytes(fault.body, fault.content_type)
            if fault.how == "hang":
                await asyncio.Event().wait()
            messages = wire.messages(body, request.headers)
            reply = await self._model.query(messages, schema=wire.schema(body))
        except Refused as refused:
            return _json(
                refused.status, wire.error(refused.status, refused.message, refused.kind), refused.headers
            )
        except ModelError as error:
            status = error.status if error.status and error.status >= 400 else 500
            return _json(status, wire.error(status, str(error), None))
        return await self._send(request, body, reply, wire, fault)

    async def _send(
        self, request: web.Request, body: dict[str, Any], reply: Reply, wire: Chat | Messages, fault: _Fault
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
        return await _half(request, encode(document)) if fault.how == "cut" else _json(200, document)

    async def _receive(self, request: web.Request) -> dict[str, Any]:
        data = await request.read()
        self._check_key(request.headers)
        try:
            body: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, f"the body is no JSON: {error}") from error
        if not isinstance(body, dict):
            raise Refused(400, "the body is no JSON object")
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._api_key is None:
            return
        given = headers.get("Authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        if given != self._api_key:
            # As the providers do: what came is told back.
            raise Refused(401, f"Incorrect API key provided: {given}.", "authentication_error")

    async def _stream(
        self, request: web.Request, events: list[bytes], wire: Chat | Messages, fault: _Fault
    ) -> web.StreamResponse:
        from aiohttp import web  # noqa: PLC0415  # see _serve

        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        sent = events[: len(events) // 2] if fault.how in ("cut", "error") else events
        with contextlib.suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            for event in sent:
                await response.write(event)
            if fault.how == "error":
                await response.write(wire.error_event(500, "scripted failure in a stream"))
            if fault.how == "cut":
                _disconnect(request)
            else:
                await response.write_eof()
        return response


def _json(status: int, document: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    from aiohttp import web  # noqa: PLC0415  # see ModelServer._serve

    return web.Response(
        body=encode(document), status=status, headers=headers, content_type="application/json"
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
