"""`RLM`: what users hold. Checks what it is given, and hands a run to the engine.

All runs of a process live on one background event loop, so that `completion()` works anywhere
(scripts, threads, notebooks, inside a running loop) and HTTP connections are shared; `acompletion`
and `stream` wait for them from the caller's own loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from recursor import background, models, plugins, prompts
from recursor.context import Source, prepare
from recursor.engine import Engine
from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.prompt import MAX_QUESTION
from recursor.protocols import Model, Sandbox, Sink
from recursor.schema import shape
from recursor.sinks import Fanout, QueueSink
from recursor.threads import in_thread
from recursor.tools import Tool, collect
from recursor.types import Completion, Event


class RLM:
    """A Recursive Language Model (arXiv 2512.24601): a drop-in for `llm.completion(...)`.

    The context never enters a prompt: it is a variable in an isolated Python REPL, in which the
    root LM's code looks at it and calls sub-LMs on pieces of it.

    Args:
        model: the root LM: a spec such as "openai/gpt-5", or any object with the `Model` protocol.
        sub_model: answers `llm_query`; None takes the root LM.
        sandbox: "process" (isolated, Linux), "inprocess" (no isolation at all, for debugging), the
            name of a plugin, an import path, or an object with the `Sandbox` protocol.
        limits: bounds of each run.
        tools: host functions that code in the REPL may call; see `tool`.
        dialect: prompt text and answer form; "default".
        store: where runs are recorded: a path of a SQLite file, or a `Store`; None records nothing.
        sinks: further receivers of events.
        base_url: the endpoint of both models, for specs.
        api_key: the key of both models, for specs; None reads the environment or the keys file.

    Raises:
        ConfigError: any of these is wrong; nothing was sent anywhere.
    """

    def __init__(
        self,
        model: str | Model,
        *,
        sub_model: str | Model | None = None,
        sandbox: str | Sandbox = "process",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        tools: Iterable[Callable[..., Any] | Tool] = (),
        dialect: str = "default",
        store: Any = None,
        sinks: Sequence[Sink] = (),
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        if not isinstance(limits, Limits):
            raise ConfigError(f"limits must be a recursor.Limits, not {type(limits).__name__}")
        root = _model(model, "model", base_url, api_key)
        sub = root if sub_model is None else _model(sub_model, "sub_model", base_url, api_key)
        if limits.max_cost is not None:
            _check_prices(root, sub)
        recorded = _store(store)
        self._engine = Engine(
            model=root,
            sub_model=sub,
            sandbox=_sandbox(sandbox),
            limits=limits,
            dialect=prompts.load(dialect),
            tools=collect(tools),
            sink=Fanout([*([recorded] if recorded else []), *sinks]),
        )

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
        return background.run(lambda: self._complete(question, context, messages, schema))

    async def acompletion(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> Completion:
        """`completion` for `await`. Cancelling it stops the run and leaves nothing behind."""
        return await background.arun(lambda: self._complete(question, context, messages, schema))

    async def stream(
        self,
        question: str | None = None,
        context: Any = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        schema: Any = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield events while the run goes; the last is `RunEnded`, with the completion.

        Closing the iterator stops the run. Raises what `completion` raises.
        """
        queue = QueueSink(asyncio.get_running_loop())
        run = asyncio.ensure_future(
            background.arun(lambda: self._complete(question, context, messages, schema, queue))
        )
        run.add_done_callback(lambda _: queue.end())
        try:
            async for event in queue:
                yield event
        finally:
            run.cancel()
            await asyncio.wait([run])
        await run

    async def _complete(
        self, question: Any, context: Any, messages: Any, schema: Any, watcher: QueueSink | None = None
    ) -> Completion:
        expected = shape(schema)
        text, contexts = await in_thread(_inputs, question, context, messages)
        engine = self._engine
        if watcher is not None:
            engine = replace(engine, sink=Fanout([engine.sink, watcher]), stream=True)
        return await engine.complete(text, contexts, expected)


def _model(model: Any, name: str, base_url: str | None, api_key: str | None) -> Model:
    if isinstance(model, str):
        from recursor import config  # noqa: PLC0415 - only a spec needs files and environment

        return models.resolve(model, base_url=base_url, api_key=api_key or config.api_key(model))
    if not isinstance(model, Model):
        raise ConfigError(
            f"{name} must be a spec such as 'openai/gpt-5' or an object with `name` and `query`"
        )
    return model


def _store(store: Any) -> Sink | None:
    if store is None:
        return None
    from recursor.trajectory.store import resolve_store  # noqa: PLC0415 - imports sqlite3

    return resolve_store(store)


def _sandbox(sandbox: str | Sandbox) -> Sandbox:
    if not isinstance(sandbox, str):
        return sandbox
    made: Sandbox = plugins.load("recursor.sandboxes", sandbox)()
    return made


def _check_prices(*chosen: Model) -> None:
    for model in chosen:
        if not getattr(model, "priced", True):
            raise ConfigError(
                f"limits.max_cost needs a known price, and there is none for {model.name!r}: "
                "use max_tokens instead, or a model with a price"
            )


def _inputs(question: Any, context: Any, messages: Any) -> tuple[str, dict[str, Source]]:
    """Check what a caller passed; return the question and the sources by variable name."""
    contexts: dict[str, Source] = {}
    if messages is not None:
        if question is not None:
            raise ConfigError("pass a question or messages, not both")
        question = _last_user_text(messages)
        contexts["messages"] = prepare([dict(message) for message in messages])
    if not isinstance(question, str) or not question.strip():
        raise ConfigError("the question must be a text that is not empty")
    if context is not None:
        contexts["context"] = prepare(context)
    if len(question) > MAX_QUESTION:
        contexts["question"] = prepare(question)
    return question, contexts


def _last_user_text(messages: Any) -> str:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise ConfigError("messages must be a list of {'role': ..., 'content': ...}, with at least one")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(f"messages[{index}] must be a mapping with a role and a content")
    for message in reversed(messages):
        if message["role"] == "user":
            return _text_of(message.get("content"))
    raise ConfigError("messages hold no user message to take the question from")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
