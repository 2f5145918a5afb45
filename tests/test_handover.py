"""A context goes from the REPL of a run to the REPL of its child, and the host reads none of it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from conftest import Bench
from recursor import RLM, Limits
from recursor.context import prepare, same
from recursor.errors import SandboxError
from recursor.sandboxes import calls, handed
from recursor.sandboxes.guest import contexts
from recursor.sandboxes.guest.text import Text
from recursor.sandboxes.handed import HandedSource
from recursor.sandboxes.inprocess import InProcessSandbox
from recursor.testing import ScriptedModel
from recursor.types import Message, RlmQuery, Subcall

MB = 1 << 20


class Keeper:
    """Keeps what children are given, and what is said of it while the call is under way."""

    def __init__(self, wait: asyncio.Event | None = None) -> None:
        self.queries: list[RlmQuery] = []
        self.digests: list[str] = []
        self._wait = wait

    async def answer(self, subcall: Subcall) -> Any:
        if isinstance(subcall, RlmQuery):
            self.queries.append(subcall)
            if subcall.context is not None:
                self.digests.append(await asyncio.to_thread(subcall.context.digest))
                if self._wait is not None:
                    await self._wait.wait()
                return await asyncio.to_thread(subcall.context.value)
        return None


async def kept(bench: Bench, code: str) -> tuple[Any, Keeper]:
    keeper = Keeper()
    execution = await bench.repl.execute(code, keeper, max_time=30)
    assert execution.submission is not None, execution.error
    return execution.submission.value, keeper


VALUES: dict[str, Any] = {
    "a small text": "a\r\n\0é😀\ud800",
    "a large text": "x" * (3 * MB + 1),
    "a large text of wide characters": "é😀\ud800" * MB,
    "bytes": b"\0\xff" * 10,
    "many bytes": bytes(5 * MB),
    "an empty text": "",
    "no items": [],
    "a list": [1, "a", None, 2**70, (1, {2.5}), b"x", {"k": Decimal("1.5")}],
    "a long list": [{"n": n, "text": f"item {n}"} for n in range(50_000)],
    "a dict with other keys": {1: "int", (2, 3): "tuple", None: date(2026, 1, 2)},
    "a long dict": {f"key {n}": [n] for n in range(50_000)},
    "a dict that looks like an encoding": {"$": ["set", [1]]},
    "a set": {"b", "a", 3},
    "a number": 7,
    "a text in a list that is longer than a frame": ["é" * 3 * MB],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_a_context_arrives_as_it_was(bench: Bench, value: Any) -> None:
    await bench.repl.load("given", prepare([value]))
    back, keeper = await kept(bench, "FINAL([given[0], rlm_query('q', given[0])])")
    assert back == [value, value]
    (query,) = keeper.queries
    assert isinstance(query.context, HandedSource)
    assert query.context.form in ("text", "bytes", "values")


@pytest.mark.parametrize("value", ["text é " * 100_000, b"\0\xff" * MB, "short", b""], ids=len)
async def test_texts_and_bytes_have_the_digest_that_they_have_for_the_host(bench: Bench, value: Any) -> None:
    await bench.repl.load("given", prepare([value]))
    _, keeper = await kept(bench, "rlm_query('q', given[0])\nFINAL(1)")
    assert keeper.digests == [prepare(value).digest()]


@pytest.mark.parametrize("value", ["text " * 50_000, b"bytes" * 50_000, ""], ids=len)
async def test_what_was_loaded_is_handed_on_by_name(bench: Bench, value: Any) -> None:
    source = prepare(value)
    await bench.repl.load("context", source)
    back, keeper = await kept(bench, "mine = context\nFINAL(rlm_query('q', mine))")
    assert back == value
    assert keeper.queries[0].context is source


async def test_a_list_that_was_changed_since_it_was_loaded_is_handed_on_as_it_is_now(bench: Bench) -> None:
    await bench.repl.load("context", prepare([1, 2, 3]))
    back, _ = await kept(bench, "context.pop()\nFINAL(rlm_query('q', context))")
    assert back == [1, 2]


@pytest.mark.parametrize(
    "value", [[1, {"a": {"x", "y"}}, 2.5, (None,)], {"k": [1] * 10_000}, {3, "a"}], ids=len
)
async def test_plain_data_is_the_same_whichever_way_it_was_encoded(bench: Bench, value: Any) -> None:
    at_root = prepare(value)
    await bench.repl.load("context", at_root)
    seen: list[tuple[bool, bool]] = []

    class Comparing:
        async def answer(self, subcall: Subcall) -> Any:
            assert isinstance(subcall, RlmQuery)
            other = prepare([value, 0])
            seen.append((same(at_root, subcall.context), same(other, subcall.context)))

    await bench.repl.execute("rlm_query('q', context)", Comparing())
    assert seen == [(True, False)]


async def test_a_lazy_text_is_handed_on_without_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Text) -> str:
        raise AssertionError("a str was made of it")

    monkeypatch.setattr(contexts, "LAZY", 1000)
    monkeypatch.setattr(Text, "__str__", refuse)
    text = "é line\n" * 100_000
    repl = await InProcessSandbox().open()
    await repl.load("context", prepare(text))
    await Bench(repl).shown("old = context")
    await repl.load("context", prepare("another"))  # the old one has no name any more
    keeper = Keeper()
    execution = await repl.execute("rlm_query('q', old)", keeper)
    await repl.close()
    assert keeper.digests == [prepare(text).digest()], execution.error


async def test_without_anonymous_memory_a_context_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CAN_LEND", False)
    monkeypatch.setattr(handed, "CAN_LEND", False)
    repl = await InProcessSandbox().open()
    back, _ = await kept(Bench(repl), "FINAL(rlm_query('q', 'x' * 5_000_000) == 'x' * 5_000_000)")
    assert back is True
    await repl.close()


async def test_a_context_that_cannot_leave_is_a_precise_error(bench: Bench) -> None:
    error = str((await bench.run("rlm_query('q', {'a': [object()]})")).error)
    assert "value['a'][0] is of type builtins.object" in error
    code = "r = rlm_query_batched(['q', 'r'], [object(), 'fine'], return_exceptions=True)\ntype(r[0]).__name__, r[1]['context']"
    assert await bench.shown(code) == "('SubcallError', 'fine')\n"


async def test_memory_is_free_when_the_call_has_ended_even_if_code_keeps_it_open(isolated: Bench) -> None:
    code = """
