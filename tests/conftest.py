"""What the tests share: a REPL per sandbox, and a host that answers its sub-calls."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from recursor import plugins
from recursor.errors import SubcallError
from recursor.protocols import Repl
from recursor.sandboxes import inprocess
from recursor.sandboxes.process import ProcessSandbox
from recursor.sandboxes.stream import CommandSandbox
from recursor.types import Batch, Execution, LlmQuery, RlmQuery, Subcall, ToolCall

# A machine that others use, too, is no defect of what a test draws.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


class Host:
    """Answers sub-calls with what they asked, and keeps them."""

    def __init__(self) -> None:
        self.calls: list[Subcall] = []
        self.gate = 1
        """Calls that must be waiting at once before the first is answered."""
        self._waiting = 0
        self._open = asyncio.Event()

    async def answer(self, subcall: Subcall) -> Any:
        self.calls.append(subcall)
        if isinstance(subcall, Batch):
            return None
        self._waiting += 1
        if self._waiting >= self.gate:
            self._open.set()
        await self._open.wait()
        return self._reply(subcall)

    def _reply(self, subcall: Subcall) -> Any:
        match subcall:
            case LlmQuery(prompt=prompt) if "fail" in prompt:
                raise SubcallError(f"refused: {prompt}")
            case LlmQuery(prompt=prompt):
                return prompt.upper()
            case RlmQuery(question=question, context=context):
                return {"question": question, "context": None if context is None else context.value()}
            case ToolCall(name=name, args=args, kwargs=kwargs):
                return [name, args, dict(kwargs)]


class Bench:
    """A REPL with a host behind it."""

    def __init__(self, repl: Repl) -> None:
        self.repl = repl
        self.host = Host()

    async def run(
        self, code: str, *, max_time: float | None = 20.0, max_wall: float | None = None
    ) -> Execution:
        return await self.repl.execute(code, self.host, max_time=max_time, max_wall=max_wall)

    async def shown(self, code: str) -> str:
        """What a block prints; it must not fail."""
        execution = await self.run(code)
        assert execution.error is None, execution.error
        return execution.output.head + execution.output.tail

    async def answered(self, code: str) -> Any:
        execution = await self.run(code)
        assert execution.submission is not None, (execution.error, execution.notes)
        return execution.submission.value


class PlainSandbox(CommandSandbox):
    """A worker that only bytes reach, and that nothing holds in: what streams do, without a place to reach."""

    def __init__(self) -> None:
        isolation = replace(inprocess.ISOLATION, sandbox="plain")
        super().__init__((), isolation=isolation, executable=sys.executable, environment=dict(PLAIN))


PLAIN = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.fixture(params=["process", "inprocess", "conftest:PlainSandbox"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A REPL in each sandbox: what it does must not depend on where it runs."""
    sandbox = plugins.load("recursor.sandboxes", request.param)()
    repl = await sandbox.open(tools=["lookup"])
    yield Bench(repl)
    await repl.close()


@pytest.fixture
async def isolated() -> AsyncIterator[Bench]:
    """A REPL in the default sandbox."""
    sandbox = ProcessSandbox()
    repl = await sandbox.open()
    yield Bench(repl)
    await repl.close()
