"""A REPL is CPython's, keeps its state, and survives what code does to it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Bench
from recursor import plugins
from recursor.context import prepare
from recursor.sandboxes.inprocess import InProcessSandbox
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import check_sandbox
from recursor.types import LlmQuery, RlmQuery


@pytest.mark.parametrize("name", ["process", "inprocess"])
async def test_a_sandbox_keeps_the_contract(name: str) -> None:
    await check_sandbox(plugins.load("recursor.sandboxes", name)())


# Python is Python -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1 + 1", "2\n"),
        ("x = 3\nx", "3\n"),
        ("print('a')\n'b'", "a\n'b'\n"),
        ("None", ""),
        ("import json, re, collections\njson.dumps({'a': 1})", "'{\"a\": 1}'\n"),
        ("class A:\n    def f(self): return B()\nclass B: pass\ntype(A().f()).__name__", "'B'\n"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nP(1)", "P(x=1)\n"),
        ("import functools\n@functools.cache\ndef f(n): return n * f(n - 1) if n else 1\nf(5)", "120\n"),
        ("[y for y in range(3) if y != 1]", "[0, 2]\n"),
        ("import asyncio\nasync def f(): return 4\nawait f()", "4\n"),
        ("import asyncio\nawait asyncio.gather(*(asyncio.sleep(0, n) for n in range(3)))", "[0, 1, 2]\n"),
        ("import sys\nsys.stdout.write('w')\nsys.stderr.write('e')\nNone", "we"),
        ("f'{\"nested\"}'", "'nested'\n"),
        ("# nothing", ""),
        ("def gen():\n    yield from range(2)\nlist(gen())", "[0, 1]\n"),
        ("print('\\ud800')", "\\ud800\n"),
        ("__name__", "'__main__'\n"),
    ],
)
async def test_a_block_does_what_the_interpreter_does(bench: Bench, code: str, shown: str) -> None:
    assert await bench.shown(code) == shown


async def test_state_persists_between_blocks(bench: Bench) -> None:
    await bench.shown("x = 1\n_private = 2\nimport math\ndef f(): return x")
    await bench.shown("x = 10")
    assert await bench.shown("f(), _private, math.floor(2.5)") == "(10, 2, 2)\n"
    await bench.shown("del x")
    assert "NameError" in str((await bench.run("f()")).error)


async def test_what_was_assigned_and_printed_before_an_exception_survives(bench: Bench) -> None:
    failed = await bench.run("kept = 5\nprint('before')\nd = {}\nd['x'] = 1\n1 / 0\nnever = 1")
    assert failed.output.head == "before\n"
    assert "line 5" in str(failed.error)
    assert "1 / 0" in str(failed.error)
    assert str(failed.error).endswith("ZeroDivisionError: division by zero")
    assert "recursor" not in str(failed.error)
    assert await bench.shown("kept, d, 'never' in globals()") == "(5, {'x': 1}, False)\n"


async def test_a_traceback_shows_the_lines_of_earlier_blocks_too(bench: Bench) -> None:
    await bench.shown("def broken():\n    return {}['missing']")
    error = str((await bench.run("broken()")).error)
    assert "return {}['missing']" in error
    assert "KeyError: 'missing'" in error


async def test_a_syntax_error_shows_its_line_and_runs_nothing(bench: Bench) -> None:
    failed = await bench.run("print('no')\nx = = 1")
    assert failed.output.total == 0
    assert "x = = 1" in str(failed.error)
    assert "SyntaxError" in str(failed.error)


@pytest.mark.parametrize(
    "code", ["import sys\nsys.exit(3)", "raise SystemExit", "exit()", "raise KeyboardInterrupt"]
)
async def test_exiting_is_an_error_that_the_model_reads(bench: Bench, code: str) -> None:
    await bench.shown("kept = 1")
    assert (await bench.run(code)).error
    assert await bench.shown("kept") == "1\n"


async def test_classes_of_a_block_pickle(isolated: Bench) -> None:
    assert (
        await isolated.shown("import pickle\nclass Q:\n    v = 1\npickle.loads(pickle.dumps(Q())).v") == "1\n"
    )


async def test_input_fails_at_once(isolated: Bench) -> None:
    assert "EOFError" in str((await isolated.run("input('name? ')")).error)


async def test_an_exception_whose_text_explodes_is_still_shown(bench: Bench) -> None:
    code = "class Evil(BaseException):\n    def __str__(self): raise SystemExit\n    __repr__ = __str__\nraise Evil()"
    assert "Evil" in str((await bench.run(code)).error)


async def test_reserved_names_are_restored_after_each_block(bench: Bench) -> None:
    await bench.repl.load("context", prepare("data"))
    execution = await bench.run("context = 1\nllm_query = None\ndel FINAL")
    assert {note.split("`")[1] for note in execution.notes} == {"context", "llm_query", "FINAL"}
    assert await bench.shown("context, llm_query('a')") == "('data', 'A')\n"


async def test_prints_of_threads_belong_to_the_block(isolated: Bench) -> None:
    code = "import threading\nts = [threading.Thread(target=print, args=(n,)) for n in range(50)]\n"
    shown = await isolated.shown(code + "[t.start() for t in ts]\n[t.join() for t in ts]\nNone")
    assert sorted(map(int, shown.split())) == list(range(50))


async def test_a_flood_of_output_is_clipped_while_it_is_made(bench: Bench) -> None:
    execution = await bench.run("for _ in range(100):\n    print('x' * 1_000_000)\nprint('end')")
    assert execution.output.total == 100 * 1_000_001 + 4
    assert len(execution.output.head) + len(execution.output.tail) < 100_000
    assert execution.output.tail.endswith("x\nend\n")


@given(pieces=st.lists(st.text(st.characters(codec="utf-8"), max_size=50).flatmap(lambda s: st.integers(1, 3000).map(lambda n: s * n)), max_size=8))  # fmt: skip
@settings(max_examples=50)
def test_clipped_output_counts_every_character(pieces: list[str]) -> None:
    from recursor.sandboxes.guest.capture import Capture

    capture, whole = Capture(), "".join(pieces)
    for piece in pieces:
        capture.write(piece)
    head, omitted, tail = capture.take()
    assert len(head) + omitted + len(tail) == len(whole)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert omitted or not tail


# Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("FINAL('done')", "done"),
        ("x = [1]\nFINAL_VAR('x')", [1]),
        ("answer['content'] = 1\nanswer['ready'] = True", 1),
        ("answer['ready'] = True\nanswer['content'] = 2", 2),
        ("answer.update(content=3, ready=True)", 3),
        ("answer |= {'ready': True, 'content': 4}", 4),
        ("answer = {'content': 5, 'ready': True}", 5),
        ("answer['content'] = []\nanswer['content'].append(6)\nanswer['ready'] = True", [6]),
        ("FINAL(None)", None),
        ("FINAL({1, 2})", {1, 2}),
        ("FINAL((1, b'x', 2**70, {3: 'c'}))", (1, b"x", 2**70, {3: "c"})),
        ("import datetime\nFINAL(datetime.datetime(2026, 1, 2))", datetime(2026, 1, 2)),
        ("import decimal\nFINAL(decimal.Decimal('1.50'))", Decimal("1.50")),
        ("FINAL(float('inf'))", math.inf),
        ("FINAL('\\ud800 \\0 \\r\\n')", "\ud800 \0 \r\n"),
        (
            "def f():\n    try:\n        FINAL('first')\n    except Exception:\n        pass\nf()\nFINAL('second')",
            "first",
        ),
        ("try:\n    FINAL('first')\nexcept BaseException:\n    FINAL('second')", "first"),
    ],
)
async def test_every_way_of_submitting_keeps_the_value(bench: Bench, code: str, answer: Any) -> None:
    value = await bench.answered(code)
    assert value == answer
    assert type(value) is type(answer)


async def test_submitting_stops_the_block(bench: Bench) -> None:
    execution = await bench.run("answer['content'] = 1\nanswer['ready'] = True\nprint('after')\nFINAL(2)")
    assert execution.submission is not None
    assert execution.submission.value == 1
    assert execution.output.total == 0


async def test_an_answer_of_a_hundred_megabytes_survives(isolated: Bench) -> None:
    assert await isolated.answered("FINAL('ab' * 50_000_000)") == "ab" * 50_000_000


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("FINAL(object())", "cannot leave the REPL"),
        ("loop = []\nloop.append(loop)\nFINAL(loop)", "contains itself"),
        ("answer.update(content=len, ready=True)", "builtin_function_or_method"),
        (
            "class R:\n    def __reduce__(self): return (print, ('pickled',))\nFINAL(R())",
            "cannot leave the REPL",
        ),
        ("count = 1\nFINAL_VAR('coutn')", "did you mean 'count'"),
    ],
)
async def test_an_answer_that_cannot_leave_is_a_precise_error(bench: Bench, code: str, text: str) -> None:
    execution = await bench.run(code)
    assert execution.submission is None
    assert text in str(execution.error)
    assert await bench.answered("FINAL('next')") == "next"


async def test_words_about_final_submit_nothing(bench: Bench) -> None:
    execution = await bench.run("# FINAL('x')\nplan = \"FINAL('y')\"\nprint('I will call FINAL(z)')")
    assert execution.submission is None


async def test_a_draft_can_be_read_at_any_time(bench: Bench) -> None:
    assert await bench.repl.draft() is None
    await bench.shown("answer['content'] = ['half']")
    assert await bench.repl.draft() == ["half"]


async def test_a_draft_outlives_a_block_that_had_to_be_killed(isolated: Bench) -> None:
    code = "answer['content'] = {'so': 'far'}\nsum(range(10**12))"
    execution = await isolated.run(code, max_time=0.3)
    assert "REPL died" in str(execution.error)
    assert await isolated.repl.draft() == {"so": "far"}
    await isolated.run("1")
    assert await isolated.repl.draft() == {"so": "far"}


async def test_a_text_bound_to_answer_becomes_the_draft_and_a_note_says_so(bench: Bench) -> None:
    execution = await bench.run("answer = 'mine'")
    assert "`answer` is a reserved dict" in execution.notes[0]
    assert await bench.repl.draft() == "mine"


# Sub-calls ------------------------------------------------------------------------------------


async def test_sub_calls_return_values(bench: Bench) -> None:
    assert await bench.shown("llm_query('hi')") == "'HI'\n"
    assert await bench.shown("await allm_query('hi')") == "'HI'\n"
    assert await bench.shown("llm_query_batched(['a', 'b'])") == "['A', 'B']\n"
    assert await bench.shown("await allm_query_batched(str(n) for n in range(2))") == "['0', '1']\n"
    assert await bench.shown("rlm_query('q', {1: {2}})") == "{'question': 'q', 'context': {1: {2}}}\n"
    assert (
        await bench.shown("lookup(1, (2,), key='\\ud800')") == "['lookup', (1, (2,)), {'key': '\\ud800'}]\n"
    )


async def test_a_failed_sub_call_raises_at_its_line(bench: Bench) -> None:
    error = str((await bench.run("x = 1\nllm_query('fail')")).error)
    assert "line 2" in error
    assert error.endswith("SubcallError: refused: fail")


async def test_one_failing_slot_does_not_touch_the_others(bench: Bench) -> None:
    code = "r = llm_query_batched(['a', 'fail', 'c'], return_exceptions=True)\n[type(x).__name__ for x in r]"
    assert await bench.shown(code) == "['str', 'SubcallError', 'str']\n"
    code = "try:\n    llm_query_batched(['a', 'fail', 'c'])\nexcept SubcallError as e:\n    print(e.results[0], e.results[2])"
    assert await bench.shown(code) == "A C\n"


async def test_a_large_batch_keeps_its_order_and_runs_at_once(bench: Bench) -> None:
    bench.host.gate = 500
    code = "llm_query_batched(f'p{n}' for n in range(3000)) == [f'P{n}' for n in range(3000)]"
    assert await bench.shown(code) == "True\n"


async def test_256_threads_call_at_once_without_loss(isolated: Bench) -> None:
    code = """
