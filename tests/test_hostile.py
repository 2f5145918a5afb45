"""What code and models do wrong, by mistake or on purpose, ends in words and not in a hang, a leak or a lie."""

from __future__ import annotations

import array
import asyncio
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Bench
from recursor import RLM, ConfigError, Limits, ModelError, SandboxError, StopReason, tool
from recursor.context import prepare
from recursor.parse import blocks
from recursor.sandboxes import wire
from recursor.sandboxes.folders import FolderSource
from recursor.sandboxes.guest import text as guest_text
from recursor.sandboxes.guest.documents import NUMBER
from recursor.sandboxes.guest.text import Text
from recursor.schema import shape
from recursor.testing import ScriptedModel
from recursor.types import Reply, Usage

RAW = """
import json, os, struct
def raw(header, body=b""):
    head = json.dumps(header).encode()
    os.write(3, struct.pack("<II", len(head), len(body)) + head + body)
"""


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def told(*codes: str, sub: Any = None, context: Any = None, **options: Any) -> str:
    """What the root LM reads after the first block."""
    root = ScriptedModel([*map(block, codes), block("FINAL('end')")])
    done = RLM(root, sub_model=sub or ScriptedModel(lambda _: "x", name="sub"), **options).completion(
        "?", context
    )
    assert done.answer == "end"
    return root.requests[1][-1].content


# Schemas that code wrote ----------------------------------------------------------------------


def test_a_reference_in_a_schema_of_a_sub_call_fetches_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    class Spy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / "secret.json").write_text('{"enum": ["hostkey-123"]}')
    with http.server.HTTPServer(("127.0.0.1", 0), Spy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for target in (
            f"http://127.0.0.1:{server.server_port}/?{{context}}",
            f"file://{tmp_path}/secret.json",
        ):
            code = f"llm_query('a', schema={{'$ref': f'{target}'}})"
            assert "must lead into the schema itself" in told(code, context="SECRET")
        server.shutdown()
    assert asked == []


def test_a_reference_in_a_schema_of_the_caller_fetches_nothing_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    root = ScriptedModel([block("FINAL(1)"), "?"])
    done = RLM(root, limits=Limits(max_turns=1)).completion("?", schema={"$ref": "http://127.0.0.1:1/x"})
    assert (done.answer, done.stop_reason) == (1, StopReason.MAX_TURNS)
    assert "cannot be checked" in root.requests[1][-1].content


@pytest.mark.parametrize(
    "schema",
    [
        "{'type': 'string', 'pattern': '^(a+)+$'}",
        "{'patternProperties': {'^(a+)+$': {}}}",
        "{'uniqueItems': True}",
        "{'$dynamicRef': '#x'}",
        "{'properties': {'a': {'items': {'pattern': 'x'}}}}",
        "{'description': 'x' * 20_000}",
        "{'$ref': '#/default', 'default': {'pattern': '^(a+)+$'}}",
        "{'$ref': '#/$defs/a/examples/0', '$defs': {'a': {'examples': [{'uniqueItems': True}]}}}",
        "{'$ref': '#/%64efault', 'default': {'pattern': '^(a+)+$'}}",
        "{'type': [{}, *([n] for n in range(2_000))]}",
        "{'$defs': {str(n): {'allOf': [{'$ref': f'#/$defs/{n + 1}'}] * 4} for n in range(20)} | {'20': {}}, '$ref': '#/$defs/0'}",
    ],
)
def test_a_schema_that_would_keep_the_host_busy_is_refused_or_given_up(schema: str) -> None:
    sub = ScriptedModel(lambda _: json.dumps("a" * 40 + "!"), name="sub")
    assert "SubcallError" in told(f"llm_query('a', schema={schema})", sub=sub)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": [{}, *([n] for n in range(1_500))]}, "#/type"),
        ({"type": "strin"}, "#/type"),
        ({"items": [{}]}, "#/items"),
        ({"properties": {"a": {"anyOf": []}}}, "#/properties/a/anyOf"),
        ({"properties": {"a": "string"}}, "#/properties/a"),
        ({"$defs": []}, "#/$defs"),
        ({"required": ["a", 1]}, "#/required"),
        ({"minLength": -1}, "#/minLength"),
        ({"multipleOf": 0}, "#/multipleOf"),
        ({"enum": "ab"}, "#/enum"),
    ],
)
def test_a_schema_that_is_none_is_refused_by_its_place_and_in_no_time(schema: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=f"what stands at {re.escape(place)} is"):
        shape(schema, trusted=False)


