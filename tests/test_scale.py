"""Sub-calls in numbers: in order, without loss, and held by the window rather than by the batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from conftest import Bench
from recursor import RLM, Limits
from recursor.errors import SubcallError
from recursor.sandboxes import blocks
from recursor.sandboxes.guest.batches import WINDOW
from recursor.testing import ListSink, ScriptedModel
from recursor.types import Batch, BlockExecuted, LlmQuery, Message, Reply, RlmQuery, Subcall, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class Echo:
    """A sub-LM that says its prompt back; keeps nothing."""

    name = "sub"
    priced = True

    def __init__(self, wait: bool = False) -> None:
        self.calls = self.out = self.most = 0
        self._wait = wait

    async def query(self, messages: Sequence[Message], **_: object) -> Reply:
        self.calls += 1
        self.out += 1
        self.most = max(self.most, self.out)
        if self._wait:
            await asyncio.sleep(0.001)
        self.out -= 1
        return Reply(messages[0].content, Usage(1, 1, calls=1), 0.0)


def asked(code: str, sub: Echo, **options: Any) -> Any:
    root = ScriptedModel([block(code)], name="root")
    return RLM(root, sub_model=sub, **options).completion("?").answer


def test_a_hundred_thousand_prompts_in_one_turn_come_back_in_order() -> None:
    sub = Echo()
    code = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
r = llm_query_batched(f'item {i}' for i in range(100_000))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
FINAL([all(x == f'item {i}' for i, x in enumerate(r)), len(r), grown])
"""
    right, count, grown = asked(code, sub)
    assert (right, count, sub.calls) == (True, 100_000, 100_000)
    assert grown < 40_000  # kB, most of it the results: they take about 70 bytes each


@pytest.mark.parametrize("call", ["llm_query_batched({})", "await allm_query_batched({})"])
def test_an_iterator_is_read_as_calls_go_out(call: str) -> None:
    sub = Echo(wait=True)
    code = f"""
import gc
live = most = 0
class Prompt(str):
    def __new__(cls, text):
        global live, most
        live += 1; most = max(most, live)
        return str.__new__(cls, text)
    def __del__(self):
        global live
        live -= 1
r = {call.format("(Prompt(f'{i}') for i in range(10_000))")}
FINAL([r == [str(i) for i in range(10_000)], most])
"""
    right, most = asked(code, sub)
    assert right
    assert most < 2 * WINDOW
    assert sub.most <= WINDOW


@pytest.mark.parametrize("call", ["llm_query_batched", "await allm_query_batched"])
def test_equal_prompts_share_a_call_when_asked_to(call: str) -> None:
    sub = Echo()
    code = f"FINAL({call}(['a', 'b', 'a', 'a', 'c', 'b'], dedupe=True))"
    assert (asked(code, sub), sub.calls) == (["a", "b", "a", "a", "c", "b"], 3)
    sub = Echo()
    assert (asked(f"FINAL({call}(['a', 'b', 'a']))", sub), sub.calls) == (["a", "b", "a"], 3)


def test_a_slot_that_fails_touches_no_other_in_a_large_batch() -> None:
    def answer(messages: Sequence[Message]) -> Reply | Exception:
        number = int(messages[0].content)
        return ValueError("no") if number % 1000 == 7 else Reply(str(number), Usage(1, 1, calls=1), 0.0)

    code = """
r = llm_query_batched([str(i) for i in range(5000)], return_exceptions=True)
FINAL([[i for i, x in enumerate(r) if isinstance(x, SubcallError)], sum(x == str(i) for i, x in enumerate(r))])
"""
    model = ScriptedModel(answer, name="sub")
    root = ScriptedModel([block(code)], name="root")
    assert RLM(root, sub_model=model).completion("?").answer == [[7, 1007, 2007, 3007, 4007], 4995]


@pytest.mark.parametrize("threads", [64, 256])
def test_threads_that_call_at_once_each_get_their_own(threads: int) -> None:
    sub = Echo(wait=True)
    code = f"""
import threading
got = {{}}
barrier = threading.Barrier({threads})
def work(i):
    barrier.wait()
    got[i] = [llm_query(f'{{i}}.{{j}}') for j in range(5)]
threads = [threading.Thread(target=work, args=(i,)) for i in range({threads})]
for t in threads: t.start()
for t in threads: t.join()
FINAL([got[i] == [f'{{i}}.{{j}}' for j in range(5)] for i in range({threads})])
"""
    assert asked(code, sub) == [True] * threads
    assert sub.calls == 5 * threads


