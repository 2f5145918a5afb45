"""The HTTP surface: who may ask, what is asked, and that a run ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

from recursor.errors import ConfigError
from recursor.rlm import RLM
from recursor.server import chat, metrics, response_form, responses
from recursor.server.accounts import Accounts
from recursor.server.again import Again
from recursor.server.asked import Asked
from recursor.server.body import Bodies
from recursor.server.failures import ApiError
from recursor.server.form import Form
from recursor.server.held import Held
from recursor.server.keys import ANYBODY, Client, Keys
from recursor.server.later import Background, request_of
from recursor.server.listening import CLIENT, check_version, error_response, go_on, listen
from recursor.server.reply import Gone, Streamed, Whole
from recursor.server.request import Headers
from recursor.server.responding import Responding
from recursor.server.runs import Runs
from recursor.server.sessions import Sessions
from recursor.server.spending import Spending
from recursor.server.stored import Stored

LOOPBACK = ("127.0.0.1", "::1", "localhost")
CLEANUP = 5.0
"""Seconds that connections have to end when the server does, beside those that runs have."""
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
        self._closing = False
        self._hurry = asyncio.Event()
        self._accounts: Accounts
        self._runs: Runs

    @property
    def url(self) -> str:
        """The base URL for clients."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen meanwhile. Runs have some time at the end, and are stopped then. Raises ConfigError."""
        settings = self.settings
        self._accounts = Accounts(Spending(settings.spending), settings.max_runs)
        held = Held(settings.max_held, settings.hold)
        sessions = Sessions(settings.max_sessions, settings.session_idle)
        stored = Stored(next((rlm.store for rlm in self._rlms.values() if rlm.store is not None), None))
        self._runs = Runs(self._accounts, self._metrics, held, sessions, stored)
        first = next(iter(self._rlms.values()))
        responding = Responding(self._runs, self._bodies, self._admitted, first)
        application = web.Application(middlewares=[self._guard])
        application.add_routes([
            web.post("/v1/chat/completions", partial(self._answer, read=chat.read), expect_handler=self._expected),
            web.post("/v1/responses", partial(self._answer, read=responses.read), expect_handler=self._expected),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{name:.+}", self._model),
            web.get("/metrics", self._counted),
            web.get("/healthz", self._healthy),
            web.get("/readyz", self._ready),
            *responding.routes(),
        ])  # fmt: skip
        runner = web.AppRunner(
            application, handle_signals=False, handler_cancellation=True, shutdown_timeout=CLEANUP
        )
        async with AsyncExitStack() as ends:
            ends.callback(self._accounts.spending.close)
            ends.push_async_callback(runner.cleanup)
            await runner.setup()
            listener = await listen(runner, self.settings.host, self.port)
            ends.callback(listener.close)
            ends.push_async_callback(self._end)
            self.port = listener.sockets[0].getsockname()[1]
            again = asyncio.ensure_future(Again(self._runs, self._named, self._rlms).go())
            ends.push_async_callback(_stopped, again)
            yield

    async def _end(self) -> None:
        """Take no more, and let runs end."""
        self._closing = True
        await self._runs.end(self.settings.grace, self._hurry)

    def _named(self, name: str) -> Client | None:
        """A client that may ask; None when it may not any more."""
        if self._keys is None:
            return ANYBODY if name == ANYBODY.name else None
        return next((client for client in self._keys if client.name == name), None)

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
        runs = self._runs
        text = self._metrics.text(self._accounts.working, len(runs.held), len(runs.sessions))
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

    def _admitted(self, request: web.Request) -> Client:
        """Who asks, counted. Raises ApiError when they ask too often."""
        self._accounts.request(request[CLIENT])
        return request[CLIENT]

    async def _answer(self, request: web.Request, *, read: Read) -> web.StreamResponse:
        self._check_open()
        client, runs = self._admitted(request), self._runs
        form, asked = await self._bodies.read(request, lambda body: read(body, request.headers))
        self._check_open()
        work = await runs.of(client, asked, self._rlm(asked.model))
        if isinstance(form, response_form.Form) and form.background:
            return await self._later(request, await runs.stored.begin(client.name, work, form, runs.hold))
        reply = Streamed(request, work, form) if form.stream else Whole(work, form)
        held = said = False
        try:
            await reply.follow()
            outcome = work.outcome()
            held = runs.hold(work, outcome)  # the client may be back before the reply has ended here
            if form.stored:  # before it is told: the client may look at it at once
                waits = request_of(work, form) if held and isinstance(form, response_form.Form) else None
                await runs.stored.keep(client.name, form.document(outcome), waits)
            await reply.end(outcome)
            said = True
        except ApiError as error:
            if not reply.response.prepared:
                raise
            self._metrics.refused(error.status)
            chunks = list(form.failed(error))
            if form.stored:
                await runs.stored.keep(client.name, form.response)
            await reply.fail(chunks)
        except Gone:
            log.debug("a client went away")
        finally:
            if not held:
                await asyncio.shield(work.close())
            elif not said:
                runs.held.drop(work)
        return reply.response

    async def _later(self, request: web.Request, made: Background) -> web.StreamResponse:
        """What is known of a run that goes on by itself, or its events; nobody needs to wait for these."""
        if not made.form.stream:
            return web.json_response(made.document, headers={"X-Recursor-Run": made.run_id})
        try:
            return await made.follow(request, -1)
        except Gone:
            return web.Response()


async def _stopped(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
