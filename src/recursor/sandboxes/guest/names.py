"""The names that a REPL offers: sub-calls, the answer, tools; and how they are kept.

`Names.restore` rebinds what a block has overwritten. An answer is submitted by `FINAL(value)`,
by `FINAL_VAR("name")`, or by setting `answer["content"]` and `answer["ready"]` in any order, by
`update` or by rebinding `answer` to such a dict. Submitting stops the block; the first counts.
"""

from __future__ import annotations

import asyncio
import difflib
import types
from collections.abc import Callable, Iterable, Mapping, Sized
from concurrent.futures import Future
from typing import Any

from . import batches
from .batches import check_text
from .channel import Channel, OnDone, SubcallError

_MISSING = object()


class Submitted(BaseException):
    """Unwinds the block that has submitted an answer."""


class Answer(dict[str, Any]):
    """`answer`: a dict that notices when it is complete."""

    def __init__(self, submit: Callable[[Any], None]) -> None:
        super().__init__(content=None, ready=False)
        self._submit = submit
        self._assigned = False
        self.drafted = False
        """Whether the content was ever set."""

    def begin_block(self) -> None:
        self._assigned = False
        super().__setitem__("ready", False)

    def keep(self, content: Any) -> None:
        """Make a value the draft, without submitting it."""
        super().__setitem__("content", content)
        self.drafted = True

    def adopt(self, bound: dict[str, Any]) -> None:
        """Take over a dict that `answer` was bound to."""
        super().update(bound)
        self.drafted = self.drafted or "content" in bound

    def _check(self, keys: Iterable[str]) -> None:
        self._assigned = self._assigned or "content" in keys
        self.drafted = self.drafted or self._assigned
        if self._assigned and self.get("ready") is True:
            self._submit(self.get("content"))
            raise Submitted

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._check((key,))

    def update(self, *args: Any, **kwargs: Any) -> None:
        changes = dict(*args, **kwargs)
        super().update(changes)
        self._check(changes)

    def __ior__(self, other: Any) -> Answer:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