def test_a_reference_may_lead_to_any_schema_within() -> None:
    tree = {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"$ref": "#"}],
        "$defs": {"a/b": {"const": 1}},
    }
    assert shape(tree, trusted=False).accept(["a", ["b"]]) == ["a", ["b"]]
    for path in ("#/prefixItems/0", "#/$defs/a~1b", "#/%24defs/a~1b"):
        with pytest.raises(ValueError, match=r"\$\.x"):
            shape({**tree, "properties": {"x": {"$ref": path}}, "type": "object"}, trusted=False).accept(
                {"x": 2}
            )


def test_twins_among_many_dicts_are_found_in_time() -> None:
    unique = shape({"type": "array", "uniqueItems": True})
    rows = [{"a": n, "b": [True, None, 1.5]} for n in range(20_000)]
    assert unique.accept([*rows, 1, True, "1", [1], ["1"]])
    for twins in (rows[7], {"b": [True, None, 1.5], "a": 7.0}):
        with pytest.raises(ValueError, match="an item twice"):
            unique.accept([*rows, twins])


def test_a_property_may_be_named_like_a_refused_keyword() -> None:
    sub = ScriptedModel(lambda _: '{"pattern": "x"}', name="sub")
    schema = "{'type': 'object', 'properties': {'pattern': {'type': 'string'}}, 'required': ['pattern']}"
    assert "{'pattern': 'x'}" in told(f"llm_query('a', schema={schema})", sub=sub)


# Calls that go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [ValueError("boom"), KeyboardInterrupt(), SystemExit(3), TimeoutError("slow"), AssertionError()],
)
def test_whatever_a_sub_model_raises_is_raised_in_the_code(failure: BaseException) -> None:
    assert "SubcallError" in told("llm_query('a')", sub=ScriptedModel([failure], name="sub"))


def test_a_model_that_times_out_by_itself_is_no_limit() -> None:
    with pytest.raises(ModelError, match="slow"):
        RLM(ScriptedModel([TimeoutError("slow")])).completion("?")


@pytest.mark.parametrize("code", ["rlm_query('q', {(1, 2): 3})", "rlm_query('q', [{1}, b'x'])"])
def test_any_plain_context_can_be_put_into_a_plain_call(code: str) -> None:
    assert "Error" not in told(code)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("sys.exit(3)", "SystemExit"),
        ("next(iter([]))", "StopIteration"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return '{' * 4_000_000", "ran and printed nothing"),
        ("return [[]] * 3_100_000", "lists, dicts"),
        ("return object()", "cannot enter the REPL"),
    ],
)
def test_whatever_a_tool_does_the_code_that_called_it_hears_of_it(body: str, shown: str) -> None:
    namespace: dict[str, Any] = {"sys": sys}
    exec(f"def tool():\n    {body}", namespace)
    assert shown in told("x = tool()", tools=[namespace["tool"]])
    assert RLM(ScriptedModel([block("FINAL(1)")])).completion("?").answer == 1


def test_tools_may_complete_runs_of_their_own_at_once() -> None:
    def inner() -> Any:
        return RLM(ScriptedModel([block("FINAL(1)")])).completion("?").answer

    code = """
import threading
results = []
threads = [threading.Thread(target=lambda: results.append(inner())) for _ in range(12)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(results))
"""
    assert "12" in told(code, tools=[inner])


@pytest.mark.parametrize(
    "code",
    [
        "llm_query('a', schema='object')",
        "llm_query('a', schema={'minimum': float('nan')})",
        "rlm_query('q', 'c', schema=complex)",
        "llm_query('a', schema={'x': object()})",
    ],
)
async def test_a_wrong_argument_leaves_the_repl_whole(isolated: Bench, code: str) -> None:
    execution = await isolated.run(f"kept = 1\n{code}")
    assert "Error" in str(execution.error)
    assert await isolated.answered("FINAL(kept)") == 1


