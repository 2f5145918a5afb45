"""The `openai` package: both APIs, sync and async."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.request
from typing import Any

import openai
import pydantic
from checks import ANSWER, WEATHER, check, same

client = openai.OpenAI(max_retries=0, timeout=60)
MODEL = "recursor"
TOOL: Any = {"type": "function", "function": WEATHER}
RESPONSE_TOOL: Any = {"type": "function", "strict": True, **WEATHER}


DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


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


@check("responses: in the background, polled, followed, cancelled, deleted")
def _() -> None:
    done = client.responses.create(model=MODEL, input="[plain] What is it?", background=True)
    while done.status in ("queued", "in_progress"):
        done = client.responses.retrieve(done.id)
    same(done.output_text, ANSWER)
    kinds = [event.type for event in client.responses.retrieve(done.id, stream=True, starting_after=1)]
    same(kinds[-1], "response.completed")
    endless = client.responses.create(model=MODEL, input="[forever] What is it?", background=True)
    same(client.responses.cancel(endless.id).status, "cancelled")
    client.responses.delete(done.id)
    try:
        client.responses.retrieve(done.id)
    except openai.NotFoundError:
        return
    raise AssertionError("it is still there")


@check("responses: going on from an earlier one, and in a conversation")
def _() -> None:
    first = client.responses.create(model=MODEL, input="[plain] First.")
    second = client.responses.create(model=MODEL, input="[history] Second.", previous_response_id=first.id)
    assert "First." in second.output_text, second.output_text
    conversation = client.conversations.create()
    for text in ("[plain] Third.", "[history] Fourth."):
        last = client.responses.create(model=MODEL, input=text, conversation=conversation.id)
    assert "Third." in last.output_text, last.output_text
    assert "First." not in last.output_text, last.output_text


@check("files and pictures, in both APIs")
def _() -> None:
    table = "data:text/csv;base64," + base64.b64encode(b"city,degrees\nOslo,7\n").decode()
    parts: Any = [
        {"type": "text", "text": "[degrees] How warm?"},
        {"type": "file", "file": {"filename": "t.csv", "file_data": table}},
        {"type": "image_url", "image_url": {"url": DOT}},
    ]
    done = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    same(done.choices[0].message.content, "7")
    items: Any = [
        {"type": "input_text", "text": "[degrees] How warm?"},
        {"type": "input_file", "filename": "t.csv", "file_data": table},
        {"type": "input_image", "image_url": DOT, "detail": "auto"},
    ]
    same(client.responses.create(model=MODEL, input=[{"role": "user", "content": items}]).output_text, "7")


@check("a stream that is closed ends its run")
def _() -> None:
    for _ in range(3):
        stream = client.chat.completions.create(model=MODEL, messages=user("[forever] ?"), stream=True)
        next(iter(stream))
        stream.close()
        with client.responses.stream(model=MODEL, input="[forever] ?") as other:
            next(iter(other))
    base = str(client.base_url).removesuffix("/v1/")
    until = time.monotonic() + 5
    while (
        "recursor_runs_in_flight 0"
        not in urllib.request.urlopen(base + "/metrics").read().decode().splitlines()
    ):
        assert time.monotonic() < until, "runs go on"


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
