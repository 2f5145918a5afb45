"""Typed answers: what `schema=` takes, what it says of a value that does not fit, and what providers are sent."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pytest

from conftest import Bench
from recursor import RLM, ConfigError, Limits, SubcallError
from recursor.direct import ask
from recursor.models.schemas import constrainable
from recursor.schema import shape
from recursor.testing import ModelServer, ScriptedModel
from recursor.types import LlmQuery, Message, RlmQuery

pydantic = pytest.importorskip("pydantic")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    price: float


@dataclass
class Order:
    number: int
    items: list[Item]


@dataclass
class Refusal:
    reason: str
    final: bool = True


class Row(TypedDict):
    a: int
    b: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int


class Box(msgspec.Struct):
    colour: Colour
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclass
class Tree:
    name: str
    below: list[Tree]


Inner: Any = pydantic.create_model("Inner", day=(datetime.date, ...))
Page: Any = pydantic.create_model(
    "Page", number=(Annotated[int, pydantic.Field(ge=1)], ...), inner=(Inner | None, None)
)
BOUNDED = Annotated[int, pydantic.Field(ge=1)]


@pytest.mark.parametrize(
    ("kind", "value", "answer"),
    [
        (int, 3, 3),
        (list[int], [1], [1]),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (dict[int, str], {1: "a"}, {1: "a"}),
        (set[str], ["a"], {"a"}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (datetime.date, "2020-01-02", datetime.date(2020, 1, 2)),
        (int | None, None, None),
        (Literal["a", "b"], "b", "b"),
        (Colour, "red", Colour.RED),
        (Row, {"a": 1, "other": 2}, {"a": 1}),
        (Point, [1, 2], Point(1, 2)),
        (Box, {"colour": "blue"}, Box(Colour.BLUE)),
        (Order, {"number": 1, "items": [{"name": "a", "price": 2}]}, Order(1, [Item("a", 2.0)])),
        (Tree, {"name": "a", "below": [{"name": "b", "below": []}]}, Tree("a", [Tree("b", [])])),
        (Item | Refusal, {"reason": "no"}, Refusal("no")),
        (list[Item | Refusal], [{"name": "a", "price": 1}], [Item("a", 1.0)]),
        (dict[str, Item | Refusal], {"k": {"reason": "x"}}, {"k": Refusal("x")}),
        (Page, {"number": 1}, Page(number=1)),
        (list[Page], [{"number": 1, "inner": {"day": "2020-01-02"}}], [Page(number=1, inner={"day": "2020-01-02"})]),
        (Page | Item, {"name": "a", "price": 1}, Item("a", 1.0)),
        (list[BOUNDED], [1], [1]),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_fits_becomes_an_instance_of_the_type(kind: Any, value: Any, answer: Any) -> None:
    expected = shape(kind)
    assert expected.accept(value) == answer
    assert expected.text
    shape(expected.json_schema).accept(value if kind is not Row else {"a": 1})


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (list[int], [1, "a"], r"Expected `int`, got `str` - at `\$\[1\]`"),
        (Order, {"number": 1, "items": [{"name": "a"}]}, r"missing required field `price` - at `\$.items\[0\]`"),
        (Box, {"colour": "red", "size": -1}, r"Expected `int` >= 0 - at `\$.size`"),
        (BOUNDED, 0, "Expected `int` >= 1"),
        (list[BOUNDED], [0], r"Expected `int` >= 1 - at `\$\[...\]`|\$\[0\]"),
        (Page, {"number": 0}, r"\$.number: Input should be greater than or equal to 1"),
        (list[Page], [{"number": 0}], r"\$.number: .* - at `\$\[0\]`"),
        (Page, {"number": 1, "inner": {}}, r"\$.inner.day: Field required"),
        (Item | Refusal, {"x": 1}, "none of the forms: Item: .*`name`; or Refusal: .*`reason`"),
        (list[Item | Refusal], [{"x": 1}], r"none of the forms.* - in `\$\[0\]`"),
        (list[Item | Refusal], {"x": 1}, "Expected `array`, got `dict`"),
        (dict[str, Item | Refusal], {"k": 1}, r"none of the forms.* - in `\$.k`"),
        (dict[str, Item | Refusal], [1], "Expected an `object`"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_with_path_and_reason(
    kind: Any, value: Any, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        shape(kind).accept(value)


@pytest.mark.parametrize("kind", [complex, object, 5, list[complex], complex | Item, print])
def test_what_is_no_type_with_a_schema_is_an_error_before_anything_is_sent(kind: Any) -> None:
    with pytest.raises(ConfigError, match="neither a JSON Schema nor a type with one"):
        shape(kind)


def test_a_type_whose_fields_are_all_required_is_one_that_providers_can_hold_a_reply_to() -> None:
    for kind in (Order, Item, Tree):
        assert constrainable(shape(kind).json_schema or {}), shape(kind).json_schema
    assert not constrainable(
        shape(Refusal).json_schema or {}
    )  # it would have to make up what may be left out


def test_both_wires_are_sent_the_schema_of_a_type_as_one_to_hold_the_reply_to() -> None:
    with ModelServer(lambda messages: '{"name": "a", "price": 1}') as server:
        for spec in ("openai/m", "anthropic/claude-sonnet-4-5"):
            rlm = RLM(spec, base_url=server.url, api_key="k", strategy="direct")
            assert rlm.completion("?", schema=Item).answer == Item("a", 1.0)
        chat, messages = server.requests
    sent = shape(Item).json_schema
    assert chat["response_format"]["json_schema"] == {"name": "reply", "schema": sent, "strict": True}
    assert messages["output_config"]["format"] == {"type": "json_schema", "schema": sent}


# Sub-calls ------------------------------------------------------------------------------------


def test_a_reply_that_does_not_fit_is_asked_for_once_more_with_the_reason() -> None:
    root = ScriptedModel(["```repl\nFINAL(llm_query('give', schema=list[int]))\n```"], name="root")
    sub = ScriptedModel(['["a"]', "[1, 2]"], name="sub")
    done = RLM(root, sub_model=sub).completion("?")
    assert (done.answer, done.usage.calls) == ([1, 2], 3)
    first, second = sub.requests
    assert second[: len(first)] == first
    assert "$[0]: 'a' is not of type 'integer'" in second[-1].content
    assert "Reply again" in second[-1].content


@pytest.mark.parametrize("replies", [["no", "never"], ["no"]])
async def test_a_reply_that_does_not_fit_twice_or_cannot_be_asked_for_again_is_an_error(
    replies: Sequence[str],
) -> None:
    with pytest.raises(SubcallError, match=f"does not follow the schema: .*; it was: {replies[-1]}"):
        await ask([Message("user", "?")], ScriptedModel(list(replies)), shape(int))


def test_it_is_not_asked_for_again_where_a_limit_does_not_allow_it() -> None:
    code = "try:\n    llm_query('a', schema=int)\nexcept SubcallError as error:\n    print(error)"
    root = ScriptedModel([f"```repl\n{code}\n```", "```repl\nFINAL(1)\n```"], name="root")
    sub = ScriptedModel(["no", "1"], name="sub")
    done = RLM(root, sub_model=sub, limits=Limits(max_calls=3)).completion("?")
    assert (done.answer, len(sub.requests)) == (1, 1)
    assert "does not follow the schema" in root.requests[1][-1].content


TYPES = """
import enum
from dataclasses import dataclass, field
from typing import Annotated, Literal, Optional, TypedDict, Any