class Names:
    """Binds and keeps the reserved names of one namespace.

    Args:
        namespace: the REPL's globals.
        channel: where sub-calls go.
        submit: called with a value that was submitted; raises `NotPlain` when it cannot leave.
    """

    def __init__(self, namespace: dict[str, Any], channel: Channel, submit: Callable[[Any], None]) -> None:
        self._namespace = namespace
        self._channel = channel
        self._submit = submit
        self._tools: dict[str, Any] = {}
        self.answer = Answer(submit)
        self._reserved: dict[str, Any] = {"answer": self.answer, "SubcallError": SubcallError}
        for function in (
            self.llm_query, self.llm_query_batched, self.allm_query, self.allm_query_batched,
            self.rlm_query, self.rlm_query_batched, self.arlm_query, self.arlm_query_batched,
            self.FINAL, self.FINAL_VAR, self.SHOW_VARS,
        ):  # fmt: skip
            self._reserved[function.__name__] = _plain_function(function)
        namespace.update(self._reserved)

    def reserve(self, name: str, value: Any) -> None:
        """Bind a name that every block finds as it was."""
        self._reserved[name] = self._namespace[name] = value

    def reserve_tool(self, name: str) -> None:
        def tool(*args: Any, **kwargs: Any) -> Any:
            return self._channel.call({"op": "tool", "name": name}, value=(args, kwargs)).result()

        tool.__name__ = tool.__qualname__ = name
        self._tools[name] = tool
        self.reserve(name, tool)

    def make_asynchronous(self) -> None:
        """Make the plain names those for `await`."""
        for name in ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"):
            self.reserve(name, self._reserved[f"a{name}"])

    def variables(self) -> dict[str, Any]:
        """What blocks have bound themselves."""
        hidden = {
            *self._reserved,
            "_",
            "__name__",
            "__builtins__",
            "__doc__",
            "__loader__",
            "__package__",
            "__spec__",
        }
        return {name: value for name, value in self._namespace.items() if name not in hidden}

    def begin_block(self) -> None:
        self.answer.begin_block()

    def end_block(self) -> None:
        """Submit what the block has left complete: a rebound `answer`, or ready without new content."""
        self._adopt()
        if self.answer.get("ready") is not True:
            return
        if not self.answer.drafted:
            raise ValueError(
                'answer["ready"] is True, but answer["content"] was never set; nothing was submitted'
            )
        self._submit(self.answer.get("content"))

    def restore(self) -> list[str]:
        """Rebind reserved names; return what to tell about it."""
        self._adopt()
        notes = []
        for name, value in self._reserved.items():
            bound = self._namespace.get(name, _MISSING)
            if bound is value:
                continue
            self._namespace[name] = value
            if name == "answer" and bound is not _MISSING:
                self.answer.keep(bound)
                notes.append(
                    "`answer` is a reserved dict and was restored; the value you bound to it is now "
                    '`answer["content"]`. To submit it: answer["ready"] = True'
                )
            elif bound is not _MISSING:
                notes.append(f"`{name}` is reserved and was restored; use another name for your own value")
            else:
                notes.append(f"`{name}` is reserved and was restored")
        return notes

    def _adopt(self) -> None:
        """A dict with the keys of an answer that was bound to `answer` is the answer."""
        bound = self._namespace.get("answer", _MISSING)
        if isinstance(bound, dict) and bound is not self.answer and bound.keys() & {"content", "ready"}:
            self.answer.adopt(bound)
            self._namespace["answer"] = self.answer

    # What the model calls. The first line of a docstring is what `help` is worth in a prompt. -----

    def llm_query(
        self, prompt: str, model: str | None = None, schema: Mapping[str, Any] | None = None
    ) -> Any:
        """Ask a language model; return its text, or the value that `schema` (JSON Schema) describes."""
        check_text("prompt", prompt)
        return self._channel.call(_asking(model, schema), text=prompt).result()

    async def allm_query(
        self, prompt: str, model: str | None = None, schema: Mapping[str, Any] | None = None
    ) -> Any:
        """`llm_query` for `await`."""
        check_text("prompt", prompt)
        return await asyncio.wrap_future(self._channel.call(_asking(model, schema), text=prompt))

    def llm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        dedupe: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many prompts at once; return the results in order. An iterator is read as calls go out."""
        header = _asking(model, schema)
        if announced := self._announced(prompts, "prompt", header):
            announced.result()
        return batches.gather(
            prompts, self._starting(header), dedupe=dedupe, return_exceptions=return_exceptions
        )

    async def allm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        *,
        dedupe: bool = False,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`llm_query_batched` for `await`."""
        header = _asking(model, schema)
        if announced := self._announced(prompts, "prompt", header):
            await asyncio.wrap_future(announced)
        return await batches.agather(
            prompts, self._starting(header), dedupe=dedupe, return_exceptions=return_exceptions
        )

    def rlm_query(
        self,
        question: str,
        context: Any = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Iterable[Any] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask a child RLM with its own REPL, in which `context` is a variable."""
        check_text("question", question)
        header = self._recursing(model, schema, tools, instruction, limits)
        return self._channel.call(header, value=(question, context)).result()

    async def arlm_query(
        self,
        question: str,
        context: Any = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Iterable[Any] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> Any:
        """`rlm_query` for `await`."""
        check_text("question", question)
        header = self._recursing(model, schema, tools, instruction, limits)
        return await asyncio.wrap_future(self._channel.call(header, value=(question, context)))

    def rlm_query_batched(
        self,
        questions: Iterable[str],
        contexts: Iterable[Any] | None = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Iterable[Any] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many child RLMs at once; return the results in order."""
        header = self._recursing(model, schema, tools, instruction, limits)
        pairs = _pairs(questions, contexts)
        if announced := self._announced(pairs, "question", header):
            announced.result()
        return batches.gather(
            pairs, self._starting_children(header), dedupe=False, return_exceptions=return_exceptions
        )

    async def arlm_query_batched(
        self,
        questions: Iterable[str],
        contexts: Iterable[Any] | None = None,
        *,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        tools: Iterable[Any] | None = None,
        instruction: str | None = None,
        limits: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`rlm_query_batched` for `await`."""
        header = self._recursing(model, schema, tools, instruction, limits)
        pairs = _pairs(questions, contexts)
        if announced := self._announced(pairs, "question", header):
            await asyncio.wrap_future(announced)
        return await batches.agather(
            pairs, self._starting_children(header), dedupe=False, return_exceptions=return_exceptions
        )

    def FINAL(self, value: Any) -> None:  # noqa: N802 - the name that models are trained on
        """Submit the answer: any plain value, of any size. Ends the run."""
        self._submit(value)
        self.answer.keep(value)  # a draft, should it not be accepted
        raise Submitted

    def FINAL_VAR(self, name: str) -> None:  # noqa: N802 - the name that models are trained on
        """Submit the variable of this name as the answer."""
        if not isinstance(name, str):
            return self.FINAL(name)
        if name not in self._namespace:
            names = list(self.variables())
            near = difflib.get_close_matches(name, names, 1)
            hint = (
                f"; did you mean {near[0]!r}?"
                if near
                else f"; your variables are: {', '.join(names) or 'none'}"
            )
            raise NameError(f"FINAL_VAR: there is no variable {name!r}{hint}")
        value = self._namespace[name]
        return self.FINAL(value.get("content") if value is self.answer else value)

    def SHOW_VARS(self) -> str:  # noqa: N802 - the name that models are trained on
        """Return the names and types of your variables."""
        rows = [f"{name}: {type(value).__name__}" for name, value in self.variables().items()]
        return "\n".join(rows) or "no variables yet"

    def _recursing(
        self,
        model: str | None,
        schema: Mapping[str, Any] | None,
        tools: Iterable[Any] | None,
        instruction: str | None,
        limits: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """What is said of a child beside its question and context."""
        if instruction is not None:
            check_text("instruction", instruction)
        if limits is not None and not isinstance(limits, Mapping):
            raise TypeError(f"limits must be a dict such as {{'max_cost': 0.5}}, not {type(limits).__name__}")
        return {
            **_asking(model, schema), "op": "rlm_query", "tools": [self._tool_name(tool) for tool in tools or ()],
            "instruction": instruction, "limits": None if limits is None else dict(limits),
        }  # fmt: skip

    def _tool_name(self, tool: Any) -> str:
        """The name of a tool of this REPL, from the function or its name."""
        names = [name for name, function in self._tools.items() if tool is function or tool == name]
        if not names:
            raise ValueError(
                f"tools: {tool!r} is no tool of this REPL; there are: {', '.join(self._tools) or 'none'}"
            )
        return names[0]

    def _announced(self, items: Any, what: str, header: Mapping[str, Any]) -> Future[Any] | None:
        """Say how many calls will follow, where that is known, so that all can be refused before any is sent."""
        batches.check(items, what)
        if not isinstance(items, Sized) or len(items) < 2:
            return None
        recursive = header["op"] == "rlm_query"
        batch = {"op": "batch", "count": len(items), "recursive": recursive, "model": header["model"]}
        return self._channel.call(batch)

    def _starting(self, header: dict[str, Any]) -> batches.Start:
        def start(prompt: Any, on_done: OnDone) -> None:
            try:
                check_text("prompt", prompt)
                self._channel.request(header, on_done, text=prompt)
            except (SubcallError, TypeError, ValueError) as error:  # a slot that cannot be sent fails alone
                on_done(error if isinstance(error, SubcallError) else SubcallError(str(error)))

        return start

    def _starting_children(self, header: dict[str, Any]) -> batches.Start:
        def start(pair: tuple[Any, Any], on_done: OnDone) -> None:
            try:
                check_text("question", pair[0])
                self._channel.request(header, on_done, value=pair)
            except (SubcallError, TypeError, ValueError) as error:  # as above
                on_done(error if isinstance(error, SubcallError) else SubcallError(str(error)))

        return start


def _asking(model: str | None, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said of a plain call beside its prompt."""
    return {"op": "llm_query", "model": _model(model), "schema": _schema(schema)}


def _plain_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function without a visible `self`, so that its repr and its signature are what they seem."""
    bound: Any = method
    if asyncio.iscoroutinefunction(method):

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            return await bound(*args, **kwargs)

        function: Callable[..., Any] = asynchronous
    else:

        def synchronous(*args: Any, **kwargs: Any) -> Any:
            return bound(*args, **kwargs)

        function = synchronous
    function.__name__ = function.__qualname__ = bound.__name__
    function.__doc__ = bound.__doc__
    function.__module__ = "__main__"
    function.__wrapped__ = bound  # type: ignore[attr-defined]  # inspect.signature reads it
    return function


def _model(model: str | None) -> str | None:
    if model is not None and not isinstance(model, str):
        raise TypeError(f"model must be a str or None, not {type(model).__name__}")
    return model


def _schema(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    if not isinstance(schema, Mapping):
        raise TypeError(f"schema must be a JSON Schema as a dict, or None, not {type(schema).__name__}")
    return dict(schema)


def _pairs(questions: Iterable[str], contexts: Iterable[Any] | None) -> list[tuple[str, Any]]:
    if isinstance(questions, str):
        raise TypeError("a batch takes a list of questions, not one str")
    questions = list(questions)
    given = [None] * len(questions) if contexts is None else list(contexts)
    if len(given) != len(questions):
        raise ValueError(f"{len(questions)} questions need as many contexts, not {len(given)}")
    return list(zip(questions, given, strict=True))


def make_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    return module
