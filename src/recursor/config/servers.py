"""Servers of the Model Context Protocol, as settings name them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recursor.errors import ConfigError


@dataclass(frozen=True, slots=True)
class McpSettings:
    """A server whose tools code may call: a [mcp.NAME] table, as `recursor.mcp.McpServer` has arguments."""

    command: tuple[str, ...] | None = None
    """A program and its arguments; or else a url."""
    url: str | None = None
    tools: tuple[str, ...] | None = None
    """Names of those that may be called, with * and ?; None is all."""
    env: dict[str, str] | None = None
    """Variable of the server -> the environment variable, or the name in the keys file, that its value comes from."""
    token: str | None = None
    """The environment variable, or the name in the keys file, of what a url is sent as a bearer token."""
    cwd: str | None = None
    timeout: float = 60.0
    """Seconds that a call may take."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ConfigError(f"timeout must be above 0, not {self.timeout!r}")
