"""Models over real HTTP, against the loopback server."""

from __future__ import annotations

import asyncio
import email.utils
import json
import pickle
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recursor import LM, RLM, Limits, models
from recursor.errors import AuthenticationError, ConfigError, ContextOverflow, ModelError
from recursor.models.anthropic_messages import conversation
from recursor.models.failures import Request, refused
from recursor.models.schemas import constrainable
from recursor.models.sse import EventParser, ServerEvent
from recursor.testing import ModelServer, ScriptedModel, check_model
from recursor.types import Message, Reply, Schema, Usage

ASK = [Message("system", "Be brief."), Message("user", "Hello?")]
SPECS = ("openai/m", "anthropic/m")
KEY = "sk-test-0123456789abcdef0123456789"
CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}

PATIENT = models.Retries()

both_wires = pytest.mark.parametrize("spec", SPECS)
streamed_or_not = pytest.mark.parametrize("on_text", [None, lambda text: None], ids=["whole", "streamed"])


@pytest.fixture(autouse=True)
async def _close() -> AsyncIterator[None]:
    yield
    await models.close()


def patient(spec: str, server: ModelServer, waits: list[float], **settings: Any) -> models.Retrying:
    """Return a model that retries without sleeping; its waits are noted."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    inner = models.resolve(spec, base_url=server.url, api_key=KEY).model  # its gate would pause
    return models.Retrying(inner, sleep=sleep, uniform=lambda low, high: high, **settings)


# Wires -----------------------------------------------------------------------------------------


@both_wires
async def test_a_model_behind_a_wire_keeps_the_contract(spec: str) -> None:
    with ModelServer(lambda messages: "Hello, world. " * 5) as server:
        await check_model(models.resolve(spec, base_url=server.url))


@both_wires
@streamed_or_not
async def test_usage_reasoning_and_finish_reason_arrive_however_the_reply_is_sent(
    spec: str, on_text: Callable[[str], None] | None
) -> None:
    usage = Usage(100, 20, cached_tokens=60, calls=1)
    with ModelServer([Reply("yes", usage, 0.0, finish_reason="length", reasoning="well")]) as server:
        reply = await models.resolve(spec, base_url=server.url).query(ASK, on_text=on_text)
    assert (reply.text, reply.usage, reply.reasoning, reply.finish_reason) == ("yes", usage, "well", "length")
    assert reply.raw


async def test_chat_usage_counts_reasoning_and_anthropic_usage_counts_cache_writes() -> None:
    chat, anthropic = Usage(9, 9, reasoning_tokens=5, calls=1), Usage(9, 9, 3, 4, calls=1)
    with ModelServer([Reply("a", chat), Reply("b", anthropic)]) as server:
        assert (await models.resolve("openai/m", base_url=server.url).query(ASK)).usage == chat
        assert (await models.resolve("anthropic/m", base_url=server.url).query(ASK)).usage == anthropic


async def test_options_are_fields_of_the_body_and_the_token_limit_gets_its_providers_name() -> None:
    options = {"temperature": 0.5, "max_tokens": 7, "extra_body": {"top_k": 3}}
    with ModelServer(lambda messages: "") as server:
        for spec in ("openai/m", "vllm/m", "anthropic/m"):
            await models.resolve(spec, base_url=server.url, options=options).query(ASK)
        first, second, third = server.requests
    assert first["max_completion_tokens"] == second["max_tokens"] == third["max_tokens"] == 7
    assert all(body["temperature"] == 0.5 and body["top_k"] == 3 for body in (first, second, third))
    assert "max_tokens" not in first
    assert "extra_body" not in first


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": None}, "", None),
        ({"content": None, "reasoning": "hm"}, "", "hm"),
        ({"content": None, "refusal": "No."}, "No.", None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a"}]},
            "a",
            "hm",
        ),
        ({"content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}, "", None),
    ],
)
async def test_every_form_of_content_has_a_text(message: Any, text: str, reasoning: str | None) -> None:
    with ModelServer([]) as server:
        server.send_next({"choices": [{"message": message, "finish_reason": "stop"}]})
        reply = await models.resolve("m", base_url=server.url).query(ASK)
    assert (reply.text, reply.reasoning) == (text, reasoning)
    assert (reply.usage, reply.cost) == (Usage(calls=1), None)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "many"},
        {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 40},
        {"prompt_tokens": 10, "completion_tokens": 30, "prompt_cache_hit_tokens": 4},
    ],
)
async def test_usage_is_read_in_the_dialects_of_providers(usage: dict[str, Any]) -> None:
    with ModelServer([]) as server:
        server.send_next({"choices": [{"message": {"content": "a"}}], "usage": usage})
        reply = await models.resolve("vllm/m", base_url=server.url).query(ASK)
    assert reply.usage.output_tokens == (30 if usage["prompt_tokens"] == 10 else 0)
    assert reply.usage.cached_tokens == usage.get("prompt_cache_hit_tokens", 0)
    assert reply.cost == 0.0


SAID = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COUNTED = Usage(10, 5, calls=1)


@pytest.mark.parametrize(
    ("odd", "usage", "cost"),
    [
        ({"prompt_tokens": -10}, Usage(calls=1), None),
        ({"completion_tokens": -5, "total_tokens": -3}, Usage(10, 0, calls=1), None),
        ({"prompt_tokens": 10**30}, Usage(calls=1), None),
        ({"prompt_tokens": True}, Usage(calls=1), None),
        ({"prompt_tokens": "10", "completion_tokens": 5.0}, COUNTED, None),
        ({"prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 9}},
         Usage(10, 5, cached_tokens=10, calls=1), None),
        ({"prompt_tokens_details": [], "completion_tokens_details": {"reasoning_tokens": {}}}, COUNTED, None),
        ({"cost": -3}, COUNTED, None),
        ({"cost": {"total_cost": 3}}, COUNTED, None),
        ({"cost": "0.25"}, COUNTED, 0.25),
        ({"cost": True}, COUNTED, None),
        ({"cost": 1, "is_byok": True, "cost_details": {"upstream_inference_cost": -9}}, COUNTED, 1.0),
    ],
)  # fmt: skip
async def test_an_odd_field_of_usage_neither_lowers_the_bill_nor_hides_the_others(
    odd: dict[str, Any], usage: Usage, cost: float | None
) -> None:
    with ModelServer([]) as server:
        server.send_next({"choices": [{"message": {"content": "a"}}], "usage": {**SAID, **odd}})
        reply = await models.resolve("openai/m", base_url=server.url).query(ASK)
    assert (reply.text, reply.usage, reply.cost) == ("a", usage, cost)


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"input_tokens": -9, "output_tokens": 5}, Usage(calls=1)),
        ({"input_tokens": 10, "output_tokens": 5.0, "cache_read_input_tokens": "x"}, COUNTED),
        ({"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": -7}, COUNTED),
    ],
)
async def test_the_same_holds_on_the_wire_of_anthropic(said: dict[str, Any], usage: Usage) -> None:
    with ModelServer([]) as server:
        server.send_next({"content": [{"type": "text", "text": "a"}], "usage": said})
        reply = await models.resolve("anthropic/m", base_url=server.url).query(ASK)
    assert (reply.text, reply.usage) == ("a", usage)


@pytest.mark.parametrize("cost", [b"NaN", b"1e999", b"-Infinity"])
async def test_a_bill_that_is_no_number_is_none_and_the_reply_is_kept(cost: bytes) -> None:
    body = b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"cost":%b}}' % cost
    with ModelServer([]) as server:
        server.send_next(body)
        reply = await models.resolve("openai/m", base_url=server.url).query(ASK)
    assert (reply.text, reply.usage.input_tokens, reply.cost) == ("a", 1, None)


@pytest.mark.parametrize(
    "odd", [{"reasoning": {"a": 1}}, {"reasoning_content": []}, {"refusal": 3}, {"tool_calls": "none"}]
)
async def test_what_stands_beside_the_text_may_be_anything(odd: dict[str, Any]) -> None:
    with ModelServer([]) as server:
        choice = {"message": {"content": "a", **odd}, "finish_reason": 3}
        server.send_next({"choices": [choice], "model": 4, "usage": SAID})
        reply = await models.resolve("openai/m", base_url=server.url).query(ASK)
    assert (reply.text, reply.reasoning, reply.usage, reply.model) == ("a", None, COUNTED, "m")


@streamed_or_not
async def test_characters_that_a_server_cut_in_half_are_joined_and_a_half_alone_is_replaced(
    on_text: Callable[[str], None] | None, tmp_path: Path
) -> None:
    whole = b'{"choices":[{"message":{"content": "FINAL(1) a \\ud83d\\ude00 \\ud83d"}}]}'
    deltas = [b'{"content": "FINAL(1) a \\ud83d"}', b'{"content": "\\ude00 \\ud83d"}', b"{}"]
    events = [b'data: {"choices":[{"delta":%b}]}\n\ndata:\n\n' % each for each in deltas]
    streamed = b"".join(events).replace(b"{}}", b'{},"finish_reason":"stop"}')
    with ModelServer([]) as server:
        if on_text is None:
            server.send_next(whole)
        else:
            server.send_next(streamed, "text/event-stream")
        server.send_next(whole)
        model = models.resolve("vllm/m", base_url=server.url)
        reply = await model.query(ASK, on_text=on_text)
        assert reply.text == "FINAL(1) a \U0001f600 \ufffd"
        rlm = RLM(model, dialect="paper", sandbox="inprocess", store=tmp_path / "runs.db")
        assert (await rlm.acompletion("?")).answer == "1"  # and what came can be recorded


async def test_a_reply_without_end_is_an_error_while_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recursor.models.http.MAX_REPLY", 10_000)
    with ModelServer(["x" * 20_000] * 2) as server:
        model = models.resolve("openai/m", base_url=server.url)
        for on_text in (None, lambda _: None):
            with pytest.raises(ModelError, match="more than 10,000 bytes") as caught:
                await model.query(ASK, on_text=on_text)
            assert not caught.value.retryable


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [(429, ModelError, True), (503, ModelError, True), (401, AuthenticationError, False)],
)
async def test_an_error_whose_text_is_cut_is_known_by_its_status(
    status: int, kind: type[ModelError], retryable: bool
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nContent-Length: 1000\r\n\r\n" % status
        writer.write(head + b'{"error": {"message": "too mu')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(kind, match="too mu") as caught:
            await models.resolve("m", base_url=f"http://127.0.0.1:{port}/v1").query(ASK)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)
    assert caught.value.retry_after == (7 if retryable else None)


async def test_what_the_provider_bills_wins_over_the_price_list() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "cost": 0.125}
    with ModelServer([]) as server:
        server.send_next({"choices": [{"message": {"content": "a"}}], "usage": usage})
        assert (
            await models.resolve("azure/gpt-4o", base_url=server.url, api_key=KEY).query(ASK)
        ).cost == 0.125


async def test_a_schema_is_passed_on_where_the_wire_takes_it_and_written_out_where_not() -> None:
    wide = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}
    with ModelServer(lambda messages: "{}") as server:
        for spec, schema in (
            ("openai/m", CLOSED),
            ("openai/m", wide),
            ("deepseek/m", CLOSED),
            ("anthropic/claude-sonnet-4-5", CLOSED),
            ("anthropic/claude-sonnet-4-5", wide),
        ):
            await models.resolve(spec, base_url=server.url).query(ASK, schema=schema)
        strict, loose, written, native, asked = server.requests
    assert strict["response_format"]["json_schema"] == {"name": "reply", "schema": CLOSED, "strict": True}
    assert loose["response_format"]["json_schema"]["strict"] is False
    assert "JSON Schema" in written["messages"][-1]["content"]
    assert native["output_config"]["format"] == {"type": "json_schema", "schema": CLOSED}
    assert "JSON Schema" in asked["messages"][-1]["content"][-1]["text"]
    assert "output_config" not in asked


def test_only_closed_schemas_of_known_keywords_are_constrainable() -> None:
    assert constrainable(CLOSED)
    assert not constrainable({"type": "array", "items": CLOSED})
    assert not constrainable({**CLOSED, "required": []})
    assert not constrainable({**CLOSED, "properties": {"n": {"type": "object"}}})


def test_each_anthropic_prompt_of_a_growing_history_begins_with_what_the_last_one_cached() -> None:
    history = [Message("system", "s")]
    before: list[Any] = []
    for turn in range(5):
        history += [Message("user", f"q{turn}"), Message("user", f"r{turn}")]
        _, turns = conversation(history)
        blocks = [(each["role"], block["text"]) for each in turns for block in each["content"]]
        marks = [
            n
            for n, block in enumerate(b for each in turns for b in each["content"])
            if "cache_control" in block
        ]
        assert blocks[: len(before)] == before
        assert len(before) - 1 in marks or not before
        assert marks[-1] == len(blocks) - 1
        before = blocks
        history.append(Message("assistant", f"a{turn}"))


def test_an_anthropic_conversation_has_no_empty_text_and_alternates() -> None:
    system, turns = conversation(
        [
            Message("system", "a"),
            Message("system", "b"),
            Message("assistant", "c"),
            Message("user", " "),
            Message("assistant", "d"),
            Message("user", "e"),
            Message("system", "f"),
        ]
    )
    assert system == "a\n\nb"
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [block["text"] for block in turns[2]["content"]] == ["e", "f"]


async def test_a_server_that_does_not_stream_is_read_all_the_same() -> None:
    told: list[str] = []
    with ModelServer([]) as server:
        server.send_next({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]})
        server.send_next({"content": [{"type": "text", "text": "whole"}], "stop_reason": "end_turn"})
        for spec in SPECS:
            reply = await models.resolve(spec, base_url=server.url).query(ASK, on_text=told.append)
            assert reply.text == "whole"
    assert told == ["whole", "whole"]


async def test_a_prompt_of_20_megabytes_arrives() -> None:
    with ModelServer(lambda messages: str(len(messages[0].content))) as server:
        reply = await models.resolve("openai/m", base_url=server.url).query(
            [Message("user", "x" * 20_000_000)]
        )
    assert reply.text == "20000000"


# Failures --------------------------------------------------------------------------------------


@both_wires
@streamed_or_not
async def test_a_reply_that_breaks_off_is_asked_for_again(
    spec: str, on_text: Callable[[str], None] | None
) -> None:
    waits: list[float] = []
    with ModelServer(lambda messages: "a whole reply, longer than one piece") as server:
        server.break_next(2, "cut")
        reply = await patient(spec, server, waits).query(ASK, on_text=on_text)
    assert reply.text == "a whole reply, longer than one piece"
    assert waits == [0.5, 1.0]


@both_wires
@streamed_or_not
async def test_an_error_with_status_200_is_an_error(spec: str, on_text: Callable[[str], None] | None) -> None:
    waits: list[float] = []
    with ModelServer(["never", "then"]) as server:
        server.break_next(1, "error")
        reply = await patient(spec, server, waits).query(ASK, on_text=on_text)
    assert (reply.text, len(waits)) == ("then", 1)


@both_wires
@streamed_or_not
async def test_a_web_page_is_named_in_the_error_and_not_asked_for_again(
    spec: str, on_text: Callable[[str], None] | None
) -> None:
    with ModelServer(lambda messages: "") as server:
        server.break_next(1, "garbage")
        with pytest.raises(ModelError, match="Welcome to nginx") as caught:
            await models.resolve(spec, base_url=server.url).query(ASK, on_text=on_text)
        assert not caught.value.retryable
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": 3}', b'{"content": 1}', b"\xff\xfe",
     b"[" * 100_000, b'{"choices": [{}]}'],
)  # fmt: skip
@both_wires
@streamed_or_not
async def test_any_bytes_are_a_reply_or_a_model_error(
    body: bytes, spec: str, on_text: Callable[[str], None] | None
) -> None:
    with ModelServer([]) as server:
        for kind in ("application/json", "text/event-stream"):
            data = b"data: " + body + b"\n\n" if kind == "text/event-stream" else body
            server.send_next(data, kind)
            with pytest.raises(ModelError):
                await models.resolve(spec, base_url=server.url).query(ASK, on_text=on_text)


async def test_retries_honour_what_the_provider_asks_and_tell_of_each_attempt() -> None:
    waits: list[float] = []
    seen: list[tuple[int, int | None, float]] = []
    with ModelServer(["fine"]) as server:
        server.fail_next(1, 429, retry_after=3)
        server.fail_next(1, 529)
        server.fail_next(1, 503, retry_after=email.utils.formatdate(time.time() + 20, usegmt=True))
        model = patient(
            "anthropic/m",
            server,
            waits,
            on_retry=lambda attempt, error, wait: seen.append((attempt, error.status, wait)),
        )
        assert (await model.query(ASK)).text == "fine"
    assert waits[:2] == [3.5, 1.0]
    assert 18 < waits[2] <= 22
    assert [(attempt, status) for attempt, status, _ in seen] == [(1, 429), (2, 529), (3, 503)]
    assert [wait for _, _, wait in seen] == waits


async def test_retries_end_after_the_last_attempt_or_when_asked_to_wait_too_long() -> None:
    waits: list[float] = []
    with ModelServer(lambda messages: "") as server:
        server.fail_next(6, 500)
        with pytest.raises(ModelError, match="500 scripted failure") as caught:
            await patient("openai/m", server, waits).query(ASK)
        assert (caught.value.status, waits) == (500, [0.5, 1.0, 2.0, 4.0, 8.0])
        server.fail_next(1, 429, retry_after="99999999999999")
        with pytest.raises(ModelError) as caught:
            await patient("openai/m", server, waits).query(ASK)
        assert caught.value.retry_after == 99999999999999
        server.fail_next(1, 429, retry_after=3600)
        with pytest.raises(ModelError) as caught:
            await patient("openai/m", server, waits).query(ASK)
        assert caught.value.retry_after == 3600
        assert len(server.requests) == 8


class Down:
    """A model that never answers, and a sleep and a jitter for whoever asks it again."""

    name = "down"

    def __init__(self, *errors: ModelError) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.waits: list[float] = []

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        self.calls += 1
        if self.calls <= len(self.errors):
            raise self.errors[self.calls - 1]
        return Reply("up")

    def retried(self, retries: models.Retries = PATIENT, **settings: Any) -> models.Retrying:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return models.Retrying(self, retries, sleep=sleep, uniform=lambda low, high: high, **settings)


def flaky(times: int) -> Down:
    return Down(*[ModelError("overloaded", 529, retryable=True)] * times)


async def test_a_policy_says_how_often_and_how_long_to_wait() -> None:
    model = flaky(3)
    assert (await model.retried(models.Retries(attempts=4, base=1.0, longest=1.5)).query(ASK)).text == "up"
    assert model.waits == [1.0, 1.5, 1.5]
    with pytest.raises(ModelError, match="overloaded"):
        await (once := flaky(1)).retried(models.Retries(attempts=1)).query(ASK)
    assert once.calls == 1


async def test_an_error_is_raised_now_when_the_next_attempt_would_come_too_late() -> None:
    left = iter([0.6, 0.6])
    model = flaky(3)
    with pytest.raises(
        ModelError, match=r"overloaded; not asked again: the next attempt, in 1 s, would"
    ) as caught:
        await model.retried(time_left=lambda: next(left)).query(ASK)
    assert (model.waits, caught.value.status, caught.value.retryable) == ([0.5], 529, True)
    assert str(caught.value.__cause__) == "overloaded"


async def test_all_models_of_a_run_share_its_budget_and_answers_give_some_of_it_back() -> None:
    budget = models.RetryBudget(2)
    assert (await flaky(1).retried(budget=budget).query(ASK)).text == "up"
    assert (await flaky(1).retried(budget=budget).query(ASK)).text == "up"
    with pytest.raises(
        ModelError, match=r"overloaded; not asked again: the retries of the run are used up: 2"
    ):
        await (model := flaky(1)).retried(budget=budget).query(ASK)
    assert model.waits == []
    for _ in range(8):
        await flaky(0).retried(budget=budget).query(ASK)
    assert (await flaky(1).retried(budget=budget).query(ASK)).text == "up"
    assert all(models.RetryBudget(None).take() for _ in range(10_000))


async def test_what_was_not_made_again_costs_no_budget_and_is_not_told() -> None:
    told: list[int] = []
    budget = models.RetryBudget(1)
    for error in (ModelError("no such model", 404), ModelError("wait", 429, 999.0, retryable=True)):
        with pytest.raises(ModelError):
            await Down(error).retried(budget=budget, on_retry=lambda *each: told.append(1)).query(ASK)
    with pytest.raises(ModelError, match="too late"):
        await flaky(1).retried(budget=budget, time_left=lambda: 0.0).query(ASK)
    assert budget.take()
    assert not budget.take()
    assert told == []


def test_a_run_retries_any_model_by_its_policy_and_its_children_share_the_budget() -> None:
    down = ModelError("overloaded", 529, retryable=True)
    quick = models.Retries(attempts=3, base=0.0)
    code = "```python\nFINAL(llm_query('?'))\n```"
    assert RLM(ScriptedModel([down, down, code, down, "42"]), retries=quick).completion("?").answer == "42"
    with pytest.raises(ModelError, match="overloaded"):
        RLM(ScriptedModel([down] * 3 + [code]), retries=quick).completion("?")
    poor = models.Retries(base=0.0, budget=1)
    caught = "```python\ntry:\n    rlm_query('?')\nexcept Exception as error:\n    FINAL(str(error))\n```"
    model = ScriptedModel([down, caught, down])
    done = RLM(model, retries=poor, limits=Limits(max_depth=2)).completion("!")
    assert "the retries of the run are used up: 1" in done.answer


def test_a_retry_that_would_come_after_the_run_s_end_is_not_waited_for() -> None:
    down = ModelError("overloaded", 529, 30.0, retryable=True)
    began = time.monotonic()
    with pytest.raises(ModelError, match="would come too late"):
        RLM(ScriptedModel([down]), limits=Limits(max_time=20)).completion("?")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"base": -1},
        {"longest": float("nan")},
        {"budget": -1},
        {"budget": True},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Retries.{next(iter(values))} must be"):
        models.Retries(**values)


async def test_silence_is_not_asked_again_since_the_reply_may_be_paid_for() -> None:
    with ModelServer(lambda messages: "") as server:
        server.break_next(1, "hang")
        with pytest.raises(ModelError, match=r"silent for 0\.05 s") as caught:
            await models.resolve("openai/m", base_url=server.url, read_timeout=0.05).query(ASK)
        assert not caught.value.retryable
        assert len(server.requests) == 1


async def test_a_refused_connection_is_tried_again() -> None:
    waits: list[float] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        inner = models.resolve("vllm/m", base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        with pytest.raises(ModelError, match=r"no connection to http://127\.0"):
            await models.Retrying(inner, models.Retries(attempts=3), sleep=sleep).query(ASK)
    assert len(waits) == 2


async def test_refusals_that_a_caller_can_mend_have_their_own_errors_and_no_retry() -> None:
    with ModelServer(lambda messages: "", api_key=KEY) as server:
        model = models.resolve("openai/gpt-x", base_url=server.url, api_key=KEY)
        server.fail_next(1, 400, message="too long", code="context_length_exceeded")
        with pytest.raises(ContextOverflow, match=r"15 characters does not fit openai/gpt-x.*too long"):
            await model.query(ASK)
        server.fail_next(1, 404, message="The model does not exist")
        with pytest.raises(ModelError, match=r"openai/gpt-x at http://127.*does not exist"):
            await model.query(ASK)
        server.fail_next(1, 429, message="You exceeded your current quota", code="insufficient_quota")
        with pytest.raises(ModelError, match="no credit left"):
            await model.query(ASK)
        server.fail_next(1, 403)
        with pytest.raises(AuthenticationError):
            await model.query(ASK)
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 128000 tokens. However, you requested 130000",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "the request exceeds the available context size, try increasing it",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length",
    ],
)
def test_overflow_is_known_by_what_providers_say(text: str) -> None:
    large = b"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000."
    assert isinstance(refused(429, {}, large, Request("m", "http://h", 5), 0.0), ContextOverflow)
    known = refused(413, {}, text.encode(), Request("m", "http://h", 5_000, 1_024), 0.0)
    assert "5,000 characters does not fit m (window: 1,024 tokens): 413" in str(known)
    body = b'{"error": {"message": "%s"}}' % text.encode()
    error = refused(400, {}, body, Request("m", "http://h", 5), 0.0)
    assert isinstance(error, ContextOverflow)
    assert pickle.loads(pickle.dumps(error)).args == error.args


@both_wires
async def test_a_key_that_the_server_sends_back_is_in_no_error(spec: str) -> None:
    with ModelServer([], api_key="another") as server:
        model = models.resolve(spec, base_url=server.url, api_key=KEY)
        with pytest.raises(AuthenticationError) as caught:
            await model.query(ASK)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(model)
    assert "[key]" in told
    assert KEY not in told


@both_wires
@streamed_or_not
async def test_a_key_that_the_server_sends_back_is_in_no_reply(
    spec: str, on_text: Callable[[str], None] | None
) -> None:
    with ModelServer([f"your key is {KEY}"], piece=100) as server:
        reply = await models.resolve(spec, base_url=server.url, api_key=KEY).query(ASK, on_text=on_text)
        assert KEY in str(server.headers)
    assert reply.text == "your key is [key]"
    assert KEY not in repr(reply)


@both_wires
@streamed_or_not
async def test_a_key_that_comes_back_as_json_spells_it_is_in_no_reply(
    spec: str, on_text: Callable[[str], None] | None
) -> None:
    key = 'sk/test+0123"456\\89&abcdef'
    spellings = [
        json.dumps(key)[1:-1],
        json.dumps(key)[1:-1].replace("/", "\\/").replace("&", "\\u0026"),
        "".join(f"\\u00{ord(each):02X}" for each in key),
        json.dumps(json.dumps(key))[1:-1],
    ]
    for spelling in spellings:
        body = {
            "openai/m": '{"choices": [{"message": {"content": "TEXT"}, "finish_reason": "stop"}]}',
            "anthropic/m": '{"content": [{"type": "text", "text": "TEXT"}], "stop_reason": "end_turn"}',
        }[spec].replace("TEXT", f"key: {spelling}.")
        with ModelServer([]) as server:
            server.send_next(body.encode())
            reply = await models.resolve(spec, base_url=server.url, api_key=key).query(ASK, on_text=on_text)
        assert reply.text.replace('"', "") == "key: [key]."


async def test_a_reply_of_backslashes_is_read_in_no_time() -> None:
    text = "\\" * 2_000_000
    with ModelServer([text + "\0"]) as server:
        began = time.monotonic()
        reply = await models.resolve("openai/m", base_url=server.url, api_key="sk/" + KEY).query(ASK)
    assert reply.text == text + "\0"
    assert time.monotonic() - began < 5


# Names and keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings", "text"),
    [
        ("opnai/gpt-5", {}, 'did you mean "openai"'),
        ("gpt-5", {}, "provider/model"),
        ("openai/", {"api_key": KEY}, "names no model"),
        ("openai/gpt-5", {}, "OPENAI_API_KEY"),
        ("anthropic/claude", {"api_key": lambda: None}, "recursor keys set anthropic"),
        ("azure/gpt-5", {"api_key": KEY}, "base_url"),
        ("azure/gpt-5", {"base_url": "https://r.openai.azure.com/openai/v1"}, "AZURE_OPENAI_API_KEY"),
        ("openai/gpt-5", {"base_url": "localhost:8000"}, "http://"),
        ("m", {"base_url": "http://[::1"}, "Invalid IPv6"),
        ("m", {"base_url": "http://host:99999/v1"}, "Port out of range"),
        ("m", {"base_url": "http://a..b/v1"}, "no address"),
        ("m", {"base_url": "http://two words/v1"}, "http://"),
        ("m", {"base_url": "http://me:secret@host:x/v1"}, "^[^@]*Port"),
        ("openai/gpt-5", {"api_key": KEY, "options": {"extra_body": 3}}, "extra_body must be a dict"),
        ("openai/gpt-5", {"api_key": "two\nlines"}, "line break"),
        ("openai/gpt-5", {"api_key": KEY, "window": 0}, "window"),
        ("openai/gpt-5", {"api_key": KEY, "options": {"messages": []}}, "'messages' is no option"),
        ("openai/gpt-5", {"api_key": KEY, "options": {"stop": object()}}, "no JSON value"),
    ],
)
def test_a_wrong_setting_is_found_before_any_call(spec: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        models.resolve(spec, **settings)


@pytest.mark.parametrize(
    ("spec", "sent"), [("m", "m"), ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"), ("openai/m", "m"), ("vllm/a/b", "a/b")]
)
async def test_with_a_base_url_any_name_is_a_model(spec: str, sent: str) -> None:
    with ModelServer([""]) as server:
        model = models.resolve(spec, base_url=server.url + "/")
        assert model.name == spec
        await model.query(ASK)
        assert server.requests[0]["model"] == sent


async def test_a_key_may_be_asked_for_before_each_request() -> None:
    keys = iter(["checked at first", "first-key", "second-key"])
    with ModelServer(lambda messages: "") as server:
        model = models.resolve("openai/m", base_url=server.url, api_key=lambda: next(keys))
        await model.query(ASK)
        await model.query(ASK)
        assert [each["authorization"] for each in server.headers] == ["Bearer first-key", "Bearer second-key"]


def test_importing_models_imports_no_http_client() -> None:
    code = "import sys, recursor.models, recursor.testing; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Prices ----------------------------------------------------------------------------------------


def test_prices_count_cached_and_written_tokens_and_the_tier() -> None:
    usage = Usage(1_000_000, 1_000_000)
    assert models.price("openai", "gpt-4o", usage) == pytest.approx(12.5)
    assert models.price("openai", "gpt-4o", Usage(1_000_000, 0, cached_tokens=1_000_000)) == pytest.approx(
        1.25
    )
    sonnet = "claude-sonnet-4-5-20250929"
    assert models.price("anthropic", sonnet, Usage(100_000, 0, 50_000, 50_000)) == pytest.approx(
        0.015 + 0.1875
    )
    assert models.price("anthropic", sonnet, Usage(300_000, 0)) == pytest.approx(1.8)
    assert models.known("google", "gemini-2.5-pro")


def test_an_unknown_price_is_none_and_a_local_model_is_free() -> None:
    assert models.price("openai", "gpt-of-tomorrow", Usage(1, 1)) is None
    assert models.price(None, "gpt-4o", Usage(1, 1)) is None
    assert models.resolve("openai/gpt-4o", api_key=KEY).priced
    assert not models.resolve("openai/gpt-of-tomorrow", api_key=KEY).priced
    assert not models.resolve("openai/gpt-4o", base_url="http://127.0.0.1:1/v1").priced
    assert models.resolve("ollama/anything").priced
    assert models.resolve("openrouter/anything/new", api_key=KEY).priced


def test_a_model_says_what_fits_into_it() -> None:
    assert models.resolve("openai/gpt-4o", api_key=KEY).window == 128_000
    assert models.resolve("anthropic/claude-haiku-4-5", api_key=KEY).window == 200_000
    assert models.resolve("anthropic/claude-haiku-4-5", api_key=KEY, window=50_000).window == 50_000
    assert models.resolve("openai/gpt-of-tomorrow", api_key=KEY).window is None
    assert models.resolve("openai/gpt-4o", base_url="http://127.0.0.1:1/v1").window is None
    assert models.resolve("ollama/anything", window=8_192).window == 8_192


def test_a_model_around_a_model_says_of_it_what_it_says() -> None:
    inner = models.resolve("openai/gpt-4o", api_key=KEY).model
    for model in (models.Gated(inner), models.Retrying(models.Gated(inner))):
        assert (model.name, model.priced, model.window) == ("openai/gpt-4o", True, 128_000)
        assert model.identity == getattr(inner, "identity")  # noqa: B009 - not in the protocol
        assert model.price(Usage(1_000_000, 0)) == pytest.approx(2.5)
    silent = models.Retrying(flaky(0))
    assert (silent.window, silent.identity, silent.price(Usage(1, 1))) == (None, "down", None)


def test_an_identity_is_what_a_reply_depends_on_and_holds_no_key() -> None:
    def identity(spec: str = "openai/m", base_url: str = "http://127.0.0.1:1/v1", **options: Any) -> str:
        return models.resolve(spec, base_url=base_url, api_key=KEY, options=options).identity

    same = identity(temperature=0, top_p=1)
    assert same == identity(top_p=1, temperature=0)
    assert len({same, identity(), identity("openai/n"), identity(base_url="http://127.0.0.1:2/v1")}) == 4
    assert json.loads(same) == {
        "model": "openai/m",
        "options": {"temperature": 0, "top_p": 1},
        "url": "http://127.0.0.1:1/v1/chat/completions",
    }
    assert KEY not in same


async def test_a_listed_model_costs_what_the_list_says() -> None:
    with ModelServer([Reply("a", Usage(1000, 1000, calls=1))]) as server:
        reply = await models.resolve("azure/gpt-4o", base_url=server.url, api_key=KEY).query(ASK)
    assert reply.cost == pytest.approx(0.0125)


# Events and sessions ---------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["", "ping"]), st.text("ab \u00e9:", min_size=1)), max_size=5),
    st.data(),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(
    events: list[tuple[str, str]], data: st.DataObject
) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = "".join(
        (f"event: {name}{end}" if name else "") + f"data: {value}{end}: note{end}{end}"
        for name, value in events
    )
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    parser = EventParser()
    found: list[ServerEvent] = []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += parser.feed(raw[start:stop])
    found += parser.close()
    assert found == [ServerEvent(name, value) for name, value in events]


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_events(chunks: list[bytes]) -> None:
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)
    parser.close()


def test_a_model_is_used_from_one_event_loop_after_another_and_leaves_nothing_open() -> None:
    with ModelServer(lambda messages: "again") as server:
        model = models.resolve("openai/m", base_url=server.url)

        async def ask() -> str:
            return (await model.query(ASK)).text

        assert [asyncio.run(ask()) for _ in range(3)] == ["again"] * 3


def test_a_process_whose_loop_runs_in_a_thread_ends_without_complaint() -> None:
    code = """
