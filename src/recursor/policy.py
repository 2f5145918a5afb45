"""What code of a model may have the host do: which tools it may call, which models it may ask. And what a run
may use before it begins: which endpoints, which mounted folders, and how weak its isolation may be.

A policy only ever takes away: what is not offered in the first place cannot be allowed. `decide` is pure;
asking a person is the business of `approve`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from recursor.errors import ConfigError
from recursor.types import Isolation

Kind: TypeAlias = Literal["tool", "model", "host", "mount"]
_PATTERN = r"(?s)(tool|model|host|mount):.+"
_IDLE = r"(?s)host:(.*[/@\s].*|[^:]*:[0-9*?]*|.*[^*?.]\.)|mount:([^/*?].*|.+/|.*//.*|.*/\.\.?(/.*)?)"
"""Patterns that no host or folder has: taken for others, they would deny nothing."""
_DEMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "network": "none", "files": "confined", "processes": "none", "kernel": "separate", "memory": "cgroup",
    }
)  # fmt: skip
"""What may be required of each property of a sandbox."""


@dataclass(frozen=True, slots=True)
class Request:
    """What code of a model asks for, or what a run is to use."""

    kind: Kind
    name: str
    """Of the tool, of the model that would answer, of the host of an endpoint; the path of a mounted folder."""
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

    A pattern is "tool:NAME", "model:NAME", "host:NAME" or "mount:PATH", with * and ?, which may be for slashes, too:
    "tool:send_*", "model:openai/*", "host:api.openai.com", "mount:/data/*". Small and capital letters differ, but
    for hosts. The first of deny, ask, allow that
    has a pattern for a request decides it.

    Attributes:
        deny: refused; the code reads why, or the run does not begin.
        ask: `approve` decides, each time.
        allow: let through.
        default: what is done with a request that no pattern is for. Hosts and mounts, which code does not choose,
            it is for only where some pattern is about such.
        approve: needed where something is to be asked.
        strict: whether a run that would have less than was asked for does not begin: a sandbox that is weaker on
            this machine than its name says, or isolates nothing; a bound of money with a model of unknown price.
        require: what a sandbox must have: of "network": "none", "files": "confined", "processes": "none",
            "kernel": "separate", "memory": "cgroup".

    Raises:
        ConfigError: a pattern that could never be for anything, or something to ask and nobody who is.
    """

    deny: Sequence[str] = ()
    ask: Sequence[str] = ()
    allow: Sequence[str] = ()
    default: Literal["allow", "ask", "deny"] = "allow"
    approve: Approve | None = None
    strict: bool = False
    require: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("deny", "ask", "allow"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise ConfigError(f"Policy.{name} must be a list of patterns, not {patterns!r}")
            for pattern in patterns:
                if not isinstance(pattern, str) or not re.fullmatch(_PATTERN, pattern):
                    raise ConfigError(
                        f'Policy.{name}: {pattern!r} is no pattern such as "tool:send_*", "model:openai/*", '
                        '"host:localhost" or "mount:/data/*"'
                    )
                if re.fullmatch(_IDLE, pattern):
                    raise ConfigError(
                        f"Policy.{name}: {pattern!r} is for nothing: a host is a name without scheme, port or "
                        "path, a mount a plain absolute path without a slash at its end"
                    )
            object.__setattr__(self, name, tuple(patterns))
        if self.default not in ("allow", "ask", "deny"):
            raise ConfigError(f'Policy.default must be "allow", "ask" or "deny", not {self.default!r}')
        if (self.ask or self.default == "ask") and not callable(self.approve):
            raise ConfigError("Policy.approve must be a function where something is to be asked")
        for name, value in self.require.items():
            if _DEMANDS.get(name) != value:
                known = ", ".join(f"{name!r}: {value!r}" for name, value in _DEMANDS.items())
                raise ConfigError(f"Policy.require: {name!r}: {value!r} is none of {known}")

    def decide(self, kind: Kind, name: str) -> tuple[Literal["allow", "ask", "deny"], str]:
        """Return the decision, and the pattern that made it ("default" where none did)."""
        wanted = f"{kind}:{name}"
        if kind == "host":
            wanted = wanted.lower().rstrip(".")
        decisions: tuple[tuple[Literal["allow", "ask", "deny"], Sequence[str]], ...] = (
            ("deny", self.deny), ("ask", self.ask), ("allow", self.allow),
        )  # fmt: skip
        for decision, patterns in decisions:
            for pattern in patterns:
                if fnmatchcase(wanted, _plain(pattern, kind)):
                    return decision, pattern
        return self.default, "default"

    def is_about(self, kind: Kind) -> bool:
        """Whether any pattern is about such."""
        return any(pattern.startswith(f"{kind}:") for pattern in (*self.deny, *self.ask, *self.allow))

    def unmet(self, isolation: Isolation) -> str:
        """What a sandbox lacks of what is demanded; empty when nothing."""
        has = {
            "network": isolation.network.startswith("none"),
            "files": isolation.confined and "partially" not in isolation.files,
            "processes": isolation.processes.startswith("none"),
            "kernel": isolation.kernel.startswith(("its own", "gVisor")),
            "memory": "cgroup" in isolation.memory,
        }
        lacking = [f"{name}: {value}" for name, value in self.require.items() if not has[name]]
        if self.strict and not isolation.isolated:
            lacking.append("isolation: it has none")
        if self.strict:
            lacking += isolation.weaknesses
        return "; ".join(lacking)


def _plain(pattern: str, kind: Kind) -> str:
    """A pattern as fnmatch takes it, where a bracket is nothing but a bracket."""
    plain = pattern.replace("[", "[[]")
    return plain.lower() if kind == "host" else plain
