"""JSON documents out of a provider's bytes: any bytes either decode or raise `ModelError`."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from recursor.errors import ModelError
from recursor.models.failures import Request, clip

T = TypeVar("T")


def decode(data: bytes, form: type[T], request: Request) -> tuple[dict[str, Any], T]:
    """Return a document as it came, and as `form` reads it.

    Raises:
        ModelError: it is no JSON object, or not of this form; the text quotes what came.
    """
    try:
        document: Any = msgspec.json.decode(data)
        if not isinstance(document, dict):
            raise unreadable(data, "it is no JSON object", request)
        return document, msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        raise unreadable(data, str(error), request) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unreadable(data, "it is no JSON", request) from error
    except RecursionError as error:
        raise unreadable(data, "it is nested too deep", request) from error


def unreadable(data: bytes, why: str, request: Request) -> ModelError:
    """Return the error for a reply that is not of the wire's form.

    Not retryable: an address that answers with a web page will do so again.
    """
    came = clip(data[:2000].decode("utf-8", "replace"), 200) or "nothing"
    return ModelError(f"{request.model} at {request.url} sent what is no reply ({why}): {came}", 200)
