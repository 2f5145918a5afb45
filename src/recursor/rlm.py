"""`RLM`: what users hold. Checks what it is given, and hands a run to the engine.

All runs of a process live on one background event loop, so that `completion()` works anywhere
(scripts, threads, notebooks, inside a running loop) and HTTP connections are shared; `acompletion`
and `stream` wait for them from the caller's own loop.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from recursor import answers, assembly, background, prompts, streaming
from recursor.asker import Asker
from recursor.engine import Engine
from recursor.errors import ConfigError
from recursor.governance import check_prices
from recursor.inputs import checked_values
from recursor.limits import MAX_CONCURRENCY, Limits
from recursor.models import Retries
from recursor.offered import ToolSource, split
from recursor.policy import Policy
from recursor.protocols import Model, Sandbox, Sink
from recursor.record import public_url
from recursor.routing import Routes
from recursor.shared import Strategy
from recursor.sinks import Fanout, QueueSink
from recursor.tools import AnyTool, code_of, collect
from recursor.types import Completion, Event

if TYPE_CHECKING:
    from recursor import batch
    from recursor.questions import Outcome, Question
    from recursor.sessions.session import Session


class RLM:
    """A Recursive Language Model (arXiv 2512.24601): a drop-in for `llm.completion(...)`.

    The context never enters a prompt: it is a variable in an isolated Python REPL, in which the
    root LM's code looks at it and calls sub-LMs on pieces of it.

    Args:
        model: the root LM: a spec such as "openai/gpt-5", or any object with the `Model` protocol; or `Routes`,
            which say what serves which call.
        sub_model: answers `llm_query`; None takes the root LM.
        sandbox: "process" (isolated, Linux), "docker", "podman", "modal", "e2b", "daytona", "prime", "inprocess" (no
            isolation at all, for debugging), the name of a plugin, an import path, or an object with the
            `Sandbox` protocol.
        mounts: folders whose files code may read, by the paths at which it sees them, {"/context": Path("papers")}:
            read-only. For a sandbox given by name; an object has its own.
        limits: bounds of each run.
        retries: when a model call that failed for a time is made again; see `recursor.models.Retries`.
        tools: host functions that code in the REPL may call, see `tool`; and `CodeTool`s, which are defined in it;
            and sources of tools: `recursor.mcp.McpServer`.
        values: data that every REPL has beside the context, children's too, by the names of its variables.
        policy: which tools, models, endpoints and mounts may be used, what needs approval, and what a sandbox
            must have; None is all that are offered.
        dialect: prompt text and answer form; "default".
        instruction: added to what the root LM is told.
        strategy: "rlm" answers in a REPL; "direct" by one plain call with the whole input in it; "auto" so where
            the input is small (50,000 bytes) and there are no tools, and in a REPL otherwise.
        compact_at: tokens of the root LM's prompt from which old turns give way to a summary; None is three
            quarters of its window.
        store: where runs are recorded: a path of a SQLite file, or a `Store`; None records nothing.
        cache: "workspace" takes replies that any run in the store was given to the very same request (model,
            endpoint, options, messages, schema), and pays for them once. None asks each time.
        coverage: whether completions say which parts of their context models read (`Completion.coverage`).
            It needs a store, and some seconds more for a context of 100 MB.
        sinks: further receivers of events: objects, names ("otel") or import paths.
        base_url: the endpoint of both models, for specs.
        api_key: the key of both models, for specs; None reads the environment or the keys file.

    Raises:
        ConfigError: any of these is wrong; nothing was sent anywhere.
    """

    def __init__(
        self,
        model: str | Model | Routes[Any],
        *,
        sub_model: str | Model | None = None,
        sandbox: str | Sandbox = "process",
        mounts: Mapping[str, str | Path] | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        retries: Retries = Retries(),  # noqa: B008 - frozen
        tools: Iterable[Callable[..., Any] | AnyTool | ToolSource] = (),
        values: Mapping[str, Any] = MappingProxyType({}),
        policy: Policy | None = None,
        dialect: str = "default",
        instruction: str = "",
        strategy: Strategy = "rlm",
        compact_at: int | None = None,
        store: Any = None,
        cache: str | None = None,
        coverage: bool = False,
        sinks: Sequence[Sink | str] = (),
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if not isinstance(limits, Limits):
            raise ConfigError(f"limits must be a recursor.Limits, not {type(limits).__name__}")
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigError(f"policy must be a recursor.Policy, not {type(policy).__name__}")
        if not isinstance(retries, Retries):
            raise ConfigError(f"retries must be a recursor.models.Retries, not {type(retries).__name__}")
        if not isinstance(instruction, str):
            raise ConfigError(f"instruction must be a text, not {type(instruction).__name__}")
        routes = assembly.routes(model, sub_model, base_url, api_key)
        if compact_at is not None and (not isinstance(compact_at, int) or compact_at < 1):
            raise ConfigError(f"compact_at must be a number of tokens or None, not {compact_at!r}")
        if strategy not in ("rlm", "direct", "auto"):
            raise ConfigError(f"strategy must be 'rlm', 'direct' or 'auto', not {strategy!r}")
        if limits.max_cost is not None:
            check_prices(routes.models, strict=policy is not None and policy.strict)
        recorded = assembly.store(store)
        path = getattr(recorded, "path", None)
        if coverage:
            assembly.store_path(recorded, "coverage needs the store that records the runs")
        functions, sources = split(tools)
        made, offered = assembly.sandbox(sandbox, mounts), collect(functions)
        engine = Engine(
            routes=routes,
            sandbox=made,
            limits=limits,
            retries=retries,
            dialect=prompts.load(dialect),
            tools=offered,
            sources=sources,
            policy=policy,
            sink=Fanout([*([recorded] if recorded else []), *assembly.sinks(sinks)]),
            cache=assembly.cache(cache, recorded),
            strategy=strategy,
            compact_at=compact_at,
            settings={
                **routes.table(), "base_url": public_url(base_url), "dialect": dialect, "limits": asdict(limits),
                "sandbox": sandbox if isinstance(sandbox, str) else type(sandbox).__name__, "strategy": strategy,
                "mounts": dict(getattr(made, "mounts", {})),
                "instruction": instruction, "compact_at": compact_at, "code_tools": code_of(offered),
                "values": list(values),
            },
        )  # fmt: skip
        self._asker = Asker(
            engine,
            instruction,
            checked_values(values, offered),
            path if isinstance(path, Path) else None,
            coverage,
        )

    @property
    def limits(self) -> Limits:
        """Bounds of each run."""
        return self._asker.engine.limits

    @property
    def store(self) -> Path | None:
        """The file that records the runs; None where nothing is recorded."""
        return self._asker.store

    @property
    def tools(self) -> Mapping[str, AnyTool]:
        """Functions that code may call beside its own, by their names."""
        return self._asker.engine.tools

    def with_changes(
        self,
        *,
        limits: Limits | None = None,
        instruction: str | None = None,
        tools: Iterable[Callable[..., Any] | AnyTool | ToolSource] = (),
        sinks: Sequence[Sink] = (),
    ) -> RLM:
        """The same RLM, connections and store shared, with other limits or another instruction; None keeps them.

        Args:
            tools: beside those that it has.
            sinks: further receivers of events.

        Raises:
            ConfigError: a bound of money without a price, or the name of a tool that is taken.
        """
        other = copy.copy(self)
        other._asker = self._asker.with_changes(limits, instruction, tools, sinks)
        return other

    def completion(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> Completion:
        """Answer a question over a context of any size; blocks until the run has ended.

        Works in scripts, threads and notebooks, and inside a running event loop (which it blocks:
        use `acompletion` there).

        Args:
            question: short text that the root LM reads.
            context: the data: str (always text, never a path), bytes, a Path to a file or folder,
                a list of Paths, or a list, tuple or dict of plain data. None when there is none.
            messages: an OpenAI message list instead: the last user text is the question, and all
                messages are the variable `messages` in the REPL.
            schema: what the answer must be: a JSON Schema, or a type (builtin or generic type,
                dataclass, TypedDict, msgspec Struct, pydantic model), which is then returned.

        Raises:
            ConfigError: the arguments are wrong; nothing was sent.
            ModelError: the root LM failed for good.
            SandboxError: the sandbox failed, or the isolation cannot be had.
        """
        return background.run(lambda: answers.complete(self._asker, question, context, messages, schema))

    async def acompletion(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> Completion:
        """`completion` for `await`. Cancelling it stops the run and leaves nothing behind."""
        return await background.arun(
            lambda: answers.complete(self._asker, question, context, messages, schema)
        )

    def session(
        self,
        id: str | None = None,  # noqa: A002 - what it is
        *,
        limits: Limits | None = None,
        idle: float | None = None,
        keep_contexts: bool = True,
        contexts: Mapping[int, Any] | None = None,
    ) -> Session:
        """Begin a conversation whose REPL lives on from question to question, or go on with one.

        With a store it survives the end of the process: `session(id)` runs the code of its turns again, with
        recorded replies, and nothing is paid twice. Without one it lasts as long as it is open.

        Args:
            id: of a session in the store, or of one to begin; None makes one up.
            limits: bounds of the whole session, beside those of each run: max_cost, max_tokens, max_calls, max_time.
            idle: seconds after which a REPL that nobody asks is ended; the next question has it made again.
                None never ends it.
            keep_contexts: whether the store keeps contexts that come as values, to make the REPL again;
                files and folders are read again from where they are.
            contexts: values that were not kept, by the number of the turn that they came with.

        Raises:
            ConfigError: any of these is wrong, or the strategy is "direct".
        """
        from recursor.sessions import session  # noqa: PLC0415 - imports sqlite3

        return session.made(
            self._asker, id, limits=limits, idle=idle, keep_contexts=keep_contexts, contexts=contexts
        )

    def resume(
        self, run_id: str, context: Any = None, *, messages: Any = None, schema: Any = None
    ) -> Completion:
        """Go on with a run that was cut off, or that a limit ended; nothing recorded is paid twice.

        The code of each recorded turn is executed again, since that makes the variables of the REPL; its model
        calls, tools, clocks and randomness are answered from the record. From the first call that
        was not recorded on it goes on as any run, under this RLM's limits. A run that answered
        gives its answer again.

        Args:
            run_id: as in `Completion.run_id`, or the beginning of it. The run of a child stands for its root.
            context: what the run was given, unless that was a file or folder that is still there.
            messages: what the run was given, if it was.
            schema: None takes the JSON Schema that was recorded.

        Raises:
            ConfigError: no store, other models than recorded, or another context.
            TrajectoryError: the store holds no such run, or it is at work.
        """
        return background.run(lambda: answers.resume(self._asker, run_id, context, messages, schema))

    async def aresume(
        self, run_id: str, context: Any = None, *, messages: Any = None, schema: Any = None
    ) -> Completion:
        """`resume` for `await`."""
        return await background.arun(lambda: answers.resume(self._asker, run_id, context, messages, schema))

    def map(
        self,
        questions: Iterable[str | Question],
        context: Any = None,
        *,
        schema: Any = None,
        total: Limits | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        name: str | None = None,
        return_exceptions: bool = False,
    ) -> batch.Results:
        """Answer many questions over one context, which is prepared once and whose pages their REPLs share.

        Args:
            questions: texts, or `Question`s with contexts and schemas of their own.
            context: what all share, as in `completion`.
            schema: what each answer must be.
            total: bounds of all together: max_cost, max_tokens, max_calls and max_time. `limits` bound each.
            max_concurrency: questions that are answered at once; each has a REPL.
            name: under which the store finds the batch again: what has an answer under it is not asked again, and
                what was cut off goes on.
            return_exceptions: whether a question that failed gives its error; otherwise the first one stops the rest
                and is raised.

        Returns:
            The completions, in the order of the questions. A question that a bound of the batch left nothing for
            failed with a `LimitExceeded`.

        Raises:
            ConfigError: the arguments are wrong, or the context is not what it was; nothing was sent.
        """
        from recursor import batch  # noqa: PLC0415 - 4 ms, and few ask many questions at once

        async def work() -> batch.Results:
            made = await batch.made(
                self._asker, context, schema=schema, total=total, max_concurrency=max_concurrency, name=name
            )
            return await batch.collected(made, questions, return_exceptions=return_exceptions)

        return background.run(work)

    async def amap(
        self,
        questions: Iterable[str | Question],
        context: Any = None,
        *,
        schema: Any = None,
        total: Limits | None = None,
        max_concurrency: int = MAX_CONCURRENCY,
        name: str | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Yield how each question ended, in the order in which they end; see `map`.

        `questions` may be any iterable; it is read as questions are asked. Closing the iterator stops all runs.
        """
        from recursor import batch  # noqa: PLC0415 - as above

        make = functools.partial(
            batch.made,
            self._asker,
            context,
            schema=schema,
            total=total,
            max_concurrency=max_concurrency,
            name=name,
        )
        async with aclosing(batch.streamed(make, questions)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def stream(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
        resume: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield events while the run goes; the last is `RunEnded`, with the completion.

        Closing the iterator stops the run. Raises what `completion` raises.

        Args:
            resume: the id of a run to go on with, in place of a question; with its `messages`. See `resume`.
        """
        if question is not None if resume is not None else question is None and messages is None:
            raise ConfigError("pass a question, messages, or the id of a run to resume")

        def work(watcher: QueueSink) -> Coroutine[Any, Any, Completion]:
            if resume is not None:
                return answers.resume(self._asker, resume, context, messages, schema, watcher=watcher)
            return answers.complete(self._asker, question, context, messages, schema, watcher=watcher)

        async with aclosing(streaming.events(work)) as events:
            async for event in events:
                yield event
