"""What a store gives out and takes in: logs of any version and of others, traces, spans, tables; what it frees."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import RLM, Limits, trajectory
from recursor.cli import cli as main
from recursor.errors import TrajectoryError
from recursor.testing import ScriptedModel
from recursor.trajectory import chrome, garbage, importing, jsonl
from recursor.trajectory.claim import claim
from recursor.trajectory.store import Store

GOLDEN = Path(__file__).parent / "golden"


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def lookup(key: str) -> str:
    """Look up."""
    return key * 2


def answer_child(messages: Any) -> str:
    text = messages[-1].content
    return block("FINAL(llm_query(context))") if "question" in messages[0].content else text.upper()


def recorded(path: Path, **options: Any) -> str:
    """A run with sub-calls, a tool, two children and an error; its id."""
    root = ScriptedModel(
        [
            block("said = llm_query_batched(['a', 'b', 'c'])\nprint(said, lookup('x'))\n1 / 0"),
            block("parts = rlm_query_batched(['question one', 'question two'], ['k', 'l'])"),
            block("FINAL({'said': said, 'parts': parts})"),
        ],
        name="openai/gpt-5",
    )
    sub = ScriptedModel(answer_child, name="anthropic/claude", latency=0.01)
    with Store(path) as store:
        rlm = RLM(root, sub_model=sub, store=store, tools=[lookup], limits=Limits(max_depth=2), **options)
        done = rlm.completion("What is there?", "secret context")
        assert done.answer == {"said": ["A", "B", "C"], "parts": ["K", "L"]}
        return done.run_id


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def exported(path: Path, run_id: str) -> list[str]:
    out = io.StringIO()
    with trajectory.open(path) as found:
        jsonl.export(found, run_id, out)
    return out.getvalue().splitlines()


# Reading --------------------------------------------------------------------------------------


def test_a_store_is_read_by_turns_pages_and_trees(store: Path) -> None:
    run_id = recorded(store)
    with trajectory.open(store) as found:
        turns = found.turns(run_id)
        assert [(turn.number, len(turn.executions)) for turn in turns] == [(1, 1), (2, 1), (3, 1)]
        assert turns[0].call is not None
        assert found.call(turns[0].call.id) == turns[0].call
        tree = found.tree(run_id)
        assert [(run.depth, run.number, run.turn, run.block) for run in tree] == [
            (0, 0, 0, 0), (1, 1, 2, 1), (1, 2, 2, 1),
        ]  # fmt: skip
        assert list(found.each_call(run_id)) == found.calls(run_id)
        everything = list(found.each_call(run_id, tree=True))
        assert len(everything) == 3 + 3 + 2 * 2
        assert list(found.each_call(run_id, tree=True, skip=4)) == everything[4:]
        with pytest.raises(TrajectoryError, match="no call"):
            found.call("nothing")


def test_events_are_followed_by_their_numbers(store: Path) -> None:
    run_id = recorded(store)
    with trajectory.open(store) as found:
        events = found.since()
        assert [event.number for event in events] == sorted(event.number for event in events)
        first = found.since(limit=3)
        assert [*first, *found.since(first[-1].number)] == events
        assert found.since(events[-1].number) == []
        assert found.since(0, run_id) == events
        kinds = Counter(type(found.event(event)).__name__ for event in events)
        assert kinds == Counter(event.kind for event in events)
        other = recorded(store)
        assert {event.run_id for event in found.since(0, run_id)} == {event.run_id for event in events}
        assert found.since(events[-1].number)[0].run_id == other


def test_a_run_is_read_while_it_goes(store: Path) -> None:
    seen: list[tuple[str, int]] = []

    def look(_: Any) -> str:
        with trajectory.open(store) as found:
            (run,) = found.runs()
            seen.append((run.outcome, len(found.turns(run.id))))
        return block("x = 1") if len(seen) == 1 else block("FINAL(x)")

    with Store(store) as recording:
        RLM(ScriptedModel(look), store=recording).completion("?")
    assert seen == [("not ended", 0), ("not ended", 1)]


async def test_a_hundred_thousand_calls_are_read_in_pages(store: Path) -> None:
    from recursor.types import Message, ModelCalled, Reply, RunStarted

    count = 20_000
    with Store(store) as recording:
        recording.emit(RunStarted("ab" * 16, None, 0, "?", (), "m", "m", None, 1.0))
        for number in range(count):
            prompt = (Message("user", f"prompt {number}"),)
            recording.emit(
                ModelCalled("ab" * 16, f"c{number}", 1, "sub", "m", prompt, Reply("r"), None, 1.0, 0.1)
            )
        await recording.flush()
    with trajectory.open(store) as found:
        calls = found.each_call("ab" * 16, tree=True)
        assert found.messages(next(calls))[0].content == "prompt 0"
        assert sum(1 for _ in calls) == count - 1
        assert [call.id for call in found.each_call("ab" * 16, skip=count - 2)] == [
            f"c{count - 2}",
            f"c{count - 1}",
        ]
        assert len(found.since(0, limit=100)) == 100


def test_runs_and_completions_show_themselves_in_notebooks_escaped(store: Path) -> None:
    with Store(store) as recording:
        model = ScriptedModel([block("FINAL('<script>alert(1)</script>\\x1b[31m' + 'x' * 9000)")])
        done = RLM(model, store=recording).completion("<img src=x onerror=alert(1)>")
    with trajectory.open(store) as found:
        shown = [done._repr_html_(), found.run(done.run_id)._repr_html_(), found._repr_html_()]
    for html in shown:
        assert "<script" not in html
        assert "<img" not in html
        assert "\x1b" not in html
        assert len(html) < 20_000
    assert "&lt;script&gt;" in shown[0]
    assert "7,0" in shown[0], "it says how much is left out"


# Import ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_exported_run_of_each_version_stays_readable(store: Path, version: int) -> None:
    log = (GOLDEN / f"run.v{version}.jsonl").read_bytes().splitlines()
    (run_id,) = importing.load(log, store)
    with trajectory.open(store) as found:
        run = found.run(run_id)
        assert run.answer == {"said": "NAME ALPHA", "count": 16, "set": {1, 2}}
        assert (run.outcome, run.turns, run.usage and run.usage.calls) == ("answered", 3, 5)
        (child,) = found.children(run_id)
        assert child.answer == 16
        assert [len(found.messages(call)) for call in found.calls(run_id)] == [2, 4, 1, 6]
        assert found.executions(run_id)[0].execution.output.head == "['alpha', 'beta', 'gamma']\n"


def test_what_was_exported_and_imported_is_exported_the_same(store: Path, tmp_path: Path) -> None:
    before = exported(store, recorded(store))
    other = tmp_path / "other.db"
    (run_id,) = importing.load(before, other)
    assert exported(other, run_id) == before


def test_a_log_is_imported_once_and_never_over_what_is_there(store: Path) -> None:
    lines = exported(store, recorded(store))
    with pytest.raises(TrajectoryError, match="in the store already"):
        importing.load(lines, store)
    stolen = next(json.loads(line) for line in lines if "model_called" in line)
    start = {**json.loads(lines[0]), "run_id": "ab" * 16}
    forged = [json.dumps(start), json.dumps({**stolen, "run_id": "ab" * 16})]
    with pytest.raises(TrajectoryError, match="in the store already"):
        importing.load(forged, store)
    with trajectory.open(store) as found:
        assert len(found.runs()) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1:], "does not hold the start"),
        (lambda lines: [lines[0].replace('"depth": 0', '"depth": "x"')], "line 1 cannot be read"),
        (lambda lines: [lines[0].replace('"v": 3', '"v": 4')], "version 4"),
        (lambda lines: [*lines, "{"], "not JSON"),
        (lambda lines: [*lines[:-1], lines[-1].replace("answered", "bored")], "cannot be read"),
        (
            lambda lines: [line.replace('"messages_from": 2', '"messages_from": 3') for line in lines],
            "goes on from",
        ),
        (lambda lines: [lines[0].replace('"run_id": "', '"run_id": "../../')], "no id of a run"),
        (lambda lines: [line.replace('"event": "block', '"event": "odd') for line in lines], "no event"),
        (lambda lines: [], "empty"),
    ],
)
def test_a_damaged_log_is_named_and_nothing_of_it_is_kept(store: Path, change: Any, said: str) -> None:
    lines = (GOLDEN / "run.v3.jsonl").read_text().splitlines()
    with pytest.raises(TrajectoryError, match=said):
        importing.load(change(lines), store)
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM run").fetchone() == (0,)


_GOLDEN_LINES = [line for path in sorted(GOLDEN.glob("*.jsonl")) for line in path.read_text().splitlines()]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.sampled_from(_GOLDEN_LINES), min_size=1, max_size=4), st.randoms(), _JSON)
@settings(max_examples=150, deadline=None)
def test_any_log_is_read_or_raises_the_one_error(lines: list[str], random: Any, value: Any) -> None:
    rows = [json.loads(line) for line in lines]
    row = random.choice(rows)
    row[random.choice(list(row))] = value
    try:
        for _ in importing.parse(map(json.dumps, rows)):
            pass
    except TrajectoryError as error:
        assert str(error)


def test_a_log_of_the_reference_implementation_is_imported(store: Path) -> None:
    (run_id,) = importing.load((GOLDEN / "rlms-0.1.3.jsonl").read_bytes().splitlines(), store)
    with trajectory.open(store) as found:
        run, child = found.tree(run_id)
        assert (run.question, run.answer, run.model, run.cost) == (
            "Which word is second?", "SAID", "gpt-5-mini", None,
        )  # fmt: skip
        assert run.contexts[0].info.size == "16 characters"
        assert (child.turn, child.block, child.answer, child.depth) == (4, 1, "SAID", 1)
        assert child.question == "child question over alpha beta"
        turns = found.turns(run_id)
        assert [len(turn.executions) for turn in turns] == [1, 1, 0, 1, 1]
        assert turns[1].executions[0].execution.error == "ZeroDivisionError: division by zero"
        assert [v.name for v in turns[3].executions[0].execution.variables] == ["deep"]
        assert turns[4].executions[0].submitted
        subs = [call for call in found.calls(run_id) if call.purpose == "sub"]
        assert [call.reply for call in subs] == ["BETA", "SAID one", "SAID two", "SAID"]
        assert subs[0].usage is not None
        assert (subs[0].usage.input_tokens, subs[0].block) == (9, 1)
        prompts = [len(found.messages(turn.call)) for turn in found.turns(child.id) if turn.call]
        assert prompts == [3, 6, 9, 11, 14], "each is a prefix of the next"


def test_a_log_of_fast_rlm_is_imported(store: Path) -> None:
    (run_id,) = importing.load((GOLDEN / "fast-rlm.jsonl").read_bytes().splitlines(), store)
    with trajectory.open(store) as found:
        run, child = found.tree(run_id)
        assert run.answer == {"strawberry": 3}
        assert "How many r" in run.question
        assert run.cost == pytest.approx(0.00101)
        assert (child.turn, child.number, child.answer) == (2, 1, 3)
        turns = found.turns(run_id)
        assert [len(turn.executions) for turn in turns] == [1, 1, 0, 1]
        assert "NameError" in str(turns[0].executions[0].execution.error)
        assert turns[0].call is not None
        assert (turns[0].call.reasoning, turns[0].call.usage and turns[0].call.usage.output_tokens) == (
            "Let me look.", 31,
        )  # fmt: skip


# Chrome ---------------------------------------------------------------------------------------


def test_a_chrome_trace_nests_and_what_ran_at_once_is_apart(store: Path) -> None:
    run_id = recorded(store)
    out = io.StringIO()
    with trajectory.open(store) as found:
        chrome.export(found, run_id, out)
    events = json.loads(out.getvalue())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert all(type(event["ts"]) is int and event["dur"] >= 0 for event in slices)
    names = Counter(event["name"] for event in slices if event["pid"] == 1)
    assert names == {
        "run": 1, "turn 1": 1, "turn 2": 1, "turn 3": 1, "reply": 3, "block 1": 3, "llm_query anthropic/claude": 3,
        "lookup": 1,
    }  # fmt: skip
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in slices:
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for (_, track), spans in tracks.items():
        for start, end in spans:
            for other_start, other_end in spans:
                crossing = start < other_start < end < other_end
                assert not crossing
                assert track == 0 or not (start < other_start < end), "tracks of calls hold one at a time"
    subs = [event["tid"] for event in slices if "llm_query" in event["name"] and event["pid"] == 1]
    assert len(set(subs)) == 3, "a batch runs at once"
    assert {event["pid"] for event in slices} == {1, 2, 3}
    flows = [event for event in events if event["ph"] in "sf"]
    assert sorted((event["ph"], event["pid"]) for event in flows) == [("f", 2), ("f", 3), ("s", 1), ("s", 1)]
    (second,) = [event for event in slices if event["pid"] == 1 and event["name"] == "turn 2"]
    for flow in flows:
        assert second["ts"] <= flow["ts"] <= second["ts"] + second["dur"]
    named = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert any("question one" in name for name in named)


# OpenTelemetry --------------------------------------------------------------------------------


class Collector:
    """A collector on the loopback that speaks OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.raw = b""
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.take(
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(int(self.headers["Content-Length"])),
                )
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        import gzip

        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.raw += data
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.resources.append(
                {each.key: each.value.string_value for each in resource.resource.attributes}
            )
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def tree(self) -> dict[str, list[str]]:
        """Names of spans below each name."""
        names = {span.span_id: span.name for span in self.spans}
        below: dict[str, list[str]] = {}
        for span in self.spans:
            below.setdefault(names.get(span.parent_span_id, ""), []).append(span.name)
        return {name: sorted(each) for name, each in below.items()}


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