import asyncio, threading
from recursor import LM, RLM, Limits, models
from recursor.testing import ModelServer
from recursor.types import Message
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
with ModelServer(lambda messages: "hi") as server:
    query = models.resolve("openai/m", base_url=server.url).query([Message("user", "a")])
    print(asyncio.run_coroutine_threadsafe(query, loop).result(10).text)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("hi\n", "", 0)


async def test_a_cancelled_query_ends_at_once_and_its_connection_is_gone() -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def forever(messages: object) -> str:
        loop.call_soon_threadsafe(asked.set)
        await asyncio.Event().wait()
        return ""

    with ModelServer(forever) as server:
        call = asyncio.create_task(models.resolve("openai/m", base_url=server.url).query(ASK))
        await asyncio.wait_for(asked.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 5)


async def test_retrying_answers_for_any_model() -> None:
    await check_model(models.Retrying(ScriptedModel(lambda messages: "hello")))


# A model with settings of its own ---------------------------------------------------------------


async def test_an_lm_sends_what_it_was_given_and_keeps_to_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ModelServer(lambda messages: "fine", max_concurrency=2) as server:
        lm = LM("openai/m", base_url=server.url, temperature=0, max_tokens=9, max_concurrency=2, window=500)
        await check_model(lm)
        assert [reply.text for reply in await asyncio.gather(*(lm.query(ASK) for _ in range(20)))] == [
            "fine"
        ] * 20
        assert (lm.name, lm.window, server.refused, repr(lm)) == ("openai/m", 500, 0, "LM('openai/m')")
        body, headers = server.requests[-1], server.headers[-1]
    assert (body["temperature"], body["max_completion_tokens"]) == (0, 9)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "max_concurrency" not in body


