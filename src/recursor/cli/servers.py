"""The servers that the settings name, with what they need of secrets."""

from __future__ import annotations

from recursor import config
from recursor.errors import ConfigError
from recursor.mcp import McpServer


def servers_of(settings: config.Settings) -> list[McpServer]:
    """Return them, not yet connected. Raises ConfigError for one that is described wrong, or lacks a secret."""
    found = []
    for name, each in settings.mcp.items():
        env = {variable: _secret(name, where) for variable, where in (each.env or {}).items()}
        headers = {"Authorization": f"Bearer {_secret(name, each.token)}"} if each.token else None
        server = McpServer(
            name, command=each.command, url=each.url, tools=each.tools, env=env, headers=headers, cwd=each.cwd,
            timeout=each.timeout,
        )  # fmt: skip
        found.append(server)
    return found


def _secret(server: str, where: str) -> str:
    value = config.secret(where)
    if value is None:
        raise ConfigError(
            f"mcp.{server} needs {where}: set it in the environment, or in {config.keys_file()}"
        )
    return value
