"""What goes wrong, as the API says it: a status and an error object."""

from __future__ import annotations

from typing import Any

from recursor.errors import (
    AtWork,
    ConfigError,
    ContextOverflow,
    ModelError,
    RLMError,
    RunStopped,
    SandboxError,
)

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    429: "rate_limit_error",
}  # fmt: skip


class ApiError(Exception):
    """A request that is refused, or that failed.

    Attributes:
        status: of HTTP.
        code: for programs ("model_not_found"); None when there is none.
        param: the field that was wrong; None when none was.
        retry_after: seconds after which the same may succeed; None when that is not known.
        run_id: what the run is recorded as, where there was one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        retry_after: float | None = None,
        run_id: str = "",
    ) -> None:
        super().__init__(status, message, code, param)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.run_id = run_id

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return {**found, "X-Recursor-Run": self.run_id} if self.run_id else found


def of_error(error: RLMError, run_id: str = "") -> ApiError:
    """What a client is told of a run that failed. Texts of ours name no key."""
    status, code, retry_after = 500, None, None
    match error:
        case ConfigError():
            status = 400
        case ContextOverflow():
            status, code = 400, "context_length_exceeded"
        case ModelError(status=429):
            status, code, retry_after = 429, "upstream_rate_limit", error.retry_after or 10
        case ModelError():
            status, code, retry_after = 503 if error.retryable else 502, "upstream_error", error.retry_after
        case AtWork():
            status, code, retry_after = 409, "conversation_locked", 5
        case RunStopped():
            status, code = 503, "run_stopped"
        case SandboxError():
            code = "sandbox_error"
    return ApiError(status, str(error), code, retry_after=retry_after, run_id=run_id)
