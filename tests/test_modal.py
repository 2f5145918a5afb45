"""The adapter to Modal, against a stand-in for its package with the same calls. Modal has no part in this."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from conftest import PLAIN, Bench
from recursor.context import prepare
from recursor.errors import IsolationUnavailable
from recursor.sandboxes.modal import ModalSandbox
from recursor.testing import check_sandbox


class Both:
    """A function as Modal's package has them: `f.aio` is for await."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.aio = function


class Stdin:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._held = b""
        self.drain = Both(self._drain)

    def write(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > 2 << 20:
            raise BufferError("Buffer size exceed limit. Call drain to flush the buffer.")

    async def _drain(self) -> None:
        self._writer.write(self._held)
        self._held = b""
        await self._writer.drain()


class Stdout:
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""
        while data := await self._reader.read(5000):
            yield data


class Place:
    def __init__(self, **asked: Any) -> None:
        self.asked = asked
        self.process: asyncio.subprocess.Process | None = None
        self.ended = 0
        self.exec = Both(self._exec)
        self.terminate = Both(self._terminate)

    async def _exec(self, *words: str, text: bool = True, stderr: Any = None) -> Any:
        assert not text, "the line is bytes"
        words = tuple(sys.executable if word == "python3" else word for word in words)
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, env=PLAIN)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return types.SimpleNamespace(stdin=Stdin(self.process.stdin), stdout=Stdout(self.process.stdout))

    async def _terminate(self, *, wait: bool = False) -> None:
        self.ended += 1
        if self.process is not None:
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


class Error(Exception):
    pass


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Place]:
    made: list[Place] = []

    async def create(**asked: Any) -> Place:
        made.append(Place(**asked))
        return made[-1]

    async def lookup(name: str, *, create_if_missing: bool = False) -> str:
        if name == "forbidden":
            raise Error("Token missing")
        return f"app {name}, {create_if_missing}"

    modal, stream = types.ModuleType("modal"), types.ModuleType("modal.stream_type")
    parts = {
        "App": types.SimpleNamespace(lookup=Both(lookup)),
        "Sandbox": types.SimpleNamespace(create=Both(create)),
        "Image": types.SimpleNamespace(
            from_registry=lambda tag: f"registry {tag}",
            debian_slim=lambda python_version: f"debian {python_version}",
        ),
        "exception": types.SimpleNamespace(Error=Error),
    }
    vars(modal).update(parts)
    vars(stream).update(StreamType=types.SimpleNamespace(DEVNULL="devnull"))
    monkeypatch.setitem(sys.modules, "modal", modal)
    monkeypatch.setitem(sys.modules, "modal.stream_type", stream)
    return made


async def test_the_adapter_keeps_the_contract_and_ends_every_place(places: list[Place]) -> None:
    await check_sandbox(ModalSandbox())
    assert places
    assert [place.ended for place in places] == [1] * len(places)


async def test_a_place_has_no_network_and_an_end(places: list[Place]) -> None:
    repl = await ModalSandbox("numpy:1", cpu=2, lifetime=99, memory=1 << 30).open(context_size=1 << 20)
    assert places[0].asked == {
        "app": "app recursor, True",
        "image": "registry numpy:1",
        "block_network": True,
        "timeout": 99,
        "cpu": 2,
        "memory": 1024 + 7 + 256,
    }
    assert "block_network" in str(repl.isolation)
    await repl.load("context", prepare("ab" * 10_000_000))
    assert await Bench(repl).answered("FINAL(context)") == "ab" * 10_000_000
    await repl.close()


async def test_a_missing_token_names_the_remedy(places: list[Place]) -> None:
    with pytest.raises(IsolationUnavailable, match="Token missing; `modal setup`"):
        await ModalSandbox(app="forbidden").open()
    assert places == []


async def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(IsolationUnavailable, match=r'pip install "recursor\[modal\]"'):
        await ModalSandbox().open()


async def test_a_place_whose_python_does_not_start_is_ended(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise Error("no such file")

    monkeypatch.setattr(Place, "_exec", fails)
    with pytest.raises(IsolationUnavailable, match="Modal starts no Python: Error: no such file"):
        await ModalSandbox().open()
    assert [place.ended for place in places] == [1]
