"""What a session counts as spent, and holds against its limits: each call once, whoever made it and however it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recursor import RLM, ConfigError, Limits, ModelError
from recursor.errors import LimitExceeded
from recursor.testing import ScriptedModel
from recursor.types import Message, Reply, Usage
from test_sessions import block, made

WORK = ["a = 1", "b = 2", "c = 3", "FINAL(a + b + c)"]


def test_a_turn_that_is_gone_on_with_counts_once(tmp_path: Path) -> None:
    rlm, book, _ = made({"work": WORK}, tmp_path / "r.db")
    with rlm.session("s", limits=Limits(max_calls=5)) as chat:
        ended = chat.with_changes(limits=Limits(max_turns=4, max_calls=2)).completion("work")
        assert (ended.answer, chat.usage.calls) == (None, 2)
        assert chat.resume().answer == 6
        assert (len(book.prompts), chat.usage.calls) == (4, 4)
        assert chat.cost == pytest.approx(0.08)
    with rlm.session("s") as chat:
        assert chat.usage.calls == 4


def test_what_others_asked_meanwhile_counts_against_the_limits(tmp_path: Path) -> None:
    rlm, book, _ = made({"a": "FINAL(1)"}, tmp_path / "r.db")
    bounds = Limits(max_calls=3)
    with rlm.session("s", limits=bounds) as here, rlm.session("s", limits=bounds) as there:
        for chat in (here, there, there):
            chat.completion("a")
        with pytest.raises(LimitExceeded, match="max_calls of session 's', 3, is used up"):
            here.completion("a")
        assert (here.usage.calls, len(book.prompts)) == (3, 3)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_turn_that_fails_has_cost_what_it_took(recorded: bool, tmp_path: Path) -> None:
    turns = iter([block("x = 1"), block("x = 2")])

    def answer(messages: Sequence[Message]) -> Reply | Exception:
        text = next(turns, None)
        return ModelError("down", 400) if text is None else Reply(text, Usage(10, 10, calls=1), 0.02)

    rlm = RLM(ScriptedModel(answer), store=tmp_path / "r.db" if recorded else None)
    with rlm.session() as chat:
        with pytest.raises(ModelError):
            chat.completion("fails")
        assert chat.cost == pytest.approx(0.04)
        assert chat.usage.total_tokens == 40


def test_a_session_whose_cost_is_not_known_cannot_be_bounded_by_it(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    unpriced = ScriptedModel(lambda _: Reply(block("FINAL(1)"), Usage(10, 10, calls=1), None))
    with RLM(unpriced, store=store).session("s") as chat:
        chat.completion("a")
        assert chat.cost is None
    rlm, book, _ = made({"b": "FINAL(2)"}, store)
    with rlm.session("s", limits=Limits(max_cost=1)) as chat, pytest.raises(ConfigError, match="not known"):
        chat.completion("b")
    assert not book.prompts
