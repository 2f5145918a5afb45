"""Which model answers which call of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from recursor import RLM, ConfigError, Limits
from recursor.routing import Route, Routes
from recursor.testing import ListSink, ModelServer, ScriptedModel
from recursor.types import Message, ModelCalled, Reply, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def model(name: str, cost: float = 0.0) -> ScriptedModel:
    return ScriptedModel(lambda _: Reply(name, Usage(5, 5, calls=1), cost), name=name)


def root(code: str, name: str = "root") -> ScriptedModel:
    return ScriptedModel([block(code)] * 9, name=name)


def test_calls_go_by_capability_by_length_and_by_name() -> None:
    routes = Routes.of(
        root("FINAL([llm_query('a'), llm_query('a', model='vision'), llm_query('x' * 5000), llm_query('a', model='third')])"),
        model("sub"), vision=model("eyes"), long_context=model("long"), long_from=4000, allow=[model("third")],
    )  # fmt: skip
    assert RLM(routes).completion("?").answer == ["sub", "eyes", "long", "third"]


def test_the_root_lm_is_told_what_it_may_name_and_anything_else_is_an_error() -> None:
    asking = root("try: llm_query('a', model='gpt-99')\nexcept SubcallError as e: FINAL(str(e))")
    rlm = RLM(Routes.of(asking, model("sub"), vision=model("eyes"), allow=[model("third")]))
    said = rlm.completion("?").answer
    assert said == (
        "model 'gpt-99' is not allowed here; use 'eyes' or 'root' or 'sub' or 'third', 'vision', or None"
    )
    told = asking.requests[0][0].content
    assert "`model=` in these calls takes one of: 'eyes', 'root', 'sub', 'third', 'vision'" in told
    plain = root("FINAL(1)")
    RLM(plain, sub_model=model("sub")).completion("?")
    assert "takes one of" not in plain.requests[0][0].content


def test_children_have_a_root_lm_of_their_depth() -> None:
    sink = ListSink()
    routes: Routes[ScriptedModel] = Routes(
        [
            Route(root("FINAL([rlm_query('one', 'x'), rlm_query('two', 'x', model='special')])"), "root", max_depth=0),
            Route(root("FINAL('by child')", "child"), "root", min_depth=1),
            Route(model("sub"), "sub"),
        ],
        allow=[root("FINAL('by special')", "special")],
    )  # fmt: skip
    done = RLM(routes, limits=Limits(max_depth=2), sinks=[sink]).completion("?")
    assert done.answer == ["by child", "by special"]
    called = [event.model for event in sink.events if isinstance(event, ModelCalled)]
    assert called == ["child", "special", "root"] or called == ["root", "child", "special"]


def test_a_cheaper_model_takes_over_when_money_was_spent() -> None:
    routes = Routes.of(
        root("FINAL([llm_query(str(i)) for i in range(5)])"), model("dear", 0.4), cheap=model("cheap", 0.01),
        cheap_after=1.0,
    )  # fmt: skip
    assert RLM(routes).completion("?").answer == ["dear", "dear", "dear", "cheap", "cheap"]


def test_max_cost_wants_a_price_for_every_model_of_the_routes() -> None:
    unpriced = ScriptedModel(["x"], name="unpriced")
    routes = Routes.of(root("FINAL(1)"), vision=_Unpriced())
    with pytest.raises(ConfigError, match="there is none for 'unknown'"):
        RLM(routes, limits=Limits(max_cost=1.0))
    with pytest.raises(ConfigError, match=r"sub_model belongs into the routes"):
        RLM(Routes.of(unpriced), sub_model=unpriced)


class _Unpriced:
    name = "unknown"
    priced = False

    async def query(self, messages: Sequence[Message], **_: object) -> Reply:
        raise AssertionError(messages)


def test_routes_come_from_the_settings_file_too(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    def answer(messages: Sequence[Message]) -> str:
        return "a sub" if messages[0].role != "system" else block("FINAL(llm_query('a', model='vision'))")

    with ModelServer(answer) as server:
        (tmp_path / "config.toml").write_text(
            f'base_url = "{server.url}"\n[[routes]]\nmodel = "steers"\npurpose = "root"\n'
            '[[routes]]\nmodel = "looks"\ncapability = "vision"\n[[routes]]\nmodel = "reads"\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "recursor", "ask", "?", "--config", "config.toml", "--no-store", "-q"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("a sub\n", "")
        assert [request["model"] for request in server.requests] == ["steers", "looks"]
