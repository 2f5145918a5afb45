"""The HTTP surface: who may ask, what is asked, and that a run ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

from recursor.errors import ConfigError, RLMError
from recursor.rlm import RLM
from recursor.server import chat
from recursor.server.asked import Asked
from recursor.server.failures import ApiError, of_error
from recursor.server.progress import Progress
from recursor.types import Completion, Event, RunEnded, RunStarted

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SILENCE = 15.0
"""Seconds without a word after which a stream says that it is alive."""
CLEANUP = 5.0
"""Seconds that runs have to end when the server does."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is open to the world.

    Attributes:
        host: where it listens. Beyond the loopback interface it needs keys.
        port: 0 takes a free one.
        keys: what a client must bring, one of these; empty lets in whoever reaches the port.
        max_runs: that are at work at once; one more is refused with 429.
        max_body: bytes of a request.

    Raises:
        ConfigError: it would be open to others without a key.
    """

    host: str = "127.0.0.1"
    port: int = 0
    keys: Sequence[str] = field(default=(), repr=False)
    max_runs: int = 64
    max_body: int = 256 << 20

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.keys:
            raise ConfigError(
                f"a server that listens on {self.host} can be reached by others, and needs a key: --key-file"
            )


class Server:
    """Answers requests by an RLM.

    Args:
        rlms: the model names that are served, and what answers them.
    """

    def __init__(self, rlms: Mapping[str, RLM], settings: Settings | None = None) -> None:
        self._rlms = dict(rlms)
        self.settings = settings or Settings()
        self.port = self.settings.port
        self._working = 0
        self._closing = False

    @property
    def url(self) -> str:
        """The base URL for clients."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen meanwhile. Raises ConfigError when it cannot."""
        application = web.Application(middlewares=[self._guard], client_max_size=self.settings.max_body)
        application.add_routes([
            web.post("/v1/chat/completions", self._chat),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{name:.+}", self._model),
            web.get("/healthz", self._healthy),
            web.get("/readyz", self._ready),
        ])  # fmt: skip
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=CLEANUP,
        )
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, self.settings.host, self.port, backlog=1024).start()
            except OSError as error:
                where = f"{self.settings.host}:{self.port}"
                raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
            self.port = runner.addresses[0][1]
            yield
        finally:
            self._closing = True
            await runner.cleanup()

    # Who may ask ------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            return await handler(request)
        except ApiError as error:
            return _refused(error)
        except web.HTTPRequestEntityTooLarge:
            most = self.settings.max_body
            return _refused(ApiError(413, f"the body has more than {most:,} bytes", "request_too_large"))
        except web.HTTPException as error:
            return _refused(ApiError(error.status, f"{request.method} {request.path}: {error.reason}"))

    def _check(self, request: web.Request) -> None:
        if request.path in ("/healthz", "/readyz"):
            return
        if self.settings.host in LOOPBACK:
            name = request.headers.get("Host", "").rpartition(":")[0].strip("[]")
            if name not in LOOPBACK:  # a page elsewhere may have rebound its name to this address
                raise ApiError(403, f"this server is not {name[:100]}")
        if "Origin" in request.headers and not self.settings.keys:
            raise ApiError(403, "pages of browsers may not ask a server without keys")
        if self.settings.keys:
            given = (
                request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "replace")
            )
            if not any([hmac.compare_digest(given, key.encode()) for key in self.settings.keys]):  # noqa: C419 - all, so that the time tells nothing
                raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")

    # What is there ----------------------------------------------------------------------------

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        if self._closing:
            raise ApiError(503, "the server is shutting down")
        return web.json_response({"status": "ok", "runs": self._working, "max_runs": self.settings.max_runs})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(chat.models(list(self._rlms)))

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._rlm(name)
        return web.json_response(chat.models([name])["data"][0])

    def _rlm(self, name: str) -> RLM:
        found = self._rlms.get(name)
        if found is None:
            known = ", ".join(self._rlms)
            raise ApiError(
                404, f"there is no model {name[:200]!r}; there is: {known}", "model_not_found", "model"
            )
        return found

    # Chat completions -------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked_for, asked = await asyncio.to_thread(chat.read, body, request.headers)
        run = self._run(asked)
        created = time.time()
        async with aclosing(run):
            if asked_for.stream:
                return await self._streamed(request, run, chat.Chunks(asked_for, created))
            done: Completion | None = None
            async for event in run:
                done = _end(event) or done
            assert done is not None
            headers = {"X-Recursor-Run": done.run_id}
            return web.Response(
                body=chat.encoded(chat.document(done, asked_for, created)),
                content_type="application/json",
                headers=headers,
            )

    async def _run(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """The events of a run. Closing this ends it. Raises ApiError."""
        rlm = self._rlm(asked.model)
        rlm = rlm.with_changes(limits=asked.bounded(rlm.limits), instruction=asked.instruction)
        if self._closing:
            raise ApiError(503, "the server is shutting down", retry_after=5)
        if self._working >= self.settings.max_runs:
            raise ApiError(429, f"{self._working} runs are at work, which is the most", "busy", retry_after=5)
        self._working += 1
        try:
            async with aclosing(rlm.stream(messages=asked.messages, schema=asked.schema)) as events:
                async for event in events:
                    yield event
        except RLMError as error:
            raise of_error(error) from error
        finally:
            self._working -= 1

    async def _streamed(
        self, request: web.Request, run: AsyncIterator[Event], chunks: chat.Chunks
    ) -> web.StreamResponse:
        """Send what happens while it does. What fails before the first word has a status of its own."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        progress = Progress()
        try:
            async for event in _with_silences(run):
                if event is None:
                    await response.write(b": working\n\n")
                    continue
                if isinstance(event, RunStarted) and not response.prepared:
                    response.headers["X-Recursor-Run"] = event.run_id
                    await response.prepare(request)
                    await response.write(chunks.opening(event.run_id))
                if text := progress.told(event):
                    await response.write(chunks.reasoning(text))
                if (done := _end(event)) is not None and event.run_id == done.run_id:
                    for chunk in chunks.closing(done):
                        await response.write(chunk)
        except ApiError as error:
            if not response.prepared:
                raise
            with suppress(ConnectionError):
                await response.write(chat.event(error.body()))
        except ConnectionError:  # the client has gone; closing the run ends it
            pass
        return response


def _end(event: Event) -> Completion | None:
    return event.completion if isinstance(event, RunEnded) else None


async def _with_silences(events: AsyncIterator[Event]) -> AsyncIterator[Event | None]:
    """The events, and None when none came for some time."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait([following], timeout=SILENCE)
            if not done:
                yield None
                continue
            event = following.result()
            if event is None:
                return
            yield event
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, ApiError):
            await following


def _refused(error: ApiError) -> web.Response:
    return web.Response(
        status=error.status,
        body=json.dumps(error.body()).encode("ascii"),
        content_type="application/json",
        headers=error.headers(),
    )
