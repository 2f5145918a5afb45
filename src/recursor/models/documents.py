"""JSON documents out of a provider's bytes: any bytes either decode or raise `ModelError`."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import msgspec

from recursor.errors import ModelError
from recursor.models.failures import Request, clip

T = TypeVar("T")
_MOST = 10**12
"""Tokens of one call beyond which a number is no count of them."""


def decode(data: bytes, form: type[T], request: Request) -> tuple[dict[str, Any], T]:
    """Return a document as it came, and as `form` reads it.

    Raises:
        ModelError: it is no JSON object, or not of this form; the text quotes what came.
    """
    try:
        document: Any = _decoded(data)
        if not isinstance(document, dict):
            raise unreadable(data, "it is no JSON object", request)
        return document, msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise unreadable(data, str(error), request) from error
    except ValueError as error:
        raise unreadable(data, "it is no JSON", request) from error
    except RecursionError as error:
        raise unreadable(data, "it is nested too deep", request) from error


def _decoded(data: bytes) -> Any:
    """JSON, and what some servers write beside: half of a character as an escape, NaN, a number too large."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(data.decode("utf-8", "replace"))


def count(said: Any) -> int | None:
    """Read a number of tokens; None for what is none. Some servers send it as a float or as text."""
    if isinstance(said, str) and said.isdecimal() and len(said) <= len(str(_MOST)):
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= _MOST:
        return None
    return int(said)


def dollars(said: Any) -> float | None:
    """Read a bill; None for what is none: nobody is paid for asking."""
    try:
        amount = math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError, OverflowError):
        return None
    return amount if 0 <= amount < math.inf else None


def text(said: Any) -> str:
    """Read a text that may be left out, or be something else: the reply is paid for."""
    return said if isinstance(said, str) else ""


def table(said: Any) -> dict[str, Any]:
    """Read an object that may be left out, or be something else."""
    return said if isinstance(said, dict) else {}


def mended(text: str) -> str:
    """Join the halves of characters that came apart; a half alone becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def unreadable(data: bytes, why: str, request: Request) -> ModelError:
    """Return the error for a reply that is not of the wire's form.

    Not retryable: an address that answers with a web page will do so again.
    """
    came = clip(data[:2000].decode("utf-8", "replace"), 200) or "nothing"
    return ModelError(f"{request.model} at {request.url} sent what is no reply ({why}): {came}", 200)
