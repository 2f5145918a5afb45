"""The `openai` package: both APIs, sync and async."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pydantic
from checks import ANSWER, WEATHER, check, same

client = openai.OpenAI(max_retries=0, timeout=60)
MODEL = "recursor"
TOOL: Any = {"type": "function", "function": WEATHER}
RESPONSE_TOOL: Any = {"type": "function", "strict": True, **WEATHER}


class Person(pydantic.BaseModel):
    name: str
    age: int


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


@check("chat: answer")
def _() -> None:
    done = client.chat.completions.create(model=MODEL, messages=user("[plain] What is it?"))
    same(done.choices[0].message.content, ANSWER)
    assert done.usage is not None
    assert done.usage.total_tokens > 0


@check("chat: every parameter that the API has")
def _() -> None:
    done = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be short.", "name": "me"}, *user("[plain] What is it?")],
        frequency_penalty=0.1, logit_bias={"1": 1}, logprobs=False, max_completion_tokens=100, max_tokens=100,
        metadata={"a": "b"}, modalities=["text"], n=1, parallel_tool_calls=True, tools=[TOOL],
        presence_penalty=0.1, prompt_cache_key="k", reasoning_effort="low", response_format={"type": "text"},
        safety_identifier="s", seed=1, service_tier="auto", stop=["x"], store=False, temperature=0.5, top_p=0.5,
        user="u", verbosity="low", prediction={"type": "content", "content": "x"}, tool_choice="auto",
        extra_body={"unknown": {"field": 1}}, extra_headers={"OpenAI-Beta": "x"},
    )  # fmt: skip
    same(done.choices[0].message.content, ANSWER)


@check("chat: stream")
def _() -> None:
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=user("[plain] What is it?"), stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
    ))  # fmt: skip
    same("".join(each.choices[0].delta.content or "" for each in chunks if each.choices), ANSWER)
    assert chunks[-1].usage is not None


@check("chat: stream with the package's events")
def _() -> None:
    with client.chat.completions.stream(model=MODEL, messages=user("[plain] What is it?")) as stream:
        kinds = [event.type for event in stream]
        same(stream.get_final_completion().choices[0].message.content, ANSWER)
    assert {"content.delta", "content.done"} <= set(kinds), kinds


@check("chat: typed answer")
def _() -> None:
    done = client.chat.completions.parse(model=MODEL, messages=user("[person] Who?"), response_format=Person)
    same(done.choices[0].message.parsed, Person(name="Ada", age=36))


@check("chat: typed answer in a stream")
def _() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=user("[person] Who?"), response_format=Person
    ) as stream:
        same(stream.get_final_completion().choices[0].message.parsed, Person(name="Ada", age=36))


def talk(mark: str, **options: Any) -> list[Any]:
    """Carry out calls until there is an answer; all messages of the assistant."""
    messages, said = user(f"[{mark}] How is it?"), []
    while True:
        message = (
            client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], **options)
            .choices[0]
            .message
        )
        said.append(message)
        messages.append(message)
        if not message.tool_calls:
            return said
        for call in message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"warm in {city}"})


@check("chat: tools")
def _() -> None:
    same(talk("weather")[-1].content, "warm in Oslo, as they say")


@check("chat: two calls at once")
def _() -> None:
    said = talk("both")
    same([len(each.tool_calls or ()) for each in said], [2, 0])
    same(said[-1].content, "warm in Oslo and warm in Rome")


@check("chat: parallel_tool_calls=False")
def _() -> None:
    said = talk("both", parallel_tool_calls=False)
    same([len(each.tool_calls or ()) for each in said], [1, 1, 0])


@check("chat: tool_choice of one function")
def _() -> None:
    done = client.chat.completions.create(
        model=MODEL, messages=user("[forced] Where?"), tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )  # fmt: skip
    [call] = done.choices[0].message.tool_calls or []
    assert call.type == "function"
    same(call.function.arguments, '{"city": "Oslo"}')


@check("chat: tool_choice=required")
def _() -> None:
    other: Any = {"type": "function", "function": {"name": "ask_somebody"}}
    done = client.chat.completions.create(
        model=MODEL, messages=user("[either] Where?"), tools=[TOOL, other], tool_choice="required"
    )
    [call] = done.choices[0].message.tool_calls or []
    assert call.type == "function"
    same((call.function.name, call.function.arguments), ("get_weather", '{"city": "Oslo"}'))


@check("chat: custom tool")
def _() -> None:
    patch: Any = {"type": "custom", "custom": {"name": "apply_patch", "description": "Change files."}}
    asked: Any = user("[patch] Go on.")
    first = client.chat.completions.create(model=MODEL, messages=asked, tools=[patch]).choices[0].message
    [call] = first.tool_calls or []
    assert call.type == "custom", call
    same(call.custom.input, "*** Begin Patch")
    asked += [first, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    same(
        client.chat.completions.create(model=MODEL, messages=asked, tools=[patch]).choices[0].message.content,
        "done",
    )


@check("chat: tools in a stream")
def _() -> None:
    with client.chat.completions.stream(model=MODEL, messages=user("[weather] How?"), tools=[TOOL]) as stream:
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    same(call.function.arguments, '{"city": "Oslo"}')


@check("chat: async")
def _() -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(max_retries=0) as other:
            asked = [other.chat.completions.create(model=MODEL, messages=user("[plain] ?")) for _ in range(8)]
            return [done.choices[0].message.content for done in await asyncio.gather(*asked)]

    same(asyncio.run(ask()), [ANSWER] * 8)


@check("responses: answer")
def _() -> None:
    done = client.responses.create(model=MODEL, input="[plain] What is it?")
    same((done.output_text, done.status), (ANSWER, "completed"))


@check("responses: every parameter that the API has")
def _() -> None:
    done = client.responses.create(
        model=MODEL, input=[{"role": "developer", "content": "Be short."}, *user("[plain] What is it?")],
        include=["reasoning.encrypted_content"], instructions="Be exact.", max_output_tokens=1000, max_tool_calls=3,
        metadata={"a": "b"}, parallel_tool_calls=True, prompt_cache_key="k", reasoning={"effort": "low", "summary": "auto"},
        safety_identifier="s", service_tier="auto", store=True, temperature=0.1, top_p=0.9, top_logprobs=0,
        text={"format": {"type": "text"}, "verbosity": "low"}, tool_choice="auto", tools=[RESPONSE_TOOL],
        truncation="auto", user="u", background=False,
    )  # fmt: skip
    same(done.output_text, ANSWER)
    same(done.metadata, {"a": "b"})


@check("responses: stream")
def _() -> None:
    with client.responses.stream(model=MODEL, input="[plain] What is it?") as stream:
        kinds = [event.type for event in stream]
        same(stream.get_final_response().output_text, ANSWER)
    same((kinds[0], kinds[-1]), ("response.created", "response.completed"))


@check("responses: typed answer")
def _() -> None:
    same(
        client.responses.parse(model=MODEL, input="[person] Who?", text_format=Person).output_parsed,
        Person(name="Ada", age=36),
    )


@check("responses: tools")
def _() -> None:
    asked = user("[weather] How is it?")
    first = client.responses.create(model=MODEL, input=asked, tools=[RESPONSE_TOOL])
    [call] = [each for each in first.output if each.type == "function_call"]
    asked += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "warm"}]
    with client.responses.stream(model=MODEL, input=asked, tools=[RESPONSE_TOOL]) as stream:
        same(stream.get_final_response().output_text, "warm, as they say")


@check("responses: custom tool")
def _() -> None:
    patch: Any = {
        "type": "custom",
        "name": "apply_patch",
        "description": "Change files.",
        "format": {"type": "text"},
    }
    asked: Any = user("[patch] Go on.")
    with client.responses.stream(model=MODEL, input=asked, tools=[patch]) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    assert "response.custom_tool_call_input.done" in kinds, kinds
    [call] = [each for each in first.output if each.type == "custom_tool_call"]
    same(call.input, "*** Begin Patch")
    asked += [*first.output, {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "done"}]
    same(client.responses.create(model=MODEL, input=asked, tools=[patch]).output_text, "done")


@check("responses: tool_choice of one function")
def _() -> None:
    done = client.responses.create(
        model=MODEL,
        input="[forced] Where?",
        tools=[RESPONSE_TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
    )
    [call] = [each for each in done.output if each.type == "function_call"]
    same(call.arguments, '{"city": "Oslo"}')


@check("models: list and retrieve")
def _() -> None:
    same([each.id for each in client.models.list()], [MODEL])
    same(client.models.retrieve(MODEL).id, MODEL)


@check("20 MB of input")
def _() -> None:
    asked: Any = [*user("y" * 20_000_000), *user("[count] How many?")]
    same(client.chat.completions.create(model=MODEL, messages=asked).choices[0].message.content, "20000000")


@check("errors have the package's types")
def _() -> None:
    for kind, options in (
        (openai.NotFoundError, {"model": "gpt-5", "messages": user("Hello")}),
        (openai.BadRequestError, {"model": MODEL, "messages": []}),
        (openai.BadRequestError, {"model": MODEL, "messages": user("Hello"), "n": 2}),
    ):
        body = None
        try:
            client.chat.completions.create(**options)
        except kind as error:
            body = error.body
        assert body, f"no {kind.__name__}"
