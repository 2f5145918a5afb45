"""What code of a model calls to ask a language model, or a child run: one thing or many, plainly or for `await`.

The first line of a docstring is what `help` is worth in a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .arguments import llm_call, llm_header, pairs_of, rlm_fields, text_of, tool_names
from .batches import FORKS, WINDOW, Batch
from .channel import Channel
from .frames import MAX_BODY, header_start
from .handover import INLINE, Handover


class Queries:
    """Sub-calls of one REPL.

    Args:
        tools: what children may be given.
        branch: forks this REPL for a child; returns the number of the fork.
    """

    def __init__(
        self,
        channel: Channel,
        handover: Handover,
        tools: Mapping[str, Callable[..., Any]],
        branch: Callable[[], int],
    ) -> None:
        self._channel = channel
        self._handover = handover
        self._tools = tools
        self._branch = branch

    def llm_query(
        self,
        prompt: str,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        images: Any = None,
    ) -> Any:
        """Ask a language model; return its text, or the value that `schema` (JSON Schema) describes."""
        return self._channel.ask(*llm_call(prompt, model, schema, images))

    async def allm_query(
        self,
        prompt: str,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        images: Any = None,
    ) -> Any:
        """`llm_query` for `await`."""
        return await self._channel.ask_async(*llm_call(prompt, model, schema, images))

    def llm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        images: Iterable[Any] | None = None,
        dedupe: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many prompts at once; return the results in order. An iterator is drawn from as it goes."""
        return self._llm_batch(prompts, model, schema, dedupe, images).gather(return_exceptions)

    async def allm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        images: Iterable[Any] | None = None,
        dedupe: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`llm_query_batched` for `await`."""
        return await self._llm_batch(prompts, model, schema, dedupe, images).gather_async(return_exceptions)

    def rlm_query(
        self,
        question: str,
        context: Any = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        fork: bool = False,
    ) -> Any:
        """Ask a child RLM with its own REPL, in which `context` is a variable; with `fork=True` a copy of this one."""
        fields = self._rlm_fields(model, schema, tools, instruction, limits)
        return self._channel.ask(*self._rlm_call(fields, question, context, fork))

    async def arlm_query(
        self,
        question: str,
        context: Any = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        fork: bool = False,
    ) -> Any:
        """`rlm_query` for `await`."""
        fields = self._rlm_fields(model, schema, tools, instruction, limits)
        return await self._channel.ask_async(*self._rlm_call(fields, question, context, fork))

    def rlm_query_batched(
        self,
        questions: Iterable[str],
        contexts: Iterable[Any] | None = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        fork: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many child RLMs at once, one for each question and its context; return the results in order."""
        fields = self._rlm_fields(model, schema, tools, instruction, limits)
        return self._rlm_batch(questions, contexts, fields, fork).gather(return_exceptions)

    async def arlm_query_batched(
        self,
        questions: Iterable[str],
        contexts: Iterable[Any] | None = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        fork: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`rlm_query_batched` for `await`."""
        fields = self._rlm_fields(model, schema, tools, instruction, limits)
        return await self._rlm_batch(questions, contexts, fields, fork).gather_async(return_exceptions)

    def reference_query(self, prompt: str, model: str | None = None, **more: Any) -> Any:
        """Ask a child RLM with its own REPL."""
        return self.rlm_query(prompt, model=model, **more)

    def reference_batch(self, prompts: Iterable[str], model: str | None = None, **more: Any) -> list[Any]:
        """Ask many child RLMs at once; return the results in order."""
        return self.rlm_query_batched(prompts, model=model, **more)

    def _llm_batch(
        self,
        prompts: Iterable[str],
        model: str | None,
        schema: Mapping[str, Any] | None,
        dedupe: bool,
        images: Iterable[Any] | None,
    ) -> Batch:
        start = llm_header(model, schema)

        def make(prompt: str) -> tuple[bytes, bytes, None]:
            return start, text_of("prompt", prompt), None

        def make_of_pair(pair: tuple[str, Any]) -> tuple[bytes, bytes, None]:
            return *llm_call(pair[0], model, schema, pair[1]), None

        if images is None:
            return Batch(self._channel, prompts, make, model=model, dedupe=dedupe)
        pairs = pairs_of(prompts, images, ("prompt", "image"))
        return Batch(self._channel, pairs, make_of_pair, model=model, dedupe=dedupe)

    def _rlm_batch(
        self, questions: Iterable[str], contexts: Iterable[Any] | None, fields: dict[str, Any], fork: bool
    ) -> Batch:
        def make(pair: tuple[str, Any]) -> tuple[bytes, bytes, int]:
            return self._rlm_call(fields, *pair, fork)

        pairs = pairs_of(questions, contexts)
        window = FORKS if fork else WINDOW
        return Batch(self._channel, pairs, make, model=fields["model"], recursive=True, window=window)

    def _rlm_call(
        self, fields: dict[str, Any], question: str, context: Any, fork: bool
    ) -> tuple[bytes, bytes, int]:
        asked = text_of("question", question, MAX_BODY - INLINE)
        header_start(fields)  # what cannot be sent is refused before the context is handed over
        number = self._channel.next_number()
        told, inline = self._handover.give(number, context)
        forked = self._branch() if fork else None
        start = header_start({**fields, "question": len(asked), "context": told, "fork": forked})
        return start, asked + inline, number

    def _rlm_fields(
        self, model: Any, schema: Any, tools: Any, instruction: Any, limits: Any
    ) -> dict[str, Any]:
        return rlm_fields(model, schema, tool_names(tools, self._tools), instruction, limits)