class Colour(enum.Enum):
    RED = 'red'

@dataclass
class Item:
    name: str
    tags: list[str] = field(default_factory=list)

class Row(TypedDict, total=False):
    item: Item

@dataclass
class Tree:
    below: 'list[Tree]'
"""
ITEM = {
    "title": "Item",
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("said", "schema"),
    [
        ("str", {"type": "string"}),
        ("list[int]", {"type": "array", "items": {"type": "integer"}}),
        ("dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
        ("Optional[bool]", {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Literal['a', 2]", {"enum": ["a", 2]}),
        ("Annotated[Colour, 'x']", {"enum": ["red"]}),
        ("tuple[str, ...]", {"type": "array", "items": {"type": "string"}}),
        ("tuple[str, Any]", {"type": "array", "prefixItems": [{"type": "string"}, {}], "minItems": 2, "maxItems": 2}),
        ("list[Item]", {"type": "array", "items": ITEM}),
        ("Row", {"title": "Row", "type": "object", "properties": {"item": ITEM}, "required": [], "additionalProperties": False}),
        ("{'type': 'null'}", {"type": "null"}),
    ],
)  # fmt: skip
async def test_code_may_say_a_type_of_its_own_where_a_schema_is_wanted(
    bench: Bench, said: str, schema: Any
) -> None:
    await bench.shown(f"{TYPES}\nllm_query('a', schema={said}); rlm_query('q', schema={said})")
    assert [call.schema for call in bench.host.calls if isinstance(call, LlmQuery | RlmQuery)] == [schema] * 2
    shape(schema, trusted=False)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("Tree", "Tree is part of itself"),
        ("complex", "<class 'complex'> is neither a JSON Schema (a dict) nor a type"),
        ("'object'", "'object' is neither a JSON Schema (a dict) nor a type"),
        ("[1, 2]", "[1, 2] is neither"),
    ],
)
async def test_what_is_no_type_is_an_error_in_the_code(isolated: Bench, said: str, problem: str) -> None:
    execution = await isolated.run(f"{TYPES}\nllm_query('a', schema={said})")
    assert f"TypeError: schema: {problem}" in str(execution.error)
    assert isolated.host.calls == []
