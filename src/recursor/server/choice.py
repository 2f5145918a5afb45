"""`tool_choice`: which functions of a client code may call, and whether the answer itself must be a call.

Code decides what it calls, and when. A client that wants a call in any case gets one as the answer of the
run: its arguments follow the function's schema, as any other answer follows a schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recursor.errors import ConfigError
from recursor.schema import Shape, shape
from recursor.server.failures import ApiError
from recursor.server.functions import MAX_TOLD, Call, Function, line

OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a client allows and demands."""

    functions: Sequence[Function] = ()
    """That code may call."""
    forced: Sequence[Function] = ()
    """The answer is a call of one of these; of none when there are none."""

    @property
    def expected(self) -> Shape:
        """What an answer that is a call must be."""
        if len(self.forced) > 1:
            names = {"enum": [each.name for each in self.forced]}
            return shape(
                {**OBJECT, "properties": {"name": names, "arguments": {}}, "required": ["name", "arguments"]}
            )
        [function] = self.forced
        if function.custom:
            return shape({"type": "string"})
        schema = {**OBJECT, **function.parameters}
        try:
            return shape(schema, trusted=False)
        except ConfigError:  # the API takes any schema, and so does the client check what comes
            return shape(OBJECT)

    @property
    def told(self) -> str:
        """What the root LM is told of it; empty for nothing."""
        if not self.forced:
            return ""
        if len(self.forced) > 1:
            return (
                "The asker carries out your answer as a call of one of its functions, and takes nothing else: answer "
                '{"name": ..., "arguments": {...}}, the arguments by their names. You may call functions before.\n'
                + "\n".join(map(_told, self.forced))
            )
        [function] = self.forced
        what = "text that it takes" if function.custom else "arguments, an object"
        return f"The asker carries out your answer as a call of its function {_told(function)}\nAnswer with the {what}."

    def call(self, answer: Any) -> Call:
        """The call that an answer is."""
        function, given = self.forced[0], answer
        if len(self.forced) > 1:
            [function] = [each for each in self.forced if each.name == answer["name"]]
            given = answer["arguments"]
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        return Call(f"call_{uuid.uuid4().hex}", function, text)


def _told(function: Function) -> str:
    schema = json.dumps(function.parameters, ensure_ascii=False)
    return f"{function.name}: {line(function.description)} {schema[:MAX_TOLD]}"


def chosen(functions: Sequence[Function], choice: Any) -> Choice:
    """What a `tool_choice` comes to. Raises ApiError for one that cannot be kept."""
    if isinstance(choice, Mapping):
        kind = choice.get("type")
        inner = choice.get(kind, choice) if isinstance(kind, str) else choice
        if kind == "allowed_tools" and isinstance(inner, Mapping) and isinstance(inner.get("tools"), list):
            names = {_name(each) for each in inner["tools"]}
            return chosen([each for each in functions if each.name in names], inner.get("mode", "auto"))
        if kind in ("function", "custom"):
            named = [each for each in functions if each.name == _name(choice)]
            if not named:
                raise _refused(f"there is no tool {str(_name(choice))[:100]!r} to choose")
            return Choice((), named[:1])
    if choice == "none":
        return Choice()
    if choice in (None, "auto"):
        return Choice(functions)
    if choice == "required":
        if not functions:
            raise _refused("tool_choice is required, and there is no function to call")
        return Choice(functions if len(functions) > 1 else (), functions)
    raise _refused(
        "tool_choice must be auto, none, required, or name a function or custom tool, or allowed_tools"
    )


def _name(chosen: Any) -> Any:
    """The name in a choice, by either API."""
    if not isinstance(chosen, Mapping):
        return None
    inner = chosen.get(chosen["type"], chosen) if isinstance(chosen.get("type"), str) else chosen
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "unsupported_parameter", "tool_choice")
