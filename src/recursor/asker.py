"""What every question to one `RLM` is asked with, whether it is asked alone or in a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from recursor.context import Source
from recursor.engine import Engine
from recursor.errors import RLMError
from recursor.governance import check_prices
from recursor.inputs import checked_values
from recursor.limits import Limits
from recursor.offered import ToolSource, split
from recursor.protocols import Sink
from recursor.schema import Shape
from recursor.sinks import Fanout
from recursor.task import Task
from recursor.threads import in_thread
from recursor.tools import AnyTool, code_of, collect
from recursor.types import Completion

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asker:
    """An engine, and what stands around each of its runs."""

    engine: Engine
    instruction: str = ""
    """Added to what the root LM is told."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Data that every REPL has."""
    store: Path | None = None
    """The file that records the runs."""
    coverage: bool = False

    def with_changes(
        self,
        limits: Limits | None,
        instruction: str | None,
        tools: Iterable[Callable[..., Any] | AnyTool | ToolSource],
        sinks: Sequence[Sink],
    ) -> Asker:
        """The same with other limits or another instruction, and with more tools and sinks. Raises ConfigError."""
        engine = self.engine
        if limits is not None:
            if limits.max_cost is not None and engine.limits.max_cost is None:
                check_prices(engine.routes.models, strict=engine.policy is not None and engine.policy.strict)
            engine = replace(engine, limits=limits, settings={**engine.settings, "limits": asdict(limits)})
        if instruction is not None:
            engine = replace(engine, settings={**engine.settings, "instruction": instruction})
        if tools:
            functions, sources = split(tools)
            offered = collect([*engine.tools.values(), *functions])
            checked_values(self.values, offered)
            settings = {**engine.settings, "code_tools": code_of(offered)}
            sources = [*engine.sources, *sources]
            engine = replace(engine, tools=offered, sources=sources, settings=settings)
        if sinks:
            engine = replace(engine, sink=Fanout([engine.sink, *sinks]))
        told = self.instruction if instruction is None else instruction
        return replace(self, engine=engine, instruction=told)

    def task(self, question: str, contexts: Mapping[str, Source], expected: Shape) -> Task:
        """What one run is asked."""
        values = {name: contexts[name] for name in self.values}
        return Task(question, contexts, expected, self.instruction, values=values)

    def watched(self, watcher: Sink | None) -> Engine:
        """The engine, with somebody who sees what it does piece by piece."""
        if watcher is None:
            return self.engine
        return replace(self.engine, sink=Fanout([self.engine.sink, watcher]), stream=True)

    async def attended(self, run_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Keep others from going on with a run meanwhile: it would be paid for twice. They may have it stopped."""
        if self.store is None:
            return await work()
        from recursor.trajectory.claim import attended  # noqa: PLC0415 - as the store

        return await attended(self.store, run_id, work)

    async def covered(self, done: Completion, contexts: Mapping[str, Source]) -> Completion:
        """The completion, with what was read of its context where that is wanted."""
        if not self.coverage or self.store is None:
            return done
        from recursor import review  # noqa: PLC0415 - imports sqlite3

        try:
            return replace(
                done, coverage=await in_thread(review.coverage_of, self.store, done.run_id, contexts)
            )
        except (RLMError, OSError):
            return done  # a file was changed meanwhile: the answer is there all the same
