"""Questions that share a REPL: what they find, what they are told, and how a session outlives its process."""

from __future__ import annotations

import asyncio
import gc
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recursor import RLM, CodeTool, ConfigError, Limits, ModelError, background, review, tool
from recursor.errors import LimitExceeded, RLMError, TrajectoryError
from recursor.files import Raw
from recursor.sessions.session import Session
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.types import Message, Reply, RunEnded, RunStarted, StopReason, Usage


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def asked(messages: Sequence[Message]) -> str:
    """The question in a prompt."""
    return messages[1].content.partition("Question: ")[2].partition("\n")[0]


class Book:
    """A root LM that knows what to write for each question, turn by turn; `FINAL(...)` around what is no block."""

    def __init__(self, pages: Mapping[str, str | Sequence[str] | Callable[[], str]]) -> None:
        self.pages: Any = pages
        self.prompts: list[Sequence[Message]] = []

    def __call__(self, messages: Sequence[Message]) -> Reply | Exception:
        self.prompts.append(tuple(messages))
        found: Any = self.pages[asked(messages)]
        found = found() if callable(found) else found
        if isinstance(found, Exception):
            return found
        codes = [found] if isinstance(found, str) else found
        turn = sum(each.role == "assistant" for each in messages)
        return Reply(block(codes[min(turn, len(codes) - 1)]), Usage(10, 10, calls=1), 0.02)

    @property
    def told(self) -> str:
        """The system message of the last prompt."""
        return self.prompts[-1][0].content


