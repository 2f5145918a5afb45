"""Environments of clients, and how they are run: offline, without a screen, in a home of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT = 180.0
"""Seconds for one command of a client."""


def ensure(python: Sequence[str], npm: Sequence[str], folder: Path) -> None:
    """Install packages where they are not there."""
    if folder.exists():
        return
    print(f"making {folder} with {' '.join([*python, *npm])}", file=sys.stderr)
    if python:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *python], check=True)
    if npm:
        folder.mkdir(parents=True)
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
        subprocess.run([*install, *npm], check=True)


def version(python: Sequence[str], npm: Sequence[str], folder: Path) -> str:
    """What of the first package is installed."""
    if npm:
        found: str = json.loads((folder / "node_modules" / npm[0] / "package.json").read_text())["version"]
        return found
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    return run([str(folder / "bin/python"), "-c", code, python[0]], env=os.environ)


def environment(url: str, home: Path) -> dict[str, str]:
    """Variables for a client: nothing of the person who runs this, the server, and no word to anybody else."""
    return {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1", "HOME": str(home),
        "OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": "none",
        "RECURSOR_BASE_URL": url, "RECURSOR_API_KEY": "none",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@localhost", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@localhost", "GIT_CONFIG_NOSYSTEM": "1",
        "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    say: str = "",
    also_errors: bool = False,
) -> str:
    """What a command prints. Raises AssertionError when it fails."""
    try:
        done = subprocess.run(
            command, env=env, cwd=cwd, input=say, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{command[0]} did not end: {str(error.stderr)[-800:]}") from None
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout[-1500:]} {done.stderr[-1500:]}"
    return (done.stdout + (done.stderr if also_errors else "")).strip()
