"""Which model serves which call."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recursor.errors import ConfigError
from recursor.protocols import Model
from recursor.routing import Route, Routes
from recursor.testing import ScriptedModel
from recursor.types import Purpose

DEPTHS = range(6)


def model(name: str) -> Model:
    return ScriptedModel([], name=name)


# By depth, size and cost -------------------------------------------------------------------------


def test_one_model_serves_everything() -> None:
    routes = Routes.of("a/root")
    assert {routes.choose(each, depth) for each in PURPOSES for depth in DEPTHS} == {"a/root"}


PURPOSES: tuple[Purpose, ...] = ("root", "sub", "compaction")


def test_a_sub_model_answers_sub_calls_and_runs_children() -> None:
    routes = Routes.of("a/root", "a/sub")
    assert [routes.choose("root", depth) for depth in range(3)] == ["a/root", "a/sub", "a/sub"]
    assert [routes.choose("compaction", depth) for depth in range(3)] == ["a/root", "a/sub", "a/sub"]
    assert {routes.choose("sub", depth) for depth in DEPTHS} == {"a/sub"}
    apart = Routes.of("a/root", "a/sub", child="a/child")
    assert [apart.choose("root", depth) for depth in range(3)] == ["a/root", "a/child", "a/child"]
    assert {apart.choose("sub", depth) for depth in DEPTHS} == {"a/sub"}


def test_a_cheap_model_takes_over_at_a_cost_ceiling() -> None:
    routes = Routes.of("a/root", "a/sub", cheap="a/cheap", cheap_after=1.5)
    for purpose, depth in (("sub", 0), ("sub", 2), ("root", 1)):
        chosen = [
            routes.choose(purpose, depth, spent=spent)  # type: ignore[arg-type]
            for spent in (0.0, 1.49, 1.5, 9.0, None)
        ]
        assert chosen == ["a/sub", "a/sub", "a/cheap", "a/cheap", "a/cheap"]
    assert routes.choose("root", 0, spent=9.0) == "a/root"
    with pytest.raises(LookupError, match=r"'a/sub' is not to be had any more, at a cost so far of \$2\.0"):
        routes.choose("sub", 0, spent=2.0, wanted="a/sub")
    with pytest.raises(LookupError, match="unknown"):
        routes.choose("sub", 0, spent=None, wanted="a/sub")


def test_long_prompts_go_to_the_model_for_them_by_themselves() -> None:
    routes = Routes.of("a/root", "a/sub", long_context="a/long", long_from=1_000)
    assert routes.choose("sub", 0, characters=999) == "a/sub"
    assert routes.choose("sub", 0, characters=1_000) == "a/long"
    assert routes.choose("sub", 0, characters=1, wanted="long_context") == "a/long"
    asked = Routes.of("a/root", "a/sub", long_context="a/long")
    assert asked.choose("sub", 0, characters=10**9) == "a/sub"
    assert asked.choose("sub", 0, wanted="long_context") == "a/long"


def test_the_first_route_that_fits_is_taken() -> None:
    routes = Routes(
        [
            Route("short", "sub", max_characters=10),
            Route("middle", "sub", min_characters=5, max_characters=20),
            Route("deep", min_depth=2, max_depth=3),
            Route("rest"),
        ]
    )
    sizes = {size: routes.choose("sub", 0, characters=size) for size in (0, 10, 11, 20, 21)}
    assert sizes == {0: "short", 10: "short", 11: "middle", 20: "middle", 21: "rest"}
    assert [routes.choose("root", depth) for depth in range(5)] == ["rest", "rest", "deep", "deep", "rest"]


# By what code asks for ---------------------------------------------------------------------------


def test_code_may_ask_for_allowed_models_and_for_capabilities_and_for_nothing_else() -> None:
    routes = Routes.of("a/root", "a/sub", vision="a/eyes", code="a/code", allow=["b/other"])
    assert routes.names == ("a/eyes", "a/code", "a/root", "a/sub", "b/other")
    assert routes.capabilities == ("vision", "code")
    for name in routes.names:
        assert routes.choose("sub", 3, wanted=name) == name
    assert routes.choose("sub", 0, wanted="vision") == "a/eyes"
    assert routes.choose("root", 1, wanted="code") == "a/code"
    for wanted in ("a/dear", "hearing", "", "root", "A/ROOT"):
        with pytest.raises(LookupError) as caught:
            routes.choose("sub", 0, wanted=wanted)
        said = str(caught.value)
        assert all(repr(each) in said for each in (*routes.names, "vision", "code", wanted))


def test_a_capability_that_does_not_take_a_call_is_refused_and_replaced_by_nothing() -> None:
    routes = Routes(
        [
            Route("eyes", capability="vision", max_characters=100, max_spent=1.0, max_depth=1),
            Route("rest"),
        ]
    )
    assert routes.choose("sub", 1, characters=100, spent=0.5, wanted="vision") == "eyes"
    for call in ({"characters": 101}, {"spent": 1.0}, {"spent": None}, {"depth": 2}):
        with pytest.raises(LookupError, match="no model with 'vision' takes this call; use 'eyes' or 'rest'"):
            routes.choose("sub", **{"depth": 0, "wanted": "vision", **call})  # type: ignore[arg-type]


def test_a_capability_is_never_taken_unasked() -> None:
    routes = Routes([Route("eyes", capability="vision"), Route("rest")])
    assert routes.choose("sub", 0) == "rest"


# Made and refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "hole"),
    [
        ([], "a root LM at depth 0"),
        ([Route("a", "sub")], "a root LM at depth 0"),
        ([Route("a", "root")], "plain sub-calls at depth 0"),
        ([Route("a", capability="vision")], "a root LM at depth 0"),
        ([Route("a", max_characters=10**9)], "a root LM at depth 0"),
        ([Route("a", min_characters=1)], "a root LM at depth 0"),
        ([Route("a", max_spent=100)], "a root LM at depth 0"),
        ([Route("a", min_depth=1)], "a root LM at depth 0"),
        ([Route("a", max_depth=4)], "a root LM at depth 5"),
        (
            [Route("a", "root"), Route("b", "sub", max_depth=0), Route("c", min_depth=3)],
            "sub-calls at depth 1",
        ),
    ],
)
def test_routes_that_leave_a_call_without_a_model_are_refused(routes: list[Route[str]], hole: str) -> None:
    with pytest.raises(ConfigError, match=hole):
        Routes(routes)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": ""}, "a model must be a spec"),
        ({"model": 3}, "a model must be a spec"),
        ({"purpose": "compaction"}, 'Route.purpose must be "root" or "sub"'),
        ({"purpose": "root", "min_characters": 5}, 'Route.purpose "root" goes with no length'),
        ({"purpose": "root", "max_characters": 0}, 'Route.purpose "root" goes with no length'),
        ({"min_depth": -1}, "Route.min_depth"),
        ({"min_depth": None}, "Route.min_depth"),
        ({"max_depth": 1.0}, "Route.max_depth"),
        ({"max_depth": True}, "Route.max_depth"),
        ({"capability": "long context"}, "Route.capability"),
        ({"capability": 3}, "Route.capability"),
        ({"max_spent": -0.1}, "Route.max_spent"),
        ({"max_spent": float("nan")}, "Route.max_spent"),
        ({"min_depth": 2, "max_depth": 1}, "Route.max_depth must not be less than its min_depth"),
        ({"min_characters": 2, "max_characters": 1}, "Route.max_characters must not be less"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Route(**{"model": "a", **values})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Routes("a/root"), "Routes.routes must be a list"),  # type: ignore[arg-type]
        (lambda: Routes(["a/root"]), "Routes.routes must be a list"),  # type: ignore[arg-type]
        (lambda: Routes.of("a", allow="b"), "Routes.allow must be a list"),
        (lambda: Routes.of("a", allow=[""]), "Routes.allow must be a list"),
        (lambda: Routes.of("a", cheap="b"), "cheap and cheap_after"),
        (lambda: Routes.of("a", cheap_after=1.0), "cheap and cheap_after"),
        (lambda: Routes.of("a", long_from=1), "long_from needs"),
        (lambda: Routes.of("a", vision=3), "a model must be a spec"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_in_the_usual_case_is_named(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_table_of_a_settings_file_is_read() -> None:
    table = tomllib.loads(
        """
        allow = ["b/other"]
        [[routes]]
        model = "a/eyes"
        capability = "vision"
        [[routes]]
        model = "a/root"
        purpose = "root"
        max_depth = 0
        [[routes]]
        model = "a/sub"
        """
    )
    assert Routes.from_table(table) == Routes(
        [Route("a/eyes", capability="vision"), Route("a/root", "root", max_depth=0), Route("a/sub")],
        ["b/other"],
    )


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"route": []}, "unknown key 'route'; did you mean 'routes'"),
        ({"routes": {"model": "a"}}, r"routes must be \[\[routes\]\] tables"),
        ({"routes": ["a"]}, r"routes must be \[\[routes\]\] tables"),
        ({"routes": [{"purpose": "root"}]}, r"\[\[routes\]\] number 1 needs a model"),
        ({"routes": [{"model": "a"}, {"model": 3}]}, "number 2 needs a model"),
        (
            {"routes": [{"model": "a", "max_deep": 1}]},
            "number 1: unknown key 'max_deep'; did you mean 'max_depth'",
        ),
        ({"routes": [{"model": "a", "min_depth": "1"}]}, "number 1: min_depth must be a whole number"),
        ({"routes": [{"model": "a"}], "allow": "b"}, "allow must be a list"),
        ({"routes": [{"model": "a"}], "allow": [3]}, "allow must be a list"),
        ({}, "no route serves a root LM at depth 0"),
    ],
)
def test_a_mistake_in_a_table_is_found_and_named(table: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Routes.from_table(table)


def test_a_model_for_short_prompts_is_no_root_lm() -> None:
    routes = Routes(
        [Route("small", max_characters=2_000), Route("long", min_characters=9_000), Route("rest")]
    )
    assert [routes.choose("sub", 0, characters=size) for size in (0, 5_000, 9_000)] == [
        "small",
        "rest",
        "long",
    ]
    for depth in range(2):
        assert routes.choose("root", depth) == routes.choose("compaction", depth, characters=10_000) == "rest"


def test_a_word_that_names_a_model_and_a_capability_is_refused() -> None:
    with pytest.raises(ConfigError, match="'vision' is a capability and the name of a model"):
        Routes([Route("eyes", capability="vision"), Route("vision")])
    with pytest.raises(ConfigError, match="'code' is a capability"):
        Routes.of("a", code=model("b"), allow=[model("code")])


def test_equal_specs_become_one_model_and_models_stay_what_they_are() -> None:
    made: list[str] = []
    own = model("own")

    def make(spec: str) -> Model:
        made.append(spec)
        return model(spec)

    routes = Routes.of("a", "b", child="a", vision="b", code=own, allow=["b", "c"])
    resolved = routes.resolved(make)
    assert sorted(made) == ["a", "b", "c"]
    assert resolved.names == routes.names
    assert resolved.choose("root", 0) is resolved.choose("root", 1)
    assert resolved.choose("sub", 0) is resolved.choose("sub", 0, wanted="vision")
    assert resolved.choose("sub", 0) is resolved.choose("sub", 0, wanted="b")
    assert resolved.choose("sub", 0, wanted="code") is own
    assert len(resolved.models) == 4
    assert hash(resolved) == hash(resolved.resolved(make))
    assert resolved.resolved(make) == resolved


ROUTE = st.builds(
    lambda model, purpose, depth, more, capability, size, longer, spent: Route(
        model, purpose, depth, None if more is None else depth + more, capability,
        0 if purpose == "root" else size,
        None if longer is None or purpose == "root" else size + longer, spent,
    ),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["root", "sub", None]),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from(["vision", "code", "long_context"]),
    st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.none() | st.floats(0, 3),
)  # fmt: skip


@given(
    drawn=st.lists(ROUTE, max_size=6),
    purpose=st.sampled_from(PURPOSES),
    depth=st.integers(0, 8),
    characters=st.integers(0, 8),
    spent=st.none() | st.floats(0, 4),
    wanted=st.none() | st.sampled_from(["1", "9", "vision", "code", "long_context", "hearing"]),
)
def test_whatever_the_routes_a_call_gets_the_first_that_fits_or_what_it_asked_for_or_an_error(
    drawn: list[Route[str]],
    purpose: Purpose,
    depth: int,
    characters: int,
    spent: float | None,
    wanted: str | None,
) -> None:
    routes = Routes(
        [*(replace(route, model=str(number)) for number, route in enumerate(drawn)), Route("last")]
    )
    call: dict[str, Any] = {"characters": characters, "spent": spent, "wanted": wanted}
    try:
        chosen = routes.choose(purpose, depth, **call)
    except LookupError as refusal:
        assert wanted is not None
        assert wanted in str(refusal)
        return
    number = [route.model for route in routes.routes].index(chosen)
    route = routes.routes[number]
    assert route.max_spent is None or (spent is not None and spent < route.max_spent)
    if wanted in routes.names:
        assert chosen == wanted
        return
    assert route.capability == wanted or (wanted is None and 0 < route.min_characters <= characters)
    assert route.purpose is None or (route.purpose == "sub") is (purpose == "sub")
    assert route.min_depth <= depth
    # Whatever stood before it does not fit: without those it is chosen all the same.
    assert Routes(routes.routes[number:]).choose(purpose, depth, **call) == chosen
    if wanted is None:
        assert (
            Routes([*routes.routes[:number], Route("none of them")]).choose(purpose, depth, **call)
            == "none of them"
        )
