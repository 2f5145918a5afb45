"""Sub-calls in numbers: in order, without loss, and held by the window rather than by the batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from recursor import RLM, Limits
from recursor.sandboxes.guest.batches import WINDOW
from recursor.testing import ListSink, ScriptedModel
from recursor.types import BlockExecuted, Message, Reply, Usage


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
