"""One completion: open a REPL, run the loop, and complete again for sub-calls that are runs of their own.

What the code in the REPL asks for meanwhile is answered by `recursor.run`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from recursor import direct, governance, loop, offered, prompt
from recursor.context import prepare
from recursor.errors import ConfigError
from recursor.protocols import CopyableRepl, Repl
from recursor.run import Place, Run
from recursor.shared import Shared
from recursor.task import Task
from recursor.threads import in_thread
from recursor.tools import CodeTool
from recursor.types import Completion, Message

DIRECT = 50_000
"""Bytes of an input, as encoded, that "auto" puts into one plain call; or as many as the window has tokens."""
COMPACT_AT = 0.75
"""The share of the window that the root LM's history may fill."""
WINDOW = 128_000
"""Tokens, where the window is not known."""


@dataclass(frozen=True, slots=True)
class Engine(Shared):
    """Everything that the completions of one `RLM` share, and what they do."""

    async def complete(self, task: Task, at: Place) -> Completion:
        """Answer one question; children come back here with their parent.

        Raises:
            ModelError: the root LM failed for good. SandboxError: no REPL could be had.
            SubcallError: an ancestor asks the very same. ConfigError: a source of tools cannot be reached.
        """
        if self.sources:
            return await (await self.ready(task.contexts)).complete(task, at)
        run = Run(self, task, at)
        await run.refuse_cycle()
        if run.at.parent is not None and not run.replay.known:
            run.at.parent.replay.miss(run.at.parent.ledger.turns, "sub")
        strategy, reason = self._strategy(run)
        if at.parent is None:
            run.decisions = await governance.places(self.policy, run.id, self.routes.models, self.mounts)
            run.decisions += governance.about_contexts(run.id, task.contexts.values())
        if not all(decision.allowed for decision in run.decisions):
            return await run.recorded(run.started([], None, strategy, reason), _nothing)
        if strategy == "direct":
            return await self._answer_directly(run, reason)
        return await self._answer_in_a_repl(run, reason)

    async def ready(self, taken: Collection[str]) -> Engine:
        """This engine with the tools of its sources, which are asked for them where there will be code.

        Args:
            taken: names that no tool may have.

        Raises:
            ConfigError: one of them cannot be reached.
        """
        sources = self.sources if self.strategy != "direct" else ()
        tools = await offered.offered(sources, self.tools, taken) if sources else self.tools
        return replace(self, tools=tools, sources=())

    def _strategy(self, run: Run) -> tuple[Literal["rlm", "direct"], str]:
        """How to answer, and why."""
        if run.task.start is not None and run.task.start.stays:
            return "rlm", "a session keeps its REPL"
        if self.strategy != "auto":
            return self.strategy, "it was asked for"
        if self.tools:
            return "rlm", "there are tools, which code calls"
        if run.task.opaque or run.task.pictured:
            return "rlm", "there are files that are read in a REPL"
        most = min(DIRECT, run.window or DIRECT)
        size = run.task.size
        fits = size <= most
        return (
            "direct" if fits else "rlm",
            f"{size:,} bytes are {'at most' if fits else 'more than'} {most:,}",
        )

    async def _answer_directly(self, run: Run, reason: str) -> Completion:
        task = run.task
        infos, messages = await in_thread(
            direct.opening, task.question, task.contexts, task.expected, task.instruction
        )
        if messages[-1].images:
            direct.refuse_blind(run.model, ConfigError)
        model = run.metered(run.model, "root")
        started = run.started(infos, None, "direct", reason)
        return await run.recorded(
            started, lambda: direct.run(messages, model, run.ledger, task.expected, run.id)
        )

    async def _answer_in_a_repl(self, run: Run, reason: str) -> Completion:
        task, start = run.task, run.task.start
        repl = await self._repl(run)

        async def remember(name: str, messages: Sequence[Message]) -> None:
            rows = [{"role": message.role, "content": message.content} for message in messages]
            await repl.load(name, await in_thread(prepare, rows))

        try:
            governance.demand(self.policy, repl.isolation)
            infos = run.infos
            for name, source in task.contexts.items():
                known = start.known.get(name) if start is not None else None
                infos[name] = known or await repl.load(name, source)
            for tool in self.tools.values():
                if isinstance(tool, CodeTool) and (start is None or start.stays):  # a copy has its parent's
                    await repl.load(tool.name, await in_thread(prepare, tool.source))
            told = start.told(await run.variables(repl)) if start is not None else ""
            opening = prompt.opening(
                self.dialect, task.question, list(infos.values()), tools=run.offers(),
                recursive=run.may_recurse, copyable=isinstance(repl, CopyableRepl) and repl.copyable,
                expected=task.expected.text,
                instruction="\n\n".join(filter(None, (task.instruction, told))),
            )  # fmt: skip
            parts = loop.Parts(
                run.id, run.metered(run.model, "root"), run.replayed(repl), run, run.ledger, self.sink, self.dialect,
                task.expected.take, run.metered(run.model, "compaction"), remember, repl, run.replay.prompt_end,
                self.compact_at or int(COMPACT_AT * (run.window or WINDOW)),
                repl.checkpoint if isinstance(repl, CopyableRepl) else lambda: None,
            )  # fmt: skip
            started = run.started(list(infos.values()), repl.isolation, "rlm", reason)
            return await run.recorded(started, lambda: loop.run(opening, parts))
        finally:
            if start is None or not start.stays:
                await repl.close()

    async def _repl(self, run: Run) -> Repl:
        """The REPL of a run: a new one, or the copy of its parent's that it is to start from."""
        tools, calls, start = list(self.tools), self.dialect.calls, run.task.start
        if start is None:
            size = sum(source.size for source in run.task.contexts.values())
            return await self.sandbox.open(tools=tools, context_size=size, seed=run.seed, calls=calls)
        await start.repl.become(tools=tools, seed=run.seed, calls=calls)
        return start.repl


async def _nothing() -> Completion:
    raise AssertionError("a run that was refused has no work")
