"""recursor within programs of others: tools for the hosts of MCP, an agent for the editors of ACP.

    mcp          the tools and resources of `recursor mcp`, by the official package
    http         the same over HTTP, for one who knows a token
    acp          the agent of `recursor acp`; `lines` its transport, `shown` what it tells
    jobs         runs that go while somebody follows them, or in the background
    arguments    what a host asks for, checked
    folders      which files it may name

The packages that speak the protocols are imported where they are needed, and nowhere else.
"""