async def test_an_rlm_takes_an_lm() -> None:
    with ModelServer(lambda messages: "```python\nFINAL(42)\n```") as server:
        assert (await RLM(LM("openai/m", base_url=server.url, api_key=KEY)).acompletion("?")).answer == 42


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_concurency": 3}, "did you mean 'max_concurrency' by 'max_concurency'"),
        ({"request_per_minute": 3}, "did you mean 'requests_per_minute'"),
        ({"max_concurrency": 0}, "max_concurrency must be"),
        ({"tokens_per_minute": "many"}, "tokens_per_minute must be"),
        ({"window": -1}, "window must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": None}, "timeout must be"),
        ({"messages": []}, "'messages' is no option"),
    ],
)
def test_a_mistake_in_a_setting_of_an_lm_is_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        LM("openai/m", api_key=KEY, **settings)


def test_no_field_that_providers_take_is_mistaken_for_a_setting() -> None:
    fields = {
        "temperature", "top_p", "top_k", "min_p", "stop", "seed", "n", "logprobs", "logit_bias", "max_tokens",
        "max_completion_tokens", "max_output_tokens", "presence_penalty", "frequency_penalty", "response_format",
        "repetition_penalty", "reasoning_effort", "reasoning", "verbosity", "thinking", "service_tier", "metadata",
        "user", "store", "prompt_cache_key", "safety_identifier", "chat_template_kwargs", "provider", "transforms",
        "route", "guided_json", "prediction", "num_ctx", "options", "keep_alive",
    }  # fmt: skip
    settings: dict[str, Any] = dict.fromkeys(fields, 1)
    LM("openai/m", api_key=KEY, **settings)