def test_a_batch_that_is_interrupted_sends_no_more_and_the_next_one_works() -> None:
    sub, sink = Echo(), ListSink()
    code = """
import itertools
def prompts():
    for i in itertools.count():
        if i == 300:
            while True: pass  # the block's own time runs out here
        yield str(i)
llm_query_batched(prompts())
"""
    root = ScriptedModel([block(code), block("FINAL(llm_query_batched(['a', 'b']))")], name="root")
    done = RLM(root, sub_model=sub, limits=Limits(max_cell_time=0.5), sinks=[sink]).completion("?")
    assert done.answer == ["a", "b"]
    assert sub.calls == 302
    first = next(event for event in sink.events if isinstance(event, BlockExecuted))
    assert "KeyboardInterrupt" in str(first.execution.error)


def test_children_at_three_levels_each_work_in_a_repl_of_their_own() -> None:
    seen: Counter[str] = Counter()

    def answer(messages: Sequence[Message]) -> Reply:
        text = messages[1].content
        level = "leaf" if "Question: leaf" in text else "middle" if "Question: middle" in text else "top"
        seen[level] += 1
        codes = {
            "top": "x = 'top'; FINAL(sum(rlm_query_batched(['middle'] * 4, [str(i) for i in range(4)])))",
            "middle": "assert 'x' not in globals(); x = 'middle'\n"
            "FINAL(sum(rlm_query_batched(['leaf'] * 4, [context + str(i) for i in range(4)])))",
            "leaf": "assert 'x' not in globals(); x = 'leaf'; FINAL(int(context))",
        }
        return Reply(block(codes[level]), Usage(1, 1, calls=1), 0.0)

    done = RLM(ScriptedModel(answer), limits=Limits(max_depth=None)).completion("?")
    assert done.answer == sum(10 * i + j for i in range(4) for j in range(4))
    assert seen == {"top": 1, "middle": 4, "leaf": 16}
    assert done.usage.calls == 21


# What the host sees ---------------------------------------------------------------------------


class Desk:
    """Answers sub-calls, or lets them wait for ever; keeps what it was asked."""

    def __init__(self, *, refuse: bool = False, wait: bool = False) -> None:
        self.batches: list[Batch] = []
        self.calls: list[Subcall] = []
        self.out = 0
        self.begun = asyncio.Event()
        self._refuse = refuse
        self._wait = wait

    async def answer(self, subcall: Subcall) -> Any:
        if isinstance(subcall, Batch):
            self.batches.append(subcall)
            if self._refuse:
                raise SubcallError("there is money for 3 calls, not for so many")
            return None
        self.calls.append(subcall)
        self.out += 1
        try:
            if self._wait:
                self.begun.set()
                await asyncio.Event().wait()
            return subcall.prompt if isinstance(subcall, LlmQuery) else 0
        finally:
            self.out -= 1


def left(bench: Bench) -> tuple[int, int, int, bool]:
    """Calls, bytes and rooms that the link still holds, and whether it reads."""
    link: Any = bench.repl._link  # type: ignore[attr-defined]
    return (
        len(link.calls._calls),
        link.calls._bytes_in_flight,
        len(link.calls._rooms),
        link._transport.is_reading(),
    )


@pytest.mark.parametrize(
    "call", ["llm_query_batched", "await allm_query_batched", "rlm_query_batched", "await arlm_query_batched"]
)
async def test_a_batch_is_refused_as_a_whole_before_anything_is_sent(bench: Bench, call: str) -> None:
    desk = Desk(refuse=True)
    for items in ("['a'] * 9", "('a',) * 9", "{str(n): 0 for n in range(9)}"):
        code = f"try: {call}({items}, model='m')\nexcept SubcallError as e: print(e, e.results)"
        execution = await bench.repl.execute(code, desk)
        assert execution.output.head == "there is money for 3 calls, not for so many []\n", execution.error
    assert desk.batches == [Batch(9, call.startswith(("rlm", "await arlm")), "m")] * 3
    assert desk.calls == []


async def test_one_call_and_calls_without_a_number_are_not_announced(bench: Bench) -> None:
    desk = Desk()
    code = "llm_query_batched(['a']), llm_query_batched([]), llm_query_batched(str(n) for n in range(3)), llm_query('b')"
    execution = await bench.repl.execute(code, desk)
    assert execution.output.head == "(['a'], [], ['0', '1', '2'], 'b')\n"
    assert desk.batches == []


@pytest.mark.parametrize("items", ["['a', 'b', 'a', 'a']", "{'x': 'a', 'y': 'b', 'z': 'a'}.values()"])
async def test_a_batch_is_announced_with_the_calls_that_it_will_make(bench: Bench, items: str) -> None:
    desk = Desk()
    await bench.repl.execute(f"llm_query_batched({items}, dedupe=True)", desk)
    assert desk.batches == [Batch(2)]
    assert len(desk.calls) == 2


