"""Attacks one sandbox with `recursor.testing.ATTACKS`, and prints what became of each as JSON.

    python attacked.py recursor
    python attacked.py weak             without namespaces, and without the attack that is known to succeed then
    python attacked.py container IMAGE  by the `docker` that is found
    python attacked.py rlms PYTHON      the local REPL of rlms, which that Python can import

A REPL of rlms is a process of its own here, which stands for the program that uses it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recursor.protocols import Sandbox, Source, Subcalls
from recursor.sandboxes.container import DockerSandbox
from recursor.sandboxes.process import ProcessSandbox
from recursor.sandboxes.template import Tier
from recursor.testing import ATTACKS, run_attacks
from recursor.types import ContextInfo, Execution, Isolation, Output

OURS_ALONE = ("channel", "values")
"""Groups of attacks on what only a REPL in another process has."""
NONE = Isolation("rlms", "the host's", "the host's", "the host's", "the host's", "the host's", "no limit")


ORACLE = "asks what is in the home directory"


class Weak(ProcessSandbox):
    """Landlock and seccomp alone, also where more is to be had."""

    _tiers: tuple[Tier, ...] = ("landlock",)


class Rlms:
    """The local REPL of rlms as a sandbox."""

    def __init__(self, python: str) -> None:
        self._python = python

    async def open(self, **_: Any) -> _Repl:
        process = await asyncio.create_subprocess_exec(
            self._python, str(Path(__file__).with_name("rlms_attacked.py")),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True, close_fds=False, limit=1 << 30,
        )  # fmt: skip
        return _Repl(process)


class _Repl:
    isolation = NONE

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def load(self, name: str, source: Source) -> ContextInfo:
        await self._ask(f"{name} = {'x' * min(source.size, 1000)!r}", 20.0)
        return ContextInfo(name, "str", f"{source.size} bytes", "")

    async def execute(
        self,
        code: str,
        subcalls: Subcalls,
        *,
        max_time: float | None = None,
        max_wall: float | None = None,
        readings: Sequence[float] = (),
    ) -> Execution:
        # It has no time limit: the library would wait for ever. Its caller cannot interrupt it either.
        out, error = await self._ask(code, 3.0 + (max_time or 20.0))
        shown = f"{out}{6 * 7}\n" if code == "6 * 7" else out  # it does not show the last expression
        return Execution(code, Output(shown), error.strip() or None)

    async def draft(self) -> None:
        return None

    async def close(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def _ask(self, code: str, seconds: float) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(code).encode() + b"\n")
            await self._process.stdin.drain()
            line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        except TimeoutError:
            raise RuntimeError("the program that uses it hangs") from None
        except ConnectionError:
            line = b""
        if not line:
            raise RuntimeError("the program that uses it has died")
        answer: list[str] = json.loads(line)
        return answer


def main() -> None:
    """Attack the sandbox that the command line names."""
    sandbox: Sandbox = ProcessSandbox(memory=256 << 20, scratch=8 << 20)
    attacks = ATTACKS
    if sys.argv[1] == "weak":
        sandbox = Weak(memory=256 << 20, scratch=8 << 20)
        attacks = tuple(attack for attack in ATTACKS if attack.name != ORACLE)
    if sys.argv[1] == "container":
        sandbox = DockerSandbox(sys.argv[2], memory=256 << 20, scratch=8 << 20)
    if sys.argv[1] == "rlms":
        sandbox = Rlms(sys.argv[2])
        attacks = tuple(attack for attack in ATTACKS if attack.group not in OURS_ALONE)
    findings = asyncio.run(run_attacks(sandbox, attacks))
    print(json.dumps([asdict(finding) for finding in findings]))


if __name__ == "__main__":
    main()
