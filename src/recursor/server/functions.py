"""Functions of a client, as tools for code in a REPL."""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the client carries out."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """A JSON Schema of an object."""


Ask = Callable[[str, str], Awaitable[str]]
"""Has the client carry out a function: name, and arguments as JSON. Returns what it says."""


def functions_of(named: Sequence[Mapping[str, Any]]) -> list[Function]:
    """Functions as a request describes them. Raises ApiError."""
    found: list[Function] = []
    for index, each in enumerate(named):
        name, parameters = each.get("name"), each.get("parameters")
        description = each.get("description")
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.replace("-", "_").isidentifier():
            raise ApiError(
                400,
                "the name of a function has letters, digits, _ and -, 64 at most",
                param=f"tools[{index}]",
            )
        if not isinstance(parameters, Mapping | None) or not isinstance(description, str | None):
            raise ApiError(400, f"the function {name} is not as it must be", param=f"tools[{index}]")
        found.append(Function(name, description or "", parameters or {}))
    if len({each.name for each in found}) < len(found) or len(found) > MAX_FUNCTIONS:
        raise ApiError(400, f"tools: at most {MAX_FUNCTIONS} functions, each of another name", param="tools")
    return found


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
        try:
            arguments = json.dumps(given, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise SubcallError(f"{name}: the arguments cannot be sent as JSON: {error}") from None
        return await ask(function.name, arguments)

    call.__signature__ = signature  # type: ignore[attr-defined]
    told = [_line(function.description)] if function.description else []
    properties = function.parameters.get("properties")
    if isinstance(properties, Mapping) and any(_says_more(each) for each in properties.values()):
        told.append("arguments: " + _line(json.dumps(properties, ensure_ascii=False)))
    line = f"`{name}{signature}`, which the asker carries out and answers as a text"
    return Tool(name, call, "; ".join([line, *told]))


def _says_more(schema: Any) -> bool:
    """Whether a schema says more than the signature does."""
    return isinstance(schema, Mapping) and bool(schema.keys() - {"type", "title", "default"})


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TOLD else line[: MAX_TOLD - 3] + "..."


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
