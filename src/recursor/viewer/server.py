"""Serves the page and what it reads, to one person on this machine.

Who opens it proves by a token in the first address that they were told it by this process; the
token is spent with that, and a cookie stands for it from then on. Names of other hosts are refused
(a page elsewhere could rebind its name to this address), and so are requests that another page
makes. No text from a store is ever markup here: all of it travels as JSON.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from aiohttp import web

from recursor.errors import ConfigError, TrajectoryError
from recursor.threads import in_thread
from recursor.trajectory import view
from recursor.trajectory.claim import claimed, stop
from recursor.viewer import data, reading, spans

LOOPBACK = "127.0.0.1"
LOOK_EVERY = 0.25
"""Seconds between looks at the store while somebody watches a run that goes."""
PAGE = ("index.html", "viewer.js", "viewer.css")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Viewer:
    """What one `recursor view` serves.

    Args:
        store: the file that runs are recorded in.
        port: 0 takes a free one.
    """

    def __init__(self, store: Path, port: int = 0) -> None:
        self.store = store
        self.port = port
        self._token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._cookie = ""
        self._closing = asyncio.Event()
        self._reading_lock = asyncio.Lock()
        self._kept: tuple[tuple[str, float], reading.Reading] | None = None
        """Of a run that had ended then: it may be resumed, and end again."""

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def link(self, run_id: str = "") -> str:
        """The address to open once; shows a run, or the list of them."""
        place = f"#/run/{run_id}" if run_id else ""
        return f"{self.address}/?token={self._token}{place}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on the loopback interface meanwhile.

        Raises:
            ConfigError: the port is taken. TrajectoryError: the store cannot be read.
        """
        (await in_thread(view.open, self.store)).close()
        application = web.Application(middlewares=[self._guard])
        application.add_routes([
            web.get("/", self._index),
            web.get("/{name:viewer\\.(?:js|css)}", self._asset),
            web.get("/api/runs", self._runs),
            web.get("/api/runs/{run}", self._run),
            web.get("/api/runs/{run}/answer", self._answer),
            web.get("/api/runs/{run}/spans", self._spans),
            web.get("/api/runs/{run}/prompts", self._prompts),
            web.get("/api/runs/{run}/turns/{turn:\\d+}", self._turn),
            web.get("/api/runs/{run}/coverage", self._coverage),
            web.get("/api/runs/{run}/passage", self._passage),
            web.get("/api/runs/{run}/evidence", self._evidence),
            web.get("/api/runs/{run}/live", self._live),
            web.post("/api/runs/{run}/stop", self._stop),
            web.get("/api/calls/{call}", self._call),
        ])  # fmt: skip
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, self.port)
            try:
                await site.start()
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on port {self.port}: {_reason(error)}; --port 0 takes a free one"
                ) from error
            self.port = runner.addresses[0][1]
            self._cookie = f"recursor-{self.port}"
            yield
        finally:
            self._closing.set()
            await runner.cleanup()

    # Who may ask ------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            self._check(request)
            response = await handler(request)
        except TrajectoryError as error:
            response = _problem(404, str(error))
        except web.HTTPException as refused:
            response = _problem(refused.status, refused.text or "")
        except Exception as error:  # noqa: BLE001 - a store may hold anything, and whoever looks is told
            response = _problem(500, f"the viewer cannot show this: {type(error).__name__}: {error}"[:1000])
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _check(self, request: web.Request) -> None:
        host = request.headers.get("Host", "")
        if host not in (f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"):
            raise web.HTTPForbidden(text=f"this server is not {host}: open it as {self.address}")
        origin = request.headers.get("Origin")
        if origin not in (None, f"http://{host}"):
            raise web.HTTPForbidden(text="another page may not ask here")
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            navigates = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.path == "/"
            if not navigates:
                raise web.HTTPForbidden(text="another page may not ask here")
        if request.path == "/" and "token" in request.query:
            return  # it is looked at there
        if not self._is_known(request):
            raise web.HTTPUnauthorized(
                text="open the address that `recursor view` printed; it works once, "
                "so start it again for another browser"
            )

    def _is_known(self, request: web.Request) -> bool:
        return _same(request.cookies.get(self._cookie, ""), self._session)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        given = request.query.get("token")
        if given is None:
            return _file("index.html")
        if self._token and _same(given, self._token):
            self._token = ""
        elif not self._is_known(request):
            raise web.HTTPUnauthorized(text="this address was opened before, or is not whole")
        response = web.Response(status=302, headers={"Location": "/"})  # a browser keeps what follows "#"
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="Strict", path="/")
        return response

    # What it is told --------------------------------------------------------------------------

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return _file(request.match_info["name"])

    async def _read(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> web.Response:
        def read() -> bytes:
            with view.open(self.store) as recorded:
                return data.to_json(function(recorded, *arguments, **options))

        return _json(await in_thread(read))

    async def _reading(self, request: web.Request) -> reading.Reading:
        """What a run read; of the latest that was asked for it is kept, once that has ended."""
        run_id = request.match_info["run"]

        def read() -> reading.Reading:
            with view.open(self.store) as recorded:
                run = recorded.run(run_id)
                if self._kept is not None and run.ended is not None and self._kept[0] == (run.id, run.ended):
                    return self._kept[1]
                self._kept = None
                found = reading.read(recorded, run.id)
                self._kept = None if run.ended is None else ((run.id, run.ended), found)
                return found

        async with self._reading_lock:
            return await in_thread(read)

    async def _runs(self, request: web.Request) -> web.Response:
        query = request.query
        return await self._read(
            data.runs, self.store, search=query.get("search", ""), model=query.get("model", ""),
            state=query.get("state", ""), limit=_number(query.get("limit"), 100, 1000),
            offset=_number(query.get("offset"), 0, 1 << 40),
        )  # fmt: skip

    async def _run(self, request: web.Request) -> web.Response:
        return await self._read(data.run, self.store, request.match_info["run"])

    async def _answer(self, request: web.Request) -> web.Response:
        def whole(recorded: view.Trajectories, run_id: str) -> Any:
            return data.answer(recorded.run(run_id), 1 << 40)

        return await self._read(whole, request.match_info["run"])

    async def _spans(self, request: web.Request) -> web.Response:
        since = _number(request.query.get("since"), 0, 1 << 60)
        return await self._read(spans.spans, request.match_info["run"], since)

    async def _prompts(self, request: web.Request) -> web.Response:
        return await self._read(data.prompts, request.match_info["run"])

    async def _turn(self, request: web.Request) -> web.Response:
        return await self._read(data.turn, request.match_info["run"], int(request.match_info["turn"][:9]))

    async def _call(self, request: web.Request) -> web.Response:
        return await self._read(data.call, request.match_info["call"])

    async def _coverage(self, request: web.Request) -> web.Response:
        found = await self._reading(request)
        return _json(await in_thread(lambda: data.to_json(reading.coverage(found))))

    async def _passage(self, request: web.Request) -> web.Response:
        number = _number(request.query.get("document"), 0, 1 << 40)
        start = _number(request.query.get("start"), 0, 1 << 40)
        found = await self._reading(request)
        return _json(await in_thread(lambda: data.to_json(reading.passage(found, number, start))))

    async def _evidence(self, request: web.Request) -> web.Response:
        found = await self._reading(request)
        return _json(await in_thread(lambda: data.to_json(reading.evidence(found))))

    async def _stop(self, request: web.Request) -> web.Response:
        await in_thread(stop, self.store, request.match_info["run"])
        return web.Response(body=b"null", content_type="application/json")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "spans" with what is new, then "run" when it has ended, or "problem"."""
        run_id = request.match_info["run"]
        since = _number(request.headers.get("Last-Event-ID") or request.query.get("since"), 0, 1 << 60)
        recorded = await in_thread(view.open, self.store)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        try:
            while True:
                held = await in_thread(claimed, self.store, run_id)  # before: what it does last is seen then
                found = await in_thread(spans.spans, recorded, run_id, since)
                if not response.prepared:
                    await response.prepare(request)
                if found["next"] != since:
                    since = found["next"]
                    await response.write(_event("spans", found, since))
                if found["runs"][0]["state"] != "open" or not held:
                    head = await in_thread(data.run, recorded, self.store, run_id)
                    await response.write(_event("run", head, since))
                    return response
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), LOOK_EVERY)
                    return response
        except ConnectionError:  # nobody watches any more
            return response
        except Exception as error:
            if not response.prepared:
                raise
            with suppress(ConnectionError):  # a second response cannot begin within this one
                await response.write(_event("problem", {"error": str(error)[:1000]}, since))
            return response
        finally:
            recorded.close()


async def serve(store: Path, port: int, run_id: str, told: Callable[[str], None], *, browser: bool) -> None:
    """Serve a store until cancelled.

    Args:
        told: called with the address to open, once it can be.
        browser: whether to open it in the person's browser, too.
    """
    viewer = Viewer(store, port)
    async with viewer.serving():
        told(viewer.link(run_id))
        if browser:
            await in_thread(partial(webbrowser.open, viewer.link(run_id)))
        await asyncio.Event().wait()


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _same(given: str, wanted: str) -> bool:
    """Whether a secret is right; takes as long wherever it differs."""
    return hmac.compare_digest(given.encode("utf-8", "backslashreplace"), wanted.encode())


def _number(text: str | None, default: int, most: int) -> int:
    try:
        return min(max(int(text), 0), most) if text is not None else default
    except ValueError:
        raise web.HTTPBadRequest(text=f"{text[:40] if text else text!r} is no number") from None


def _json(body: bytes) -> web.Response:
    response = web.Response(body=body, content_type="application/json")
    if len(body) > 1 << 16:
        response.enable_compression()
    return response


def _event(kind: str, value: Any, number: int) -> bytes:
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), number, data.to_json(value))


def _problem(status: int, text: str) -> web.Response:
    return web.Response(status=status, body=data.to_json({"error": text}), content_type="application/json")


def _file(name: str) -> web.Response:
    found = resources.files("recursor.viewer").joinpath("page", name)
    if not found.is_file():
        raise web.HTTPNotFound(text=f"there is no {name}")
    return web.Response(body=found.read_bytes(), content_type=TYPES[Path(name).suffix], charset="utf-8")
