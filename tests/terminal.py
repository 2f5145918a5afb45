"""A command in a pseudo-terminal, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

END = 60.0
"""Seconds that a command may take."""


class Terminal:
    """Runs `recursor` with stderr and stdin on a terminal; stdout too, unless it is kept apart."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path,
        columns: int = 80,
        lines: int = 24,
        apart: bool = False,
    ) -> None:
        self.raw = b""
        self.columns, self.lines = columns, lines
        self._resized: list[tuple[int, int, int]] = []
        self._master, slave = pty.openpty()
        self._set_size()
        self.before = termios.tcgetattr(slave)
        command = [sys.executable, "-m", "recursor", *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=subprocess.PIPE if apart else slave, stderr=slave,
            env=dict(env), cwd=cwd, start_new_session=True, preexec_fn=_own_terminal,  # noqa: PLW1509 - one call, of the system
        )  # fmt: skip
        self._slave = slave

    def _set_size(self) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, self.columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self._resized.append((len(self.raw), columns, lines))
        self.columns, self.lines = columns, lines
        self._set_size()

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def until(self, seen: Callable[[bytes], bool]) -> None:
        """Read on until something is there; fails when the command ends before."""
        deadline = time.monotonic() + END
        while not seen(self.raw):
            assert self._read(deadline), self.raw[-2000:]

    def end(self) -> int:
        """Read until the command has ended; return its exit code."""
        deadline = time.monotonic() + END
        while self.process.poll() is None:
            self._read(deadline)
        while select.select([self._master], [], [], 0)[0] and self._read(deadline):
            pass
        return self.process.returncode

    def _read(self, deadline: float) -> bool:
        assert time.monotonic() < deadline, "it takes too long"
        if select.select([self._master], [], [], 0.05)[0]:
            try:
                self.raw += os.read(self._master, 65536)
            except OSError:
                return False
            return True
        return self.process.poll() is None

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        os.close(self._slave)
        os.close(self._master)


def _own_terminal() -> None:
    """Make the terminal the one that controls the process, so that Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def screen(raw: bytes, columns: int, lines: int, history: int = 2000) -> Any:
    """The screen after a terminal emulator read the bytes."""
    pyte = pytest.importorskip("pyte", reason="a terminal emulator shows what a person sees")
    shown = pyte.HistoryScreen(columns, lines, history=history)
    pyte.ByteStream(shown).feed(raw)
    return shown


def text(shown: Any) -> str:
    """All lines of a screen, those that scrolled up included."""
    rows = ["".join(row[at].data for at in range(shown.columns)) for row in shown.history.top]
    return "\n".join(line.rstrip() for line in (*rows, *shown.display)).rstrip()
