"""The scripted model server, as a benchmark starts it and asks it what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from environments import PEERS


@contextmanager
def served() -> Iterator[str]:
    """Run the server in a process of its own; yields its URL."""
    command = [sys.executable, str(PEERS / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def control(url: str, command: str) -> list[list[float]]:
    """Return the root requests since the last "reset", and forget them when the command is "reset".

    Each is its time by the monotonic clock, the bytes of its messages, and these without numbers.
    """
    body = {"model": "bench", "messages": [{"role": "user", "content": f"control: {command}"}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        content = json.load(reply)["choices"][0]["message"]["content"]
    requests: list[list[float]] = json.loads(content)
    return requests
