"""What a block did to the variables of the REPL, as it is told to who looks at a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import Bench
from recursor import RLM, Limits
from recursor.sandboxes import wire
from recursor.sandboxes.guest.changes import MANY, MOST, WORK, Variables
from recursor.sandboxes.guest.previews import MAX_PREVIEW
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.trajectory.store import Store
from recursor.types import Variable


async def did(bench: Bench, code: str) -> dict[str, Variable]:
    execution = await bench.run(code)
    assert execution.error is None, execution.error
    return {variable.name: variable for variable in execution.variables}


async def test_a_block_tells_what_it_did_to_variables(bench: Bench) -> None:
    first = await did(bench, "text = 'ab' * 10_628; items = list(range(12)); gone = 1; kept = {'k': 1}")
    assert first["items"] == Variable(
        "items", "list", "12 items", "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]", "new"
    )
    assert (first["text"].size, first["text"].type, first["kept"].size) == (
        "21,256 characters",
        "str",
        "1 key",
    )
    assert first["text"].preview.startswith("'abab")
    assert first["text"].preview.endswith("abab'")
    second = await did(bench, "items.append(99); text += '!'; del gone; kept = kept")
    assert {name: variable.change for name, variable in second.items()} == {
        "items": "changed", "text": "changed", "gone": "gone",
    }  # fmt: skip
    assert await did(bench, "pass") == {}


async def test_what_a_failed_block_assigned_is_told_too(bench: Bench) -> None:
    execution = await bench.run("a = 1\nb = 1 / 0")
    assert [variable.name for variable in execution.variables] == ["a"]


async def test_changes_inside_of_containers_and_objects_are_seen(bench: Bench) -> None:
    await did(
        bench,
        "class Point:\n    x = 1\np = Point(); p.y = 2; d = {'a': 1, 'l': [1]}; n = [[1], {2}]\n"
        "f = {'total': 0.5}; t = ([],); big = dict.fromkeys(range(1000), 0)",
    )
    for code, changed in (
        ("d['a'] = 2", "d"), ("d['l'].append(2)", "d"), ("n[1].add(3)", "n"), ("p.y = 3", "p"), ("t[0].append(1)", "t"),
        ("f['total'] += 0.25; f['total'] += 0.25", "f"), ("big[999] = 1", "big"), ("big[1000] = 1", "big"),
        ("d.pop('l'); d['m'] = 1", "d"),
    ):  # fmt: skip
        assert list(await did(bench, code)) == [changed], code


async def test_equal_small_values_are_no_change(bench: Bench) -> None:
    await did(bench, "x = 1.5; s = 'ab'; n = None; nan = float('nan')")
    assert await did(bench, "x = 3 / 2; s = 'a' + 'b'") == {}
    assert list(await did(bench, "x = True; n = 0")) == ["x", "n"]


async def test_reserved_names_and_loaded_ones_are_no_variables(bench: Bench) -> None:
    assert await did(bench, "1 + 1; answer['content'] = 5; llm_query = 3") == {}


async def test_hostile_values_are_told_without_running_their_code(bench: Bench) -> None:
    found = await did(
        bench,
        "class Evil:\n"
        "    def __init__(self): self.size = 3\n"
        "    def __repr__(self): raise SystemExit\n"
        "    def __len__(self): raise SystemExit\n"
        "    def __eq__(self, other): raise SystemExit\n"
        "    __hash__ = None\n"
        "class Meta(type):\n"
        "    def __hash__(cls): raise ZeroDivisionError\n"
        "class Weird(metaclass=Meta): pass\n"
        "class Liar(dict):\n"
        "    def __len__(self): return -1\n"
        "    def __iter__(self): raise SystemExit\n"
        "    def items(self): raise SystemExit\n"
        "evil = Evil(); weird = Weird(); liar = Liar(a=evil); held = [evil, weird, liar]; loop = []; loop.append(loop)\n"
        "huge = 10 ** 5000; surrogate = '\\ud800'; keys = {evil_key: 1 for evil_key in 'ab'}\n"
        "globals()['\\ud800' * 300] = 1; globals()[3] = 4",
    )
    assert found["evil"].preview == "Evil(size=3)"
    assert found["liar"].size == "1 key"
    assert found["held"].size == "3 items"
    assert found["huge"].preview == "<an integer of 16,610 bits>"
    assert all(len(variable.preview) <= MAX_PREVIEW for variable in found.values())
    assert await did(bench, "evil.size = 4") == {
        "evil": Variable("evil", "Evil", "", "Evil(size=4)", "changed"),
    }


async def test_many_variables_are_counted_and_a_million_items_are_no_work(bench: Bench) -> None:
    execution = await bench.run(f"for n in range({MOST} + 6): globals()[f'v{{n}}'] = n")
    assert len(execution.variables) == MOST
    assert execution.more_variables == 7
    found = await did(bench, "large = [[n] for n in range(10**6)]; table = {n: str(n) for n in range(10**5)}")
    assert found["large"].size == "1,000,000 items"
    assert found["table"].size == "100,000 keys"


def test_only_a_bounded_number_of_items_is_looked_at() -> None:
    variables = Variables()
    held = {f"v{number}": [object()] * 10 for number in range(2_000)}
    assert variables.changes(held)["more_variables"] == 2_000 - MOST
    assert variables.changes(held) == {}
    held["v0"][3] = object()
    assert [row[0] for row in variables.changes(held)["variables"]] == ["v0"]


def test_previews_of_every_kind_are_short_and_say_what_it_is() -> None:
    import collections
    import datetime
    import re

    values = {
        "words": ["x" * 300] * 5, "nested": {"a": {"b": [1, 2, 3]}}, "empty": set(), "frozen": frozenset({1}),
        "counter": collections.Counter("aab"), "queue": collections.deque([1, 2]), "one": (1,), "raw": b"ab",
        "when": datetime.date(2026, 1, 2), "regex": re.compile("a+"), "error": ValueError("bad", 2), "module": re,
        "function": re.compile, "kind": int, "many": list(range(1000)),
    }  # fmt: skip
    rows = {row[0]: row for row in Variables().changes(values)["variables"]}
    previews = {name: row[3] for name, row in rows.items()}
    assert all(len(preview) <= MAX_PREVIEW for preview in previews.values())
    assert previews["nested"] == "{'a': {'b': list of 3}}"
    assert (previews["empty"], previews["frozen"], previews["one"]) == ("set()", "frozenset({1})", "(1,)")
    assert previews["counter"] == "Counter({'a': 2, 'b': 1})"
    assert previews["when"] == "datetime.date(2026, 1, 2)"
    assert previews["error"] == "ValueError('bad', 2)"
    assert (previews["function"], previews["kind"], previews["module"]) == (
        "<function compile>", "<class int>", "<module 're'>",
    )  # fmt: skip
    assert previews["many"].endswith("more]")
    assert rows["raw"][2] == "2 bytes"


@pytest.mark.parametrize(
    "variable",
    [
        ["x" * 101, "int", "", "", "new"],
        ["x", "int", "", "y" * 201, "new"],
        ["x", "int", "", "", "odd"],
        ["x", "int", "", ""],
        ["x", "int", "", "", "new", "more"],
        [1, "int", "", "", "new"],
    ],
)
def test_a_worker_cannot_say_more_of_variables_than_ours_does(variable: list[object]) -> None:
    done = {
        "op": "done",
        "re": 1,
        "error": None,
        "notes": [],
        "head": "",
        "omitted": 0,
        "tail": "",
        "answer": None,
    }
    good = ["x", "int", "", "1", "new"]
    list(wire.Decoder().feed(wire.encode({**done, "variables": [good] * MOST})))
    for variables in ([variable], [good] * (MOST + 1)):
        with pytest.raises(wire.ProtocolError):
            list(wire.Decoder().feed(wire.encode({**done, "variables": variables})))


def test_variables_are_recorded_with_their_block(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    model = ScriptedModel(
        ["```python\nx = [1, 2]\n```\n```python\nx.append(3)\n```", "```python\nFINAL(x)\n```"]
    )
    with Store(path) as store:
        done = RLM(model, store=store).completion("?")
    with view.open(path) as found:
        variables = [each.execution.variables for each in found.executions(done.run_id)]
    assert variables == [
        (Variable("x", "list", "2 items", "[1, 2]", "new"),),
        (Variable("x", "list", "3 items", "[1, 2, 3]", "changed"),),
        (),
    ]


def test_calls_and_children_say_which_block_asked_for_them(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    batch = "```python\na = 1\n```\n```python\nllm_query('one')\nrlm_query_batched(['b', 'c', 'd'])\n```"
    root = ScriptedModel([batch, "```python\nFINAL(lookup())\n```"])
    sub = ScriptedModel(lambda messages: "```python\nFINAL(llm_query('in a child'))\n```")

    def lookup() -> int:
        return 1

    with Store(path) as store:
        rlm = RLM(root, sub_model=sub, store=store, tools=[lookup], limits=Limits(max_depth=2))
        done = rlm.completion("?")
    with view.open(path) as found:
        subs = [call for call in found.calls(done.run_id) if call.purpose == "sub"]
        assert [(call.turn, call.block) for call in subs] == [(1, 2)]
        children = found.children(done.run_id)
        assert [(child.turn, child.block, child.number, child.question) for child in children] == [
            (1, 2, 1, "b"), (1, 2, 2, "c"), (1, 2, 3, "d"),
        ]  # fmt: skip
        assert all(child.limits["max_depth"] == 2 for child in children)
        assert [(tool.turn, tool.block) for tool in found.tools(done.run_id)] == [(2, 1)]
        assert {call.block for call in found.calls(done.run_id) if call.purpose == "root"} == {0}


async def test_telling_of_variables_takes_little_of_a_block(isolated: Bench) -> None:
    await isolated.run("values = [{str(n): [n] for n in range(1000)} for _ in range(1000)]")
    async with asyncio.timeout(10):
        for _ in range(100):
            await isolated.run("")


TRAPS = """
import sys, types, datetime

