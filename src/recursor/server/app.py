"""The HTTP surface: who may ask, what is asked, and that a run ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from recursor.errors import ConfigError, RLMError
from recursor.rlm import RLM
from recursor.server import chat, metrics, responses
from recursor.server.accounts import Accounts
from recursor.server.asked import Asked, Headers
from recursor.server.failures import ApiError, of_error
from recursor.server.form import Form
from recursor.server.held import Held
from recursor.server.keys import ANYBODY, Client, Keys
from recursor.server.reply import Gone, Streamed, Whole
from recursor.server.spending import Spending
from recursor.server.work import Work

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
        self._held = Held(self.settings.max_held, self.settings.hold)
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
            web.post("/v1/chat/completions", partial(self._answer, read=chat.read)),
            web.post("/v1/responses", partial(self._answer, read=responses.read)),
            web.get("/v1/models", self._models),
            web.get("/v1/models/{name:.+}", self._model),
            web.get("/metrics", self._counted),
            web.get("/healthz", self._healthy),
            web.get("/readyz", self._ready),
        ])  # fmt: skip
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=CLEANUP,
        )
        self._accounts = Accounts(Spending(self.settings.spending), self.settings.max_runs)
        try:
            await runner.setup()
            try:
                await web.TCPSite(runner, self.settings.host, self.port, backlog=1024).start()
            except OSError as error:
                where = f"{self.settings.host}:{self.port}"
                raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
            self.port = runner.addresses[0][1]
            yield
        finally:
            await self._end()
            await runner.cleanup()
            self._accounts.spending.close()

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

    def hurry(self) -> None:
        """Have the end, when it comes, not wait for runs."""
        self._hurry.set()

    # Who may ask ------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
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

    def _client(self, request: web.Request) -> Client:
        """Who asks. Raises ApiError when they may not."""
        if request.path in ("/healthz", "/readyz"):
            return ANYBODY
        host = request.headers.get("Host", "")
        if self.settings.host in LOOPBACK:
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
        return web.Response(
            status=error.status,
            body=json.dumps(error.body()).encode("ascii"),
            content_type="application/json",
            headers=error.headers(),
        )

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
        if (encoding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise ApiError(415, f"send the body as it is, not as {encoding[:40]}")
        body = await self._body(request)
        form, asked = await asyncio.to_thread(read, body, request.headers)
        del body
        self._check_open()
        work = self._work(client, asked)
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

    async def _body(self, request: web.Request) -> bytes:
        """The body, which the request does not keep beside. Raises ApiError when it is too large."""
        pieces, size, most = [], 0, self.settings.max_body
        async for piece in request.content.iter_any():
            size += len(piece)
            if size > most:
                raise ApiError(413, f"the body has more than {most:,} bytes", "request_too_large")
            pieces.append(piece)
        return b"".join(pieces)

    def _work(self, client: Client, asked: Asked) -> Work:
        """The run that waits for what the request brings, or a new one. Raises ApiError."""
        rlm = self._rlm(asked.model)
        if results := asked.results:
            work = self._held.take(client.name, asked, results)
            if work is not None:
                work.bring(results)
                return work
        place = self._accounts.place(client, asked.bounded(rlm.limits))
        try:
            work = Work(rlm, asked, place, self._metrics)
        except RLMError as error:
            place.close()
            raise of_error(error) from error
        self._works.add(work)
        work.ended(self._works.discard)
        return work
