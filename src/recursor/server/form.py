"""How a reply is said: what both APIs have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from recursor.server.failures import ApiError
from recursor.server.work import Outcome

PIECE = 2_000
"""Characters of an answer in one chunk."""


class Form(Protocol):
    """One reply: a document, or the events of a stream."""

    stream: bool
    stored: bool
    """Whether the reply may be looked at again."""
    response: Mapping[str, Any]
    """As it was told last; empty before anything was."""

    def document(self, outcome: Outcome) -> Mapping[str, Any]:
        """The whole reply."""

    def opening(self, reply_id: str) -> Iterator[bytes]:
        """What a stream begins with."""

    def reasoning(self, text: str) -> Iterator[bytes]:
        """What is done meanwhile."""

    def waiting(self) -> Iterator[bytes]:
        """That it is alive, when nothing happened for a time."""

    def closing(self, outcome: Outcome) -> Iterator[bytes]:
        """The answer or the calls, and the end."""

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The end of a stream that has begun, and cannot go on."""


def text_of(outcome: Outcome) -> str:
    """The answer as content: a text as it is, any other value as JSON."""
    answer = None if outcome.completion is None else outcome.completion.answer
    if answer is None:
        return ""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)


def event(value: Any) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


def encoded(value: Any) -> bytes:
    """JSON in ASCII, lone surrogates spelt."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
