"""Checks of the protocols, for whoever implements one. Plain assertions that say what is wrong."""

from __future__ import annotations

import asyncio

from recursor.protocols import Model
from recursor.types import Message, Reply


async def check_model(model: Model) -> None:
    """Try a model against its contract with seven short calls, paid for where the model is.

    Raises:
        AssertionError: it breaks the contract; the text says where.
    """
    assert isinstance(model, Model), f"{model!r} has no name or no query"
    assert isinstance(model.name, str), f"the name must be a string, not {model.name!r}"
    assert model.name, "the name must not be empty"

    prompt = [Message("system", "Be brief."), Message("user", "Say hello.")]
    kept = list(prompt)
    _check_reply(await model.query(prompt), "a reply")
    assert prompt == kept, "query must leave the messages as they are"

    pieces: list[str] = []
    streamed = await model.query(tuple(prompt), on_text=pieces.append)
    _check_reply(streamed, "a streamed reply")
    assert "".join(pieces) == streamed.text, (
        f"what on_text was called with must be the reply's text: {''.join(pieces)!r} is not {streamed.text!r}"
    )

    odd = [
        Message("user", "Say hello. \x00 \ud800 \U0001f600"),
        Message("assistant", ""),
        Message("user", "Once more."),
    ]
    _check_reply(await model.query(odd), "a reply to text with NUL, a lone surrogate and an empty message")

    schema = {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    }
    _check_reply(await model.query(prompt, schema=schema), "a reply to a prompt with a schema")

    for reply in await asyncio.gather(*(model.query(prompt) for _ in range(2))):
        _check_reply(reply, "one of two replies at once")

    call = asyncio.create_task(model.query(prompt))
    await asyncio.sleep(0)
    call.cancel()
    done, _ = await asyncio.wait({call}, timeout=5)
    assert done, "a cancelled query must end"


def _check_reply(reply: Reply, what: str) -> None:
    assert isinstance(reply, Reply), f"{what} must be a Reply, not {type(reply).__name__}"
    assert isinstance(reply.text, str), f"the text of {what} must be a string, not {reply.text!r}"
    usage = reply.usage
    assert usage.calls == 1, f"the usage of {what} must count one call, not {usage.calls}"
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
    assert all(isinstance(count, int) and count >= 0 for count in counts), f"token counts of {what}: {usage}"
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens, (
        f"input tokens of {what} must include those of the cache: {usage}"
    )
    assert usage.reasoning_tokens <= usage.output_tokens, (
        f"output tokens of {what} must include reasoning: {usage}"
    )
    assert reply.cost is None or reply.cost >= 0, (
        f"the cost of {what} must be None or not negative: {reply.cost}"
    )
