"""Prime Intellect on loopback: its API of sandboxes, and the process service of its machines as protobuf over Connect.

After the package prime-sandboxes 0.5.1, whose messages it uses. A sandbox is pending for one look,
then runs; it ends at its timeout, when it was idle for too long, or when it is deleted. Being asked to
run a command counts as use; a process that runs does not, though the documentation says it does.
"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from standins import KEY, Machine, Service, connect

TOKEN = "token-of-one-machine"


class Prime(Service):
    def __init__(self) -> None:
        super().__init__()
        self._messages: Any = importlib.import_module(
            "prime_sandboxes._proto.command_session.command_session_pb2"
        )

    def environment(self) -> dict[str, str]:
        return {"PRIME_API_KEY": KEY, "PRIME_API_BASE_URL": self.url}

    def routes(self) -> list[web.RouteDef]:
        service = "/gateway/{user}/{id}/command_session.CommandSession"
        return [
            web.post("/api/v1/sandbox", self._create),
            web.post("/api/v1/sandbox/status:batchGet", self._statuses),
            web.get("/api/v1/sandbox/{id}", self._get),
            web.delete("/api/v1/sandbox/{id}", self._delete),
            web.post("/api/v1/sandbox/{id}/auth", self._auth),
            web.post(f"{service}/Start", self._start),
            web.post(f"{service}/Connect", self._connect),
            web.post(f"{service}/SendInput", self._input),
            web.post(f"{service}/SendSignal", self._signal),
        ]

    def _known(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPUnauthorized(text='{"detail": "Invalid API key"}')

    def _found(self, request: web.Request) -> Machine:
        self._known(request)
        machine = self.machine(request.match_info["id"])
        if machine is None:
            raise web.HTTPNotFound(text='{"detail": "Sandbox not found"}')
        return machine

    async def _create(self, request: web.Request) -> web.Response:
        self._known(request)
        if self.refuses is not None:
            return web.json_response(self.refuses[1], status=self.refuses[0])
        machine = self.made(await request.json())
        self._used(machine)
        return web.json_response(_told(machine, "PENDING"))

    def _used(self, machine: Machine) -> None:
        machine.keep(machine.asked["idle_timeout_minutes"] * self.minute)

    async def _statuses(self, request: web.Request) -> web.Response:
        self._known(request)
        statuses = []
        for name in (await request.json())["sandbox_ids"]:
            machine = next(each for each in self.machines if each.id == name)
            status = "TERMINATED" if machine.ended else "PENDING" if self.hangs else "RUNNING"
            statuses.append({"sandbox_id": name, "status": status, "error_type": None, "error_message": None})
        return web.json_response({"statuses": statuses, "errors": []})

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(_told(self._found(request), "RUNNING"))

    async def _delete(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        machine.end("deleted")
        await machine.reap()
        return web.json_response({"message": "Sandbox deleted"})

    async def _auth(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        return web.json_response(
            {
                "gateway_url": f"{self.url}/gateway",
                "user_ns": "user",
                "job_id": machine.id,
                "token": TOKEN,
                "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
                "is_vm": True,
            }
        )

    def _inside(self, request: web.Request) -> Machine | web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return connect.problem(401, "unauthenticated", "no token")
        machine = self.machine(request.match_info["id"])
        return machine or connect.problem(404, "not_found", "sandbox not found")

    async def _start(self, request: web.Request) -> web.StreamResponse:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = self._messages.StartRequest.FromString(await connect.request_of_stream(request))
        if not asked.stdin:
            self._used(machine)
        session = machine.sessions.get(asked.session_uuid)
        if session is None:
            session = connect.Session(machine, self._event)
            await session.start([asked.command.cmd, *asked.command.args], dict(asked.command.envs))
            machine.sessions[asked.session_uuid] = session
        return await session.show(request)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = self._messages.ConnectRequest.FromString(await connect.request_of_stream(request))
        session: connect.Session = machine.sessions[asked.session.session_uuid]
        return await session.show(request)

    async def _input(self, request: web.Request) -> web.Response:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = self._messages.SendInputRequest.FromString(await request.read())
        session = machine.sessions.get(asked.session.session_uuid)
        if session is None or session.process.returncode is not None:
            return connect.problem(404, "not_found", "session not found")
        return await session.give(asked.input.stdin) or self._done(self._messages.SendInputResponse())

    async def _signal(self, request: web.Request) -> web.Response:
        machine = self._inside(request)
        if isinstance(machine, web.Response):
            return machine
        asked = self._messages.SendSignalRequest.FromString(await request.read())
        process = machine.sessions[asked.session.session_uuid].process
        if process.returncode is None:
            process.kill()
        return self._done(self._messages.SendSignalResponse())

    def _done(self, message: Any) -> web.Response:
        return web.Response(body=message.SerializeToString(), content_type="application/proto")

    def _event(self, kind: str, value: Any) -> bytes:
        response = self._messages.StartResponse()
        match kind:
            case "start":
                response.event.start.pid = value
            case "end":
                response.event.end.exit_code = value
                response.event.end.exited = True
            case _:
                setattr(response.event.data, kind, value)
        data: bytes = response.SerializeToString()
        return data


def _told(machine: Machine, status: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    asked = machine.asked
    return {
        "id": machine.id,
        "name": asked["name"],
        "dockerImage": asked["docker_image"],
        "cpuCores": asked["cpu_cores"],
        "memoryGB": asked["memory_gb"],
        "diskSizeGB": asked["disk_size_gb"],
        "diskMountPath": "/",
        "gpuCount": 0,
        "vm": asked["vm"],
        "status": status,
        "timeoutMinutes": asked["timeout_minutes"],
        "labels": asked["labels"],
        "createdAt": now,
        "updatedAt": now,
    }