import mmap, os
channel = llm_query.__wrapped__.__self__._channel
settle_room = channel._settle_room
copies = []
def copying(number):
    settle = channel._waiting[number]
    channel._waiting[number] = lambda descriptor: (copies.append(os.dup(descriptor)), settle(descriptor))
    settle_room(number)
channel._settle_room = copying
for n in range(3): rlm_query('q', 'x' * 1_000_000)
FINAL([os.fstat(copy).st_size for copy in copies])
"""
    sizes, keeper = await kept(isolated, code)
    assert sizes == [0, 0, 0]
    for query in keeper.queries:
        with pytest.raises(SandboxError, match="has ended"):
            query.context.open()


async def test_no_descriptor_and_no_room_is_left_of_contexts(isolated: Bench) -> None:
    await kept(isolated, "rlm_query('q', 'x' * 1_000_000)\nFINAL(1)")
    gc.collect()  # what earlier tests left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await kept(isolated, "rlm_query_batched(['q'] * 20, ['x' * 1_000_000] * 20)\nFINAL(1)")
    waiting = Keeper(asyncio.Event())
    execution = await isolated.repl.execute(
        "rlm_query_batched(['q'] * 200, ['x' * 100_000] * 200)", waiting, max_wall=0.5
    )
    assert "KeyboardInterrupt" in str(execution.error)
    assert 1 <= len(waiting.queries) <= handed.MAX_ROOMS
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(isolated.repl._link.calls._rooms) == 0  # type: ignore[attr-defined]


async def test_contexts_beyond_what_is_lent_wait_for_their_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed, "MAX_ROOM", 3 * MB)
    code = "r = rlm_query_batched([str(n) for n in range(8)], [chr(97 + n) * 2_000_000 for n in range(8)])\n"
    code += "FINAL([(text[0], len(text)) for text in r])"
    back, _ = await kept(bench, code)
    assert back == [(letter, 2_000_000) for letter in "abcdefgh"]
    assert "at most 3,145,728" in str((await bench.run("rlm_query('q', 'x' * 4_000_000)")).error)
    assert await bench.shown("1") == "1\n"


async def test_threads_hand_over_contexts_at_once(isolated: Bench) -> None:
    code = """