async def test_a_surrogate_in_a_model_name_is_no_broken_frame(isolated: Bench) -> None:
    await isolated.run("llm_query('a', model='\\ud800')")
    assert await isolated.shown("1") == "1\n"


async def test_a_batch_with_a_wrong_prompt_is_refused_as_a_whole(isolated: Bench) -> None:
    assert "TypeError" in str((await isolated.run("llm_query_batched(['a', 'b', None])")).error)
    assert isolated.host.calls == []
    code = "r = llm_query_batched(iter(['a', None]), return_exceptions=True)\nr[0], type(r[1]).__name__"
    assert await isolated.shown(code) == "('A', 'SubcallError')\n"


async def test_a_reply_to_a_dead_repl_never_reaches_the_next_one(isolated: Bench) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        async def answer(self, subcall: Any) -> Any:
            if subcall.prompt == "has it begun?":
                await begun.wait()
            if subcall.prompt == "old":
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()
            return f"reply to {subcall.prompt}"

    code = """
import threading, os
threading.Thread(target=lambda: llm_query('old')).start()
llm_query('has it begun?')
os._exit(1)"""
    await isolated.repl.execute(code, Slow())
    assert ended.is_set()
    execution = await isolated.repl.execute("llm_query('new')", Slow())
    assert execution.output.head == "'reply to new'\n"


async def test_a_call_of_a_thread_that_outlives_its_block_is_refused(isolated: Bench) -> None:
    code = "import threading\ngo = threading.Event()\ndef late():\n    go.wait()\n    try: rlm_query('q', 'c')\n    except SubcallError as e: said.append(str(e))\nsaid = []\nt = threading.Thread(target=late)\nt.start()"
    await isolated.shown(code)
    link = isolated.repl._link  # type: ignore[attr-defined]
    assert link.calls.subcalls is None
    await isolated.shown("go.set()\nt.join()\nNone")
    assert await isolated.answered("FINAL('x' * 3_000_000)") == "x" * 3_000_000


# Answers and drafts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "FINAL(10**4300)",
        "class L(list):\n    __hash__ = lambda s: 1\nFINAL({L([1]): 2})",
    ],
)
def test_an_answer_that_the_host_could_not_hold_is_an_error_the_model_reads(code: str) -> None:
    assert "failed" in told(code)


def test_braces_in_a_text_are_no_containers() -> None:
    done = RLM(ScriptedModel([block("FINAL({'doc': '{' * 4_000_000})")])).completion("?")
    assert len(done.answer["doc"]) == 4_000_000


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "number", "minimum": 0}, "1+2j"),
        ({"patternProperties": {"^a": {}}}, "{1: 2}"),
        (list[int], "{'a': {1}}"),
    ],
)
def test_an_answer_that_cannot_be_checked_is_an_error_the_model_reads(schema: Any, answer: str) -> None:
    root = ScriptedModel([block(f"FINAL({answer})"), block("FINAL(answer['content'])"), "?"])
    done = RLM(root, limits=Limits(max_turns=2)).completion("?", schema=schema)
    assert "not accepted" in root.requests[1][-1].content
    assert done.stop_reason is StopReason.MAX_TURNS
    assert done.answer is not None


def test_a_long_error_enters_the_prompt_clipped() -> None:
    root = ScriptedModel([block("FINAL({'k' * 10**6: 'x'})"), block("FINAL({})")])
    RLM(root).completion("?", schema={"additionalProperties": {"type": "integer"}})
    assert len(root.requests[1][-1].content) < 10_000
    assert len(told("raise ValueError('e' * 10**6)")) < 10_000


def test_a_draft_survives_the_death_of_its_repl() -> None:
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    root = ScriptedModel([block("answer['content'] = ['half']"), block(code)])
    done = RLM(root, limits=Limits(max_time=1.0)).completion("?")
    assert (done.answer, done.stop_reason) == (["half"], StopReason.MAX_TIME)


def test_ready_without_content_is_an_error_and_a_rebound_draft_stays_flat() -> None:
    assert "was never set" in told("answer['ready'] = True")
    root = ScriptedModel([block("answer = {'content': 'good', 'ready': False}\nraise ValueError"), "?"])
    assert RLM(root, limits=Limits(max_turns=1)).completion("?").answer == "good"


