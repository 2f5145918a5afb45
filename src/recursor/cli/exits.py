"""How a command ends: exit codes, and what is said on stderr."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from recursor.cli.text import clean
from recursor.errors import (
    AuthenticationError,
    ConfigError,
    ModelError,
    RLMError,
    SandboxError,
)
from recursor.types import Completion, StopReason

ANSWERED = 0
FAILED = 1
USAGE = 2
LIMIT = 3
AUTHENTICATION = 4
PROVIDER = 5
SANDBOX = 6
DEADLINE = 124
INTERRUPTED = 130


def of_completion(done: Completion) -> int:
    """Return the exit code of a run that ended in a completion."""
    if done.stop_reason is StopReason.ANSWERED:
        return ANSWERED
    return DEADLINE if done.stop_reason is StopReason.MAX_TIME else LIMIT


def of_error(error: BaseException) -> int | None:
    """Return the exit code of an error; None when it is a defect of ours and should show a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, AuthenticationError):
        return AUTHENTICATION
    if isinstance(error, ModelError):
        return PROVIDER if error.retryable or error.status is None or error.status >= 500 else FAILED
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, SandboxError):
        return SANDBOX
    return FAILED if isinstance(error, RLMError | OSError) else None


def end_by_termination() -> None:
    """Have SIGTERM end the command as Ctrl-C does, also where Ctrl-C is ignored: in the background of a script."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.default_int_handler(signal.SIGINT, frame)
    signal.raise_signal(signal.SIGINT)


def report(error: BaseException, resume: str = "") -> int | None:
    """Say on stderr how it ended.

    Args:
        resume: the command that goes on with the run, where it is recorded.

    Returns:
        The exit code, or None as `of_error` does.
    """
    code = of_error(error)
    if code is None:
        return None
    said = "Interrupted." if isinstance(error, KeyboardInterrupt) else f"Error: {_text(error)}"
    hint = f"\nWhat was done until then is recorded. To go on: {resume}" if resume else ""
    print(clean(said) + hint, file=sys.stderr)  # noqa: T201
    return code


def _text(error: BaseException) -> str:
    """What the system says, where it does: without its number, and with what could not be written or read."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    what = "standard input or output" if error.filename is None else os.fsdecode(error.filename)
    return f"{what}: {error.strerror}"
