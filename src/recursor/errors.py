"""Every error a caller may catch.

    RLMError
      ConfigError(ValueError)   a setting is wrong; raised before anything costs money
        UnreadableFile          a file that was given is damaged, encrypted, or not what its name says
      ModelError                a model call failed for good, after retries
        AuthenticationError     the key is missing, wrong or not allowed to use the model
        ContextOverflow         the prompt does not fit the model
      SandboxError              the sandbox itself failed, not the code in it
        IsolationUnavailable    the wanted isolation cannot be had on this machine
      LimitExceeded             a limit is used up; the loop turns it into a stop reason
      SubcallError              raised inside the sandbox when a sub-call failed
      TrajectoryError           a recording is damaged or of an unknown version
        AtWork                  somebody else is at work on the run, or on the session

Code that the root LM wrote and that raised is not here: it is an observation,
which the root LM reads and repairs. Errors are plain data and pickle.
"""

from __future__ import annotations

from typing import Any


class RLMError(Exception):
    """Base of every error that recursor raises."""

    run_id: str | None = None
    """The run that the error ended, where there was one: what it paid for is recorded under it."""


class ConfigError(RLMError, ValueError):
    """A setting or an argument is wrong; raised before anything costs money."""


class UnreadableFile(ConfigError):
    """A file that was given is damaged, encrypted, or not what its name says; the text names it, and says why."""


class ModelError(RLMError):
    """A model call failed for good.

    Attributes:
        status: HTTP status of the last attempt; None when there was no HTTP reply.
        retry_after: seconds the provider asked to wait; None when it did not say.
        retryable: whether the same request may succeed later.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        retry_after: float | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, status, retry_after, retryable)
        self.status = status
        self.retry_after = retry_after
        self.retryable = retryable

    def __str__(self) -> str:
        return str(self.args[0])


class AuthenticationError(ModelError):
    """The key is missing, wrong, or not allowed to use the model."""


class ContextOverflow(ModelError):
    """The prompt does not fit the model's window."""


class SandboxError(RLMError):
    """The sandbox itself failed, not the code in it."""


class IsolationUnavailable(SandboxError):
    """The wanted isolation cannot be had on this machine; the message names the remedy."""


class LimitExceeded(RLMError):
    """A limit is used up.

    Attributes:
        reason: the value of the `StopReason` that the limit stands for.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class SubcallError(RLMError):
    """A sub-call failed; raised in the root LM's code, at the line that made the call."""


class RunStopped(RLMError):
    """Somebody asked for the run's stop: in the viewer, or by `recursor.trajectory.claim.stop`. `resume` goes on."""


class TrajectoryError(RLMError):
    """A recording cannot be written, is damaged, or was written by an unknown version."""

    completion: Any = None
    """The `Completion` of a run whose end could not be recorded: the answer is not lost with it."""


class AtWork(TrajectoryError):
    """Somebody else is at work on the run, or on the session; the same may succeed when they have ended."""