@pytest.mark.parametrize("change", ["remove", "mutate"])
def test_a_context_that_changes_during_the_run_costs_no_answer(tmp_path: Path, change: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    value: dict[str, Any] = {"a": [1]}

    def spoil() -> None:
        if change == "remove":
            (tmp_path / "a.txt").unlink()
        else:
            value["a"].append(object())

    root = ScriptedModel([block("spoil()\nFINAL(1)")])
    assert RLM(root, tools=[spoil]).completion("?", tmp_path if change == "remove" else value).answer == 1


# Limits ---------------------------------------------------------------------------------------


def test_a_batch_stops_where_the_money_ends() -> None:
    sub = ScriptedModel(lambda _: Reply("x", Usage(10, 10, calls=1), 0.10), latency=0.01, name="sub")
    root = ScriptedModel(
        [block("r = llm_query_batched(['a'] * 400, return_exceptions=True)"), block("FINAL(1)")]
    )
    done = RLM(root, sub_model=sub, limits=Limits(max_cost=1.05)).completion("?")
    assert done.cost is not None
    assert 1.0 - 1e-9 <= done.cost <= 1.05


def test_a_batch_that_fits_is_not_refused_for_what_a_dear_call_used_before() -> None:
    dear = Reply(block("FINAL(len(llm_query_batched(['a'] * 200)))"), Usage(20_000, 100, calls=1), 0.1)
    model = ScriptedModel(lambda m: dear if len(m) > 1 else Reply("x", Usage(90, 10, calls=1), 0.001))
    assert RLM(model, limits=Limits(max_tokens=100_000, max_cost=2.0)).completion("?").answer == 200


def test_a_call_that_the_code_gave_up_does_not_end_the_run() -> None:
    code = (
        "import asyncio\ntry: await asyncio.wait_for(allm_query('x'), .1)\nexcept asyncio.TimeoutError: pass"
    )
    sub = ScriptedModel(lambda _: "x", latency=60, name="sub")
    root = ScriptedModel([block(code), block("FINAL(1)")])
    assert RLM(root, sub_model=sub, limits=Limits(max_cost=5.0)).completion("?").answer == 1


def test_large_results_at_once_arrive() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    print([len(found) for found in pool.map(lambda _: large(), range(3))])
"""
    assert "[60000000, 60000000, 60000000]" in told(
        code, tools=[tool(name="large")(lambda: "x" * 60_000_000)]
    )


def test_a_context_that_went_is_a_sandbox_error_when_its_repl_must_be_born_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    root = ScriptedModel([block("gone()\nimport os\nos._exit(3)"), block("FINAL(1)")])
    with pytest.raises(SandboxError, match="could not be loaded") as caught:
        RLM(root, tools=[tool(name="gone")(path.unlink)]).completion("?", path)
    assert caught.value.run_id


def test_max_cost_holds_for_a_model_that_says_no_price() -> None:
    root = ScriptedModel([Reply(block("x = 1"), Usage(1, 1, calls=1), None)] * 5)
    done = RLM(root, limits=Limits(max_cost=1.0)).completion("?")
    assert (done.stop_reason, done.turns, done.cost) == (StopReason.MAX_COST, 1, None)


def test_calls_that_were_cut_off_are_counted_as_unknown() -> None:
    code = "import threading\n[threading.Thread(target=llm_query, args=('a',)).start() for _ in range(5)]\nimport time\nwhile len(started()) < 5: pass"
    sub = ScriptedModel(lambda _: "x", latency=60, name="sub")

    def started() -> list[int]:
        return [1] * len(sub.requests)

    done = RLM(ScriptedModel([block(code), block("FINAL(1)")]), sub_model=sub, tools=[started]).completion(
        "?"
    )
    assert (done.usage.calls, done.cost) == (7, None)


# Contexts and texts ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[array.array("i", [1])], {"a": memoryview(b"x")}, [object()]])
def test_a_context_that_would_arrive_changed_is_refused(value: Any) -> None:
    if isinstance(value, dict):
        root = ScriptedModel([block("FINAL(context)")])
        assert RLM(root).completion("?", value).answer == {"a": b"x"}
        return
    with pytest.raises(ConfigError, match="is of type"):
        prepare(value)


def test_lone_surrogates_in_a_question_reach_no_provider() -> None:
    root = ScriptedModel([block("FINAL(1)")])
    RLM(root).completion("hi \ud800")
    assert "hi \\ud800" in root.requests[0][1].content


def test_a_degenerate_reply_is_parsed_in_linear_time() -> None:
    assert len(blocks("```\n```\n" * 20_000)) == 20_000
    assert blocks('```repl\nx = """\n' + "```\n" * 20_000)


_TEXTS = st.text(st.sampled_from("ab\n é漢😀\ud800") | st.characters(), max_size=120)
_OFFSETS = st.none() | st.integers(-130, 130)


@given(
    _TEXTS,
    _OFFSETS,
    _OFFSETS,
    st.text(st.sampled_from("ab\né😀"), max_size=3),
    st.sampled_from([None, 1, 2, -1]),
)
@settings(max_examples=400)
def test_a_text_reads_like_the_str_that_it_stands_for(
    whole: str, start: int | None, end: int | None, part: str, step: int | None
) -> None:
    data = whole.encode("utf-8", "surrogatepass")
    before, guest_text.BLOCK = guest_text.BLOCK, 16
    try:
        text = Text(data, len(whole))  # type: ignore[arg-type]  # bytes do what a map does
    finally:
        guest_text.BLOCK = before
    guest_text.BLOCK = 16
    try:
        assert text[start:end:step] == whole[start:end:step]
        for name in ("find", "rfind", "count"):
            assert getattr(text, name)(part, start, end) == getattr(whole, name)(part, start, end), name
        assert text.startswith(part, start, end) == whole.startswith(part, start, end)
        assert text.endswith(part) == whole.endswith(part)
        assert (part in text) == (part in whole)
        assert "".join(text) == whole
        assert str(text) == whole
        assert text == whole
        assert text.upper() == whole.upper()
        assert "".join(text.chunks(7)) == whole
        assert list(text.lines()) == whole.removesuffix("\n").split("\n") or whole == ""
        for pattern in ("a+", r"\w", "é|b", "(a)(b)?", "^a", "b$", ""):
            if "\ud800" not in whole:
                import re

                assert [m.span() for m in text.finditer(pattern)] == [
                    m.span() for m in re.finditer(pattern, whole)
                ], pattern
                assert text.findall(pattern) == re.findall(pattern, whole)
    finally:
        guest_text.BLOCK = before


def test_documents_that_are_asked_for_and_not_taken_do_not_pile_up_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Semaphore(0)
    pack = FolderSource._pack

    def counted(source: FolderSource, number: int) -> Any:
        made.release()
        return pack(source, number)

    monkeypatch.setattr(FolderSource, "_pack", counted)
    for name in "ab":
        tmp_path.joinpath(name).write_text("x" * 1000)
    source = prepare(tmp_path)
    with socket.socket(fileno=source.open()) as asking:
        asking.settimeout(0.1)
        with suppress(TimeoutError):
            while True:
                asking.send(NUMBER.pack(0))
    ready = 0
    while made.acquire(timeout=0.1):
        ready += 1
    assert 0 < ready < 40


# Forged frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "raw({'op': 'loaded', 're': W, 'type': 'x', 'size': 'x', 'preview': 'x'})",
        "raw({'op': 'failed', 're': W, 'error': 'x'})",
        "raw({'op': 'drafted', 're': W, 'answer': None})",
        "raw({'op': 'done', 're': W, 'error': None, 'notes': [], 'head': '', 'omitted': 10**24, 'tail': '', 'answer': None})",
        "for n in range(60_000): raw({'op': 'part', 'of': n})",
        "raw({'op': 'ready'})",
        "raw({'op': 'tool', 'id': 1, 'name': 'x', 'apart': [], 'ahead': 9})",
        "raw({'op': 'tool', 'id': 1, 'name': 'x', 'apart': [[0, 'text', 1]] * 65, 'ahead': 0})",
        "raw({'op': 'part', 'of': W}, b'[')\nraw({'op': 'done', 're': W, 'error': None, 'notes': [], 'head': '', 'omitted': 0, 'tail': '', 'answer': {'form': 'values', 'size': 1}})",
    ],
)
async def test_a_forged_frame_ends_in_an_error_and_the_next_block_runs(isolated: Bench, code: str) -> None:
    # The first command after the start of a REPL is number 1.
    execution = await isolated.run(
        f"{RAW}\nW = 1\n{code}\nimport time\ntime.sleep(3)", max_time=10, max_wall=20
    )
    assert execution.error
    await isolated.run("1")  # a REPL that has lied about its end dies when that comes
    assert await isolated.shown("1") == "1\n"


