"""The command line in a folder of its own, with files of questions and of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from recursor.testing import ModelServer


class Batches:
    """Runs the command line in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        self.environment = {
            **kept, "XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONWARNINGS": "error",
        }  # fmt: skip
        (folder / "text").write_text("x" * 100)

    def words(self, server: ModelServer | None, *words: str) -> list[str]:
        at = ("--model", "m", "--base-url", server.url) if server else ()
        return [sys.executable, "-m", "recursor", "ask", *words, *at]

    def run(
        self, server: ModelServer | None, *words: str, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(server, *words), input=stdin, capture_output=True, text=True, cwd=self.folder,
            env=self.environment, timeout=60, check=False,
        )  # fmt: skip

    def start(self, server: ModelServer, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(server, *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=self.folder, env=self.environment,
        )  # fmt: skip

    def questions(self, *questions: Any, name: str = "q.jsonl") -> None:
        lines = [json.dumps(question) for question in questions]
        (self.folder / name).write_text("".join(line + "\n" for line in lines))

    def rows(self, name: str = "out.jsonl") -> dict[int, dict[str, Any]]:
        found = [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
        assert len({row["line"] for row in found}) == len(found)
        return {row["line"]: row for row in found}
