"""Functions of the host that code in a REPL may call."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_type_hints, overload

import msgspec

from recursor.errors import ConfigError, RLMError, SubcallError
from recursor.threads import in_thread

F = TypeVar("F", bound=Callable[..., Any])
MAX_SIZE = 1 << 20
"""Characters of the arguments of one call, where a tool does not say otherwise."""

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
    max_size: int = MAX_SIZE
    """About how many characters the arguments of a call may have."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, a sync one in a thread.

        Raises:
            SubcallError: the arguments do not fit, or the function raised; the text says which.
        """
        args, kwargs = self._fitting(args, kwargs)
        try:
            if inspect.iscoroutinefunction(self.function):
                return await self.function(*args, **kwargs)
            result = await in_thread(partial(self.function, *args, **kwargs))
            return await result if isinstance(result, Awaitable) else result
        except RLMError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # for the model to read
            raise SubcallError(f"{self.name} raised {type(error).__name__}: {error}") from error

    def _fitting(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments, as the annotations have them. Raises SubcallError for what does not fit."""
        size = weight([*args, *kwargs.values()], self.max_size)
        if size > self.max_size:
            raise SubcallError(
                f"{self.name}: the arguments have more than {self.max_size:,} characters; pass less at a time"
            )
        try:
            bound = inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise SubcallError(f"{self.name}: {error}; it is {self.signature}") from None
        hints = _hints(self.function)
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if name in hints and kind not in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD):
                bound.arguments[name] = self._typed(name, value, hints[name])
        return bound.args, bound.kwargs

    def _typed(self, name: str, value: Any, hint: Any) -> Any:
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            if isinstance(hint, type) and isinstance(value, hint):
                return value
            raise SubcallError(f"{self.name}: {name}: {error}; it is {self.signature}") from None
        except TypeError:  # an annotation that says nothing about plain values
            return value


async def approved(approve: Callable[[Any], Any], request: Any) -> bool:
    """Ask; a sync function in a thread. Raises SubcallError when it fails: what is not approved is not done."""
    try:
        if inspect.iscoroutinefunction(approve):
            said = await approve(request)
        else:
            said = await in_thread(approve, request)
            said = await said if isinstance(said, Awaitable) else said
    except Exception as error:
        raise SubcallError(f"the approval failed: {type(error).__name__}: {error}") from error
    return said is True


def weight(value: Any, limit: int) -> int:
    """About how many characters a plain value has; stops counting beyond the limit."""
    total, rest = 0, [value]
    while rest and total <= limit:
        item = rest.pop()
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, Mapping):
            total += 8 * len(item)
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            total += 8 * len(item)
            rest += item
        else:
            total += item.bit_length() // 4 if isinstance(item, int) else 8
    return total


@overload
def tool(function: F) -> F: ...
@overload
def tool(*, name: str | None = None, max_size: int = MAX_SIZE) -> Callable[[F], F]: ...


def tool(
    function: Callable[..., Any] | None = None, *, name: str | None = None, max_size: int = MAX_SIZE
) -> Any:
    """Mark a function as a tool: `RLM(..., tools=[function])`.

    Its signature and the first line of its docstring are what the root LM is told, and annotated
    arguments are what their annotations say, or the call is refused. It may be
    sync (it then runs in a thread) or async. The function itself is returned unchanged, so that
    it can still be called.

    Args:
        name: what it is called in the REPL; None takes the function's own name.
        max_size: about how many characters the arguments of a call may have.
    """

    def mark(marked: Callable[..., Any]) -> Callable[..., Any]:
        made = _made(marked, name, max_size)
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
            made = _made(function, None, MAX_SIZE)
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


def _hints(function: Any) -> dict[str, Any]:
    """The annotations as types; none where they cannot be resolved."""
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - evaluating a string annotation may raise anything
        return {}


def _made(function: Any, name: str | None, max_size: int) -> Tool:
    if not callable(function):
        raise ConfigError(f"tools: {function!r} is not a function")
    called = name or str(getattr(function, "__name__", ""))
    if not called.isidentifier() or keyword.iskeyword(called):
        raise ConfigError(f"tools: {called!r} is no name for a function; pass one with @tool(name=...)")
    documentation = (inspect.getdoc(function) or "").strip().split("\n", 1)[0]
    line = f"`{called}{_signature(function)}`"
    return Tool(called, function, f"{line}: {documentation}" if documentation else line, max_size)
