"""Services that rent out machines, on loopback: their wire APIs over HTTP, with a process for a machine."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web

from conftest import PLAIN

KEY = "key_0123456789abcdef"
PIPE = asyncio.subprocess.PIPE


class Machine:
    """What a service rents out: here the processes that are started in it.

    Attributes:
        asked: what it was made with.
        started: the command lines and environments of its processes.
        ended: how it ended, empty while it runs.
    """

    def __init__(self, number: int, asked: dict[str, Any]) -> None:
        self.id = f"machine{number}"
        self.asked = asked
        self.started: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.ended = ""
        self.gone = asyncio.Event()
        self.stalled = asyncio.Event()
        """Set: nothing that its processes print goes on."""
        self.processes: list[asyncio.subprocess.Process] = []
        self.sessions: dict[str, Any] = {}
        """What a service knows of its processes, by its own names for them."""
        self._lease: asyncio.TimerHandle | None = None

    async def run(self, words: Sequence[str], env: Mapping[str, str]) -> asyncio.subprocess.Process:
        assert not self.ended
        self.started.append((words, env))
        process = await asyncio.create_subprocess_exec(
            *words, env={**PLAIN, **env}, start_new_session=True, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        self.processes.append(process)
        return process

    def keep(self, seconds: float) -> None:
        """End it after so long, unless this is said again."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = asyncio.get_running_loop().call_later(seconds, self.end, "nobody asked for it")

    def drop(self) -> None:
        """Break off the streams that show its processes; it runs on."""
        for session in self.sessions.values():
            session.dropped.set()

    def end(self, how: str) -> None:
        """End it with all its processes, also those that went into the background."""
        self.ended = self.ended or how
        if self._lease is not None:
            self._lease.cancel()
        for pid in {*(process.pid for process in self.processes), *_descendants(self.id)}:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.gone.set()

    async def reap(self) -> None:
        for process in self.processes:
            await process.wait()


def _descendants(name: str) -> set[int]:
    """The leaders of sessions that carry a machine's name in their environment."""
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
            if f"MACHINE={name}\0".encode() in file.read():
                found.add(os.getpgid(int(entry)))
    return found - {os.getpgid(0)}


class Service(ABC):
    """A service on loopback.

    Attributes:
        refuses: status and JSON that asking for a machine gets.
        hangs: whether machines never come to be ready.
        minute: how long its minutes are, in seconds.
        requests: how many it was sent.
    """

    def __init__(self) -> None:
        self.machines: list[Machine] = []
        self.refuses: tuple[int, dict[str, Any]] | None = None
        self.hangs = False
        self.minute = 60.0
        self.requests = 0
        self.url = ""

    @abstractmethod
    def routes(self) -> list[web.RouteDef]: ...

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What leads the service's package here."""

    async def start(self) -> None:
        @web.middleware
        async def count(request: web.Request, handler: Any) -> web.StreamResponse:
            self.requests += 1
            response: web.StreamResponse = await handler(request)
            return response

        application = web.Application(middlewares=[count], client_max_size=1 << 26)
        application.add_routes(self.routes())
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for machine in self.machines:
            machine.end("the test is over")
            await machine.reap()
        await self._runner.cleanup()

    def made(self, asked: dict[str, Any]) -> Machine:
        machine = Machine(len(self.machines), asked)
        self.machines.append(machine)
        return machine

    def machine(self, name: str) -> Machine | None:
        """The one with this id, while it runs."""
        return next((each for each in self.machines if each.id == name and not each.ended), None)
