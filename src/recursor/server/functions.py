"""Functions of a client, as tools for code in a REPL."""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recursor.errors import SubcallError
from recursor.server.failures import ApiError
from recursor.tools import RESERVED, Tool

MAX_FUNCTIONS = 128
MAX_TOLD = 1_500
"""Characters of a function's description, and of its schema, that the root LM reads."""
TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}


TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""What a custom tool takes."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the client carries out."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A JSON Schema of an object."""
    custom: bool = False
    """It takes one text, as it is."""
    namespace: str = ""
    """That it is in; empty for none."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the client is to carry out."""

    id: str
    function: Function
    arguments: str
    """JSON; for a custom tool its text."""


Ask = Callable[[Function, str], Awaitable[str]]
"""Has the client carry out a function with these arguments. Returns what it says."""


def functions_of(tools: Sequence[Mapping[str, Any]] | None, *, nested: bool) -> list[Function]:
    """Functions and custom tools as a request describes them. Other kinds of tools have no effect.

    Args:
        nested: whether a description is a field of the tool, as chat completions have it, or the tool itself.

    Raises:
        ApiError: one is described wrongly.
    """
    found: list[Function] = []
    for where, kind, namespace, each in _described(tools or (), nested):
        name, parameters = each.get("name"), each.get("parameters")
        description = each.get("description")
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.replace("-", "_").isidentifier():
            raise ApiError(
                400,
                "the name of a function has letters, digits, _ and -, 64 at most",
                param=where,
            )
        if not isinstance(parameters, Mapping | None) or not isinstance(description, str | None):
            raise ApiError(400, f"the function {name} is not as it must be", param=where)
        custom = kind == "custom"
        if custom and isinstance(form := each.get("format"), Mapping) and form.get("definition"):
            description = f"{description or ''} Its input follows a grammar: {form['definition']}"
        found.append(
            Function(name, description or "", TEXT if custom else parameters or {}, custom, namespace)
        )
    if len({(each.namespace, each.name) for each in found}) < len(found) or len(found) > MAX_FUNCTIONS:
        raise ApiError(400, f"tools: at most {MAX_FUNCTIONS} functions, each of another name", param="tools")
    return found


def _described(
    tools: Sequence[Any], nested: bool, outer: str = ""
) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Where each function is in a request, its kind, its namespace, and its description."""
    for index, tool in enumerate(tools):
        where = f"{outer}tools[{index}]"
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "namespace" and not outer and isinstance(tool.get("tools"), list):
            for place, inner, _, described in _described(tool["tools"], nested, f"{where}."):
                yield place, inner, str(tool.get("name", "")), described
        if kind not in ("function", "custom"):
            continue
        described = tool.get(kind) if nested else tool
        if not isinstance(described, Mapping):
            raise ApiError(400, f"{where}.{kind} must be an object", param=f"{where}.{kind}")
        yield where, kind, "", described


def tools_of(functions: Sequence[Function], taken: Collection[str], ask: Ask) -> list[Tool]:
    """The functions as tools. A name that code cannot use gets another: `search`, which the REPL has, is `search_`."""
    used = {*taken, *RESERVED}
    found = []
    for function in functions:
        name = function.name.replace("-", "_")
        while name in used or keyword.iskeyword(name):
            name += "_"
        used.add(name)
        found.append(_tool(name, function, ask))
    return found


def _tool(name: str, function: Function, ask: Ask) -> Tool:
    signature = _signature(function.parameters)

    async def call(*args: Any, **kwargs: Any) -> str:
        given = signature.bind(*args, **kwargs).arguments
        if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
            given = given.get("arguments", {})
        if function.custom and isinstance(given["input"], str):
            return await ask(function, given["input"])
        try:
            arguments = json.dumps(given, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise SubcallError(f"{name}: the arguments cannot be sent as JSON: {error}") from None
        return await ask(function, arguments)

    call.__signature__ = signature  # type: ignore[attr-defined]
    told = [line(function.description)] if function.description else []
    properties = function.parameters.get("properties")
    if isinstance(properties, Mapping) and any(_says_more(each) for each in properties.values()):
        told.append("arguments: " + line(json.dumps(properties, ensure_ascii=False)))
    first = f"`{name}{signature}`, which the asker carries out and answers as a text"
    return Tool(name, call, "; ".join([first, *told]))


def _says_more(schema: Any) -> bool:
    """Whether a schema says more than the signature does."""
    return isinstance(schema, Mapping) and bool(schema.keys() - {"type", "title", "default"})


def line(text: str) -> str:
    """A text on one line, clipped."""
    words = " ".join(text.split())
    return words if len(words) <= MAX_TOLD else words[: MAX_TOLD - 3] + "..."


def _signature(schema: Mapping[str, Any]) -> inspect.Signature:
    """Of a function that takes what a schema says; of any arguments by name where that cannot be said."""
    properties, required = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, Mapping) else {}
    required = required if isinstance(required, list) else []
    kinds = inspect.Parameter
    if any(not name.isidentifier() or keyword.iskeyword(name) for name in properties) or (
        not properties and schema.get("additionalProperties")
    ):
        return inspect.Signature([kinds("arguments", kinds.VAR_KEYWORD)])
    ordered = sorted(properties, key=lambda name: name not in required)
    return inspect.Signature(
        [
            kinds(
                name,
                kinds.POSITIONAL_OR_KEYWORD,
                default=kinds.empty if name in required else None,
                annotation=_annotation(properties[name]),
            )
            for name in ordered
        ],
        return_annotation=str,
    )


def _annotation(schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return _Named(TYPES[kind]) if isinstance(kind, str) and kind in TYPES else inspect.Parameter.empty


class _Named:
    """An annotation that is shown, and that checks nothing: the client does."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name