class Trap:
    def __repr__(self): raise SystemExit('trapped')
    __str__ = __format__ = __repr__

class Pretends(Trap):
    __module__ = 'datetime'

class Shaped:
    __module__ = 'numpy'
    @property
    def shape(self): print('trapped'); raise SystemExit

class Hidden:
    @property
    def __dict__(self): print('trapped'); raise KeyboardInterrupt

class Named(str):
    def __format__(self, form): print('trapped'); return 'x'

class Zone(datetime.tzinfo):
    def __repr__(self): raise KeyboardInterrupt

def function(): pass
function.__name__ = Named('function')
module = types.ModuleType('module')
module.__name__ = Trap()
pretends, shaped, hidden = Pretends(), Shaped(), Hidden()
when = datetime.datetime(2026, 1, 2, tzinfo=Zone())
last = (each for each in [1, 2])
"""


async def test_no_variable_breaks_its_block_or_runs_code(bench: Bench) -> None:
    found = await did(bench, TRAPS)
    assert {"module", "when", "last"} <= set(found)
    assert found["function"].preview == "<function function>"
    assert found["shaped"].size == ""
    execution = await bench.run("print(list(last), function.__name__ == 'function')")
    assert execution.output.head == "[1, 2] True\n"


async def test_giant_fractions_and_ranges_are_told_in_no_time(bench: Bench) -> None:
    code = "import sys, fractions\nsys.set_int_max_str_digits(0)\nf = fractions.Fraction(7**300_000, 3)\nr = range(7**300_000)"
    found = await did(bench, code)
    assert found["f"].preview == "<an integer of 842,207 bits>/3"
    assert found["r"].preview == "range(0, <an integer of 842,207 bits>, 1)"


def test_what_was_not_looked_into_before_has_not_changed() -> None:
    variables = Variables()
    many = {f"v{number}": [number] for number in range(WORK + 10)}
    variables.changes(many)
    assert variables.changes({**many, "v0": 1}) == {
        "variables": [["v0", "int", "", "1", "changed"]], "more_variables": 0,
    }  # fmt: skip


def test_a_million_variables_cost_a_block_nothing() -> None:
    variables = Variables()
    many = {f"v{number}": [number] for number in range(MANY)}
    assert variables.changes(many)["more_variables"] == MANY - MOST
    assert variables.changes({**many, "one": 1}) == {}
    assert variables.changes({**many, "v0": 1})["variables"] == [["v0", "int", "", "1", "changed"]]
