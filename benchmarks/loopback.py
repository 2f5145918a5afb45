"""The scripted model server, as a benchmark starts it and asks it what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from environments import PEERS


@contextmanager
def served(server: str = "server.py", environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server of peers/ in a process of its own; yields its URL."""
    command = [sys.executable, str(PEERS / server)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def control(url: str, command: str) -> Any:
    """Say something to the server itself, and return what it says.

    server.py returns the root requests since the last "reset", and forgets them when the command is
    "reset". Each is its time by the monotonic clock, the bytes of its messages, and these without
    numbers. What lean.py returns stands there.
    """
    body = {"model": "bench", "messages": [{"role": "user", "content": f"control: {command}"}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        return json.loads(json.load(reply)["choices"][0]["message"]["content"])
