"""The server under load: streams at once, slow readers, clients that go away, large bodies, wrong keys, junk.

    python benchmarks/load.py [--clients 200] [--out benchmarks/results/load.json]

The model is a script that takes 50 ms per reply, in the server's process; two turns and a batch of ten sub-calls make
one run. Afterwards nothing may be left: no run at work, no process, no descriptor. The memory is that of the server
alone, without its REPLs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from recursor import RLM
from recursor.server import keys
from recursor.server.app import Server, Settings
from recursor.testing import ScriptedModel
from recursor.types import Message

FIRST = "I look.\n```python\nsize = len(messages[0]['content'])\nsaid = llm_query_batched(['x'] * 10)\n```"
LAST = "```python\nFINAL(str(size) + ' ' * 200_000)\n```"


async def says(messages: Sequence[Message]) -> str:
    if messages[0].role == "user":
        return "yes"
    return LAST if any(message.role == "assistant" for message in messages) else FIRST


async def serve(key_file: str) -> None:
    """Serve until the end of standard input, with as many descriptors as `recursor serve` takes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def forgetful(messages: Sequence[Message]) -> str:
        model.requests.clear()  # it keeps all prompts, for tests to look at
        model.schemas.clear()
        return await says(messages)

    model = ScriptedModel(forgetful, latency=0.05)
    server = Server({"recursor": RLM(model)}, Settings(key_file=Path(key_file), max_runs=1_000))
    async with server.serving():
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Load:
    """Clients of one server."""

    def __init__(self, url: str, pid: int, key: str) -> None:
        self.url = url
        self.pid = pid
        self.headers = {"Authorization": f"Bearer {key}"}

    def __aenter__(self) -> Any:
        connector = aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300))
        return self.session.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    def post(self, size: int, *, stream: bool = True, headers: dict[str, str] | None = None) -> Any:
        body = {"model": "recursor", "stream": stream, "messages": [{"role": "user", "content": "y" * size}]}
        data = io.BytesIO(json.dumps(body).encode())
        return self.session.post(f"{self.url}/chat/completions", data=data, headers=headers or self.headers)

    async def one(self, size: int = 1_000, *, slowly: float = 0.0) -> tuple[float, float]:
        """Seconds until the first byte, and until the end."""
        began, first = time.perf_counter(), 0.0
        last = b""
        async with self.post(size) as response:
            assert response.status == 200, await response.text()
            async for piece in response.content.iter_any():
                first = first or time.perf_counter() - began
                last = (last + piece)[-20:]
                if slowly:
                    await asyncio.sleep(slowly)
        assert b"[DONE]" in last, last
        return first, time.perf_counter() - began

    async def goes_away(self, after: float) -> None:
        async with self.post(1_000) as response:
            await asyncio.sleep(after)
            response.close()

    async def broken(self, number: int) -> None:
        """What is no request: JSON that is none, of another shape, or no HTTP."""
        if number % 3 == 2:
            host, _, port = self.url.removeprefix("http://").removesuffix("/v1").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.close()
            return
        data = b'{"model": "recursor", "messages": [' * 50_000 if number % 3 else b'{"model": 1}'
        async with self.session.post(f"{self.url}/responses", data=data, headers=self.headers) as response:
            assert response.status == 400

    async def wrong(self) -> None:
        async with self.post(1_000, headers={"Authorization": "Bearer rk-wrong"}) as response:
            assert response.status == 401

    async def settled(self) -> float:
        """Seconds until no run is at work."""
        began = time.perf_counter()
        while True:
            async with self.session.get(
                self.url.removesuffix("/v1") + "/metrics", headers=self.headers
            ) as response:
                if "recursor_runs_in_flight 0" in (await response.text()).splitlines():
                    return time.perf_counter() - began
            await asyncio.sleep(0.01)

    def holds(self) -> dict[str, float]:
        """What the process of the server has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return {
            "rss_mb": round(int(memory) / 1024, 1),
            "descriptors": len(list(Path(f"/proc/{self.pid}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{self.pid}/task").iterdir())),
            "processes": len(descendants(self.pid)),
        }


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, rest = [], [pid]
    while rest:
        children = parents.get(rest.pop(), [])
        found += children
        rest += children
    return found


def told(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    first, whole = sorted(time[0] for time in times), sorted(time[1] for time in times)
    return {
        "first_byte_median_s": round(statistics.median(first), 3),
        "whole_median_s": round(statistics.median(whole), 3),
        "whole_worst_s": round(whole[-1], 3),
    }


async def measure(load: Load, clients: int) -> dict[str, Any]:
    found: dict[str, Any] = {"clients": clients, "load_average": round(os.getloadavg()[0], 1)}
    async with load:
        found["alone"] = told([await load.one() for _ in range(5)])
    found["before"] = load.holds()
    for number in range(1, 4):
        async with load:
            found[f"round_{number}"] = await one_round(load, clients)
            found[f"round_{number}"]["settled_s"] = round(await load.settled(), 3)
        await asyncio.sleep(1.0)
        found[f"after_{number}"] = load.holds()
    return found


async def one_round(load: Load, clients: int) -> dict[str, Any]:
    """All stream; then a quarter each streams, reads slowly, goes away, has a wrong key, or sends no request.

    Beside those, 20 MB come four times.
    """
    began, quarter = time.perf_counter(), clients // 4
    streams = told(await asyncio.gather(*(load.one() for _ in range(clients))))
    streams["all_s"] = round(time.perf_counter() - began, 2)
    readers, slow, large, _, _, _ = await asyncio.gather(
        asyncio.gather(*(load.one() for _ in range(quarter))),
        asyncio.gather(*(load.one(slowly=0.02) for _ in range(quarter))),
        asyncio.gather(*(load.one(20_000_000) for _ in range(4))),
        asyncio.gather(*(load.goes_away(0.002 * number) for number in range(quarter))),
        asyncio.gather(*(load.wrong() for _ in range(quarter))),
        asyncio.gather(*(load.broken(number) for number in range(quarter))),
    )
    return {"streams": streams, "mixed": {"readers": told(readers), "slow": told(slow), "20_mb": told(large)}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(serve(asked.serve))
        return
    key_file = Path(f"/tmp/recursor-bench-{os.getpid()}.toml")
    key = keys.add(key_file, "bench")
    with key_file.open("a") as file:
        file.write("metrics = true\n")
    command = [sys.executable, __file__, "--serve", str(key_file)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        found = asyncio.run(measure(Load(url, server.pid, key), asked.clients))
        server.communicate(timeout=60)
        found["exit"] = server.returncode
    finally:
        server.kill()
        for path in Path("/tmp").glob(f"{key_file.name}*"):
            path.unlink()
    print(json.dumps(found, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