import threading
got = {}
def work(n): got[n] = rlm_query('q', str(n) * 100_000)
threads = [threading.Thread(target=work, args=(n,)) for n in range(100)]
for t in threads: t.start()
for t in threads: t.join()
FINAL(all(got[n] == str(n) * 100_000 for n in range(100)))
"""
    assert (await kept(isolated, code))[0] is True


# Through the engine ---------------------------------------------------------------------------


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def test_a_child_works_on_what_it_was_handed() -> None:
    def answer(messages: Sequence[Message]) -> str:
        if "Question: sum" in messages[1].content:
            return block("FINAL(sum(map(len, context)))")
        return block("FINAL(rlm_query('sum', ['word'] * 200_000))")

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=2)).completion("?", "text")
    assert done.answer == 800_000


@pytest.mark.parametrize(
    "context", ["text", "text " * 100_000, ["a", {"b": {"c", "d"}}, 2**70], {"k": [1.5]}], ids=len
)
def test_a_child_that_hands_its_own_context_on_with_the_same_question_is_refused(context: Any) -> None:
    replies = [block("FINAL(rlm_query('deeper', context))"), block("FINAL(rlm_query('deeper', context))")]
    told: list[str] = []

    def answer(messages: Sequence[Message]) -> str:
        if replies:
            return replies.pop(0)
        told.append(messages[-1].content)
        return block("FINAL('stopped')")

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=None)).completion("deeper", context)
    assert done.answer == "stopped"
    assert "is being answered already" in told[0]


def test_at_the_depth_limit_a_context_that_no_prompt_holds_is_an_error_in_the_code() -> None:
    root = ScriptedModel(
        [block("rlm_query('q', 'x' * 20_000_000)"), block("FINAL(rlm_query('q', ['small']))")]
    )
    sub = ScriptedModel(lambda messages: messages[0].content, name="sub")
    assert RLM(root, sub_model=sub).completion("?").answer.split() == ["q", '["small"]']
    assert "into which at most 16,777,216 fit" in root.requests[1][-1].content
    assert len(sub.requests) == 1


# Workers that lie -----------------------------------------------------------------------------

RAW = """
import json, mmap, os, struct, time
channel = llm_query.__wrapped__.__self__._channel
def raw(header, body=b""):
    head = json.dumps(header).encode()
    os.write(3, struct.pack("<II", len(head), len(body)) + head + body)
def start(**fields):
    return json.dumps(fields).encode()[:-1] + b',"id":'
def room(size):
    number = channel.next_number()
    return number, channel.ask(start(op="room", size=size), number=number)
def child(context, question=1, body=b"q"):
    fields = dict(op="rlm_query", model=None, schema=None, tools=[], instruction=None, limits=None)
    return channel.ask(start(**fields, question=question, context=context), body)
def told(act):
    try: return act()
    except SubcallError as error: return str(error)
