"""Put an RLM in the place of a model: `llm.completion(messages=...)` stays as it is, and takes messages of any length.

    python examples/drop_in.py                                           # against a server of its own, offline
    python examples/drop_in.py openai/gpt-5-mini https://api.openai.com/v1   # with a model (OPENAI_API_KEY)

`Chat` is a program that knows nothing of recursor. With a plain client it ends where the model's window does.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Protocol

from recursor import RLM, Limits
from recursor.errors import ContextOverflow
from recursor.testing import ModelServer
from recursor.types import Message

WINDOW = 40_000
"""Characters that the model of this example takes."""
LOG = "\n".join(
    f"{number:06} {'ERROR disk full' if number == 31_415 else 'INFO all is well'}" for number in range(60_000)
)


class Llm(Protocol):
    """What the program needs of a model."""

    def completion(self, *, messages: Any) -> Any:
        """Return something with an `answer`."""


class Chat:
    """A program as there are many: it keeps the messages, and sends all of them each time."""

    def __init__(self, llm: Llm) -> None:
        self.llm = llm
        self.messages: list[dict[str, str]] = []

    def say(self, text: str) -> str:
        """Ask, and remember what was said."""
        self.messages.append({"role": "user", "content": text})
        answer = str(self.llm.completion(messages=self.messages).answer)
        self.messages.append({"role": "assistant", "content": answer})
        return answer


class Plain:
    """A plain client of the chat-completions wire."""

    def __init__(self, model: str, base_url: str) -> None:
        self.model, self.base_url = model.partition("/")[2] or model, base_url
        self.answer = ""

    def completion(self, *, messages: Any) -> Plain:
        """Send all messages."""
        key = os.environ.get("OPENAI_API_KEY", "none")
        request = urllib.request.Request(
            f"{self.base_url}/chat/completions", json.dumps({"model": self.model, "messages": messages}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as response:
            self.answer = json.load(response)["choices"][0]["message"]["content"]
        return self


def model(messages: Sequence[Message]) -> str | BaseException:
    """A stand-in for a model with a small window, which writes code when it is told of a REPL."""
    if sum(len(message.content) for message in messages) > WINDOW:
        return ContextOverflow("this model's maximum context length is 10000 tokens", 400)
    return """```repl
lines = (line for message in messages for line in message["content"].splitlines())
FINAL(next(line[:6] for line in lines if "ERROR" in line))
```"""


def talk(llm: Llm) -> None:
    """Two messages: a log of a megabyte, and a question."""
    chat = Chat(llm)
    chat.messages.append({"role": "user", "content": LOG})
    try:
        print(f"  {len(LOG):,} characters: {chat.say('On which line is the error?')}")
    except urllib.error.HTTPError as error:
        print(f"  {len(LOG):,} characters: {error.code} {json.load(error)['error']['message']}")


def main(arguments: Sequence[str]) -> None:
    """Talk with either."""
    if len(arguments) == 2:
        name, url = arguments
        clients: dict[str, Llm] = {
            "plain": Plain(name, url),
            "recursor": RLM(name, limits=Limits(max_tokens=200_000)),
        }
        for who, llm in clients.items():
            print(f"{who}:")
            talk(llm)
        return
    with ModelServer(model) as server:
        print("a plain client:")
        talk(Plain("some-model", server.url))
        print("an RLM in its place:")
        talk(RLM("some-model", base_url=server.url))


if __name__ == "__main__":
    main(sys.argv[1:])
