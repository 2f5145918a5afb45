"""Tools and values: what the root LM is told of them, where they run, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from recursor import RLM, CodeTool, ConfigError, Limits, ModelError, Policy, SandboxError, tool
from recursor.testing import ListSink, ScriptedModel
from recursor.tools import collect
from recursor.trajectory import view
from recursor.types import Message, RunStarted, ToolCalled

WORDS = '''
import re

LETTERS = re.compile(r"\\w+")


def words(text: str, *, least: int = 1) -> list[str]:
    """Split a text into its words.

    Numbers count as words.

    Args:
        text: any text.
        least: letters that a word has
            at the least.

    Returns:
        The words,
        in order.

    Raises:
        TypeError: it is no text.

    Example:
        words("a b")
    """
    return [word for word in LETTERS.findall(text) if len(word) >= least]


async def ask(text: str) -> str:
    """Ask a sub-LM politely."""
    return await allm_query(f"Please: {text}")


def about() -> object:
    return [type(context).__name__, words("a b"), limit]


def broken() -> None:
    raise ValueError("not here")
'''
DEEP = Limits(max_depth=2)


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def model(*codes: str) -> ScriptedModel:
    return ScriptedModel([block(code) for code in codes])


def code(*names: str, source: str = WORDS) -> list[CodeTool]:
    return [CodeTool(name, source) for name in names]


def family(**turns: Sequence[str]) -> ScriptedModel:
    """Root LMs by their questions."""

    def turn(messages: Sequence[Message]) -> str:
        for question, codes in turns.items():
            if f"Question: {question}" in messages[1].content:
                return block(codes[sum(each.role == "assistant" for each in messages)])
        return "a plain reply"

    return ScriptedModel(turn, name="root")


# What is told ---------------------------------------------------------------------------------


def test_the_root_lm_is_told_signature_arguments_result_and_errors() -> None:
    root = model("FINAL(1)")
    RLM(root, tools=code("words", "ask")).completion("?")
    assert (
        "\n- `words(text: str, *, least: int=1) -> list[str]`: Split a text into its words. "
        "Numbers count as words.\n  text: any text.\n  least: letters that a word has at the least."
        "\n  returns The words, in order.\n  raises TypeError: it is no text."
        "\n- `await ask(text: str) -> str`: Ask a sub-LM politely.\n" in root.requests[0][0].content
    )


def test_a_host_tool_is_told_of_in_the_same_way() -> None:
    @tool
    def find(word: str, among: Literal["all", "new"] = "all") -> list[int]:
        """Find the pages
        that have a word.

        Args:
            word: without a plural s.
            among: which pages.
        """
        return []

    root = model("FINAL(1)")
    RLM(root, tools=[find]).completion("?")
    assert (
        "`find(word: str, among: Literal['all', 'new'] = 'all') -> list[int]`: Find the pages that have a word."
        "\n  word: without a plural s.\n  among: which pages.\n" in root.requests[0][0].content
    )


def test_what_is_told_of_a_tool_is_bounded() -> None:
    made = collect([tool(name="long")(lambda: 1), CodeTool("f", f"def f():\n    {'x' * 9000!r}")])
    assert all(len(each.told) <= 4000 for each in made.values())


# Arguments ------------------------------------------------------------------------------------


class Model:
    """As pydantic has them, as far as it matters here."""

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if value != {"x": 1}:
            raise ValueError("x: must be 1")
        return cls()


@dataclass
class Point:
    x: int
    y: int = 0


@tool
def typed(
    point: Point, *more: int, share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0, **named: Model
) -> object:
    """Take things."""
    return [point.x, point.y, list(more), share, [type(each).__name__ for each in named.values()]]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("typed({'x': 1}, 2, '3')", "typed: more[1]: Expected `int`, got `str`"),
        ("typed({'x': 'a'})", "typed: point: Expected `int`, got `str` - at `$.x`"),
        ("typed({'x': 1}, share=1.5)", "typed: share: Expected `float` <= 1.0"),
        ("typed({'x': 1}, a={'x': 2})", "typed: a: x: must be 1"),
        ("typed()", "typed: missing a required argument: 'point'; it is `typed(point: "),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_with_its_place_and_the_signature(
    call: str, problem: str
) -> None:
    root = model(f"try:\n    {call}\nexcept SubcallError as error:\n    FINAL(str(error))")
    answer = RLM(root, tools=[typed]).completion("?").answer
    assert answer.startswith(problem)
    assert "; it is `typed(" in answer


def test_arguments_arrive_as_what_their_annotations_say() -> None:
    root = model("FINAL(typed({'x': 1}, 2, 3, share=1, a={'x': 1}))")
    assert RLM(root, tools=[typed]).completion("?").answer == [1, 0, [2, 3], 1.0, ["Model"]]


def rows(table: str, *, user: str = "nobody", **more: str) -> object:
    """Read rows."""
    return [table, user, more]


@pytest.mark.parametrize("name", ["user", "key"])
def test_what_a_partial_has_fixed_is_neither_told_nor_changed(name: str) -> None:
    fixed = tool(name="rows")(partial(rows, user="alice", key="s3cret"))
    root = model(
        f"try:\n    rows('a', {name}='bob')\nexcept SubcallError as error:\n    FINAL([rows('b', x='c'), str(error)])"
    )
    answer = RLM(root, tools=[fixed]).completion("?").answer
    assert answer[0] == ["b", "alice", {"key": "s3cret", "x": "c"}]
    assert answer[1].startswith(
        f"rows: got an unexpected keyword argument '{name}'; it is `rows(table: str, **more"
    )
    told = root.requests[0][0].content
    assert "`rows(table: str, **more: str) -> object`: Read rows." in told
    assert "alice" not in told
    assert "s3cret" not in told


def test_arguments_that_are_too_long_are_refused_before_they_are_recorded() -> None:
    sink = ListSink()
    root = model(
        "try:\n    rows('a' * (1 << 24), user='b')\nexcept SubcallError as error:\n    FINAL(str(error))"
    )
    answer = RLM(root, tools=[rows], sinks=[sink]).completion("?").answer
    assert answer == "rows: the arguments have more than 1,048,576 characters; pass less at a time"
    assert not any(isinstance(event, ToolCalled) for event in sink.events)


# Tools that are code --------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", ["process", "inprocess", "conftest:PlainSandbox"])
def test_a_code_tool_runs_in_the_repl_with_helpers_of_its_own(sandbox: str) -> None:
    root = model(
        "print(words('a bc', least=2), await ask('now'), about(), 'LETTERS' in globals(), SHOW_VARS())\n"
        "words = llm_query = 3",
        "broken()",
        "FINAL([words('still here'), about()])",
    )
    sub = ScriptedModel(lambda messages: messages[-1].content.upper(), name="sub")
    rlm = RLM(
        root,
        sub_model=sub,
        sandbox=sandbox,
        tools=code("words", "ask", "about", "broken"),
        values={"limit": 7},
    )
    done = rlm.completion("?", "text")
    assert done.answer == [["still", "here"], ["str", ["a", "b"], 7]]
    shown = root.requests[1][-1].content
    assert "['bc'] PLEASE: NOW ['str', ['a', 'b'], 7] False no variables yet" in shown
    assert "`words` is reserved and was restored" in shown
    assert 'File "<tool broken>", line' in root.requests[2][-1].content
    assert "ValueError: not here" in root.requests[2][-1].content


def test_a_code_tool_asks_the_host_for_nothing_and_a_policy_is_not_asked() -> None:
    sink = ListSink()
    policy = Policy(deny=["tool:*"])
    rlm = RLM(model("FINAL(words('a b'))"), tools=code("words"), policy=policy, sinks=[sink])
    assert rlm.completion("?").answer == ["a", "b"]
    assert [type(each).__name__ for each in sink.events if "Tool" in type(each).__name__] == []


def test_code_that_asks_the_host_for_a_code_tool_is_refused() -> None:
    ask = (
        "typed.__closure__[typed.__code__.co_freevars.index('name')].cell_contents = 'words'\n"
        "try:\n    typed('a')\nexcept SubcallError as error:\n    FINAL(str(error))"
    )
    done = RLM(model(ask), tools=[typed, *code("words")]).completion("?")
    assert done.answer == "there is no tool 'words'"


def test_a_code_tool_and_values_are_there_after_the_repl_has_died() -> None:
    root = model("import os; os.kill(os.getpid(), 9)", "FINAL([words('a b'), taxonomy])")
    done = RLM(root, tools=code("words"), values={"taxonomy": {"a": 1}}).completion("?")
    assert done.answer == [["a", "b"], {"a": 1}]


def test_children_get_a_code_tool_by_name_and_values_by_themselves() -> None:
    look = "FINAL([name in globals() for name in ('words', 'about', 'limit')])"
    child = "rlm_query('inner', 'data', tools=[words])"
    root = family(
        root=[f"FINAL([{child}, rlm_query('inner', fork=True, tools=['about']), words('x')])"],
        inner=[look],
    )
    rlm = RLM(root, tools=code("words", "about"), values={"limit": {"at": 1}}, limits=DEEP)
    assert rlm.completion("root").answer == [[True, False, True], [False, True, True], ["x"]]
    prompts = [each for each in root.requests if "Question: inner" in each[1].content]
    assert [("`words(" in each[0].content, "`about(" in each[0].content) for each in prompts] == [
        (True, False), (False, True)
    ]  # fmt: skip
    assert all("`limit`: dict, 1 keys\n'at': 1" in each[1].content for each in prompts)


def test_a_source_that_fails_in_the_sandbox_ends_the_run_before_it_costs_anything() -> None:
    root = model("FINAL(1)")
    tools = code("f", source="import nothing_of_this_name\ndef f(): pass")
    with pytest.raises(SandboxError, match="`f` could not be loaded: ModuleNotFoundError: No module named"):
        RLM(root, tools=tools).completion("?")
    with pytest.raises(SandboxError, match="`f` could not be loaded: RuntimeError: SystemExit: 3"):
        RLM(root, tools=code("f", source="def f(): pass\nraise SystemExit(3)")).completion("?")
    assert root.requests == []


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: CodeTool("f", "def f(:"), "the source of 'f' is no Python: invalid syntax"),
        (lambda: CodeTool("f", "f = 1"), "the source of 'f' defines no function of that name"),
        (lambda: RLM(model(), tools=[CodeTool("grep", "def grep(): pass")]), "the name 'grep' is taken"),
        (lambda: RLM(model(), tools=code("words", "words")), "the name 'words' is taken"),
        (lambda: RLM(model(), values={"context": 1}), "values: the name 'context' is taken"),
        (lambda: RLM(model(), tools=code("words"), values={"words": 1}), "values: the name 'words' is taken"),
        (lambda: RLM(model(), values={"a b": 1}), "values: 'a b' is no name for a variable"),
        (lambda: RLM(model(), values=["a"]), "values must be a dict of names and data, not list"),  # type: ignore[arg-type]
        (lambda: RLM(model(), values={"a": object()}).completion("?"), "values: a: a builtins.object cannot be given"),
    ],
)  # fmt: skip
def test_what_cannot_be_offered_is_an_error_before_anything_is_sent(make: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make()


# Values, and going on with a run --------------------------------------------------------------


def test_values_are_told_with_their_shape_restored_and_recorded_by_digest(tmp_path: Path) -> None:
    root, sink = model("taxonomy = 5", "FINAL(taxonomy)"), ListSink()
    value = {"fruit": ["apple", "pear"], "sizes": [1, 2]}
    rlm = RLM(root, values={"taxonomy": value}, store=tmp_path / "runs.db", sinks=[sink])
    done = rlm.completion("?", "text")
    assert done.answer == value
    assert "`taxonomy`: dict, 2 keys" in root.requests[0][1].content
    assert "`taxonomy` is reserved and was restored" in root.requests[1][-1].content
    (started,) = [each for each in sink.events if isinstance(each, RunStarted)]
    assert [info.name for info in started.contexts] == ["context", "taxonomy"]
    with view.open(tmp_path / "runs.db") as recorded:
        digests = {each.info.name: each.digest for each in recorded.run(done.run_id).contexts}
    assert str(digests["taxonomy"]).startswith("sha256:")


def test_a_run_goes_on_with_the_same_tools_and_values_and_with_no_others(tmp_path: Path) -> None:
    def attempt(*, fail: bool = False, tools: Any = code("words"), values: Any = {"limit": 7}) -> RLM:  # noqa: B006, B008
        turns = iter([block("n = words('a b')"), *([] if fail else [block("FINAL([n, limit])")])])

        def turn(messages: Sequence[Message]) -> str:
            if fail and len(messages) > 2:
                raise ModelError("down")
            return next(turns) if len(messages) == 2 else block("FINAL([n, limit])")

        return RLM(ScriptedModel(turn, name="m"), tools=tools, values=values, store=tmp_path / "runs.db")

    with pytest.raises(ModelError) as error:
        attempt(fail=True).completion("?", "text")
    run_id = str(error.value.run_id)
    for options, problem in (
        ({"tools": []}, "the run had the code tool 'words': pass it again"),
        ({"tools": code("words", "about")}, "the run had no code tool 'about'"),
        ({"tools": code("words", source="def words(x): return x")}, "'words' is not what the run had"),
        ({"values": {"limit": 8}}, "`limit` is not what run .* was given"),
        ({"values": {}}, "was given context, limit, and now context"),
    ):
        with pytest.raises(ConfigError, match=problem):
            attempt(**options).resume(run_id, "text")
    done = attempt().resume(run_id, "text")
    assert (done.answer, done.replayed) == ([["a", "b"], 7], 1)


def test_a_plain_call_reads_the_values_where_there_is_no_repl() -> None:
    root = ScriptedModel(["done"])
    assert RLM(root, values={"limit": [1, 2]}, strategy="direct").completion("?", "text").answer == "done"
    assert '"limit": [1, 2]' in root.requests[0][1].content