EXPECTED = {
    "": ["invoke_agent recursor"],
    "invoke_agent recursor": [
        *["chat claude"] * 2, *["chat gpt-5"] * 3, *["execute_tool python"] * 5,
    ],
    "execute_tool python": [
        *["chat claude"] * 5, "execute_tool lookup", *["invoke_agent recursor"] * 2,
    ],
}  # fmt: skip


def test_a_recorded_run_is_sent_as_spans_without_its_texts(store: Path, collector: Collector) -> None:
    from recursor.trajectory import otel

    run_id = recorded(store)
    with trajectory.open(store) as found:
        assert otel.export(found, run_id, endpoint=collector.endpoint) == len(collector.spans) == 19
    assert collector.tree() == EXPECTED
    assert {span.trace_id for span in collector.spans} == {collector.spans[0].trace_id}
    assert collector.resources[0]["service.name"] == "recursor"
    for text in (b"What is there", b"secret", b"question one", b"print(", b"ZeroDivision"):
        assert text not in collector.raw
    chat = next(attributes(span) for span in collector.spans if span.name == "chat gpt-5")
    assert (chat["gen_ai.operation.name"], chat["gen_ai.provider.name"]) == ("chat", "openai")
    assert (chat["gen_ai.request.model"], chat["gen_ai.usage.output_tokens"] > 0) == ("gpt-5", True)
    root = next(span for span in collector.spans if not span.parent_span_id)
    about = attributes(root)
    assert (about["gen_ai.operation.name"], about["gen_ai.conversation.id"]) == ("invoke_agent", run_id)
    assert (about["recursor.stop_reason"], about["gen_ai.agent.name"]) == ("answered", "recursor")
    failed = [span for span in collector.spans if span.status.code == 2]
    assert [(span.name, attributes(span)["error.type"]) for span in failed] == [
        ("execute_tool python", "code_error")
    ]
    for span in collector.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano


