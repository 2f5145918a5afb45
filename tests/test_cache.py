"""Replies of earlier runs that are taken again, when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recursor import RLM, ConfigError, Limits
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.types import Message, Reply, Usage

CODE = "```repl\nFINAL([llm_query('a'), llm_query('a'), llm_query('b')])\n```"


class Numbered:
    """A sub-LM whose every reply differs."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, messages: Sequence[Message]) -> Reply:
        self.calls += 1
        return Reply(f"{messages[0].content}{self.calls}", Usage(5, 5, calls=1), 0.01)


def made(store: Path, sub: Numbered, cache: str | None = "workspace", code: str = CODE) -> RLM:
    return RLM(
        ScriptedModel([Reply(code, Usage(9, 9, calls=1), 0.1)], name="root"),
        sub_model=ScriptedModel(sub, name="sub"), store=store, cache=cache, limits=Limits(max_cost=1.0),
    )  # fmt: skip


def test_what_any_run_paid_for_is_not_paid_again(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", Numbered()
    first = made(store, sub).completion("?")
    assert (first.answer, sub.calls) == (["a1", "a2", "b3"], 3)
    assert first.cost == pytest.approx(0.13)
    again = made(store, sub).completion("?")
    assert (again.answer, sub.calls, again.cost, again.usage.calls) == (["a1", "a2", "b3"], 3, 0.0, 0)
    with view.open(store) as recorded:
        calls = recorded.calls(again.run_id)
    assert [call.cached for call in calls] == [True] * 4


def test_the_nth_equal_request_gets_the_nth_reply_and_more_are_asked(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", Numbered()
    made(store, sub).completion("?")
    more = "```repl\nFINAL([llm_query('a'), llm_query('a'), llm_query('a')])\n```"
    assert made(store, sub, code=more).completion("other").answer == ["a1", "a2", "a4"]


def test_without_a_cache_each_run_asks(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", Numbered()
    made(store, sub, None).completion("?")
    made(store, sub, None).completion("?")
    assert sub.calls == 6


def test_a_resumed_run_counts_cached_replies_as_it_did(tmp_path: Path) -> None:
    store, sub = tmp_path / "runs.db", Numbered()
    made(store, sub).completion("?")
    again = made(store, sub).completion("?")
    assert made(store, sub).resume(again.run_id).cost == 0.0


def test_a_cache_is_named_and_needs_a_store() -> None:
    with pytest.raises(ConfigError, match="a cache needs a store"):
        RLM(ScriptedModel([]), cache="workspace")
    with pytest.raises(ConfigError, match="cache must be 'workspace' or None, not 'disk'"):
        RLM(ScriptedModel([]), cache="disk")