import threading
results = {}
def ask(n): results[n] = llm_query(f't{n}')
threads = [threading.Thread(target=ask, args=(n,)) for n in range(256)]
[t.start() for t in threads]; [t.join() for t in threads]
results == {n: f'T{n}' for n in range(256)}
"""
    assert await isolated.shown(code) == "True\n"


async def test_a_wrong_argument_is_a_type_error_before_any_call(bench: Bench) -> None:
    for code in ("llm_query(1)", "llm_query_batched('abc')", "llm_query('a', model=1)", "rlm_query(None)"):
        assert "TypeError" in str((await bench.run(code)).error)
    assert bench.host.calls == []


async def test_a_prompt_that_is_too_long_to_send_is_refused_with_its_size(bench: Bench) -> None:
    assert "at most 16,777,216" in str((await bench.run("llm_query('x' * 20_000_000)")).error)


async def test_lone_surrogates_in_a_prompt_do_not_break_the_call(bench: Bench) -> None:
    await bench.shown("llm_query('a\\ud800b')")
    assert bench.host.calls == [LlmQuery("a?b")]


async def test_what_is_said_of_a_child_is_checked_before_anything_is_sent(bench: Bench) -> None:
    for arguments, text in {
        "tools=[print]": "tools: the function 'print' is no tool of this REPL",
        "tools=['look']": "tools: 'look' is no tool of this REPL, so a child cannot get it; the tools are: lookup",
        "tools='lookup'": "tools must be a list of tools or their names, not str",
        "instruction=1": "the instruction must be a str, not int",
        "instruction='x' * 100_000": "at most 65,536",
        "limits=5": "limits must be a dict such as",
        "limits={'max_turns': float('nan')}": "limits: max_turns must be a number or None, not nan",
        "limits={'max_turns': 10 ** 400}": "limits: max_turns must be a number or None",
        "limits={1: 2}": "the name of a limit must be a str, not int",
    }.items():
        for call in (f"rlm_query('q', {arguments})", f"await arlm_query_batched(['q', 'r'], {arguments})"):
            error = str((await bench.run(call)).error)
            assert text in error, (call, error)
    assert "one for each question" in str((await bench.run("rlm_query_batched(['q'], 'c')")).error)
    assert bench.host.calls == []


async def test_tools_go_to_a_child_by_function_or_name(bench: Bench) -> None:
    await bench.run("rlm_query('q', tools=[lookup, 'lookup'], instruction='i', limits={'max_cost': 0.5})")
    assert bench.host.calls == [RlmQuery("q", tools=("lookup",), instruction="i", limits={"max_cost": 0.5})]


async def test_contexts_may_come_from_an_iterator(bench: Bench) -> None:
    code = "[r['context'] for r in rlm_query_batched((q for q in 'ab'), (c * 2 for c in 'xy'))]"
    assert await bench.shown(code) == "['xx', 'yy']\n"


# Awaiting -------------------------------------------------------------------------------------


@pytest.fixture
async def awaiting() -> AsyncIterator[Bench]:
    """A REPL in which the plain names are for `await`."""
    repl = await ProcessSandbox().open(calls="await")
    yield Bench(repl)
    await repl.close()


async def test_the_plain_names_are_async_functions_where_that_is_asked_for(awaiting: Bench) -> None:
    code = "import asyncio, inspect\nnames = [llm_query, llm_query_batched, rlm_query, rlm_query_batched]\n"
    shown = await awaiting.shown(code + "[(f.__name__, inspect.iscoroutinefunction(f)) for f in names]")
    plain = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
    assert shown == f"{[(name, True) for name in plain]}\n"
    assert await awaiting.shown("await asyncio.gather(*map(llm_query, 'ab'))") == "['A', 'B']\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = llm_query('a')", "`x` is a coroutine that was never awaited"),
        ("xs = [llm_query(p) for p in 'ab']", "`xs` is"),
        ("llm_query('a')", "the value of your last line is a coroutine that was never awaited"),
        ("llm_query('a')\nNone", "RuntimeWarning: coroutine 'llm_query' was never awaited"),
        ("print(len(str(rlm_query('q'))) > 0)", "RuntimeWarning: coroutine 'rlm_query' was never awaited"),
    ],
)
async def test_a_call_that_was_not_awaited_is_not_dropped_in_silence(
    awaiting: Bench, code: str, told: str
) -> None:
    for _ in range(2):
        execution = await awaiting.run(code)
        assert told in "\n".join([execution.output.head, *execution.notes]), execution
    assert awaiting.host.calls == []
    assert not (await awaiting.run("1")).notes


# Contexts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "", "plain", "a\r\nb\rc\n", "nul \0 and \x7f", "astral 😀 and é", "lone \ud800 surrogate", "'''\"", "é" * 3_000_000,
        "x" * 5_000_000 + "😀", b"", b"\0\xff", [], {}, [1, "a", None], {"a": [1.5, {"b": (2,)}]}, {1: "int key", (2, 3): "tuple"},
        [{"role": "user", "content": "hi"}], {"when": datetime(2026, 1, 1), "d": Decimal("1.1")}, list(range(25_000)),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value)}",
)  # fmt: skip
async def test_a_context_round_trips_exactly(bench: Bench, value: Any) -> None:
    await bench.repl.load("context", prepare(value))
    back = await bench.answered("FINAL(context)")
    assert back == value
    assert type(back) is type(value)


_TEXTS = st.text(st.characters())


@given(value=_TEXTS | st.binary() | st.recursive(st.none() | st.integers() | _TEXTS, lambda inner: st.lists(inner) | st.dictionaries(_TEXTS | st.integers(), inner), max_leaves=8).filter(lambda v: v is not None and not isinstance(v, int)))  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_context_round_trips(value: Any) -> None:
    repl = await InProcessSandbox().open()
    try:
        bench = Bench(repl)
        info = await repl.load("context", prepare(value))
        assert len(info.preview) < 2000
        assert await bench.answered("FINAL(context)") == value
    finally:
        await repl.close()


# What code does to its REPL -------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(1e9)", "import threading\nthreading.Event().wait()"]
)
async def test_a_runaway_block_is_interrupted_and_its_state_kept(isolated: Bench, code: str) -> None:
    await isolated.shown("kept = 1")
    execution = await isolated.run(code, max_time=0.3)
    assert "KeyboardInterrupt" in str(execution.error)
    assert "it ran for 0.3 s" in execution.notes[0]
    assert await isolated.shown("kept") == "1\n"


async def test_the_time_of_a_run_ends_a_block_that_waits_for_a_sub_call(isolated: Bench) -> None:
    import asyncio

    class Never:
        async def answer(self, subcall: Any) -> Any:
            await asyncio.Event().wait()

    execution = await isolated.repl.execute("llm_query('a')", Never(), max_time=2.0, max_wall=3.0)
    assert execution.notes[-1] == "the block was interrupted: the time of the whole run is up"
    assert execution.duration >= 3.0


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(7)",
        "import ctypes\nctypes.string_at(0)",
        "import os\nos.abort()",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import os\n[os.close(fd) for fd in range(3, 20) if fd < 5]",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
    ],
)
async def test_a_repl_that_dies_is_born_again_with_its_context(isolated: Bench, code: str) -> None:
    await isolated.repl.load("context", prepare("data"))
    await isolated.shown("lost = 1")
    execution = await isolated.run(code, max_time=0.5)
    assert execution.error
    if "variables are lost" not in " ".join(execution.notes):
        return  # it held: interrupted, or refused
    assert await isolated.shown("context, 'lost' in globals()") == "('data', False)\n"


async def test_a_memory_bomb_is_a_memory_error(isolated: Bench) -> None:
    assert "MemoryError" in str((await isolated.run("x = bytearray(1 << 40)")).error)
    assert await isolated.shown("1") == "1\n"


async def test_descriptors_0_to_2_may_be_closed(isolated: Bench) -> None:
    await isolated.run("import os\nfor fd in (0, 1, 2): os.close(fd)")
    assert await isolated.shown("print('still')") == "still\n"


async def test_writing_to_the_real_stdout_stays_inside(
    isolated: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    await isolated.run(
        "import sys, os\nsys.__stdout__.write('leak')\nsys.__stdout__.flush()\nos.write(1, b'leak')"
    )
    assert "leak" not in "".join(capfd.readouterr())
