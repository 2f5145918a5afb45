"""What code of a model may have the host do: which tools it may call, which models it may ask.

A policy only ever takes away: what is not offered in the first place cannot be allowed. `decide` is pure;
asking a person is the business of `approve`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

from recursor.errors import ConfigError

Kind: TypeAlias = Literal["tool", "model"]
_PATTERN = re.compile(r"(tool|model):.+", re.S)


@dataclass(frozen=True, slots=True)
class Request:
    """What code of a model asks for."""

    kind: Kind
    name: str
    """Of the tool, or of the model that would answer."""
    run_id: str
    depth: int
    """Of the run whose code asks; the root is depth 0."""
    args: tuple[Any, ...] = ()
    """Of a tool; hostile, as everything in it."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)


Approve: TypeAlias = Callable[[Request], bool | Awaitable[bool]]
"""Says yes or no to a request, perhaps after asking a person. A sync one runs in a thread."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which requests are denied, which need approval, and which are allowed.

    A pattern is "tool:NAME" or "model:NAME", with * and ? as in file names: "tool:send_*",
    "model:openai/*". The first of deny, ask, allow that has a pattern for a request decides it.

    Attributes:
        deny: refused; the code reads why.
        ask: `approve` decides, each time.
        allow: let through.
        default: what is done with a request that no pattern is for.
        approve: needed where something is to be asked.

    Raises:
        ConfigError: a pattern that could never be for anything, or something to ask and nobody who is.
    """

    deny: Sequence[str] = ()
    ask: Sequence[str] = ()
    allow: Sequence[str] = ()
    default: Literal["allow", "ask", "deny"] = "allow"
    approve: Approve | None = None

    def __post_init__(self) -> None:
        for name in ("deny", "ask", "allow"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise ConfigError(f"Policy.{name} must be a list of patterns, not {patterns!r}")
            for pattern in patterns:
                if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
                    raise ConfigError(
                        f'Policy.{name}: {pattern!r} is no pattern such as "tool:send_*" or "model:openai/*"'
                    )
            object.__setattr__(self, name, tuple(patterns))
        if self.default not in ("allow", "ask", "deny"):
            raise ConfigError(f'Policy.default must be "allow", "ask" or "deny", not {self.default!r}')
        if (self.ask or self.default == "ask") and not callable(self.approve):
            raise ConfigError("Policy.approve must be a function where something is to be asked")

    def decide(self, kind: Kind, name: str) -> tuple[Literal["allow", "ask", "deny"], str]:
        """Return the decision, and the pattern that made it ("default" where none did)."""
        wanted = f"{kind}:{name}"
        decisions: tuple[tuple[Literal["allow", "ask", "deny"], Sequence[str]], ...] = (
            ("deny", self.deny), ("ask", self.ask), ("allow", self.allow),
        )  # fmt: skip
        for decision, patterns in decisions:
            for pattern in patterns:
                if fnmatchcase(wanted, pattern):
                    return decision, pattern
        return self.default, "default"
