"""One completion: open a REPL, run the loop, answer sub-calls - by completing again.

What a call costs is counted, and what happened is emitted and flushed, before its result is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recursor import loop, prompt
from recursor.context import Source, prepare
from recursor.errors import LimitExceeded, ModelError, RLMError, SubcallError, TrajectoryError
from recursor.limits import Ledger, Limits
from recursor.protocols import Model, Sandbox, Sink
from recursor.schema import ANYTHING, Shape, shape
from recursor.threads import in_thread
from recursor.tools import Tool
from recursor.types import (
    Batch,
    Completion,
    ContextHashed,
    LlmQuery,
    Message,
    ModelCalled,
    Purpose,
    Reply,
    ReplyText,
    RlmQuery,
    RunEnded,
    RunStarted,
    Schema,
    StopReason,
    Subcall,
    SubcallStarted,
    ToolCall,
    Usage,
)

MAX_CHILDREN = 16
"""Child runs of one run that are at work at once: each has a process of its own."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that the completions of one `RLM` share."""

    model: Model
    sub_model: Model
    sandbox: Sandbox
    limits: Limits
    dialect: prompt.Dialect
    tools: Mapping[str, Tool]
    sink: Sink
    stream: bool = False
    """Whether the root LM's replies are asked for and emitted piece by piece."""

    async def complete(
        self,
        question: str,
        contexts: Mapping[str, Source],
        expected: Shape = ANYTHING,
        parent: Run | None = None,
    ) -> Completion:
        """Answer one question in a REPL of its own; children come back here with their parent.

        Raises:
            ModelError: the root LM failed for good. SandboxError: no REPL could be had.
            SubcallError: an ancestor asks the very same.
        """
        run = Run(self, question, contexts, parent)
        await run.refuse_cycle()
        size = sum(source.size for source in contexts.values())
        repl = await self.sandbox.open(tools=list(self.tools), context_size=size)
        try:
            infos = [await repl.load(name, source) for name, source in contexts.items()]
            opening = prompt.opening(
                self.dialect, question, infos, tools=[tool.signature for tool in self.tools.values()],
                recursive=run.may_recurse, expected=expected.text,
            )  # fmt: skip
            root = run.metered(self.model, "root")
            parts = loop.Parts(run.id, root, repl, run, run.ledger, self.sink, self.dialect, expected.accept)
            started = run.started(question, infos, repl.isolation)
            return await run.recorded(started, contexts, lambda: loop.run(opening, parts))
        finally:
            await repl.close()


