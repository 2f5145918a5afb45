"""What providers say when they refuse, as our errors. Pure: bytes in, a value out.

Every text that a provider sent is clipped. Keys are taken out before, by `recursor.models.http`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from recursor.errors import AuthenticationError, ContextOverflow, ModelError

_RETRYABLE = frozenset({408, 409, 425, 429})

_STATUS_OF = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "timeout_error": 504,
    "api_error": 500,
    "server_error": 500,
}
"""The words that stand for a status where an error comes in a body that began with 200."""

# Texts, which `re` compiles and keeps when an error asks for them: importing costs the less.
_OVERFLOW = (
    r"(?is)context_length_exceeded|exceed_context_size|maximum context length|prompt is too long"
    r"|input is too long|exceeds? the (available )?context|context (window|size|length).{0,40}exceed"
    r"|exceed.{0,60}context (window|size|length|limit)|exceeds the maximum number of tokens allowed"
)
_TOO_LARGE = r"(?i)request too large|tokens must be reduced"
"""A single request above what the account may send in a minute: waiting does not help, a shorter one does."""
_NO_CREDIT = r"(?i)insufficient_quota|credit balance is too low|billing_hard_limit"


@dataclass(frozen=True, slots=True)
class Request:
    """What an error says of the request that failed."""

    model: str
    """As the user wrote it."""
    url: str
    """Without query."""
    characters: int
    """Length of the prompt's texts."""
    window: int | None = None
    """Tokens that the model takes; None when that is not known."""


def clip(text: str, limit: int = 500) -> str:
    """Return `text` on one line, cut at `limit` characters."""
    flat = " ".join(text[: 4 * limit].split())
    return flat if len(flat) <= limit and len(text) <= 4 * limit else flat[:limit] + "..."


def refused(status: int, headers: Mapping[str, str], body: bytes, request: Request, now: float) -> ModelError:
    """Return the error for a reply whose HTTP status is not 200.

    Args:
        now: seconds since the epoch, against which a Retry-After date is read.
    """
    text = body.decode("utf-8", "replace")
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    if isinstance(said, list) and said:  # Google wraps its error object in a list
        said = said[0]
    error = said.get("error", said) if isinstance(said, dict) else None
    return _error(status, _words(error) or text, text, request, retry_after(headers, now))


def reported(error: object, request: Request) -> ModelError:
    """Return the error for an error object inside a body or a stream that began well."""
    text = repr(error)
    return _error(_status_in(error), _words(error) or text, text, request, None)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read how many seconds the provider asks to wait: milliseconds, seconds or a date (RFC 9110)."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 4 ms, and hardly a provider sends a date

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,18}(\.\d{0,18})?\s*", text, re.ASCII) else None


def _status_in(error: object) -> int | None:
    if not isinstance(error, dict):
        return None
    for word in (error.get("code"), error.get("status"), error.get("type")):
        if isinstance(word, int) and 400 <= word < 600:
            return word
        if isinstance(word, str) and word in _STATUS_OF:
            return _STATUS_OF[word]
    return None


def _words(error: object) -> str:
    """Return what an error object says to a person, with its code."""
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return ""
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") or error.get("type") or ""
    if not isinstance(message, str) or not message:
        return ""
    return f"{message} ({code})" if code else message


def _error(
    status: int | None, words: str, whole: str, request: Request, retry_after: float | None
) -> ModelError:
    said = clip(words) or "nothing"
    where = f"{request.model} at {request.url}"
    code = f"{status} " if status else ""
    if status in (401, 403):
        return AuthenticationError(f"{where} does not accept the key: {code}{said}", status)
    overflows = status in (400, 422, 500, None) and re.search(_OVERFLOW, whole)
    if overflows or status == 413 or (status == 429 and re.search(_TOO_LARGE, whole)):
        window = f" (window: {request.window:,} tokens)" if request.window else ""
        return ContextOverflow(
            f"the prompt of {request.characters:,} characters does not fit {request.model}{window}: {code}{said}",
            status,
        )
    if status == 404:
        return ModelError(f"no such model or address, {where}: {said}", status)
    if status is not None and 300 <= status < 400:
        return ModelError(
            f"{where} redirects; give the address it redirects to as base_url: {code}{said}", status
        )
    if re.search(_NO_CREDIT, whole):
        return ModelError(f"{where}: the account has no credit left: {code}{said}", status)
    retryable = status is None or status in _RETRYABLE or status >= 500
    return ModelError(f"{where} failed: {code}{said}", status, retry_after, retryable)