async def test_values_that_equal_prompts_share_are_not_one_object(bench: Bench) -> None:
    class Lists:
        async def answer(self, subcall: Subcall) -> Any:
            return [1]

    code = "r = llm_query_batched(['a', 'a'], dedupe=True)\nr[0].append(2)\nr"
    execution = await bench.repl.execute(code, Lists())
    assert execution.output.head == "[[1, 2], [1]]\n"


@pytest.mark.parametrize(
    "code",
    [
        "llm_query_batched(['a'] * 100_000)",
        "llm_query_batched('a' for _ in range(10 ** 9))",
        "await allm_query_batched('a' for _ in range(10 ** 9))",
        "await asyncio.gather(*(allm_query('a') for _ in range(3000)))",
        "llm_query_batched('a' * 3_000_000 for _ in range(10 ** 9))",  # more than the host reads at once
        "rlm_query_batched(['q'] * 1000, ['x' * 100_000] * 1000)",
    ],
)
async def test_an_interrupted_batch_leaves_nothing_behind(
    isolated: Bench, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "LAST_GRACE", 20.0)  # a busy machine takes its time
    desk = Desk(wait=True)
    await isolated.shown("import asyncio\nkept = 1")
    execution = await isolated.repl.execute(code, desk, max_wall=1.0)
    assert "KeyboardInterrupt" in str(execution.error), execution
    assert "variables are lost" not in " ".join(execution.notes)
    seen = len(desk.calls)
    assert 1 <= seen <= 3000
    assert desk.out == 0
    assert left(isolated) == (0, 0, 0, True)
    code = "kept, llm_query_batched(['a', 'b']), len(llm_query.__wrapped__.__self__._channel._waiting)"
    execution = await isolated.repl.execute(code, Desk())
    assert execution.output.head == "(1, ['a', 'b'], 0)\n"
    assert len(desk.calls) == seen


@pytest.mark.parametrize(
    "call", ["allm_query('a')", "allm_query_batched(['a'] * 5000)", "arlm_query('q', 'x' * 100_000)"]
)
async def test_calls_that_code_gives_up_are_cancelled(bench: Bench, call: str) -> None:
    desk = Desk(wait=True)
    code = f"import asyncio\ntry: await asyncio.wait_for({call}, 0.3)\nexcept asyncio.TimeoutError: pass\n"
    code += "rlm_query('after')"

    class Either(Desk):
        async def answer(self, subcall: Subcall) -> Any:
            if isinstance(subcall, RlmQuery) and subcall.question == "after":
                return desk.out
            return await desk.answer(subcall)

    execution = await bench.repl.execute(code, Either())
    assert execution.output.head == "0\n", execution.error
    assert 1 <= len(desk.calls) <= WINDOW
    assert left(bench) == (0, 0, 0, True)


async def test_an_error_in_an_iterator_ends_its_batch(bench: Bench) -> None:
    desk = Desk(wait=True)
    code = "def prompts():\n    yield 'a'\n    raise KeyError('mine')\nllm_query_batched(prompts())"
    execution = await bench.repl.execute(code, desk)
    assert "KeyError: 'mine'" in str(execution.error)
    assert left(bench) == (0, 0, 0, True)


async def test_a_call_that_was_cancelled_before_it_began_is_answered() -> None:
    """A thread that waits for it would wait for ever."""
    from recursor.sandboxes.process import ProcessSandbox

    repl = await ProcessSandbox().open()
    code = "channel = llm_query.__wrapped__.__self__._channel\n"
    code += """
slot = []
number, frame = channel.prepare(b'{"op":"llm_query","model":null,"schema":null,"id":', b'a', slot.append)
head = ('{"op":"cancel","ids":[%d]}' % number).encode()
import struct, time
channel.transmit(frame + struct.pack('<II', len(head), 0) + head)
channel.summon()
while not slot: time.sleep(0.01)
print(slot[0])
"""
    execution = await repl.execute(code, Desk(), max_time=10)
    assert execution.output.head == "the call was cancelled\n", execution
    await repl.close()


async def test_threads_send_batches_at_once(isolated: Bench) -> None:
    code = """
import threading
got = {}
def work(n): got[n] = llm_query_batched(f'{n}.{m}' for m in range(200)) + llm_query_batched([f'{n}:{m}' for m in range(200)])
threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
for t in threads: t.start()
for t in threads: t.join()
all(got[n] == [f'{n}.{m}' for m in range(200)] + [f'{n}:{m}' for m in range(200)] for n in range(32))
"""
    execution = await isolated.repl.execute(code, Desk())
    assert execution.output.head == "True\n", execution.error
