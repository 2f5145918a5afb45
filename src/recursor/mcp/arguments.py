"""What code passes to a tool of a server -> the JSON that is sent, checked against the schema of the server's.

A schema is a server's: keywords that could keep the host busy are left to the server to check, and so is a
schema that is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recursor.bounded import COSTLY
from recursor.errors import ConfigError, SubcallError
from recursor.schema import ANYTHING, Shape, shape

TYPES = {
    "string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list", "object": "dict",
    "null": "None",
}  # fmt: skip
MAX_SHOWN = 12
"""Arguments that a signature shows."""


class Arguments:
    """What a tool takes.

    Args:
        schema: of the server's; any value.
    """

    def __init__(self, name: str, schema: Any) -> None:
        self._name = name
        self._schema = schema if isinstance(schema, Mapping) else {}
        properties, required = self._schema.get("properties"), self._schema.get("required")
        self._properties = properties if isinstance(properties, Mapping) else {}
        named = required if isinstance(required, list) else []
        self._required = [each for each in named if isinstance(each, str) and each in self._properties]
        rest = [each for each in self._properties if each not in self._required]
        self._names = [*self._required, *rest]
        self._shape: Shape | None = None

    @property
    def signature(self) -> str:
        """As of a function, with the parentheses."""
        shown = [self._shown(name) for name in self._names[:MAX_SHOWN]]
        more = ["..."] if len(self._names) > MAX_SHOWN else []
        return f"({', '.join([*shown, *more])})"

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent. Blocks; call it in a thread.

        Raises:
            SubcallError: the arguments do not fit; the text says which, and what fits.
        """
        if len(args) > len(self._names):
            raise self._wrong(f"it takes {len(self._names)} arguments, not {len(args)}")
        given = dict(zip(self._names, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise self._wrong(f"{min(twice)[:100]!r} is given twice")
        given |= kwargs
        given = {name: value for name, value in given.items() if value is not None or name in self._required}
        missing = [name for name in self._required if name not in given]
        if missing:
            raise self._wrong(f"{missing[0][:100]!r} is missing")
        try:
            text = json.dumps(given, ensure_ascii=False, allow_nan=False)
            text.encode("utf-8")  # lone surrogates
            sent: dict[str, Any] = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._wrong(f"the arguments cannot be sent as JSON: {error}") from None
        try:
            self._checked(sent)
        except ValueError as error:
            raise self._wrong(str(error)) from None
        return sent

    def _checked(self, given: Mapping[str, Any]) -> None:
        if self._shape is None:
            try:
                self._shape = shape(_cheap(self._schema), trusted=False)
            except (ConfigError, RecursionError):
                self._shape = ANYTHING
        self._shape.accept(given)

    def _wrong(self, why: str) -> SubcallError:
        return SubcallError(f"{self._name}: {why[:2000]}; it is {self._name}{self.signature[:500]}")

    def _shown(self, name: str) -> str:
        schema = self._properties[name]
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        said = TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"
        if not name.isidentifier():
            return f"**{{{name[:60]!r}: {said}}}"
        default = schema.get("default") if isinstance(schema, Mapping) else None
        shown = repr(default) if isinstance(default, bool | int | float | str) else "None"
        return f"{name[:60]}: {said}" + ("" if name in self._required else f" = {shown[:40]}")


def _cheap(schema: Any, *, names: bool = False) -> Any:
    """A schema without keywords that hostile use makes slow.

    Args:
        names: whether the keys are names, and no keywords.
    """
    if isinstance(schema, list):
        return [_cheap(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: each
        if key in ("enum", "const", "default", "examples") and not names
        else _cheap(
            each, names=not names and key in ("properties", "$defs", "definitions", "dependentSchemas")
        )
        for key, each in schema.items()
        if names or key not in COSTLY
    }
