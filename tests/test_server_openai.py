"""The server, as the `openai` package sees it: a client that nobody here wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from recursor.errors import ModelError
from serving import by_turn, serving

openai: Any = pytest.importorskip("openai")
T = TypeVar("T")
ANSWER = "I see.\n```python\nFINAL('It is 42.')\n```"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip
CALLS = "```python\nFINAL(get_weather('Oslo') + '!')\n```"


async def asked(script: Any, ask: Callable[[Any], T]) -> T:
    """What a client of the package gets."""
    async with serving(script) as client:

        def work() -> T:
            with openai.OpenAI(base_url=client.server.url, api_key="none", max_retries=0) as made:
                return ask(made)

        return await asyncio.to_thread(work)


async def test_chat_completions_are_answered() -> None:
    done = await asked(
        by_turn(ANSWER), lambda made: made.chat.completions.create(model="recursor", messages=HELLO)
    )
    assert done.choices[0].message.content == "It is 42."
    assert done.usage.total_tokens > 0


async def test_chat_completions_are_streamed() -> None:
    def ask(made: Any) -> list[Any]:
        return list(
            made.chat.completions.create(
                model="recursor", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )

    chunks = await asked(by_turn(ANSWER), ask)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "It is 42."
    assert "I see." in "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert chunks[-1].usage.total_tokens > 0


async def test_typed_answers_are_parsed() -> None:
    pydantic = pytest.importorskip("pydantic")
    kind = pydantic.create_model("Person", age=(int, ...))
    done = await asked(
        by_turn("```python\nFINAL({'age': 'old'})\n```", "```python\nFINAL({'age': 7})\n```"),
        lambda made: made.chat.completions.parse(model="recursor", messages=HELLO, response_format=kind),
    )
    assert done.choices[0].message.parsed.age == 7


async def test_tools_are_called() -> None:
    def ask(made: Any) -> Any:
        asking = {"model": "recursor", "tools": [{"type": "function", "function": TOOL}]}
        first = made.chat.completions.create(messages=HELLO, **asking).choices[0]
        assert first.finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "warm"}
        return made.chat.completions.create(messages=[*HELLO, first.message, result], **asking)

    assert (await asked(by_turn(CALLS), ask)).choices[0].message.content == "warm!"


async def test_responses_are_answered_and_streamed() -> None:
    def ask(made: Any) -> tuple[Any, list[Any], Any]:
        whole = made.responses.create(model="recursor", input="Hello")
        with made.responses.stream(model="recursor", input="Hello") as stream:
            events = list(stream)
            return whole, events, stream.get_final_response()

    whole, events, final = await asked(by_turn(ANSWER), ask)
    assert whole.output_text == final.output_text == "It is 42."
    assert [event.type for event in events][-1] == "response.completed"
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta") == "It is 42."
    )


async def test_errors_are_those_of_the_package() -> None:
    def unknown(made: Any) -> Any:
        with pytest.raises(openai.NotFoundError) as raised:
            made.chat.completions.create(model="gpt-5", messages=HELLO)
        return raised.value

    def limited(made: Any) -> Any:
        with pytest.raises(openai.RateLimitError) as raised:
            made.chat.completions.create(model="recursor", messages=HELLO)
        return raised.value

    def broken(made: Any) -> Any:
        with pytest.raises(openai.APIError) as raised:
            list(made.chat.completions.create(model="recursor", messages=HELLO, stream=True))
        return raised.value

    assert (await asked(by_turn(ANSWER), unknown)).code == "model_not_found"
    assert (await asked(lambda _: ModelError("slow", 429), limited)).code == "upstream_rate_limit"
    assert (await asked(lambda _: ModelError("down", 500), broken)).code == "upstream_error"
