"""Functions that code in a REPL may call beside its own: of the host, and such as are defined in the REPL itself."""

from __future__ import annotations

import ast
import hashlib
import inspect
import keyword
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar, get_type_hints, overload

import msgspec

from recursor.errors import ConfigError, RLMError, SubcallError
from recursor.threads import in_thread

if sys.version_info >= (3, 14):
    import annotationlib

F = TypeVar("F", bound=Callable[..., Any])
MAX_SIZE = 1 << 20
"""Characters of the arguments of one call, where a tool does not say otherwise."""
MAX_DOCUMENTATION = 4_000
"""Characters that the root LM is told of one tool."""
_SECTION = r"(Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Notes?|Attributes):"
_AS_TEXT: dict[str, Any] = {}
"""What asks for annotations without evaluating them, which Python 3.14 leaves till then."""
if sys.version_info >= (3, 14):
    _AS_TEXT["annotation_format"] = annotationlib.Format.STRING
_TOLD = {"Args": "", "Arguments": "", "Parameters": "", "Returns": "returns ", "Raises": "raises "}
"""Sections of a docstring that are told, and what stands before each entry."""

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
    details: str = ""
    """What its docstring says of arguments and result, a line for each."""
    origin: str = ""
    """The source that it came from when a run began; empty for one that was passed. See `recursor.offered`."""

    @property
    def told(self) -> str:
        """What the root LM is told of it."""
        return (self.signature + self.details)[:MAX_DOCUMENTATION]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, a sync one in a thread, with arguments that `check_size` has let pass.

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

    def check_size(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise SubcallError where the arguments are more than a call may have."""
        if weight([*args, *kwargs.keys(), *kwargs.values()], self.max_size) > self.max_size:
            raise SubcallError(
                f"{self.name}: the arguments have more than {self.max_size:,} characters; pass less at a time"
            )

    def _fitting(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments, as the annotations have them. Raises SubcallError for what does not fit."""
        try:
            for name in _fixed(self.function).keys() & kwargs.keys():
                raise TypeError(f"got an unexpected keyword argument {name!r}")
            bound = signature_of(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise SubcallError(f"{self.name}: {error}; it is {self.signature}") from None
        hints = _hints(self.function)
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if name not in hints:
                continue
            typed = partial(self._typed, hint=hints[name])
            if kind is kind.VAR_POSITIONAL:
                bound.arguments[name] = tuple(
                    typed(f"{name}[{index}]", item) for index, item in enumerate(value)
                )
            elif kind is kind.VAR_KEYWORD:
                bound.arguments[name] = {key: typed(key, item) for key, item in value.items()}
            else:
                bound.arguments[name] = typed(name, value)
        return bound.args, bound.kwargs

    def _typed(self, name: str, value: Any, hint: Any) -> Any:
        validate = getattr(hint, "model_validate", None)
        try:
            return msgspec.convert(value, hint) if validate is None else validate(value)
        except ValueError as error:
            if isinstance(hint, type) and isinstance(value, hint):
                return value
            raise SubcallError(f"{self.name}: {name}: {error}; it is {self.signature}") from None
        except TypeError:  # an annotation that says nothing about plain values
            return value


@dataclass(frozen=True, slots=True)
class CodeTool:
    """A function that is defined in each REPL, from its source: it runs there, with no rights but those of the code.

    It may import what the sandbox has and define helpers, which only it sees; it may use what the REPL has
    (`llm_query`, `context`, values, other tools) when it is called, and nothing of the host.

    Raises:
        ConfigError: the source is no Python, or does not define a function of that name.
    """

    name: str
    source: str
    told: str = field(init=False)
    """What the root LM is told of it."""

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.source)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ConfigError(f"tools: the source of {self.name!r} is no Python: {error}") from None
        found = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == self.name
        ]
        if not found:
            raise ConfigError(f"tools: the source of {self.name!r} defines no function of that name")
        function = found[-1]
        returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
        waits = "await " if isinstance(function, ast.AsyncFunctionDef) else ""
        signature = f"{waits}{self.name}({ast.unparse(function.args)}){returns}"
        line, details = documented(signature, ast.get_docstring(function))
        object.__setattr__(self, "told", (line + details)[:MAX_DOCUMENTATION])

    @property
    def digest(self) -> str:
        """Of the source, for the record."""
        return "sha256:" + hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()


