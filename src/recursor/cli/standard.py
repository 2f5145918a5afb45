"""Standard input, output and error, as a command may find them: closed, or full.

A descriptor that is closed would be given to the next file that is opened, such as the store. So it is opened
here, the wrong way round: reading or writing fails as it would have, with an error that commands report.
"""

from __future__ import annotations

import os
import sys

_MISSING: set[str] = set()
_STREAMS = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))


def complete() -> None:
    """Put something in the place of those that are closed."""
    for descriptor, (name, mode, way) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            _MISSING.add(name)
            opened = os.open(os.devnull, way)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def has_input() -> bool:
    """Whether standard input was open when the command began."""
    return "stdin" not in _MISSING


def forget_output() -> None:
    """Let the end of the process write nothing more to a stdout that does not take it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
