"""The names that a REPL offers: sub-calls, the answer, tools; and how they are kept.

`Names.restore` rebinds what a block has overwritten. An answer is submitted by `FINAL(value)`,
by `FINAL_VAR("name")`, or by setting `answer["content"]` and `answer["ready"]` in any order, by
`update` or by rebinding `answer` to such a dict. Submitting stops the block; the first counts.
"""

from __future__ import annotations

import asyncio
import difflib
import threading
import types
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from .channel import Channel, SubcallError

WINDOW = 512
"""Calls of one batch in flight at once, as far as this side is concerned."""
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
        return self._ask(prompt, model, schema).result()

    def llm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many prompts at once; return the results in order."""
        return _gather(prompts, lambda prompt: self._ask(prompt, model, schema), return_exceptions)

    async def allm_query(
        self, prompt: str, model: str | None = None, schema: Mapping[str, Any] | None = None
    ) -> Any:
        """`llm_query` for `await`."""
        return await asyncio.wrap_future(self._ask(prompt, model, schema))

    async def allm_query_batched(
        self,
        prompts: Iterable[str],
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`llm_query_batched` for `await`."""
        return await _agather(prompts, lambda prompt: self._ask(prompt, model, schema), return_exceptions)

    def rlm_query(
        self,
        question: str,
        context: Any = None,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask a child RLM with its own REPL, in which `context` is a variable."""
        return self._recurse(question, context, model, schema).result()

    def rlm_query_batched(
        self,
        questions: Sequence[str],
        contexts: Sequence[Any] | None = None,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Ask many child RLMs at once; return the results in order."""
        pairs = _pairs(questions, contexts)
        return _gather(pairs, lambda pair: self._recurse(pair[0], pair[1], model, schema), return_exceptions)

    async def arlm_query(
        self,
        question: str,
        context: Any = None,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Any:
        """`rlm_query` for `await`."""
        return await asyncio.wrap_future(self._recurse(question, context, model, schema))

    async def arlm_query_batched(
        self,
        questions: Sequence[str],
        contexts: Sequence[Any] | None = None,
        model: str | None = None,
        schema: Mapping[str, Any] | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """`rlm_query_batched` for `await`."""
        pairs = _pairs(questions, contexts)
        return await _agather(
            pairs, lambda pair: self._recurse(pair[0], pair[1], model, schema), return_exceptions
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

    def _ask(self, prompt: str, model: str | None, schema: Mapping[str, Any] | None) -> Future[Any]:
        _check_text("prompt", prompt)
        header = {"op": "llm_query", "model": _model(model), "schema": _schema(schema)}
        return self._channel.call(header, text=prompt)

    def _recurse(
        self, question: str, context: Any, model: str | None, schema: Mapping[str, Any] | None
    ) -> Future[Any]:
        _check_text("question", question)
        header = {"op": "rlm_query", "model": _model(model), "schema": _schema(schema)}
        return self._channel.call(header, value=(question, context))


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


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f"the {name} must be a str, not {type(text).__name__}")


def _check_batch(items: Iterable[Any]) -> None:
    """Refuse a batch as a whole, before anything is sent, where it can be seen whole."""
    if isinstance(items, str):
        raise TypeError("a batch takes a list of prompts, not one str")
    if isinstance(items, list | tuple):
        for item in items:
            _check_text("prompt", item[0] if isinstance(item, tuple) else item)


def _pairs(questions: Sequence[str], contexts: Sequence[Any] | None) -> list[tuple[str, Any]]:
    questions = list(questions)
    given = [None] * len(questions) if contexts is None else list(contexts)
    if len(given) != len(questions):
        raise ValueError(f"{len(questions)} questions need as many contexts, not {len(given)}")
    return list(zip(questions, given, strict=True))


def _gather(items: Iterable[Any], start: Callable[[Any], Future[Any]], return_exceptions: bool) -> list[Any]:
    """Start one call per item, at most WINDOW in flight; wait for all of them."""
    _check_batch(items)
    slots = threading.Semaphore(WINDOW)
    started: list[Future[Any]] = []
    for item in items:
        slots.acquire()
        started.append(_guarded(item, start))
        started[-1].add_done_callback(lambda _: slots.release())
    return _results([_outcome(future) for future in started], return_exceptions)


async def _agather(
    items: Iterable[Any], start: Callable[[Any], Future[Any]], return_exceptions: bool
) -> list[Any]:
    _check_batch(items)
    slots = asyncio.Semaphore(WINDOW)

    async def one(item: Any) -> Any:
        async with slots:
            try:
                return await asyncio.wrap_future(_guarded(item, start))
            except SubcallError as error:
                return error

    tasks: list[Awaitable[Any]] = [asyncio.ensure_future(one(item)) for item in items]
    return _results(list(await asyncio.gather(*tasks)), return_exceptions)


def _guarded(item: Any, start: Callable[[Any], Future[Any]]) -> Future[Any]:
    """A slot that cannot even be sent fails alone."""
    try:
        return start(item)
    except (SubcallError, TypeError, ValueError) as error:
        failed: Future[Any] = Future()
        failed.set_exception(error if isinstance(error, SubcallError) else SubcallError(str(error)))
        return failed


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except SubcallError as error:
        return error


def _results(results: list[Any], return_exceptions: bool) -> list[Any]:
    failures = [result for result in results if isinstance(result, SubcallError)]
    if failures and not return_exceptions:
        error = SubcallError(
            f"{len(failures)} of {len(results)} sub-calls failed; the first: {failures[0]} "
            "(catch SubcallError and read its .results for all slots, or pass return_exceptions=True)"
        )
        error.results = results
        raise error
    return results


def make_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    return module
