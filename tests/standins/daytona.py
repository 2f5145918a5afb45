"""Daytona on loopback: its API of sandboxes, the toolbox inside them, and the proxy to their ports.

After the package daytona 0.226 and Daytona's own programs: a command is run by a shell and answered
when its output is closed; the proxy asks for the sandbox's token, and then passes bytes on to a port
of the sandbox's loopback interface. A sandbox starts after it was made; it is stopped and deleted
when nothing was asked of it for its minutes. There are no events: the package looks by itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from standins import KEY, Machine, Service

TOKEN = "token-of-one-preview"


class Daytona(Service):
    def environment(self) -> dict[str, str]:
        return {"DAYTONA_API_KEY": KEY, "DAYTONA_API_URL": f"{self.url}/api"}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/sandbox", self._create),
            web.get("/api/sandbox/{id}", self._get),
            web.delete("/api/sandbox/{id}", self._delete),
            web.post("/api/sandbox/{id}/last-activity", self._activity),
            web.get("/api/sandbox/{id}/ports/{port}/preview-url", self._preview),
            web.post("/toolbox/{id}/process/execute", self._execute),
        ]

    async def start(self) -> None:
        await super().start()
        self._passing: set[asyncio.Task[Any]] = set()
        self._proxy = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self._address = self._proxy.sockets[0].getsockname()

    async def stop(self) -> None:
        await super().stop()
        self._proxy.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _known(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPUnauthorized(
                text='{"statusCode": 401, "message": "Invalid credentials"}', content_type="application/json"
            )

    def _found(self, request: web.Request) -> Machine:
        self._known(request)
        name = request.match_info["id"]
        for machine in self.machines:
            if name in (machine.id, machine.asked["name"]) and not machine.ended:
                return machine
        raise web.HTTPNotFound(
            text='{"statusCode": 404, "message": "Sandbox not found"}', content_type="application/json"
        )

    async def _create(self, request: web.Request) -> web.Response:
        self._known(request)
        if self.refuses is not None:
            return web.json_response(self.refuses[1], status=self.refuses[0])
        machine = self.made(await request.json())
        self._used(machine)
        return web.json_response(self._told(machine, "creating"))

    def _used(self, machine: Machine) -> None:
        machine.keep(machine.asked["autoStopInterval"] * self.minute)

    async def _get(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        return web.json_response(self._told(machine, "creating" if self.hangs else "started"))

    async def _delete(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        machine.end("deleted")
        await machine.reap()
        return web.json_response(self._told(machine, "destroying"))

    async def _activity(self, request: web.Request) -> web.Response:
        self._used(self._found(request))
        return web.Response(status=201)

    async def _preview(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        host, port = self._address
        return web.json_response(
            {
                "sandboxId": machine.id,
                "url": f"http://{host}:{port}/{machine.id}/{request.match_info['port']}",
                "token": TOKEN,
            }
        )

    async def _execute(self, request: web.Request) -> web.Response:
        machine = self._found(request)
        asked = await request.json()
        words = ["/bin/sh", "-c", asked["command"]]
        process = await machine.run(words, {**(asked.get("envs") or {}), "MACHINE": machine.id})
        output, errors = await process.communicate()
        return web.json_response({"exitCode": process.returncode, "result": (output + errors).decode()})

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the proxy: its path says where to, here, where Daytona has it in the host's name."""
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = [writer]
        try:
            await self._between(reader, writers)
            for each in writers:
                each.close()
            for each in writers:
                with suppress(ConnectionError):
                    await each.wait_closed()
        finally:
            for each in writers:
                each.transport.abort()  # also one that still waits for who reads nothing
            self._passing.discard(task)

    async def _between(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        writer = writers[0]
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        _, name, port = first.split()[1].split("/")
        machine = self.machine(name)
        if machine is None or fields.get("x-daytona-preview-token") != TOKEN:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            return
        there, back = await asyncio.open_connection("localhost", int(port))
        writers.append(back)
        back.write(head)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if machine.stalled.is_set():
                    await asyncio.Event().wait()
                sink.write(data)
                await sink.drain()

        passing = SimpleNamespace(dropped=asyncio.Event())
        machine.sessions[port] = passing
        pumps: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(each) for each in (pump(reader, back), pump(there, writer))
        ]
        pumps.append(asyncio.ensure_future(passing.dropped.wait()))
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if machine.stalled.is_set():
                await asyncio.Event().wait()  # the line says nothing, not even that the machine is gone
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def _told(self, machine: Machine, state: str) -> dict[str, Any]:
        asked = machine.asked
        return {
            "id": machine.id,
            "organizationId": "organization",
            "name": asked["name"],
            "user": "daytona",
            "env": asked.get("env", {}),
            "labels": asked["labels"],
            "public": asked["public"],
            "networkBlockAll": asked["networkBlockAll"],
            "kvm": False,
            "target": "eu",
            "cpu": 1,
            "gpu": 0,
            "memory": asked.get("memory", 1),
            "disk": 3,
            "state": state,
            "toolboxProxyUrl": f"{self.url}/toolbox",
        }