"""

LIES = {
    "still maps it": (
        "number, fd = room(100_000); view = mmap.mmap(fd, 100_000)\n"
        "FINAL(told(lambda: child(dict(by='room', form='text', room=number))))",
        "still being written",
    ),
    "has cut it": (
        "number, fd = room(100_000); os.ftruncate(fd, 5)\n"
        "FINAL(told(lambda: child(dict(by='room', form='text', room=number))))",
        "another size",
    ),
    "makes it larger": (
        "number, fd = room(100_000)\ntry: os.ftruncate(fd, 200_000)\nexcept PermissionError: FINAL('refused')",
        "refused",
    ),
    "writes after it was handed over": (
        "number, fd = room(100_000); child(dict(by='room', form='text', room=number))\n"
        "try: os.pwrite(fd, b'x', 0)\nexcept PermissionError: FINAL('refused')",
        "refused",
    ),
    "hands it over twice": (
        "number, fd = room(100_000)\nfor _ in range(2): last = told(lambda: child(dict(by='room', form='text', room=number)))\nFINAL(last)",
        "there is no such context",
    ),
    "names a room that there is not": (
        "FINAL(told(lambda: child(dict(by='room', form='text', room=5))))",
        "there is no such context",
    ),
    "names a context that there is not": (
        "FINAL(told(lambda: child(dict(by='same', name='secret' * 1000))))",
        "to hand on",
    ),
    "asks for more than there is": ("FINAL(told(lambda: room(1 << 50)))", "at most 4,294,967,296"),
    "sends values that are none": (
        "FINAL(told(lambda: child(dict(by='inline', form='values'), 1, b'q[[[')))",
        "cannot be read",
    ),
    "sends text that is none": (
        "FINAL(told(lambda: child(dict(by='inline', form='text'), 1, b'q\\xff')))",
        "cannot be read",
    ),
}


@pytest.mark.parametrize(("code", "text"), LIES.values(), ids=LIES)
async def test_a_worker_is_told_no_when_it(isolated: Bench, code: str, text: str) -> None:
    said, _ = await kept(isolated, RAW + code)
    assert text in said


BREACHES = {
    "marshal": "child(dict(by='inline', form='marshal'))",
    "a file": "child(dict(by='inline', form='file'))",
    "another way": "child(dict(by='path', name='/etc/passwd'))",
    "a question longer than the frame": "child(None, 100)",
    "more than a question": "child(None, 1, b'question')",
    "parts that never came": "child(dict(by='parts', form='text', size=100))",
    "no room": "room(0)",
    "negative room": "room(-1)",
    "room beyond numbers": "room(2**63)",
    "a batch of less than none": "raw(dict(op='batch', id=1, count=-1, recursive=False, model=None)); time.sleep(9)",
    "a batch of none": "raw(dict(op='batch', id=1, count=0, recursive=False, model=None)); time.sleep(9)",
    "a batch beyond numbers": "raw(dict(op='batch', id=1, count=2**63, recursive=False, model=None)); time.sleep(9)",
    "limits beyond numbers": "raw(dict(op='rlm_query', id=1, model=None, schema=None, tools=[], instruction=None, limits=dict(max_turns=10**400), question=0, context=None)); time.sleep(9)",
    "endless room": "for n in range(100_000): raw(dict(op='room', id=-n - 1000, size=1 << 31))\ntime.sleep(9)",
    "readings of millions": "raw(dict(op='done', re=1, error=None, notes=[], head='', omitted=0, tail='', answer=None, readings=[0] * 200_000)); time.sleep(9)",
}


@pytest.mark.parametrize("code", BREACHES.values(), ids=BREACHES)
async def test_a_worker_is_ended_that_sends(isolated: Bench, code: str) -> None:
    execution = await isolated.run(RAW + code, max_time=10)
    assert "broke the protocol" in str(execution.error), execution
    assert len(isolated.repl._link.calls._rooms if isolated.repl._link else ()) == 0  # type: ignore[attr-defined]
    assert await isolated.shown("6 * 7") == "42\n"


async def test_a_worker_that_takes_no_descriptor_is_given_up(isolated: Bench) -> None:
    code = """
channel._descriptor = lambda: -1
while True:
    try: rlm_query('q', 'x' * 100_000)
    except SubcallError as error: assert 'too many files' in str(error)
"""
    execution = await isolated.repl.execute(RAW + code, Keeper(), max_time=30)
    assert "does not take what it asked for" in str(execution.error)
    assert await isolated.shown("6 * 7") == "42\n"