class Always(dict[str, str]):
    """The same for every question."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    def __missing__(self, question: str) -> str:
        return self.code


def shout(messages: Sequence[Message]) -> Reply:
    return Reply(messages[-1].content.upper(), Usage(5, 5, calls=1), 0.01)


def made(
    pages: Mapping[str, Any], store: Path | None = None, *, children: bool = False, **options: Any
) -> tuple[RLM, Book, ScriptedModel]:
    """An RLM over a book, the book, and what answers sub-calls: children have their code from the book too."""
    book, sub = Book(pages), ScriptedModel(shout, name="sub")
    limits = options.pop("limits", Limits(max_depth=2 if children else 1, max_turns=4))
    root = ScriptedModel(book, name="root")
    return RLM(root, sub_model=None if children else sub, store=store, limits=limits, **options), book, sub


# What a turn finds ------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", ["process", "inprocess", "conftest:PlainSandbox"])
def test_variables_functions_and_history_are_there_in_the_next_turn(sandbox: str) -> None:
    rlm, book, _ = made(
        {
            "Load": "import re\nwords = context.split()\ndef longest(): return max(words, key=len)\nFINAL(len(words))",
            "Longest?": "FINAL([longest(), re.sub('e', 'E', context), history, context_0])",
        },
        sandbox=sandbox,
    )
    with rlm.session() as chat:
        assert chat.completion("Load", "three little words").answer == 3
        done = chat.completion("Longest?")
    past = {"question": "Load", "answer": 3}
    assert done.answer == ["little", "thrEE littlE words", [past], "three little words"]
    assert chat.history[0] == past
    assert "longest: function" in book.told
    assert "words: list" in book.told


def test_answer_begins_anew_in_each_turn() -> None:
    rlm, _, _ = made({"a": "answer['content'] = 'draft'\nFINAL(1)", "b": "FINAL(dict(answer))"})
    with rlm.session() as chat:
        chat.completion("a")
        assert chat.completion("b").answer == {"content": None, "ready": False}


def test_contexts_have_versions_and_context_is_the_newest() -> None:
    rlm, book, _ = made({"q": "FINAL([context, sorted(n for n in globals() if n.startswith('context'))])"})
    with rlm.session() as chat:
        assert chat.completion("q", "one").answer == ["one", ["context", "context_0"]]
        assert chat.completion("q").answer == ["one", ["context", "context_0"]]
        assert chat.completion("q", [2]).answer == [[2], ["context", "context_0", "context_1"]]
        assert "`context` is `context_1`, which came with this question." in book.told
        assert chat.completion("q").answer[0] == [2]
        assert "Earlier contexts: `context_0` (str, 3 characters)." in book.told


def test_a_context_is_handed_on_by_either_of_its_names() -> None:
    rlm, _, _ = made(
        {
            "ask": "FINAL([rlm_query('size?', context), rlm_query('size?', context_0), rlm_query('size?', context_1)])",
            "size?": "FINAL(len(context))",
            "one": "FINAL(0)",
        },
        children=True,
    )
    with rlm.session() as chat:
        chat.completion("one", "x" * 100_000)
        assert chat.completion("ask", "y" * 70_000).answer == [70_000, 100_000, 70_000]


def test_messages_and_long_questions_are_those_of_the_turn() -> None:
    rlm, book, _ = made({"x": "FINAL(messages)", "short": "FINAL(question)"})
    rows = [{"role": "user", "content": "x"}]
    with rlm.session() as chat:
        assert chat.completion(messages=rows).answer == rows
        assert chat.completion(messages=[*rows, *rows]).answer == [*rows, *rows]
        long = "Why? " * 1000
        book.pages = Always("FINAL(len(question))")
        assert chat.completion(long).answer == 5000
        assert chat.completion("short").answer == 5
        assert len(book.prompts[-1][1].content) < 200


def test_each_turn_has_a_schema_of_its_own() -> None:
    rlm, _, _ = made({"n": "FINAL(7)", "list": "FINAL(['a'])", "wrong": ["FINAL('seven')", "FINAL(7)"]})
    with rlm.session() as chat:
        assert chat.completion("n", schema=int).answer == 7
        assert chat.completion("list", schema=list[str]).answer == ["a"]
        assert chat.completion("wrong", schema=int).turns == 2


def test_tools_code_tools_and_values_stay_and_may_be_added() -> None:
    @tool
    def double(x: int) -> int:
        return 2 * x

    @tool
    def triple(x: int) -> int:
        return 3 * x

    pages = {
        "a": "n = double(4) + plus(1) + base\nFINAL(n)",
        "b": "FINAL([n, double(n), triple(n), plus(n), base])",
    }
    code = CodeTool("plus", "def plus(x):\n    return x + 1")
    rlm, _, _ = made(pages, tools=[double, code], values={"base": 100})
    with rlm.session() as chat:
        assert chat.completion("a").answer == 110
        assert chat.with_changes(tools=[triple]).completion("b").answer == [110, 220, 330, 111, 100]
        done = chat.with_changes(limits=Limits(max_turns=1, max_errors=1)).completion("b")
        assert done.stop_reason is not StopReason.ANSWERED  # triple went with the turn that had it


def test_children_begin_in_copies_of_a_sessions_repl() -> None:
    pages = {
        "load": "secret = 41\nFINAL(0)",
        "ask": "FINAL([rlm_query('more', fork=True), secret])",
        "more": "secret += 1\nFINAL(secret)",
    }
    rlm, _, _ = made(pages, children=True)
    with rlm.session() as chat:
        chat.completion("load")
        assert chat.completion("ask").answer == [42, 41]


def test_coverage_counts_what_a_turn_read_of_an_earlier_context(tmp_path: Path) -> None:
    rlm, _, _ = made(
        {"load": "FINAL(0)", "read": "FINAL(llm_query(context[:1000]))"}, tmp_path / "r.db", coverage=True
    )
    text = "".join(f"line {n} of many\n" for n in range(1000))
    with rlm.session() as chat:
        first, second = chat.completion("load", text), chat.completion("read")
    assert first.coverage is not None
    assert second.coverage is not None
    assert first.coverage.read < 1000 <= second.coverage.read


def test_what_a_turn_read_of_contexts_that_are_kept_is_said_afterwards(tmp_path: Path) -> None:
    rlm, _, _ = made({"load": "FINAL(0)", "read": "FINAL(llm_query(context[:100]))"}, tmp_path / "r.db")
    text = "".join(f"line {n} of many\n" for n in range(100))
    with rlm.session() as chat:
        runs = [chat.completion("load", "another text").run_id, chat.completion("load", text).run_id]
        runs.append(chat.completion("read").run_id)
        rows = [{"role": "user", "content": "load"}]
        runs.append(chat.completion(messages=rows).run_id)
    assert [review.coverage(tmp_path / "r.db", run).length for run in runs[:3]] == [
        len("another text"),
        len(text),
        len(text),
    ]
    assert review.coverage(tmp_path / "r.db", runs[2]).read >= 100
    assert review.coverage(tmp_path / "r.db", runs[3]).length >= len(text)


async def test_sessions_stream_and_await() -> None:
    rlm, _, _ = made({"a": "x = 1\nFINAL(x)", "b": "FINAL(x + 1)"})
    async with rlm.session() as chat:
        assert (await chat.acompletion("a")).answer == 1
        events = [event async for event in chat.stream("b")]
        assert isinstance(events[0], RunStarted)
        assert isinstance(events[-1], RunEnded)
        assert events[-1].completion is not None
        assert events[-1].completion.answer == 2
        assert len(chat.history) == 2


# What a turn is told ----------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 3000), min_size=12, max_size=25))
def test_prompts_stay_bounded_and_hold_no_more_of_answers_than_the_last_ones_clipped(
    sizes: list[int],
) -> None:
    rlm, book, _ = made(Always(""), sandbox="inprocess")
    with rlm.session() as chat:
        for number, size in enumerate(sizes):
            early, late = f"EARLY{number:03}", f"LATE{number:03}"
            filler = "x" * (size + 400)
            book.pages = Always(f"v{number} = '{filler}{late}'\nFINAL('{early}{filler}{late}')")
            context = f"CONTEXT{number:03}" if number % 3 == 0 else None
            chat.completion(f"Q{number:03} {'?' * size}", context)
            prompt = "".join(each.content for each in book.prompts[-1])
            for before in range(number):
                assert f"LATE{before:03}" not in prompt
                if before < number - 3:
                    assert f"EARLY{before:03}" not in prompt
                    assert f"Q{before:03}" not in prompt
            question = min(size, 4100)
            assert len(prompt) - question < 9000


def test_a_conversation_of_fifty_turns_costs_what_one_of_ten_does() -> None:
    rlm, book, _ = made(Always("x = 1\nFINAL('y' * 1000)"), sandbox="inprocess")
    with rlm.session() as chat:
        for number in range(50):
            chat.completion(f"Question {number:02}")
    sizes = [sum(len(each.content) for each in prompt) for prompt in book.prompts]
    assert max(sizes[10:]) - min(sizes[10:]) < 20


# Turns that do not end well ---------------------------------------------------------------------


def test_a_turn_that_a_limit_ends_leaves_its_variables_and_is_in_the_history() -> None:
    rlm, book, _ = made(
        {"long": ["a = 1", "b = a + 1"], "then": "FINAL([a, b, history])"}, limits=Limits(max_turns=2)
    )
    with rlm.session() as chat:
        assert chat.completion("long").stop_reason is StopReason.MAX_TURNS
        past = {"question": "long", "answer": None, "ended": "max_turns"}
        assert chat.completion("then").answer == [1, 2, [past]]
        assert "(ended: max_turns)" in book.told


def test_a_turn_whose_model_fails_leaves_its_variables_and_is_in_the_history() -> None:
    rlm, book, _ = made({"a": "n = 5", "then": "FINAL([n, history[0]['ended']])"})
    replies: list[Any] = ["n = 5", ModelError("the provider is down")]
    book.pages["a"] = lambda: replies.pop(0)
    with rlm.session() as chat:
        with pytest.raises(ModelError):
            chat.completion("a")
        assert chat.completion("then").answer == [5, "ModelError: the provider is down"]


async def stopped_in_the_middle(rlm: RLM, chat: Session, waits: asyncio.Event) -> None:
    """Cancel a turn while its code waits for a tool."""
    turn = asyncio.ensure_future(chat.acompletion("stop"))
    await asyncio.wait_for(waits.wait(), 20)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("sandbox", ["process", "conftest:PlainSandbox"])
async def test_a_cancelled_turn_is_undone(sandbox: str, recorded: bool, tmp_path: Path) -> None:
    here, waits = asyncio.get_running_loop(), asyncio.Event()

    @tool
    async def wait() -> None:
        here.call_soon_threadsafe(waits.set)
        await asyncio.Event().wait()

    pages = {"a": "x = [1]\nFINAL(x)", "stop": "x.append(2)\nwait()", "then": "FINAL([x, history])"}
    store = tmp_path / "r.db" if recorded else None
    rlm, book, _ = made(pages, store, sandbox=sandbox, tools=[wait])
    async with rlm.session() as chat:
        await chat.acompletion("a")
        await stopped_in_the_middle(rlm, chat, waits)
        assert len(chat.history) == 1
        if sandbox == "process" or recorded:
            done = await chat.acompletion("then")
            assert done.answer == [[1], [{"question": "a", "answer": [1]}]]
            assert "what its code did to variables is undone" in book.told
        else:  # nothing to go back to
            book.pages["then"] = "FINAL(['x' in globals(), history])"
            assert (await chat.acompletion("then")).answer == [False, [{"question": "a", "answer": [1]}]]
            assert "variables of earlier turns are lost" in book.told


def test_a_repl_that_is_killed_goes_back_to_the_block_before() -> None:
    rlm, _, _ = made(
        {"a": "x = 1\nFINAL(x)", "die": ["x = 2", "import os; os._exit(1)", "FINAL(x)"], "then": "FINAL(x)"}
    )
    with rlm.session() as chat:
        chat.completion("a")
        assert chat.completion("die").answer == 2
        assert chat.completion("then").answer == 2


def end_repl(chat: Session) -> None:
    """End the process of its REPL, and return when it is gone, which nobody else has noticed yet."""
    live = chat._keeper._held.live
    assert live is not None
    repl: Any = live.repl
    repl._link.worker.kill()
    wait_until(repl._link.lost.done)


@pytest.mark.parametrize("sandbox", ["process", "conftest:PlainSandbox"])
def test_a_repl_that_died_between_questions_is_made_again_from_the_record(
    tmp_path: Path, sandbox: str
) -> None:
    rlm, book, _ = made(
        {"a": "y = 4\nFINAL(y)", "b": "x = 5\nFINAL(x)", "then": "FINAL([x, y])"},
        tmp_path / "r.db",
        sandbox=sandbox,
    )
    with rlm.session() as chat:
        chat.completion("a")
        chat.completion("b")
        end_repl(chat)
        assert chat.completion("then").answer == [5, 4]
        assert "lost" not in book.told


def test_without_a_record_a_repl_that_died_between_questions_is_told() -> None:
    rlm, book, _ = made(
        {"b": "x = 5\nFINAL(x)", "then": "FINAL(['x' in globals(), context])"},
        sandbox="conftest:PlainSandbox",
    )
    with rlm.session() as chat:
        chat.completion("b", "text")
        end_repl(chat)
        assert chat.completion("then").answer == [False, "text"]
        assert "your variables are lost" in book.told


@pytest.mark.parametrize("sandbox", ["process", "conftest:PlainSandbox"])
def test_what_a_repl_that_was_killed_had_is_the_same_when_it_is_made_again(
    tmp_path: Path, sandbox: str
) -> None:
    pages = {
        "a": "x = 1\nFINAL(x)",
        "die": ["x = 2\nz = 3", "import os; os._exit(1)", "y = globals().get('x')", "FINAL(y)"],
        "all": "FINAL({n: globals().get(n) for n in 'xyz'})",
    }
    store = tmp_path / "r.db"
    rlm, _, _ = made(pages, store, sandbox=sandbox)
    with rlm.session("s") as chat:
        chat.completion("a", "text")
        chat.completion("die")
        before = chat.completion("all").answer
    assert before == ({"x": 2, "y": 2, "z": 3} if sandbox == "process" else {"x": None, "y": None, "z": None})
    with rlm.session("s") as chat:
        assert chat.completion("all").answer == before


def test_code_that_ran_away_does_not_hold_up_the_way_back(tmp_path: Path) -> None:
    limits = Limits(max_cell_time=1.0, max_turns=4)
    pages = {"a": ["x = 0\nwhile True: x += 1", "x = 7\nFINAL(x)"], "b": "FINAL(x)"}
    rlm, _, _ = made(pages, tmp_path / "r.db", limits=limits)
    with rlm.session("s") as chat:
        chat.completion("a")
    with rlm.session("s") as chat:
        assert chat.with_changes(limits=Limits()).completion("b").answer == 7


def test_a_session_that_nobody_holds_leaves_no_process() -> None:
    rlm, _, _ = made({"a": "FINAL(1)"})
    chat: Session | None = rlm.session()
    assert chat is not None
    chat.completion("a")
    live = chat._keeper._held.live
    assert live is not None
    repl: Any = live.repl
    del chat, live

    def closed() -> bool:
        gc.collect()  # each time: the loop of the runs may hold on to the last one for a moment
        return bool(repl._closed)

    wait_until(closed)


# One after the other ----------------------------------------------------------------------------


def test_a_context_that_cannot_be_read_is_no_turn(tmp_path: Path) -> None:
    broken = tmp_path / "a.zip"
    broken.write_bytes(b"PK\x03\x04 nothing")
    rlm, book, _ = made({"a": "x = 1\nFINAL(x)", "b": "FINAL([x, context, history])"}, tmp_path / "r.db")
    for _ in range(2):
        with rlm.session("s") as chat:
            chat.completion("a", "text")
            with pytest.raises(RLMError, match=r"a\.zip"):
                chat.completion("a", broken)
            answer = chat.completion("b").answer
            assert answer[:2] == [1, "text"]
            assert "undone" not in book.told
    assert [each["question"] for each in answer[2]] == ["a", "b", "a"]


def test_questions_asked_at_once_are_answered_one_after_the_other() -> None:
    rlm, _, _ = made({"begin": "n = 0\nFINAL(n)", "count": "n += 1\nFINAL(n)"})
    with rlm.session() as chat:
        chat.completion("begin")
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(chat.completion("count").answer)) for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(found) == list(range(1, 9))


def test_a_tool_cannot_ask_the_session_that_waits_for_it() -> None:
    chats: list[Session] = []

    @tool
    def ask() -> Any:
        return chats[0].completion("inner").answer

    rlm, _, _ = made(
        {"outer": "try:\n    ask()\nexcept SubcallError as e:\n    FINAL(str(e))", "inner": "FINAL(1)"},
        tools=[ask],
    )
    with rlm.session() as chat:
        chats.append(chat)
        assert "cannot wait for another turn of it" in chat.completion("outer").answer


def test_a_closed_session_says_so_and_leaves_no_process() -> None:
    rlm, _, _ = made({"a": "import os\nFINAL(1)"})
    chat = rlm.session()
    chat.completion("a")
    assert chat.open
    chat.close()
    chat.close()
    assert not chat.open
    with pytest.raises(ConfigError, match="is closed"):
        chat.completion("a")


# Limits of the whole ----------------------------------------------------------------------------


def test_a_session_has_a_budget_beside_those_of_its_turns(tmp_path: Path) -> None:
    rlm, _, _ = made({"a": "FINAL(1)"}, tmp_path / "r.db")
    with rlm.session("s", limits=Limits(max_calls=3)) as chat:
        for _ in range(3):
            assert chat.completion("a").answer == 1
        assert chat.usage.calls == 3
        assert chat.cost == pytest.approx(0.06)
        with pytest.raises(LimitExceeded, match="max_calls of session 's', 3, is used up"):
            chat.completion("a")
    with (
        rlm.session("s", limits=Limits(max_cost=0.05)) as chat,
        pytest.raises(LimitExceeded, match="max_cost"),
    ):
        chat.completion("a")  # what was spent before counts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"limits": Limits(max_turns=3)}, "only max_time, max_tokens, max_cost, max_calls"),
        ({"idle": 5.0}, "idle needs a store"),
        ({"id": "a\nb"}, "printable"),
        ({"limits": {"max_cost": 1}}, "must be a recursor.Limits, not dict"),
        ({"contexts": ["text"]}, "a dict of numbers of turns"),
    ],
)
def test_wrong_settings_of_a_session_are_refused(options: dict[str, Any], told: str) -> None:
    rlm, _, _ = made({})
    with pytest.raises(ConfigError, match=told):
        rlm.session(**options)


def test_a_session_needs_a_repl() -> None:
    rlm, _, _ = made({}, strategy="direct")
    with pytest.raises(ConfigError, match="has no REPL"):
        rlm.session()
    rlm, _, _ = made({"a": "x = 1\nFINAL(x)", "b": "FINAL(x)"}, strategy="auto")
    with rlm.session() as chat:
        chat.completion("a", "small")
        assert chat.completion("b").answer == 1


# Going on after the process ---------------------------------------------------------------------

PAGES = {
    "load": "import random, time\nparts = context.split()\nsaid = llm_query_batched(parts)\nluck, when = random.random(), time.time()\nFINAL([luck, when])",
    "more": "said.append(llm_query('again ' + said[0]))\nnumber = count()\nFINAL(said)",
    "child": "c = rlm_query('size', said)\nFINAL(c)",
    "size": "FINAL(len(context))",
    "all": "FINAL([parts, said, luck, when, number, len(history), context, context_0])",
}


def counting() -> tuple[Any, list[int]]:
    calls: list[int] = []

    @tool
    def count() -> int:
        calls.append(1)
        return len(calls)

    return count, calls


@pytest.mark.parametrize("sandbox", ["process", "conftest:PlainSandbox"])
def test_a_session_goes_on_in_another_process_without_paying_again(tmp_path: Path, sandbox: str) -> None:
    store = tmp_path / "r.db"
    count, calls = counting()
    rlm, _, _ = made(PAGES, store, tools=[count], sandbox=sandbox)
    with rlm.session("contracts") as chat:
        luck, when = chat.completion("load", "some words here").answer
        chat.completion("more", {"other": 1})
        before = chat.completion("all").answer
    again, _, sub = made(PAGES, store, tools=[count], sandbox=sandbox)
    with again.session("contracts") as chat:
        assert [each["question"] for each in chat.history] == ["load", "more", "all"]
        done = chat.completion("all")
        assert done.answer == [*before[:5], 3, *before[6:]]
        assert done.answer[2:4] == ([luck, when] if sandbox == "process" else done.answer[2:4])
        assert (len(sub.requests), len(calls), done.usage.calls) == (0, 1, 1)
        assert chat.usage.calls == 8


def test_children_and_forks_are_not_paid_again(tmp_path: Path) -> None:
    pages = {
        **PAGES,
        "fork": "f = rlm_query('copy', fork=True)\nFINAL(f)",
        "copy": "FINAL(len(parts))",
        "end": "FINAL([c, f])",
    }
    store = tmp_path / "r.db"
    rlm, _, _ = made(
        {**pages, "load": "parts = context.split()\nsaid = 'abc'\nFINAL(0)"}, store, children=True
    )
    with rlm.session("s") as chat:
        chat.completion("load", "two words")
        chat.completion("child")
        chat.completion("fork")
    again, book, _ = made(pages, store, children=True)
    with again.session("s") as chat:
        assert chat.completion("end").answer == [3, 2]
        assert len(book.prompts) == 1


def test_other_models_go_on_with_a_session(tmp_path: Path) -> None:
    rlm, _, _ = made(PAGES, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion("load", "a b")
    other = RLM(ScriptedModel(Book({"said": "FINAL(said)"}), name="newer"), store=tmp_path / "r.db")
    with other.session("s") as chat:
        assert chat.completion("said").answer == ["A", "B"]


def test_files_are_read_again_and_must_be_what_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    pages = {"load": "FINAL(len(context))", "read": "FINAL(context_0['a.txt'])"}
    rlm, _, _ = made(pages, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion("load", folder)
    with rlm.session("s") as chat:
        assert chat.completion("read").answer == "one"
    (folder / "a.txt").write_text("two")
    with (
        rlm.session("s") as chat,
        pytest.raises(ConfigError, match=r"`context` \(.*papers\) is not what turn 1 of session 's'"),
    ):
        chat.completion("read")


def test_contexts_that_are_not_kept_are_asked_for_by_their_turn(tmp_path: Path) -> None:
    pages = {"load": "n = len(context)\nFINAL(n)", "read": "FINAL([n, context, context_0])"}
    rlm, _, _ = made(pages, tmp_path / "r.db")
    with rlm.session("s", keep_contexts=False) as chat:
        chat.completion("load", "first CANARY")
        chat.completion("load", ["second"])
    assert b"CANARY" not in (tmp_path / "r.db").read_bytes().replace(
        b"first CANARY", b"", 2
    )  # previews alone
    with (
        rlm.session("s") as chat,
        pytest.raises(ConfigError, match=r"turn 1 of session 's' .* contexts=\{1: ...\}"),
    ):
        chat.completion("read")
    handed = {1: "first CANARY", 2: ["wrong"]}
    with rlm.session("s", contexts=handed) as chat, pytest.raises(ConfigError, match="is not what turn 2"):
        chat.completion("read")
    with rlm.session("s", contexts={1: "first CANARY", 2: ["second"]}) as chat:
        assert chat.completion("read").answer == [1, ["second"], "first CANARY"]


@pytest.mark.parametrize("wrap", [list, Raw])
def test_several_files_are_read_again_from_where_they_are(
    wrap: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/notes/b.txt", "one/a.csv", "two/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"x\n{name}\n")
    rlm, _, _ = made({"names": "FINAL(sorted(context))"}, tmp_path / "r.db")
    monkeypatch.chdir(tmp_path / "one")
    with rlm.session("s") as chat:
        assert chat.completion("names", wrap([Path("a.csv"), Path("notes")])).answer == [
            "a.csv",
            "notes/b.txt",
        ]
    monkeypatch.chdir(tmp_path / "two")
    with rlm.session("s") as chat:
        assert chat.completion("names").answer == ["a.csv", "notes/b.txt"]


def test_a_context_that_could_not_be_kept_is_asked_for(tmp_path: Path) -> None:
    rlm, book, _ = made({"begin": "FINAL(0)", "load": "FINAL(context)"}, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion("begin")
    full = (
        "CREATE TRIGGER full BEFORE INSERT ON session_context WHEN NEW.data IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    with closing(sqlite3.connect(tmp_path / "r.db")) as connection:
        connection.execute(full)
    with rlm.session("s") as chat:
        assert chat.completion("load", "some text").answer == "some text"
    with rlm.session("s") as chat, pytest.raises(ConfigError, match=r"turn 2 .* contexts=\{2: ...\}"):
        chat.completion("load")
    assert len(book.prompts) == 2
    with rlm.session("s", contexts={2: "some text"}) as chat:
        assert chat.completion("load").answer == "some text"


@pytest.mark.parametrize(
    "context",
    ["text \ud800", b"\0\xff", ["a", 1, None], {"k": {1, 2}, 3: (4,)}, 7, "x" * 20_000_000],
    ids=["text", "bytes", "list", "dict", "number", "long"],
)
def test_contexts_of_every_kind_are_kept(tmp_path: Path, context: Any) -> None:
    rlm, _, _ = made(
        {"a": "seen = context\nFINAL(0)", "b": "FINAL([seen == context == context_0, repr(context)[:100]])"},
        tmp_path / "r.db",
    )
    with rlm.session("s") as chat:
        chat.completion("a", context)
    with rlm.session("s") as chat:
        assert chat.completion("b").answer == [True, repr(context)[:100]]


def test_messages_and_long_questions_are_kept(tmp_path: Path) -> None:
    rows = [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "y"}]
    pages: Any = Always("seen = [messages, question]\nFINAL(0)")
    rlm, book, _ = made(pages, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion(messages=rows)
        chat.completion(messages=[*rows, *rows])
    book.pages = Always("FINAL(seen)")
    with rlm.session("s") as chat:
        assert chat.completion("short").answer == [[*rows, *rows], "x" * 5000]


def test_a_repl_that_was_idle_is_made_again(tmp_path: Path) -> None:
    rlm, _, sub = made(PAGES, tmp_path / "r.db")
    with rlm.session(idle=0.05) as chat:
        chat.completion("load", "a b c")
        wait_until(lambda: not chat.open)
        done = chat.with_changes(tools=[counting()[0]]).completion("more")
        assert done.answer == ["A", "B", "C", "AGAIN A"]
        assert len(sub.requests) == 4


def wait_until(true: Callable[[], bool]) -> None:
    ended = threading.Event()
    for _ in range(2000):
        if true():
            return
        ended.wait(0.01)
    raise AssertionError("it did not come to that")


def test_two_processes_take_turns(tmp_path: Path) -> None:
    pages = {"a": "x = 1\nFINAL(x)", "b": "x += 1\nFINAL(x)"}
    one, two = made(pages, tmp_path / "r.db")[0].session("s"), made(pages, tmp_path / "r.db")[0].session("s")
    with one, two:
        assert one.completion("a").answer == 1
        assert two.completion("b").answer == 2
        assert one.completion("b").answer == 3
        assert len(one.history) == 3


def test_a_session_that_is_at_work_elsewhere_says_so(tmp_path: Path) -> None:
    rlm, _, _ = made({"ask": "FINAL(0)"}, tmp_path / "r.db")
    other = rlm.session("s")

    @tool
    def busy() -> None:
        with pytest.raises(TrajectoryError, match="session 's' is at work elsewhere"):
            Session.completion(other, "ask")

    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_sessions import made
from recursor.errors import TrajectoryError
try:
    made({{"ask": "FINAL(0)"}}, Path({str(tmp_path / "r.db")!r}))[0].session("s").completion("ask")
except TrajectoryError as error:
    print(error)
"""

    @tool
    def elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout

    rlm, _, _ = made({"ask": "FINAL(elsewhere())"}, tmp_path / "r.db", tools=[elsewhere])
    with rlm.session("s") as chat:
        assert "session 's' is at work elsewhere" in chat.completion("ask").answer


