"""The `langchain-openai` package."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pydantic
from checks import ANSWER, check, same

chat_models: Any = importlib.import_module("langchain_openai")
messages: Any = importlib.import_module("langchain_core.messages")
make_tool: Any = importlib.import_module("langchain_core.tools").tool


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Say the weather at a place."""
    return f"warm in {city}"


TOOL = make_tool(get_weather)
LOOP = asyncio.new_event_loop()
"""The package keeps its connections for the loop that made them."""


def model(**options: Any) -> Any:
    return chat_models.ChatOpenAI(model="recursor", max_retries=0, timeout=60, **options)


def every(api: str, **options: Any) -> None:
    @check(f"{api}: answer")
    def _() -> None:
        done = model(**options).invoke(
            [messages.SystemMessage("Be short."), messages.HumanMessage("[plain] ?")]
        )
        same(done.text, ANSWER)
        assert done.usage_metadata["total_tokens"] > 0

    @check(f"{api}: stream")
    def _() -> None:
        chunks = list(model(stream_usage=True, **options).stream("[plain] What is it?"))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        same(whole.text, ANSWER)
        assert whole.usage_metadata["total_tokens"] > 0

    @check(f"{api}: asynchronous, eight at once")
    def _() -> None:
        same(
            [each.text for each in LOOP.run_until_complete(model(**options).abatch(["[plain] ?"] * 8))],
            [ANSWER] * 8,
        )

    @check(f"{api}: tools")
    def _() -> None:
        bound = model(**options).bind_tools([TOOL])
        said: list[Any] = [messages.HumanMessage("[both] How is it?")]
        said.append(bound.invoke(said))
        same(len(said[-1].tool_calls), 2)
        said += [TOOL.invoke(call) for call in said[-1].tool_calls]
        same(bound.invoke(said).text, "warm in Oslo and warm in Rome")

    @check(f"{api}: a forced tool")
    def _() -> None:
        for choice in ("get_weather", "any"):
            bound = model(**options).bind_tools([TOOL], tool_choice=choice)
            same(bound.invoke("[forced] Where?").tool_calls[0]["args"], {"city": "Oslo"})

    @check(f"{api}: typed answers, by a schema and by a function")
    def _() -> None:
        for method in ("json_schema", "function_calling"):
            typed = model(**options).with_structured_output(Person, method=method)
            same(typed.invoke("[person] Who?"), Person(name="Ada", age=36))


every("chat")
every("responses", use_responses_api=True)
