"""A model that says what it was told to say, and a sink that keeps what it sees."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from recursor.errors import ConfigError, ModelError
from recursor.types import Event, Message, Reply, Schema, Usage

Scripted: TypeAlias = str | Reply | BaseException
Script: TypeAlias = Sequence[Scripted] | Callable[[Sequence[Message]], Scripted | Awaitable[Scripted]]
"""Replies in order, or a function of the messages. A text, a whole `Reply`, or an exception to raise."""


class ScriptedModel:
    """A model that follows a script. Costs nothing, and counts about 4 characters as a token.

    Attributes:
        requests: the messages of each call, in the order of the calls.
    """

    def __init__(self, replies: Script, *, latency: float = 0.0, name: str = "scripted") -> None:
        """Take the script.

        Args:
            latency: seconds that each reply takes.

        Raises:
            ConfigError: it is one text, which is a sequence of letters: write a list.
        """
        if isinstance(replies, str):
            raise ConfigError(
                f"replies must be a list of replies or a function, not one text: [{replies[:40]!r}]"
            )
        self.requests: list[tuple[Message, ...]] = []
        self.schemas: list[Schema | None] = []
        self._script = replies if callable(replies) else list(replies)
        self._latency = latency
        self._name = name

    def __repr__(self) -> str:
        return f"ScriptedModel({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def priced(self) -> bool:
        """True: a script costs nothing, or what its replies say."""
        return True

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt; see `recursor.protocols.Model`."""
        self.requests.append(tuple(messages))
        self.schemas.append(schema)
        number = len(self.requests)
        if self._latency:
            await asyncio.sleep(self._latency)
        said = await self._say(number, messages)
        if isinstance(said, BaseException):
            raise said
        reply = said if isinstance(said, Reply) else self._reply(said, messages)
        if on_text is not None and reply.text:
            on_text(reply.text)
        return reply

    async def _say(self, number: int, messages: Sequence[Message]) -> Scripted:
        if not isinstance(self._script, list):
            said = self._script(messages)
            return await said if inspect.isawaitable(said) else said
        if number > len(self._script):
            count = len(self._script)
            raise ModelError(
                f"the script has {count} {'reply' if count == 1 else 'replies'}; this was call {number}"
            )
        return self._script[number - 1]

    def _reply(self, text: str, messages: Sequence[Message]) -> Reply:
        usage = Usage(
            input_tokens=sum(tokens(each.content) for each in messages), output_tokens=tokens(text), calls=1
        )
        return Reply(text, usage, 0.0, self._name, "stop")


def tokens(text: str) -> int:
    """Return about how many tokens a text has: one for each 4 characters begun."""
    return (len(text) + 3) // 4


class ListSink:
    """A sink that keeps all events.

    Attributes:
        events: in the order in which they were emitted.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    async def flush(self) -> None:
        """Do nothing: a list is as durable as this sink gets."""