DYING = r"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sessions import made
from recursor import tool

@tool
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

pages = {{"load": "said = llm_query_batched(context.split())\nFINAL(said)", "die": ["t = llm_query('third')\nsaid.append(t)", "die()"]}}
rlm, _, _ = made(pages, Path({store!r}), tools=[die])
chat = rlm.session("s")
chat.completion("load", "one two")
chat.completion("die")
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The store of a session whose process was killed in the middle of its second turn."""
    store = tmp_path / "r.db"
    script = DYING.format(tests=str(Path(__file__).parent), store=str(store))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return store


def test_a_turn_in_which_the_process_was_killed_is_undone_by_the_next_question(killed: Path) -> None:
    rlm, book, sub = made({"then": "FINAL([said, len(history)])"}, killed)
    with rlm.session("s") as chat:
        assert chat.completion("then").answer == [["ONE", "TWO"], 1]
        assert "what its code did to variables is undone" in book.told
    assert not sub.requests


def test_a_turn_in_which_the_process_was_killed_can_be_resumed(killed: Path) -> None:
    @tool
    def die() -> None:
        return

    pages = {
        "die": ["t = llm_query('third')\nsaid.append(t)", "die()", "FINAL(said)"],
        "then": "FINAL([said, len(history)])",
    }
    rlm, book, sub = made(pages, killed, tools=[die])
    with rlm.session("s") as chat:
        done = chat.resume()
        assert (done.answer, done.replayed, done.diverged_at) == (["ONE", "TWO", "THIRD"], 3, None)
        assert (len(sub.requests), len(book.prompts)) == (0, 1)
        assert chat.completion("then").answer == [["ONE", "TWO", "THIRD"], 2]


def test_a_turn_that_a_limit_ended_can_be_resumed_with_more(tmp_path: Path) -> None:
    pages = {"load": "FINAL(0)", "work": ["a = llm_query('a')", "b = llm_query('b')", "FINAL([a, b])"]}
    rlm, _, sub = made(pages, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion("load")
        assert chat.with_changes(limits=Limits(max_turns=1)).completion("work").answer is None
        assert chat.resume().answer == ["A", "B"]
        assert [each["answer"] for each in chat.history] == [0, ["A", "B"]]
        assert len(sub.requests) == 2


def test_code_that_does_not_repeat_itself_is_told(tmp_path: Path) -> None:
    rlm, _, _ = made(
        {"load": "print(open('/dev/urandom', 'rb').read(8))\nx = 3\nFINAL(x)"}, tmp_path / "r.db"
    )
    with rlm.session("s") as chat:
        chat.completion("load")
    again, book, _ = made({"then": "FINAL(x)"}, tmp_path / "r.db")
    with again.session("s") as chat:
        assert chat.completion("then").answer == 3
        assert "went otherwise than before (first in turn 1)" in book.told
        chat.completion("then")
        assert "otherwise" not in book.told


def test_a_branch_begins_with_the_first_turns_and_goes_its_own_way(tmp_path: Path) -> None:
    pages = {
        "a": "x = [llm_query('a')]\nFINAL(x)",
        "b": "x.append(1)\nFINAL(x)",
        "c": "x.append(2)\nFINAL(x)",
    }
    rlm, _, sub = made(pages, tmp_path / "r.db")
    with rlm.session() as chat:
        chat.completion("a")
        chat.completion("b")
        with chat.branch(1) as other:
            assert other.completion("c").answer == ["A", 2]
            assert [each["question"] for each in other.history] == ["a", "c"]
        assert chat.completion("c").answer == ["A", 1, 2]
        assert len(sub.requests) == 1
        with pytest.raises(ConfigError, match="has 3 turns, not 9"):
            chat.branch(9)


def test_runs_say_which_session_they_are_of(tmp_path: Path) -> None:
    rlm, _, _ = made({"a": "FINAL(1)"}, tmp_path / "r.db")
    with rlm.session("s") as chat:
        chat.completion("a")
        chat.completion("a")
    with view.open(tmp_path / "r.db") as recorded:
        assert [run.session for run in recorded.runs()] == [("s", 2), ("s", 1)]
        assert [run.id for run in recorded.session("s")] == chat.run_ids


def test_a_turn_is_resumed_in_its_session(tmp_path: Path) -> None:
    rlm, _, _ = made({"a": "1"}, tmp_path / "r.db", limits=Limits(max_turns=1))
    with rlm.session("s") as chat:
        done = chat.completion("a")
    with pytest.raises(ConfigError, match=r"is turn 1 of session 's': session\('s'\)\.resume\(\) goes on"):
        rlm.resume(done.run_id)


# All of it at random ----------------------------------------------------------------------------

STEPS: dict[str, Callable[[int], list[Any]]] = {
    "add": lambda n: [f"xs.append({n})\nFINAL(len(xs))"],
    "luck": lambda n: [f"import random\nxs.append({n})\nFINAL(random.random())"],
    "child": lambda n: [f"xs.append(rlm_query('small', {n - 1}))\nFINAL(xs)"],
    "limit": lambda n: [f"xs.append({n})", *["pass"] * 4],
    "fail": lambda n: [f"xs.append({n})", ModelError("down")],
    "cancel": lambda n: [f"xs.append({n})", stopped],
    "die": lambda n: [f"xs.append({n})", "xs.append(-1)\nimport os; os._exit(1)", "FINAL(xs)"],
    "context": lambda n: [f"xs.append({n})\nFINAL(context)"],
    "again": lambda n: [f"xs.append({n})\nFINAL(xs)"],
    "idle": lambda n: [f"xs.append({n})\nFINAL(xs)"],
}
"""What the root LM replies in a turn of a kind, whose number is added to `xs`."""


def stopped() -> Any:
    raise asyncio.CancelledError


def one_by_one(replies: list[Any]) -> Callable[[], Any]:
    def reply() -> Any:
        found = replies.pop(0)
        return found() if callable(found) else found

    return reply


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(list(STEPS)), min_size=3, max_size=12))
def test_whatever_happens_the_repl_is_what_the_turns_that_count_have_made(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rlm, book, _ = made({}, Path(folder, "r.db"), children=True)
        book.pages = {
            "first": "import random\nxs = []\nFINAL(random.random())",
            "small": "FINAL(context + 1)",
        }
        chat = rlm.session("s")
        luck = chat.completion("first").answer
        for number, step in enumerate(steps):
            if step == "again":
                chat.close()
                chat = rlm.session("s")
            elif step == "idle":
                background.run(chat._keeper.expire)
                assert not chat.open
            book.pages[f"q{number}"] = one_by_one(STEPS[step](number))
            with suppress(ModelError, CancelledError):
                chat.completion(f"q{number}", f"text {number}" if step == "context" else None)
        xs = [number for number, step in enumerate(steps) if step != "cancel"]
        given = [f"text {number}" for number, step in enumerate(steps) if step == "context"]
        names = ", ".join(f"context_{index}" for index in range(len(given)))
        book.pages["end"] = f"FINAL([xs, len(history), [{names}], globals().get('context')])"
        for before in (1, 2):
            assert chat.completion("end").answer == [xs, len(xs) + before, given, [None, *given][-1]]
            assert chat.history[0]["answer"] == luck
            chat.close()
            chat = rlm.session("s")
        chat.close()
