"""One question of a client, whichever API it came by, and what is looked at in its messages before anything is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from recursor.context.pictures import is_picture, of_part
from recursor.errors import ConfigError
from recursor.files import Content
from recursor.limits import Limits
from recursor.schema import ANYTHING, Shape
from recursor.server.choice import Choice
from recursor.server.failures import ApiError
from recursor.server.sessions import Going


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks beside its messages, in plain values as they came, so that it can be kept.

    Attributes:
        chat: whether it came by chat completions, which nest some of it deeper.
        form: a `response_format`, or a `text.format`.
        parallel: whether one reply may have several calls.
        limits: bounds that the client sets beside the server's own.
    """

    model: str
    chat: bool
    form: Any = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel: bool = True
    limits: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Brought:
    """What a function of a client returned to one call of it."""

    namespace: str
    name: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to an RLM."""

    terms: Terms
    messages: Sequence[Mapping[str, Any]]
    """As chat completions have them, of whichever API they came."""
    expected: Shape = ANYTHING
    """What the answer must follow."""
    choice: Choice = field(default_factory=Choice)
    """Of the client's functions."""
    instruction: str = ""
    """What the root LM is told beside its own."""
    context: Content | None = None
    """The files in the messages."""
    going: Going | None = None
    """The conversation that it is a part of; None when it stands alone."""
    resume: str = ""
    """The id of a run that was cut off, to go on with; empty for a new one."""
    brought: Sequence[Brought] = ()
    """What the client's functions returned to calls that code makes again, since their run was cut off."""
    replies: int | None = None
    """How many replies have told of that run, where it is the server that goes on by itself; None where it is not."""

    @property
    def model(self) -> str:
        return self.terms.model

    @property
    def results(self) -> dict[str, str]:
        """What the client's functions returned to the calls of its last turn, by the ids of these.

        What the client says after that goes to the last of them: its code has gone on meanwhile.
        """
        found: dict[str, str] = {}
        said: list[str] = []
        for message in reversed(self.messages):
            if message.get("role") == "assistant":
                break
            if message.get("role") == "tool":
                more = "".join(f"\n\n[the asker says beside it: {text}]" for text in reversed(said))
                found[str(message.get("tool_call_id"))] = text_of(message) + _unseen(message) + more
                said = []
            elif text := text_of(message).strip():
                said.append(text)
        return found

    def bounded(self, own: Limits) -> Limits:
        """The server's limits, or smaller ones that the client set. Raises ApiError."""
        try:
            return own.with_changes(self.terms.limits).within(own)
        except ConfigError as error:
            raise ApiError(400, str(error), param="metadata") from None


def check_messages(messages: Sequence[Mapping[str, Any]], param: str, *, goes_on: bool = False) -> None:
    """Raise ApiError unless there is a question in messages, and all of them are text.

    Args:
        goes_on: whether the results of functions alone will do, for the run that waits for them.
    """
    for index, message in enumerate(messages):
        where = f"{param}[{index}]"
        if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise ApiError(400, f"{where}.role is none of the API's", param=f"{where}.role")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        for part in content if isinstance(content, list) else [None]:
            if isinstance(part, dict) and is_picture(part):
                _check_picture(part, where)
                continue
            text = part.get(part.get("type")) if isinstance(part, dict) and is_text(part) else None
            if not isinstance(text, str):
                raise ApiError(
                    400,
                    f"{where}.content must be a text, or a list of parts of type text, image_url or file",
                    param=f"{where}.content",
                )
    if goes_on and messages and messages[-1]["role"] == "tool":
        return
    if not asks(messages):
        raise ApiError(400, f"{param} hold no user message to take the question from", param=param)


def _check_picture(part: Mapping[str, Any], where: str) -> None:
    try:
        of_part(part, where)
    except ConfigError as error:
        raise ApiError(400, str(error), param=f"{where}.content") from None


def asks(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a question in messages."""
    return any(message["role"] == "user" and text_of(message).strip() for message in messages)


def _unseen(message: Mapping[str, Any]) -> str:
    """What is told of the parts of a result that are no text: it is a text to code."""
    content = message.get("content")
    pictures = sum(is_picture(part) for part in content) if isinstance(content, list) else 0
    return f"\n[pictures that cannot be shown here: {pictures}]" if pictures else ""


def is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("text", "refusal")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "\n".join(str(part.get(part["type"], "")) for part in parts if is_text(part))
