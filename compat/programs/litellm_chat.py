"""The `litellm` package."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from typing import Any

from checks import ANSWER, WEATHER, check, same

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
litellm: Any = importlib.import_module("litellm")
litellm.telemetry = False
MODEL = "openai/recursor"
TOOLS = [{"type": "function", "function": WEATHER}]


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@check("answer")
def _() -> None:
    done = litellm.completion(MODEL, messages=user("[plain] What is it?"), temperature=0.1, max_tokens=100)
    same(done.choices[0].message.content, ANSWER)
    assert done.usage.total_tokens > 0


@check("stream, with its reasoning")
def _() -> None:
    chunks = list(
        litellm.completion(
            MODEL, messages=user("[plain] ?"), stream=True, stream_options={"include_usage": True}
        )
    )
    whole = litellm.stream_chunk_builder(chunks)
    same(whole.choices[0].message.content, ANSWER)
    assert "I count" in whole.choices[0].message.reasoning_content
    assert whole.usage.total_tokens > 0


@check("asynchronous stream")
def _() -> None:
    async def ask() -> str:
        stream = await litellm.acompletion(MODEL, messages=user("[plain] ?"), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    same(asyncio.run(ask()), ANSWER)


@check("tools")
def _() -> None:
    messages = user("[weather] How is it?")
    first = litellm.completion(MODEL, messages=messages, tools=TOOLS).choices[0].message
    [call] = first.tool_calls
    same(json.loads(call.function.arguments), {"city": "Oslo"})
    messages += [first, {"role": "tool", "tool_call_id": call.id, "content": "warm"}]
    done = litellm.completion(MODEL, messages=messages, tools=TOOLS, stream=True)
    same(litellm.stream_chunk_builder(list(done)).choices[0].message.content, "warm, as they say")


@check("a forced tool")
def _() -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    done = litellm.completion(MODEL, messages=user("[forced] Where?"), tools=TOOLS, tool_choice=choice)
    same(json.loads(done.choices[0].message.tool_calls[0].function.arguments), {"city": "Oslo"})


@check("JSON by a schema")
def _() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    done = litellm.completion(MODEL, messages=user("[person] Who?"), response_format=form)
    same(json.loads(done.choices[0].message.content), {"name": "Ada", "age": 36})


@check("responses API, whole and streamed")
def _() -> None:
    done = litellm.responses(model=MODEL, input="[plain] What is it?")
    same(done.output[-1].content[0].text, ANSWER)
    events = list(litellm.responses(model=MODEL, input="[plain] What is it?", stream=True))
    same(events[-1].response.output[-1].content[0].text, ANSWER)


@check("errors have the package's types")
def _() -> None:
    for kind, model, messages in (
        (litellm.NotFoundError, "openai/gpt-0", user("Hello")),
        (litellm.BadRequestError, MODEL, user(" ")),
    ):
        try:
            litellm.completion(model, messages=messages, max_retries=0)
        except kind:
            continue
        raise AssertionError(f"no {kind.__name__}")
