"""A server of the Model Context Protocol by hand, which does on the wire what no package would.

    python mcp_liar.py MODE

MODE says what a call of its one tool, `go`, comes to.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MODE = sys.argv[1]


def said(text: str) -> None:
    os.write(1, text.encode("ascii") + b"\n")


def answered(number: Any, result: dict[str, Any]) -> None:
    said(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}))


def called(number: Any) -> None:
    """What `go` comes to."""
    if MODE == "endless":
        while True:
            os.write(1, b"x" * 65536)
    if MODE == "asks":  # and reads no answer
        for asked in range(1_000_000):
            said(
                json.dumps({"jsonrpc": "2.0", "id": asked, "method": "sampling/createMessage", "params": {}})
            )
    text = "half a sign: \ud83d" if MODE == "half" else "x" * 4_000_000
    answered(number, {"content": [{"type": "text", "text": text}]})


def main() -> None:
    if MODE == "quiet":
        os.close(2)
    if MODE == "chatty":
        print("starting up: no message, but there are servers that say it")
        sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        number, method = asked.get("id"), asked.get("method")
        if number is None:
            continue
        if method == "initialize":
            version = asked["params"]["protocolVersion"]
            answered(
                number,
                {
                    "protocolVersion": version,
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "liar", "version": "1"},
                },
            )
        elif method == "tools/list":
            answered(number, {"tools": [{"name": "go", "inputSchema": {"type": "object"}}]})
        elif method == "tools/call":
            called(number)
        else:
            said(json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no"}}))


main()
