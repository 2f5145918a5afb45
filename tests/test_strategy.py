"""Whether a question is answered in a REPL or by one plain call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM, ConfigError, Limits, ModelError, tool
from recursor.testing import ListSink, ScriptedModel
from recursor.trajectory import view
from recursor.types import Reply, RunStarted, StopReason, Usage

IN_CODE = "```repl\nFINAL('by code')\n```"


def rlm(*replies: Any, **options: Any) -> tuple[RLM, ScriptedModel, ListSink]:
    model, sink = ScriptedModel(list(replies)), ListSink()
    return RLM(model, sinks=[sink], **options), model, sink


def started(sink: ListSink) -> RunStarted:
    return next(event for event in sink.events if isinstance(event, RunStarted))


def test_a_small_input_is_answered_by_one_call_with_the_input_in_it() -> None:
    made, model, sink = rlm("Moscow", strategy="auto")
    done = made.completion("Where?", "The cat sat in Moscow.")
    assert (done.answer, done.stop_reason, done.turns, done.usage.calls) == (
        "Moscow",
        StopReason.ANSWERED,
        1,
        1,
    )
    assert done.isolation is None
    assert "The cat sat in Moscow." in model.requests[0][-1].content
    assert model.requests[0][-1].content.endswith("Where?")
    assert (started(sink).strategy, started(sink).reason) == ("direct", "28 bytes are at most 50,000")


def test_a_large_input_and_one_with_tools_are_answered_in_a_repl() -> None:
    made, _, sink = rlm(IN_CODE, strategy="auto")
    assert made.completion("?", "x" * 50_000).answer == "by code"
    assert (started(sink).strategy, started(sink).reason) == ("rlm", "50,001 bytes are more than 50,000")
    made, _, sink = rlm(IN_CODE, strategy="auto", tools=[tool(name="look")(lambda: 1)])
    assert made.completion("?", "x").answer == "by code"
    assert started(sink).reason == "there are tools, which code calls"


def test_either_can_be_forced() -> None:
    made, model, sink = rlm("yes", strategy="direct")
    assert made.completion("?", "x" * 60_000).answer == "yes"
    assert len(model.requests[0][-1].content) > 60_000
    assert started(sink).reason == "it was asked for"
    made, _, _ = rlm(IN_CODE, strategy="rlm")
    assert made.completion("?", "x").answer == "by code"


def test_files_lists_and_bytes_are_put_into_the_prompt_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("of a\n")
    (tmp_path / "b.txt").write_text("of b\n")
    for context, told in ((tmp_path, "# a.txt\nof a"), ([1, {"k": "v"}], '[1, {"k": "v"}]'), (b"raw", "raw")):
        made, model, _ = rlm("yes", strategy="direct")
        made.completion("?", context)
        assert told in model.requests[0][-1].content


def test_a_direct_answer_follows_the_schema_or_is_asked_for_once_more() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made, model, _ = rlm('{"n": "three"}', '{"n": 3}', strategy="direct")
    assert made.completion("?", schema=schema).answer == {"n": 3}
    assert "does not follow the schema" in model.requests[1][-1].content
    made, _, _ = rlm("no", "no again", strategy="direct")
    done = made.completion("?", schema=schema)
    assert (done.answer, done.stop_reason) == (None, StopReason.MAX_TURNS)


def test_a_direct_run_is_recorded_bounded_and_resumed(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    made, _, _ = rlm(Reply("yes", Usage(5, 5, calls=1), 0.01), strategy="auto", store=store)
    done = made.completion("?", "x")
    with view.open(store) as recorded:
        run = recorded.run(done.run_id)
        assert (run.strategy, run.isolation, run.answer) == ("direct", None, "yes")
        assert len(recorded.calls(run.id)) == 1
    assert made.resume(done.run_id).answer == "yes"
    made, _, _ = rlm(ModelError("down"), "yes", strategy="auto", store=store)
    with pytest.raises(ModelError) as failed:
        made.completion("?", "y")
    assert made.resume(str(failed.value.run_id), "y").answer == "yes"
    made, model, _ = rlm("yes", strategy="auto", limits=Limits(max_tokens=1))
    assert made.completion("?", "x").stop_reason is StopReason.ANSWERED
    assert json.dumps(model.requests[0][0].content)


def test_a_strategy_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="strategy must be 'rlm', 'direct' or 'auto', not 'fast'"):
        RLM(ScriptedModel([]), strategy="fast")  # type: ignore[arg-type]