def test_texts_are_sent_when_they_are_asked_for(store: Path, collector: Collector) -> None:
    from recursor.trajectory import otel

    run_id = recorded(store)
    with trajectory.open(store) as found:
        otel.export(found, run_id, endpoint=collector.endpoint, content=True)
    chat = next(attributes(span) for span in collector.spans if span.name == "chat gpt-5")
    (first, *_) = json.loads(chat["gen_ai.input.messages"])
    assert first["role"] == "user"
    assert "What is there?" in first["parts"][0]["content"]
    assert json.loads(chat["gen_ai.output.messages"])[0]["role"] == "assistant"
    assert json.loads(chat["gen_ai.system_instructions"])[0]["type"] == "text"


def test_a_live_run_sends_the_spans_that_its_record_has(store: Path, collector: Collector) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from recursor.trajectory import otel

    sink = otel.OtelSink(OTLPSpanExporter(endpoint=collector.endpoint))
    run_id = recorded(store, sinks=[sink])
    live = {(span.span_id, span.parent_span_id, span.name) for span in collector.spans}
    assert collector.tree() == EXPECTED, "all are there when the completion is"
    sink.close()
    collector.spans.clear()
    with trajectory.open(store) as found:
        otel.export(found, run_id, endpoint=collector.endpoint)
    assert {(span.span_id, span.parent_span_id, span.name) for span in collector.spans} == live