async def test_forged_errors_and_notes_are_clipped(isolated: Bench) -> None:
    code = "raw({'op': 'done', 're': 1, 'error': 'E' * 400_000, 'notes': ['N' * 100_000] * 5, 'head': '', 'omitted': 0, 'tail': '', 'answer': None})"
    execution = await isolated.run(RAW + code)
    assert len(str(execution.error)) + sum(map(len, execution.notes)) < 20_000


async def test_keys_that_collide_do_not_hold_up_the_host(isolated: Bench) -> None:
    body = "b'{\"$\":[\"set\",[' + b','.join(b'%d' % (n * (2**61 - 1)) for n in range(60_000)) + b']]}'"
    done = "{'op': 'done', 're': 1, 'error': None, 'notes': [], 'head': '', 'omitted': 0, 'tail': '', 'answer': {'form': 'values', 'size': len(b)}, 'readings': []}"
    execution = await isolated.run(
        f"{RAW}\nb = {body}\nfor i in range(0, len(b), 1 << 20): raw({{'op': 'part', 'of': 1}}, b[i:i + (1 << 20)])\nraw({done})"
    )
    assert "too long to hash" in str(execution.error)
    assert execution.duration < 15


@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(
            lambda h, b: wire._HEAD.pack(len(h), len(b)) + h + b,
            st.binary(max_size=30) | st.just(b'{"op":"ready"}'),
            st.binary(max_size=9),
        ),
        max_size=6,
    )
)
def test_any_bytes_are_frames_or_the_one_error(pieces: list[bytes]) -> None:
    decoder = wire.Decoder()
    try:
        for piece in pieces:
            list(decoder.feed(piece))
    except wire.ProtocolError:
        pass


