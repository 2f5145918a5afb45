"""The model server that all systems speak to, in a process of its own. Ends with its standard input."""

from __future__ import annotations

import sys

import script

from recursor.testing import ModelServer

if __name__ == "__main__":
    with ModelServer(script.reply) as server:
        print(server.url, flush=True)
        sys.stdin.read()