def test_a_sink_is_named(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.removesuffix("/v1/traces"))
    rlm = RLM(ScriptedModel([block("FINAL(1)")]), sinks=["recursor.trajectory.otel:OtelSink"])
    assert rlm.completion("?").answer == 1
    assert collector.tree()["invoke_agent recursor"] == ["chat scripted", "execute_tool python"]


def test_a_collector_that_refuses_is_an_error_of_the_export_and_not_of_a_run(
    store: Path, collector: Collector
) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from recursor.trajectory import otel

    collector.status = 400
    sink = otel.OtelSink(OTLPSpanExporter(endpoint=collector.endpoint))
    run_id = recorded(store, sinks=[sink])
    sink.close()
    with trajectory.open(store) as found, pytest.raises(TrajectoryError, match="did not take"):
        otel.export(found, run_id, endpoint=collector.endpoint)


# Parquet --------------------------------------------------------------------------------------


def test_a_run_is_written_as_tables(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from recursor.trajectory import parquet as ours

    run_id = recorded(store)
    with trajectory.open(store) as found:
        paths = ours.export(found, run_id, tmp_path / "tables")
    runs, calls, executions = (parquet.read_table(path).to_pylist() for path in paths)
    assert [path.name for path in paths] == ["runs.parquet", "calls.parquet", "executions.parquet"]
    assert (len(runs), len(calls), len(executions)) == (3, 10, 5)
    assert json.loads(runs[0]["answer"]) == {"said": ["A", "B", "C"], "parts": ["K", "L"]}
    assert runs[0]["started"].tzinfo is not None
    sub = next(call for call in calls if call["purpose"] == "sub")
    assert (sub["messages"], sub["reply"], sub["turn"], sub["block"]) == (
        [{"role": "user", "content": "a"}],
        "A",
        1,
        1,
    )
    assert executions[0]["variables"][0]["name"] == "said"
    assert "ZeroDivisionError" in executions[0]["error"]


def test_lone_surrogates_and_unknown_values_fit_into_tables(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from recursor.trajectory import parquet as ours

    with Store(store) as recording:
        model = ScriptedModel([block("s = '\\ud800'\nprint(s)\nFINAL({1: {s}})")])
        run_id = RLM(model, store=recording).completion("\ud800?").run_id
    with trajectory.open(store) as found:
        paths = ours.export(found, run_id, tmp_path)
    assert parquet.read_table(paths[0]).to_pylist()[0]["question"] == "\\ud800?"


# Removal --------------------------------------------------------------------------------------


def age(path: Path, run_id: str, days: float) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE run SET started = started - ? WHERE id = ?", (days * 86400, run_id))


def test_old_runs_are_removed_and_what_others_share_stays(store: Path) -> None:
    old, young = recorded(store), recorded(store)
    age(store, old, 31)
    young_log = exported(store, young)
    dry = garbage.collect(store, 30 * 86400, dry_run=True)
    assert (dry.runs, dry.calls, dry.bytes) == (1, 10, 0)
    with trajectory.open(store) as found:
        assert len(found.runs(children=True)) == 6
    freed = garbage.collect(store, 30 * 86400)
    assert (freed.runs, freed.calls, freed.messages) == (1, 10, dry.messages)
    assert freed.bytes > 0
    assert exported(store, young) == young_log
    with trajectory.open(store) as found:
        assert [run.id for run in found.runs()] == [young]
        assert {event.run_id for event in found.since()} == {run.id for run in found.tree(young)}
    assert garbage.collect(store, 0).runs == 1
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM node").fetchone() == (0,)


def test_a_run_that_goes_is_never_removed(store: Path) -> None:
    run_id = recorded(store)
    age(store, run_id, 31)
    with claim(store, run_id):
        assert garbage.collect(store, 0).runs == 0
    assert garbage.collect(store, 0).runs == 1


def test_a_store_that_is_open_for_writing_survives_a_removal(store: Path) -> None:
    with Store(store) as recording:
        first = RLM(ScriptedModel([block("FINAL(1)")]), store=recording).completion("?")
        age(store, first.run_id, 31)
        assert garbage.collect(store, 86400).runs == 1
        second = RLM(ScriptedModel([block("FINAL(1)")]), store=recording).completion("?")
    with trajectory.open(store) as found:
        (call,) = found.calls(second.run_id)
        assert [message.role for message in found.messages(call)] == ["system", "user"]


# Command line ---------------------------------------------------------------------------------


def cli(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["runs", *arguments])


def test_the_command_line_exports_imports_and_removes(store: Path, tmp_path: Path) -> None:
    run_id = recorded(store)
    at = ("--store", str(store))
    log, trace, page = tmp_path / "log.jsonl", tmp_path / "trace.json", tmp_path / "run.html"
    assert cli("export", run_id, *at, "-o", str(log)).exit_code == 0
    assert cli("export", run_id, *at, "--format", "chrome", "-o", str(trace)).exit_code == 0
    assert cli("export", run_id, *at, "--format", "html", "-o", str(page)).exit_code == 0
    assert json.loads(trace.read_text())["traceEvents"]
    assert page.read_text().startswith("<!doctype html>")
    other = ("--store", str(tmp_path / "other.db"))
    loaded = cli("import", str(log), *other)
    assert loaded.output.split() == [run_id], loaded.exception
    assert cli("show", run_id[:8], *other).exit_code == 0
    assert "would remove 1 run, 10 calls" in cli("gc", "--older-than", "0s", "--dry-run", *other).output
    assert "removed 1 run" in cli("gc", "--older-than", "0s", *other).output
    assert cli("show", run_id[:8], *other).exit_code != 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "RUN", "--format", "odd"),
        ("export", "RUN", "--format", "parquet"),
        ("export", "RUN", "--format", "jsonl", "--endpoint", "http://localhost"),
        ("gc", "--older-than", "soon"),
        ("import", "/nowhere/log.jsonl"),
    ],
)
def test_what_cannot_be_asked_for_is_a_usage_error(store: Path, arguments: tuple[str, ...]) -> None:
    if "parquet" in arguments:
        pytest.importorskip("pyarrow")
    run_id = recorded(store)
    asked = [run_id if each == "RUN" else each for each in arguments]
    assert cli(*asked, "--store", str(store)).exit_code == 2


def test_the_command_line_sends_spans(store: Path, collector: Collector) -> None:
    run_id = recorded(store)
    done = cli("export", run_id, "--store", str(store), "--format", "otel", "--endpoint", collector.endpoint)
    assert done.output == "19 spans sent\n"


def test_the_live_log_of_a_run_is_imported(tmp_path: Path) -> None:
    log = io.StringIO()
    done = RLM(ScriptedModel([block("x = [1]"), block("FINAL(x)")]), sinks=[jsonl.JsonlSink(log)]).completion(
        "?"
    )
    assert importing.load(log.getvalue().splitlines(), tmp_path / "runs.db") == [done.run_id]
