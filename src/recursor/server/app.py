"""The HTTP surface: who may ask, what is asked, and that a run ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from recursor.errors import ConfigError, RLMError
from recursor.rlm import RLM
from recursor.server import chat, metrics, responses
from recursor.server.accounts import Accounts
from recursor.server.asked import Asked, Headers, asks, decoded
from recursor.server.body import Bodies
from recursor.server.failures import ApiError, of_error
from recursor.server.form import Form
from recursor.server.held import Held
from recursor.server.keys import ANYBODY, Client, Keys
from recursor.server.listening import check_version, error_response, go_on, listen
from recursor.server.reply import Gone, Streamed, Whole
from recursor.server.responses import Conversation
from recursor.server.sessions import Sessions
from recursor.server.spending import Spending
from recursor.server.work import Work
from recursor.session import Session

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLEANUP = 5.0
"""Seconds that connections have to end when the server does, beside those that runs have."""
CLIENT = web.RequestKey("client", Client)
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Read: TypeAlias = Callable[[bytes, Headers], tuple[Form, Asked]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is open to the world.

    Attributes:
        host: where it listens. Beyond the loopback interface it needs keys.
        port: 0 takes a free one.
        key_file: the clients, by `recursor.server.keys`; None lets in whoever reaches the port.
        max_runs: that are at work at once; one more is refused with 429.
        max_held: runs that wait for functions of their clients; one more ends the oldest.
        hold: seconds that such a run waits.
        max_sessions: conversations whose REPL waits for another question; one more ends that of the oldest.
        session_idle: seconds that it waits.
        grace: seconds that runs have to end when the server does.
        max_body: bytes of a request.

    Raises:
        ConfigError: it would be open to others without a key.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_file: Path | None = None
    max_runs: int = 64
    max_held: int = 64
    hold: float = 600.0
    max_sessions: int = 64
    session_idle: float = 600.0
    grace: float = 30.0
    max_body: int = 256 << 20

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and self.key_file is None:
            raise ConfigError(
                f"a server that listens on {self.host} can be reached by others, and needs keys: --key-file"
            )

    @property
    def spending(self) -> Path | None:
        """Where it is kept what clients have spent."""
        return None if self.key_file is None else Path(f"{self.key_file}.spent.db")


class Server:
    """Answers requests by an RLM.

    Args:
        rlms: the model names that are served, and what answers them.

    Raises:
        ConfigError: the keys cannot be read, or one has a budget that could not be kept.
    """

    def __init__(self, rlms: Mapping[str, RLM], settings: Settings | None = None) -> None:
        self._rlms = dict(rlms)
        self.settings = settings or Settings()
        self.port = self.settings.port
        self._keys = None if self.settings.key_file is None else Keys(self.settings.key_file)
        if any(client.has_budget for client in self._keys or ()):
            for rlm in self._rlms.values():
                rlm.with_changes(limits=replace(rlm.limits, max_cost=rlm.limits.max_cost or 1.0))
        self._metrics = metrics.Metrics()
        self._bodies = Bodies(self.settings.max_body)
        self._held = Held(self.settings.max_held, self.settings.hold)
        self._sessions = Sessions(self.settings.max_sessions, self.settings.session_idle)
        self._works: set[Work] = set()
        self._closing = False
        self._hurry = asyncio.Event()
        self._accounts: Accounts

    @property
    def url(self) -> str:
        """The base URL for clients."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen meanwhile. Runs have some time at the end, and are stopped then. Raises ConfigError."""
        application = web.Application(middlewares=[self._guard])
        application.add_routes([
            web.post("/v1/chat/completions", partial(self._answer, read=chat.read), expect_handler=self._expected),
            web.post("/v1/responses", partial(self._answer, read=responses.read), expect_handler=self._expected),
            web.post("/v1/conversations", self._begin, expect_handler=self._expected),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{name:.+}", self._model),
            web.get("/metrics", self._counted),
            web.get("/healthz", self._healthy),
            web.get("/readyz", self._ready),
        ])  # fmt: skip
        runner = web.AppRunner(
            application, handle_signals=False, handler_cancellation=True, shutdown_timeout=CLEANUP
        )
        self._accounts = Accounts(Spending(self.settings.spending), self.settings.max_runs)
        async with AsyncExitStack() as ends:
            ends.callback(self._accounts.spending.close)
            ends.push_async_callback(runner.cleanup)
            await runner.setup()
            listener = await listen(runner, self.settings.host, self.port)
            ends.callback(listener.close)
            ends.push_async_callback(self._end)
            self.port = listener.sockets[0].getsockname()[1]
            yield

    async def _end(self) -> None:
        """Take no more; let runs end, or stop them, so that `resume` goes on with what they have recorded."""
        self._closing = True
        await self._held.close()
        hurry = asyncio.ensure_future(self._hurry.wait())
        ends = asyncio.gather(*(work.wait() for work in self._works))
        either: list[asyncio.Future[Any]] = [hurry, ends]
        await asyncio.wait(either, timeout=self.settings.grace, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await asyncio.gather(*(work.close() for work in list(self._works)))
        await ends
        await self._sessions.close()

    def hurry(self) -> None:
        """Have the end, when it comes, not wait for runs."""
        self._hurry.set()

    # Who may ask ------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check_version(request)
            request[CLIENT] = self._client(request)
            return await handler(request)
        except ApiError as error:
            return self._refused(error)
        except web.HTTPException as error:
            return self._refused(
                ApiError(error.status, f"{request.method} {request.path[:200]}: {error.reason}")
            )
        except web.RequestPayloadError as error:
            return self._refused(ApiError(400, f"the body cannot be read: {error}"))
        except Exception:
            log.exception("a request failed by a mistake of the server")
            return self._refused(ApiError(500, "the server made a mistake", "internal_error"))

    async def _expected(self, request: web.Request) -> web.Response | None:
        """Refuse a body before it is sent, where that can be known."""
        try:
            self._client(request)
            await go_on(request, self.settings.max_body)
        except ApiError as error:
            response = self._refused(error)
            response.force_close()
            return response
        return None

    def _client(self, request: web.Request) -> Client:
        """Who asks. Raises ApiError when they may not."""
        if request.path in ("/healthz", "/readyz"):
            return ANYBODY
        host = request.headers.get("Host", "")
        if self.settings.host in LOOPBACK:
            host = host.lower()
            name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
            if name.strip("[]") not in LOOPBACK:  # a page elsewhere may have rebound its name to this address
                raise ApiError(403, f"this server is not {name[:100]}")
        if self._keys is None:
            if "Origin" in request.headers:
                raise ApiError(403, "pages of browsers may not ask a server without keys")
            return ANYBODY
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        client = self._keys.client(key.strip()) if scheme.lower() == "bearer" else None
        if client is None:
            raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")
        return client

    def _refused(self, error: ApiError) -> web.Response:
        self._metrics.refused(error.status)
        return error_response(error)

    # What is there ----------------------------------------------------------------------------

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.Response:
        self._check_open()
        return web.json_response({"status": "ok"})

    async def _counted(self, request: web.Request) -> web.Response:
        if not request[CLIENT].metrics:
            raise ApiError(403, "this key may not read metrics: `metrics = true` in the key file lets it")
        text = self._metrics.text(self._accounts.working, len(self._held))
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.TYPE})

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

    def _check_open(self) -> None:
        if self._closing:
            raise ApiError(503, "the server is shutting down", "shutting_down", retry_after=5)

    # Answers ----------------------------------------------------------------------------------

    async def _answer(self, request: web.Request, *, read: Read) -> web.StreamResponse:
        client = request[CLIENT]
        self._check_open()
        self._accounts.request(client)
        form, asked = await self._bodies.read(request, lambda body: read(body, request.headers))
        self._check_open()
        work = await self._work(client, asked)
        reply = Streamed(request, work, form) if form.stream else Whole(work, form)
        kept = said = False
        try:
            await reply.follow()
            outcome = work.outcome()
            if outcome.calls and outcome.completion is None:
                self._held.keep(work, outcome.calls)  # the client may be back before the reply has ended here
                kept = True
            await reply.end(outcome)
            said = True
        except ApiError as error:
            if not reply.response.prepared:
                raise
            self._metrics.refused(error.status)
            await reply.fail(error)
        except Gone:
            log.debug("a client went away")
        finally:
            if not kept:
                await asyncio.shield(work.close())
            elif not said:
                self._held.drop(work)
        return reply.response

    async def _work(self, client: Client, asked: Asked) -> Work:
        """The run that waits for what the request brings, or a new one. Raises ApiError."""
        rlm = self._rlm(asked.model)
        if results := asked.results:
            work = self._held.take(client.name, asked, results)
            if work is not None:
                work.bring(results)
                return work
            if not asks(asked.messages):
                raise ApiError(
                    404,
                    "the run that waited for these results is gone",
                    "previous_response_not_found",
                    "input",
                )
        limits, session = asked.bounded(rlm.limits), None
        if asked.resume:
            self._accounts.check_own(client, asked.resume)
            session = await self._sessions.of_run(client.name, asked.model, rlm, asked.resume)
        elif asked.going is not None:
            session = await self._sessions.take(client.name, asked.model, rlm, asked.going)
        try:
            place = self._accounts.place(client, limits)
            try:
                work = Work(session or rlm, asked, place, self._metrics)
            except RLMError as error:
                place.close()
                raise of_error(error) from error
        except BaseException:
            if session is not None:
                self._sessions.give(asked.model, session)
            raise
        self._works.add(work)
        work.ended(self._works.discard)
        if session is not None:
            work.ended(partial(self._give_back, session))
        return work

    def _give_back(self, session: Session, work: Work) -> None:
        self._sessions.give(work.model, session, work.run_id)

    async def _begin(self, request: web.Request) -> web.Response:
        """Begin a conversation."""
        client = request[CLIENT]
        self._check_open()
        self._accounts.request(client)
        asked = await self._bodies.read(request, lambda body: decoded(body or b"{}", Conversation))
        if asked.items:
            raise ApiError(
                400, "items are not served here: send them as input", "unsupported_parameter", "items"
            )
        named = await self._sessions.begin(client.name, next(iter(self._rlms.values())))
        told = {"id": named, "object": "conversation", "created_at": int(time.time())}
        return web.json_response({**told, "metadata": asked.metadata or {}})
