"""Functions of the host that code in a REPL may call."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from recursor.errors import ConfigError, RLMError, SubcallError
from recursor.threads import in_thread

F = TypeVar("F", bound=Callable[..., Any])

RESERVED = frozenset(
    (
        "context", "messages", "question", "history", "answer", "SubcallError",
        "FINAL", "FINAL_VAR", "SHOW_VARS", "chunk", "grep", "search",
        "llm_query", "llm_query_batched", "allm_query", "allm_query_batched",
        "rlm_query", "rlm_query_batched", "arlm_query", "arlm_query_batched",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """A host function with the name and the line of documentation that the root LM sees.

    It runs on the host with the host's rights: its arguments come from code that a model wrote.
    """

    name: str
    function: Callable[..., Any]
    signature: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, a sync one in a thread.

        Raises:
            SubcallError: the arguments do not fit, or the function raised; the text says which.
        """
        try:
            inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise SubcallError(f"{self.name}: {error}; it is {self.signature}") from None
        try:
            if inspect.iscoroutinefunction(self.function):
                return await self.function(*args, **kwargs)
            result = await in_thread(partial(self.function, *args, **kwargs))
            return await result if isinstance(result, Awaitable) else result
        except RLMError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # for the model to read
            raise SubcallError(f"{self.name} raised {type(error).__name__}: {error}") from error


@overload
def tool(function: F) -> F: ...
@overload
def tool(*, name: str) -> Callable[[F], F]: ...


def tool(function: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
    """Mark a function as a tool: `RLM(..., tools=[function])`.

    Its signature and the first line of its docstring are what the root LM is told. It may be
    sync (it then runs in a thread) or async. The function itself is returned unchanged, so that
    it can still be called.

    Args:
        name: what it is called in the REPL; None takes the function's own name.
    """

    def mark(marked: Callable[..., Any]) -> Callable[..., Any]:
        made = _made(marked, name)
        try:
            marked.__recursor_tool__ = made  # type: ignore[attr-defined]
        except AttributeError:  # a bound method carries nothing of its own
            return made
        return marked

    return mark if function is None else mark(function)


def collect(functions: Iterable[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Return tools by name. Raises ConfigError on a name that is taken, or no function."""
    found: dict[str, Tool] = {}
    for function in functions:
        made = function if isinstance(function, Tool) else getattr(function, "__recursor_tool__", None)
        if made is None:
            made = _made(function, None)
        if made.name in found or made.name in RESERVED:
            raise ConfigError(f"tools: the name {made.name!r} is taken; pass another with @tool(name=...)")
        found[made.name] = made
    return found


def _signature(function: Any) -> inspect.Signature:
    """With the annotations as written, where they can be resolved."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001 - evaluating a string annotation may raise anything
        return inspect.signature(function)


def _made(function: Any, name: str | None) -> Tool:
    if not callable(function):
        raise ConfigError(f"tools: {function!r} is not a function")
    called = name or str(getattr(function, "__name__", ""))
    if not called.isidentifier() or keyword.iskeyword(called):
        raise ConfigError(f"tools: {called!r} is no name for a function; pass one with @tool(name=...)")
    documentation = (inspect.getdoc(function) or "").strip().split("\n", 1)[0]
    line = f"`{called}{_signature(function)}`"
    return Tool(called, function, f"{line}: {documentation}" if documentation else line)