AnyTool: TypeAlias = Tool | CodeTool


def check_code(was: Mapping[str, str], tools: Mapping[str, AnyTool]) -> None:
    """Raise ConfigError when a run that is to go on had other code tools, as `code_of` names them."""
    now = code_of(tools)
    for name in sorted(was.keys() | now.keys()):
        if name not in was:
            raise ConfigError(f"tools: the run had no code tool {name!r}")
        if name not in now:
            raise ConfigError(f"tools: the run had the code tool {name!r}: pass it again")
        if was[name] != now[name]:
            raise ConfigError(f"tools: the code tool {name!r} is not what the run had")


def code_of(tools: Mapping[str, AnyTool]) -> dict[str, str]:
    """The digests of code tools, by name."""
    return {name: tool.digest for name, tool in tools.items() if isinstance(tool, CodeTool)}


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

    Its signature and its docstring (with Args, Returns and Raises in Google style) are what the root LM
    is told, and annotated arguments are what their annotations say, or the call is refused. It may be
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


def collect(functions: Iterable[Callable[..., Any] | AnyTool]) -> dict[str, AnyTool]:
    """Return tools by name. Raises ConfigError on a name that is taken, or no function."""
    found: dict[str, AnyTool] = {}
    for function in functions:
        made: AnyTool | None = getattr(function, "__recursor_tool__", None)
        if isinstance(function, AnyTool):
            made = function
        if made is None:
            made = _made(function, None, MAX_SIZE)
        if made.name in found or made.name in RESERVED:
            raise ConfigError(f"tools: the name {made.name!r} is taken; pass another with @tool(name=...)")
        found[made.name] = made
    return found


def documented(signature: str, docstring: str | None) -> tuple[str, str]:
    """What is told of a function: a line with its signature and what it does, and lines about arguments and result.

    Args:
        signature: with the name.
        docstring: in Google style; of its sections Args, Returns and Raises are told.
    """
    section, indent = "", 0
    text: list[str] = []
    entries: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        said = line.strip()
        if match := re.fullmatch(_SECTION, line.rstrip()):
            section, indent = match[1], 0
        elif said and (not section or not line[0].isspace()):
            section = ""
            text.append(said)
        elif said and section in _TOLD:
            depth = len(line) - len(line.lstrip())
            indent = indent or depth
            if depth > indent or (section == "Returns" and entries and entries[-1].startswith("returns ")):
                entries[-1] += f" {said}"
            else:
                entries.append(_TOLD[section] + said)
    line = f"`{signature}`" + (f": {' '.join(text)}" if text else "")
    return line, "".join(f"\n  {entry}" for entry in entries)


def signature_of(function: Any, *, eval_str: bool = False) -> inspect.Signature:
    """As `inspect.signature`, with annotations as text where they name what is not there when they are evaluated.

    Raises:
        TypeError, ValueError: it has none.
    """
    try:
        return inspect.signature(function, eval_str=eval_str)
    except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
        return inspect.signature(function, **_AS_TEXT)


def _fixed(function: Any) -> Mapping[str, Any]:
    """Arguments that a partial has fixed by name: not for code to see, nor to change."""
    return function.keywords if isinstance(function, partial) else {}


def _hints(function: Any) -> dict[str, Any]:
    """The annotations as types; none where they cannot be resolved."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - evaluating a string annotation may raise anything
        return {}


def _made(function: Any, name: str | None, max_size: int) -> Tool:
    if not callable(function):
        raise ConfigError(f"tools: {function!r} is not a function")
    called = name or str(getattr(function, "__name__", ""))
    if not called.isidentifier() or keyword.iskeyword(called):
        raise ConfigError(f"tools: {called!r} is no name for a function; pass one with @tool(name=...)")
    about = function.func if isinstance(function, partial) else function
    whole, fixed = signature_of(function, eval_str=True), _fixed(function)
    told = whole.replace(parameters=[each for each in whole.parameters.values() if each.name not in fixed])
    signature, details = documented(f"{called}{told}", inspect.getdoc(about))
    return Tool(called, function, signature, max_size, details)
