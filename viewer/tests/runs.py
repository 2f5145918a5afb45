"""Makes the stores that the tests of the page look at. Usage: runs.py KIND PATH; prints the ids of the runs.

KIND: "plain" (a run with sub-calls, a child and an error, one that a limit ended, one that failed),
"hostile" (markup, scripts and escape sequences in every text), "large" (100,000 sub-calls), "live"
(a run that waits in its second turn until it is stopped).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recursor import RLM, Limits
from recursor.errors import ModelError, RLMError
from recursor.trajectory.store import Store
from recursor.types import (
    BlockExecuted,
    Completion,
    Execution,
    Message,
    ModelCalled,
    Output,
    Reply,
    RunEnded,
    RunStarted,
    StopReason,
    Usage,
)

HOSTILE = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned=2'><svg onload=window.pwned=3>"
    "</script></style></textarea><!-- ]]> javascript:alert(1) \x1b[2J\x1b]0;title\x07\x1b]8;;https://evil.example\x07link"
    "\u202egnirts\u202c \x00\x9b31m \ud800 {{7*7}} ${window.pwned=4}"
)
BOOK = "".join(f"Chapter {number}. Natasha danced, and Pierre watched her.\n" for number in range(400))
TURNS = [
    "I look at it first.\n```python\nprint(type(context).__name__, len(context))\nparts = chunk(context, 2000)\n```",
    "Now I ask about each part.\n```python\nreplies = llm_query_batched([f'Who dances in part {i}?\\n{p}' for i, p in "
    "enumerate(parts)], return_exceptions=True)\nprint(len(replies))\n```\n```python\ntally = {}\nmissing_name\n```",
    "A child reads the beginning.\n```python\nsaid = rlm_query('Count the chapters.', context[:600])\nprint(said)\n```",
    "```python\nsaid = 'Natasha dances; Pierre watches. '\nanswer['content'] = said + context[1000:1100]\n"
    "answer['ready'] = True\n```",
]


class Told:
    """A model that a function speaks for, with prices."""

    window = 128_000
    priced = True

    def __init__(self, name: str, say: Callable[[Sequence[Message]], str]) -> None:
        self.name = name
        self._say = say

    async def query(self, messages: Sequence[Message], **_: object) -> Reply:
        await asyncio.sleep(0.01)
        text = self._say(messages)
        usage = Usage(sum(len(message.content) for message in messages) // 4, len(text) // 4 + 1, calls=1)
        cost = usage.input_tokens * 1e-6 + usage.output_tokens * 1e-5
        return Reply(text, usage, cost, self.name, finish_reason="stop")


def root(messages: Sequence[Message]) -> str:
    if "Count the chapters." in messages[1].content:
        return "```python\nFINAL(context.count('Chapter'))\n```"
    return TURNS[sum(message.role == "assistant" for message in messages)]


def sub(messages: Sequence[Message]) -> str:
    if "part 3?" in messages[0].content:
        raise ModelError("503 the model is overloaded", status=503)
    return "Natasha"


def plain(path: Path) -> list[str]:
    def made(limits: Limits, say: Callable[[Sequence[Message]], str] = root, name: str = "test/root") -> RLM:
        from recursor.routing import Routes  # noqa: PLC0415

        routes = Routes.of(Told(name, say), Told("test/sub", sub), child=Told(name, say))
        return RLM(routes, store=path, limits=limits)

    book = path.with_suffix(".txt")
    book.write_text(BOOK)
    done = made(Limits(max_depth=2)).completion("Who dances?", context=book)
    cut = made(Limits(max_depth=2, max_turns=2), name="test/other").completion(
        "Who dances, and when?", context=BOOK
    )
    ids = [done.run_id, cut.run_id]
    try:
        made(Limits(), refuse).completion("Why does it fail?", context=BOOK)
    except RLMError as error:
        ids.append(str(error.run_id))
    return ids


def refuse(_: Sequence[Message]) -> str:
    raise ModelError("401 the key was refused", status=401)


def hostile(path: Path) -> list[str]:
    def say(messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return HOSTILE
        return [
            f"{HOSTILE}\n```python\nprint({HOSTILE!r})\nfor each in range(3): llm_query(context + str(each))\n"
            f"mark = {HOSTILE!r}\nraise ValueError({HOSTILE!r})\n```",
            f"```python\nFINAL({{'a': {HOSTILE!r}, {HOSTILE!r}: 1}})\n```",
        ][sum(message.role == "assistant" for message in messages)]

    rlm = RLM(Told("<b>evil</b>/model", say), store=path)
    return [rlm.completion(HOSTILE.replace("\ud800", ""), context=HOSTILE).run_id]


def large(path: Path, calls: int = 100_000) -> list[str]:
    run_id, now = "a" * 32, time.time() - 3600
    with Store(path) as store:
        store.emit(RunStarted(run_id, None, 0, "Which are large?", (), "test/root", "test/sub", None, now))
        usage = Usage(1200, 80, calls=1)
        opening = (Message("system", "You write code."), Message("user", "Which are large?"))
        reply = Reply("```python\nmany()\n```", usage, 0.002, "test/root")
        store.emit(ModelCalled(run_id, "r1", 1, "root", "test/root", opening, reply, None, now, 2.0))
        for number in range(calls):
            asked = (Message("user", f"Is item {number} of list {number % 7} large? Say yes or no."),)
            failed = number % 997 == 0
            said = (
                None
                if failed
                else Reply("yes" if number % 3 else "no", Usage(20, 1, calls=1), 1e-5, "test/sub")
            )
            error = "429 too many requests" if failed else None
            started = now + 2 + (number // 200) * 0.5 + (number % 200) * 0.0002
            store.emit(
                ModelCalled(
                    run_id, f"s{number}", 1, "sub", "test/sub", asked, said, error, started, 0.3, block=1
                )
            )
        block = Execution("many()", Output(f"{calls}\n"), duration=calls / 400)
        store.emit(BlockExecuted(run_id, 1, 1, block))
        done = Completion(
            "33,333 are.", StopReason.ANSWERED, usage, 1.0, run_id, 1, calls / 400 + 2, "test/root"
        )
        store.emit(RunEnded(run_id, done, None, now + calls / 400 + 2))
    return [run_id]


def live(path: Path) -> list[str]:
    class Waits(Told):
        async def query(self, messages: Sequence[Message], **options: object) -> Reply:
            if any(message.role == "assistant" for message in messages):
                print("waiting", flush=True)
                await asyncio.Event().wait()
            return await super().query(messages, **options)

    model = Waits("test/root", lambda _: "```python\nprint('the first turn')\n```")
    try:
        RLM(model, store=path).completion("Does it go on?", context="x")
    except RLMError as stopped:
        print(type(stopped).__name__, flush=True)
    return []


if __name__ == "__main__":
    kinds: dict[str, Callable[[Path], list[str]]] = {
        "plain": plain,
        "hostile": hostile,
        "large": large,
        "live": live,
    }
    print(*kinds[sys.argv[1]](Path(sys.argv[2])), flush=True)