class Run:
    """One run of the loop, as its REPL sees it: implements `Subcalls`."""

    def __init__(
        self, engine: Engine, question: str, contexts: Mapping[str, Source], parent: Run | None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.engine = engine
        self.question = question
        self.contexts = contexts
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent else 0
        self.ledger: Ledger = (
            parent.ledger.child(engine.limits) if parent else Ledger(engine.limits, time.monotonic)
        )
        self.settled: _Settled = parent.settled if parent else _Settled()
        """Of the whole tree."""
        self._children = asyncio.Semaphore(MAX_CHILDREN)

    @property
    def may_recurse(self) -> bool:
        """Whether a child of this run gets a REPL; at the depth limit it is a plain call."""
        deepest = self.engine.limits.max_depth
        return deepest is None or self.depth + 1 < deepest

    async def refuse_cycle(self) -> None:
        """Raise SubcallError when an ancestor has the same model, question and contexts: it would never end."""
        ancestor = self.parent
        while ancestor is not None:
            same = ancestor.engine.model.name == self.engine.model.name and ancestor.question == self.question
            if same and await in_thread(_equal, ancestor.contexts, self.contexts):
                raise SubcallError(
                    "this question over this context is being answered already, by the run that asks; "
                    "ask about a smaller part, ask something else, or answer it in code"
                )
            ancestor = ancestor.parent

    async def answer(self, subcall: Subcall) -> Any:
        match subcall:
            case LlmQuery():
                return await self._ask(subcall)
            case RlmQuery() if self.may_recurse:
                return await self._recurse(subcall)
            case RlmQuery():
                return await self._ask(_flattened(subcall))
            case ToolCall():
                return await self._use(subcall)
            case Batch():
                return None

    async def _ask(self, query: LlmQuery) -> Any:
        model = self.metered(self._choose(query.model), "sub")
        expected = shape(query.schema, trusted=False)
        text = query.prompt
        if expected.json_schema is not None:
            text += f"\n\nReply with JSON alone, following this JSON Schema:\n{expected.text}"
        reply = await model.query([Message("user", text)], schema=expected.json_schema)
        return reply.text if expected.json_schema is None else _structured(reply, expected)

    async def _recurse(self, query: RlmQuery) -> Any:
        """The recursion: a child run, in a REPL of its own, paid for by this one."""
        engine = replace(self.engine, model=self._choose(query.model), tools={})
        contexts = {} if query.context is None else {"context": await in_thread(prepare, query.context)}
        expected = shape(query.schema, trusted=False)
        async with self._children:
            child = await engine.complete(query.question, contexts, expected, parent=self)
        if child.answer is None and child.stop_reason is not StopReason.ANSWERED:
            raise SubcallError(f"the child RLM ended without an answer: {child.stop_reason}")
        return child.answer

    async def _use(self, call: ToolCall) -> Any:
        tool = self.engine.tools.get(call.name)
        if tool is None:
            raise SubcallError(f"there is no tool {call.name!r}")
        return await tool.call(call.args, call.kwargs)

    def _choose(self, name: str | None) -> Model:
        if name is None:
            return self.engine.sub_model
        known = {model.name: model for model in (self.engine.model, self.engine.sub_model)}
        if name not in known:
            raise SubcallError(
                f"model {name!r} is not allowed here; use {' or '.join(map(repr, known))}, or None"
            )
        return known[name]

    def metered(self, model: Model, purpose: Purpose) -> Model:
        return _Metered(self, model, purpose)

    def started(self, question: str, infos: Sequence[Any], isolation: Any) -> RunStarted:
        engine = self.engine
        return RunStarted(
            self.id, self.parent.id if self.parent else None, self.depth, question, tuple(infos), engine.model.name,
            engine.sub_model.name, isolation, time.time(),
        )  # fmt: skip

    async def recorded(
        self, started: RunStarted, contexts: Mapping[str, Source], work: Callable[[], Awaitable[Completion]]
    ) -> Completion:
        """Do the work between the events of its start and its end.

        Raises:
            TrajectoryError: nothing can be recorded: before the first call, so that it costs nothing,
                or at the end, with the completion in it.
        """
        sink = self.engine.sink
        sink.emit(started)
        hashing: asyncio.Future[None] | None = None
        try:
            await sink.flush()
            hashing = asyncio.ensure_future(self._hash(contexts))
            completion = await work()
            await hashing
        except BaseException as error:
            if hashing is not None:
                hashing.cancel()
            sink.emit(RunEnded(self.id, None, f"{type(error).__name__}: {error}", time.time()))
            if isinstance(error, RLMError):
                error.run_id = self.id
            with contextlib.suppress(TrajectoryError):
                await sink.flush()
            raise
        sink.emit(RunEnded(self.id, completion, None, time.time()))
        try:
            await sink.flush()
        except TrajectoryError as error:
            error.run_id, error.completion = self.id, completion
            raise
        return completion

    async def _hash(self, contexts: Mapping[str, Source]) -> None:
        """Emit the digests of the contexts, off the run's own path."""
        for name, source in contexts.items():
            try:
                digest = await in_thread(source.digest)
            except (OSError, ValueError, RLMError):
                continue  # a file that went, a value that was changed: what the REPL has is not known any more
            self.engine.sink.emit(ContextHashed(self.id, name, digest))


@dataclass(frozen=True, slots=True)
class _Metered:
    """A Model that checks the ledger, counts, and records, for one run and purpose."""

    run: Run
    model: Model
    purpose: Purpose

    @property
    def name(self) -> str:
        return self.model.name

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        run, sink = self.run, self.run.engine.sink
        while not run.ledger.admit(self.name):
            await run.settled.wait()
        call_id, turn = uuid.uuid4().hex, run.ledger.turns
        if self.purpose == "root" and run.engine.stream:
            on_text = lambda text: sink.emit(ReplyText(run.id, turn, text))  # noqa: E731
        began, started = time.time(), time.monotonic()
        reply: Reply | None = None
        unanswered, error = Reply("", Usage(calls=1), cost=None), "cancelled"  # it may have been paid for
        try:
            if self.purpose == "sub":
                sink.emit(SubcallStarted(run.id, call_id, turn, self.name))
            async with asyncio.timeout(run.ledger.time_left()) as bound:
                reply = await self.model.query(messages, schema=schema, on_text=on_text)
        except TimeoutError as failure:
            error = "the time of the run was up" if bound.expired() else str(failure) or "timed out"
            if bound.expired():
                raise LimitExceeded("the time is up", StopReason.MAX_TIME) from None
            raise ModelError(f"{self.name}: {error}", retryable=True) from failure
        except ModelError as failure:
            unanswered, error = replace(unanswered, cost=0.0), str(failure)
            raise
        except (
            SystemExit,
            KeyboardInterrupt,
        ) as failure:  # from a model's own code: the event loop must go on
            error = f"{type(failure).__name__}: {failure}"
            raise ModelError(f"{self.name}: {error}") from failure
        finally:
            run.ledger.settle(self.name, unanswered if reply is None else reply)
            run.settled.set()
            sink.emit(
                ModelCalled(
                    run.id, call_id, turn, self.purpose, self.name, tuple(messages), reply,
                    None if reply is not None else error, began, time.monotonic() - started,
                )
            )  # fmt: skip
        await sink.flush()
        return reply


class _Settled:
    """Wakes all that wait for a call to settle."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def set(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _equal(ones: Mapping[str, Source], others: Mapping[str, Source]) -> bool:
    """Whether two runs have the same contexts, byte for byte."""
    if {name: source.size for name, source in ones.items()} != {
        name: source.size for name, source in others.items()
    }:
        return False
    return all(source.digest() == others[name].digest() for name, source in ones.items())


def _flattened(query: RlmQuery) -> LlmQuery:
    """A child at the depth limit: one prompt with the context in it."""
    context = query.context
    if context is None:
        return LlmQuery(query.question, query.model, query.schema)
    if not isinstance(context, str):
        try:
            context = json.dumps(context, ensure_ascii=False, default=repr)
        except (TypeError, ValueError):
            context = repr(context)
    return LlmQuery(f"{query.question}\n\n{context}", query.model, query.schema)


def _structured(reply: Reply, expected: Shape) -> Any:
    text = reply.text.strip()
    if text.startswith("```"):
        text = text.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        return expected.accept(json.loads(text))
    except (ValueError, RecursionError) as problem:
        raise SubcallError(
            f"the reply does not follow the schema: {problem}; it was: {reply.text[:500]}"
        ) from None
