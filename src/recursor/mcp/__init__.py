"""Tools of servers of the Model Context Protocol, for code in a REPL.

    server       McpServer: what users hold; its tools, as offers to a run
    connection   one connection, opened late and kept
    pipes        a server that is started, and its messages; bodies: what comes over HTTP. Both have bounds
    arguments    what code passes -> what a server is sent, checked
    results      what a server returns -> a plain value
    settings     [mcp.NAME] tables of the settings file

The official package is imported with the first connection. A server is trusted as far as its descriptions go:
they enter the prompt, clipped to a line each. What it returns is data.
"""

from recursor.mcp.server import McpServer

__all__ = ["McpServer"]
