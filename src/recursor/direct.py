"""A question over a small input, answered by one plain call with the input in it: no code, no REPL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recursor import prompt
from recursor.context import Source
from recursor.context.pictures import taken_out
from recursor.errors import LimitExceeded, ModelError, RLMError, SubcallError
from recursor.ledger import Ledger
from recursor.protocols import Model
from recursor.sandboxes.guest.contexts import describe
from recursor.schema import Shape
from recursor.types import Completion, ContextInfo, Message, Reply, StopReason


def opening(
    question: str, contexts: Mapping[str, Source], expected: Shape, instruction: str
) -> tuple[list[ContextInfo], tuple[Message, ...]]:
    """What the contexts are, and the prompt with them in it. Blocks; call it in a thread."""
    values = {name: source.value() for name, source in contexts.items()}
    infos = [
        ContextInfo(name, **describe(value), source=contexts[name].origin) for name, value in values.items()
    ]
    data, images = taken_out(values["context"] if values.keys() == {"context"} else values)
    text = prompt.plain(data) if values else ""
    *before, asked = prompt.direct(question, text, expected.text, instruction)
    return infos, (*before, replace(asked, images=images))


async def run(
    messages: Sequence[Message], model: Model, ledger: Ledger, expected: Shape, run_id: str
) -> Completion:
    """Ask once; once more where the answer has not the wanted form, which ends the run without one otherwise."""
    answer: Any = None
    reason = StopReason.MAX_TURNS
    try:
        for _ in range(2):
            ledger.begin_turn()
            reply = await model.query(messages, schema=expected.json_schema)
            try:
                answer, reason = await structured(reply, expected), StopReason.ANSWERED
                break
            except ValueError as problem:
                messages = corrected(messages, reply, problem)
    except LimitExceeded as exceeded:
        reason = StopReason(exceeded.reason)
    return Completion(
        answer, reason, ledger.usage, ledger.cost, run_id, ledger.turns, ledger.duration, model.name
    )


def refuse_blind(model: Model, error: type[RLMError] = SubcallError) -> None:
    """Raise an error where a model is known to take no pictures."""
    if getattr(model, "vision", None) is False:
        raise error(f"the model {model.name} takes no pictures: ask one that does")


async def ask(messages: Sequence[Message], model: Model, expected: Shape) -> Any:
    """The value of a reply; it is asked for once more where it has not the wanted form.

    Raises:
        SubcallError: it has not the form then either, or the second call cannot be made.
    """
    reply = await model.query(messages, schema=expected.json_schema)
    try:
        return await structured(reply, expected)
    except ValueError as problem:
        failure = SubcallError(f"{problem}; it was: {reply.text[:500]}")
        messages = corrected(messages, reply, problem)
    try:
        reply = await model.query(messages, schema=expected.json_schema)
        return await structured(reply, expected)
    except (ModelError, LimitExceeded):
        raise failure from None
    except ValueError as problem:
        raise SubcallError(f"{problem}; it was: {reply.text[:500]}") from None


def corrected(messages: Sequence[Message], reply: Reply, problem: ValueError) -> Sequence[Message]:
    """The prompt that asks again after a reply that has not the wanted form."""
    wrong = Message("user", f"{problem}. Reply again.")
    return [*messages, Message("assistant", reply.text or "(empty reply)"), wrong]


async def structured(reply: Reply, expected: Shape) -> Any:
    """The value that a reply in JSON stands for; its text where anything will do. Raises ValueError."""
    if expected.json_schema is None:
        return await expected.take(reply.text)
    text = reply.text.strip()
    if text.startswith("```"):
        text = text.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        return await expected.take(json.loads(text))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"the reply does not follow the schema: {problem}") from None
