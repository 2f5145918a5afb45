"""E2B on loopback: its API of sandboxes, and its process service inside them as JSON over Connect.

After the package e2b 2.63 and envd, the program in E2B's machines: pieces of 32 KiB, a write to stdin
is answered when it is written, a process outlives the stream that started it, a sandbox ends at its
timeout or when it is killed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from aiohttp import web

from standins import KEY, Machine, Service, connect

TOKEN = "token-of-one-sandbox"


class E2B(Service):
    def environment(self) -> dict[str, str]:
        return {
            "E2B_API_KEY": KEY,
            "E2B_API_URL": self.url,
            "E2B_SANDBOX_URL": self.url,
            "E2B_HTTP_VERSION": "1.1",
        }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v2/sandboxes", self._create),
            web.delete("/sandboxes/{id}", self._kill),
            web.post("/sandboxes/{id}/timeout", self._timeout),
            web.get("/health", self._health),
            web.post("/process.Process/Start", self._start),
            web.post("/process.Process/SendInput", self._input),
        ]

    def _known(self, request: web.Request) -> None:
        if request.headers.get("X-API-KEY") != KEY:
            raise web.HTTPUnauthorized(text='{"code": 401, "message": "Invalid API key"}')

    async def _create(self, request: web.Request) -> web.Response:
        self._known(request)
        if self.refuses is not None:
            return web.json_response(self.refuses[1], status=self.refuses[0])
        asked = await request.json()
        if self.hangs:
            await asyncio.Event().wait()
        machine = self.made(asked)
        machine.keep(asked["timeout"])
        return web.json_response(
            {
                "templateID": asked["templateID"],
                "sandboxID": machine.id,
                "clientID": "client",
                "envdVersion": "0.5.2",
                "envdAccessToken": TOKEN,
                "domain": None,
            },
            status=201,
        )

    async def _kill(self, request: web.Request) -> web.Response:
        self._known(request)
        machine = self.machine(request.match_info["id"])
        if machine is None:
            return web.json_response({"code": 404, "message": "not found"}, status=404)
        machine.end("killed")
        await machine.reap()
        return web.Response(status=204)

    async def _timeout(self, request: web.Request) -> web.Response:
        self._known(request)
        machine = self.machine(request.match_info["id"])
        if machine is None:
            return web.json_response({"code": 404, "message": "not found"}, status=404)
        machine.keep((await request.json())["timeout"])
        return web.Response(status=204)

    def _inside(self, request: web.Request) -> Machine | web.Response:
        """The sandbox that a request to envd is for; what the proxy before it says where there is none."""
        machine = self.machine(request.headers["E2b-Sandbox-Id"])
        if machine is None:
            return web.json_response({"code": 502, "message": "The sandbox was not found"}, status=502)
        if request.headers.get("X-Access-Token") != TOKEN:
            return connect.problem(401, "unauthenticated", "no token")
        return machine

    async def _health(self, request: web.Request) -> web.Response:
        machine = self._inside(request)
        return machine if isinstance(machine, web.Response) else web.Response(status=204)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = json.loads(await connect.request_of_stream(request))
        assert asked["stdin"] is True
        assert "Connect-Timeout-Ms" not in request.headers, "the process would be killed then"
        process = asked["process"]
        session = connect.Session(machine, _event)
        await session.start([process["cmd"], *process["args"]], process.get("envs", {}))
        machine.sessions[str(session.process.pid)] = session
        return await session.show(request)

    async def _input(self, request: web.Request) -> web.Response:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = await request.json()
        session = machine.sessions.get(str(asked["process"]["pid"]))
        if session is None or session.process.returncode is not None:
            return connect.problem(404, "not_found", f"process {asked['process']} not found")
        return await session.give(base64.b64decode(asked["input"]["stdin"])) or web.json_response({})


def _event(kind: str, value: Any) -> bytes:
    match kind:
        case "start":
            event = {"start": {"pid": value}}
        case "end":
            event = {"end": {"exitCode": value, "exited": True, "status": f"exit status {value}"}}
        case _:
            event = {"data": {kind: base64.b64encode(value).decode()}}
    return json.dumps({"event": event}).encode()
