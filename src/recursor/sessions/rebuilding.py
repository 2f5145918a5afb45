"""The variables of a turn of a session, made again by running its recorded code: nothing is asked, or paid for.

What the code asks for is answered from the journal; what is not there fails, as a sub-call does. The root LM is
not needed, so that a session goes on with another one, and with other prompts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from recursor.context import prepare
from recursor.engine import Engine
from recursor.errors import ConfigError, ModelError
from recursor.limits import Limits
from recursor.protocols import Journal
from recursor.replay import Past
from recursor.routing import Routes
from recursor.run import Place, Run
from recursor.sandboxes.blocks import INTERRUPTED
from recursor.sandboxes.repl import BACK, DIED, LOST
from recursor.sinks import Fanout
from recursor.task import Task
from recursor.threads import in_thread
from recursor.tools import AnyTool, CodeTool, Tool, check_code
from recursor.trajectory.recorded import RecordedExecution, RecordedRun
from recursor.types import Message, Reply

BARE = ("max_depth", "max_cell_time")
"""Limits that bear on what code does beside what it may spend."""
_SEVERAL = re.compile(re.escape(BACK.partition("{}")[0]) + r"the last (\d+) blocks")


def silent(engine: Engine, run: RecordedRun, tools: Collection[str]) -> Engine:
    """The engine with which a recorded run is made again: it records and pays nothing.

    Args:
        tools: names of the functions of the host that its code could call.

    Raises:
        ConfigError: a tool whose code runs in the REPL is not what the run had.
    """
    was = {name: digest for name, digest in run.settings.get("code_tools", {}).items() if name in tools}
    code = {name: tool for name, tool in engine.tools.items() if isinstance(tool, CodeTool) and name in was}
    check_code(was, code)
    offered: dict[str, AnyTool] = {name: code.get(name) or Tool(name, _not_called, name) for name in tools}
    limits = Limits(**{name: run.limits[name] for name in BARE if name in run.limits})
    routes = engine.routes
    if not {run.model, run.sub_model} <= set(routes.names):
        routes = Routes.of(run.model, run.sub_model).resolved(_Gone)
    return replace(
        engine,
        routes=routes,
        tools=offered,
        limits=limits,
        sink=Fanout([]),
        policy=None,
        cache=None,
        stream=False,
    )


async def rebuild(
    engine: Engine, task: Task, run_id: str, executions: Sequence[RecordedExecution], journal: Journal
) -> bool:
    """Run the recorded code of a turn; return whether it went as it did then.

    Args:
        engine: see `silent`.
        task: what the run was asked, and the REPL that it begins in.
    """
    assert task.start is not None, "a turn begins in the REPL of its session"
    repl = task.start.repl
    past = await in_thread(lambda: Past(journal, run_id, alone=True))
    again = Run(engine, task, Place(run_id, past=past))
    again.infos.update(task.start.known)
    await repl.become(tools=list(engine.tools), seed=again.seed, calls=engine.dialect.calls)
    for tool in engine.tools.values():
        if isinstance(tool, CodeTool):
            await repl.load(tool.name, await in_thread(prepare, tool.source))
    alike = True
    for each in lasting(executions):
        was, most = each.execution, engine.limits.max_cell_time
        if most is not None and any(note.startswith(INTERRUPTED) for note in was.notes):
            most = min(most, max(was.duration, 1.0))  # it goes on for ever, and has shown what it does
        again.ledger.turns, again.ledger.blocks = each.turn, each.block
        done = await repl.execute(was.code, again, max_time=most, readings=was.readings)
        alike = alike and done.output == was.output and (done.error is None) == (was.error is None)
    return alike and not past.missing


def lasting(executions: Sequence[RecordedExecution]) -> list[RecordedExecution]:
    """The blocks whose effects were there at the end: a REPL that dies takes along what some have done."""
    found: list[RecordedExecution] = []
    for each in executions:
        died = (each.execution.error or "").startswith(DIED)
        for note in each.execution.notes:
            if note == LOST:
                found.clear()
            elif several := _SEVERAL.match(note):
                del found[max(0, len(found) - int(several[1]) + died) :]
        if not died:
            found.append(each)
    return found


def begins_anew(executions: Sequence[RecordedExecution]) -> bool:
    """Whether the REPL was started anew in a turn, without the variables of turns before it."""
    return any(LOST in each.execution.notes for each in executions)


class _Gone:
    """Stands for a model that a run was made with, and that is not at hand: its replies are recorded."""

    priced = True

    def __init__(self, name: str) -> None:
        self.name = name

    async def query(self, messages: Sequence[Message], **_: Any) -> Reply:
        raise ModelError(f"{self.name} is not asked: {len(messages)} messages are not in the record")


def _not_called(*_: Any, **__: Any) -> NoReturn:
    raise ConfigError("a tool whose calls are recorded is not called again")