# Processes ------------------------------------------------------------------------------------


def test_nothing_is_left_of_runs_that_were_cancelled() -> None:
    code = """
import asyncio, logging, os
from recursor import RLM
from recursor.testing import ScriptedModel
logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a busy machine was slow is a warning
async def main():
    rlm = RLM(ScriptedModel(lambda _: "```repl\\nwhile True: pass\\n```"))
    await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(RLM(ScriptedModel(["```repl\\nFINAL(1)\\n```"])).acompletion("?"))), 30)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        task = asyncio.create_task(rlm.acompletion("?"))
        await asyncio.sleep(0.002 * n)
        task.cancel()
        await asyncio.wait([task])
    for _ in range(3000):  # a worker that came too late for its run is ended by a thread
        left = len(os.listdir("/proc/self/fd")) - before
        if left <= 2:
            break
        await asyncio.sleep(0.01)
    print(left)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 2
    assert done.stderr == ""


def test_a_forked_child_can_complete_too() -> None:
    code = """
import os
from recursor import RLM
from recursor.schema import shape
from recursor.testing import ScriptedModel
def answer(): return RLM(ScriptedModel(["```repl\\nFINAL(7)\\n```"])).completion("?").answer
assert answer() == 7
child = os.fork()
if child == 0:
    os._exit(answer())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert answer() == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_end_of_the_main_thread_does_not_lose_a_run() -> None:
    code = """
import threading
from recursor import RLM
from recursor.schema import shape
from recursor.testing import ScriptedModel
rlm = RLM(ScriptedModel(lambda _: "```repl\\nFINAL(7)\\n```", latency=0.5))
rlm.completion("The first of a process starts what all share.")
threading.Thread(target=lambda: print(rlm.completion("?").answer)).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("7\n", "")
