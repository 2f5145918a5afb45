"""What a recorded run read, and where its answer came from: from real runs, in Python and on the command line."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinds
from recursor import RLM, ConfigError, Limits, ModelError, review
from recursor.coverage import Document, Found, Span, matcher_of, trace
from recursor.coverage import Source as Said
from recursor.errors import TrajectoryError
from recursor.testing import ModelServer, ScriptedModel
from recursor.trajectory import view
from recursor.types import Completion, Message


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


def words(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz \n", k=length))


def run(
    store: Path, *codes: str, context: Any, sub: Any = lambda messages: "A reply to it.", **options: Any
) -> Completion:
    model = ScriptedModel([*map(block, codes)])
    sub_model = ScriptedModel(sub, name="sub")
    return RLM(model, sub_model=sub_model, store=store, **options).completion("What is it?", context)


def spans(found: Any, name: str = "context") -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in found.document(name).spans]


def test_a_completion_says_what_sub_calls_and_shown_output_read(tmp_path: Path) -> None:
    text = words(1, 100_000)
    done = run(
        tmp_path / "runs.db",
        "a = llm_query('One: ' + context[1_000:3_000] + '#')\nprint('>>' + context[50_000:50_500] + '<<')",
        "FINAL(llm_query('Two: ' + context[2_000:4_000] + '#'))",
        context=text,
        coverage=True,
    )
    assert done.coverage is not None
    assert {(1000, 3000), (2000, 4000), (50_000, 50_500)} <= set(spans(done.coverage))
    assert done.coverage.read < 4_500
    kinds = {reader.call: reader.kind for reader in done.coverage.readers}
    read = [kinds[call] for call in done.coverage.calls_at("context", 2_500)]
    assert read == ["sub-call", "sub-call"]
    assert [kinds[call] for call in done.coverage.calls_at("context", 50_100)] == ["output"]
    assert done.coverage.calls_at("context", 60_000) == ()
    with view.open(tmp_path / "runs.db") as recorded:
        calls = {call.id for call in recorded.calls(done.run_id)}
    assert kinds.keys() <= calls


def test_what_code_alone_looked_at_is_not_read(tmp_path: Path) -> None:
    text = words(2, 20_000)
    done = run(tmp_path / "runs.db", "FINAL(len(context.upper()))", context=text, coverage=True)
    assert done.coverage is not None
    assert done.coverage.read < 600  # the preview


def test_output_that_was_clipped_is_read_as_far_as_it_was_shown(tmp_path: Path) -> None:
    text = words(3, 200_000)
    done = run(tmp_path / "runs.db", "print(context[:100_000])", "FINAL(1)", context=text, coverage=True)
    assert done.coverage is not None
    assert 9_000 < done.coverage.read < 11_000


def test_children_read_for_their_parent(tmp_path: Path) -> None:
    text = words(4, 50_000)
    child = block("x = llm_query('Look: ' + context[100:900] + '#')\nFINAL('done')")

    def sub(messages: Sequence[Message]) -> str:
        return child if messages[0].role == "system" else "seen"

    done = run(
        tmp_path / "runs.db", "FINAL(rlm_query('?', context[20_000:30_000]))", context=text, sub=sub,
        limits=Limits(max_depth=2), coverage=True,
    )  # fmt: skip
    assert done.coverage is not None
    assert (20_100, 20_900) in spans(done.coverage)
    call = done.coverage.calls_at("context", 20_500)[0]
    (reader,) = [reader for reader in done.coverage.readers if reader.call == call]
    assert reader.run not in ("", done.run_id)


def test_a_sub_call_that_failed_read_nothing(tmp_path: Path) -> None:
    text = words(5, 20_000)

    def sub(messages: Sequence[Message]) -> str:
        raise ModelError("no credit")

    code = "try:\n    llm_query(context[1000:2000])\nexcept Exception:\n    FINAL('failed')"
    done = run(tmp_path / "runs.db", code, context=text, sub=sub, coverage=True)
    assert done.coverage is not None
    assert done.coverage.calls_at("context", 1500) == ()


@pytest.mark.parametrize("resumed", [False, True])
def test_it_is_told_afterwards_from_the_file_that_the_run_was_given(tmp_path: Path, resumed: bool) -> None:
    file, store = tmp_path / "book.txt", tmp_path / "runs.db"
    file.write_text(words(6, 30_000))
    code = "FINAL(llm_query(context[5_000:6_000]))"
    if resumed:
        first = ScriptedModel([block("x = llm_query(context[5_000:6_000])"), ModelError("down")])
        with pytest.raises(ModelError) as cut:
            RLM(first, sub_model=ScriptedModel(["ok"], name="sub"), store=store).completion("?", file)
        rlm = RLM(
            ScriptedModel([block("FINAL(x)")]), sub_model=ScriptedModel([], name="sub"), store=store,
            coverage=True,
        )  # fmt: skip
        done = rlm.resume(str(cut.value.run_id))
        assert done.coverage is not None
    else:
        done = run(store, code, context=file)
        assert done.coverage is None
    found = review.coverage(store, done.run_id[:10])
    assert (5_000, 6_000) in spans(found)
    file.write_text("another")
    with pytest.raises(ConfigError, match="is not what run"):
        review.coverage(store, done.run_id)
    file.unlink()
    with pytest.raises(ConfigError, match="not there: pass it again"):
        review.coverage(store, done.run_id)
    assert (5_000, 6_000) in spans(review.coverage(store, done.run_id, _as_file(tmp_path)))
    with pytest.raises(TrajectoryError, match="no run"):
        review.coverage(store, "nothing")


def _as_file(folder: Path) -> Path:
    moved = folder / "moved.txt"
    moved.write_text(words(6, 30_000))
    return moved


def test_folders_lists_and_mappings_are_covered_document_by_document(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    (folder / "deep").mkdir(parents=True)
    one, two = words(7, 3_000), words(8, 3_000)
    (folder / "one.txt").write_text(one)
    (folder / "deep" / "two.txt").write_text(two)
    (folder / "image.bin").write_bytes(b"\xff\xfe\x00")
    code = "FINAL(llm_query(context['deep/two.txt']))"
    done = run(tmp_path / "runs.db", code, context=folder, coverage=True)
    assert done.coverage is not None
    assert done.coverage.document("context['deep/two.txt']").share == 1.0
    assert done.coverage.document("context['one.txt']").share < 0.1
    assert not done.coverage.document("context['image.bin']").known
    rows = [{"id": 1, "body": one}, {"id": 2, "body": two}]
    done = run(tmp_path / "runs.db", "FINAL(llm_query(context[1]['body']))", context=rows, coverage=True)
    assert done.coverage is not None
    assert [round(document.share) for document in done.coverage.documents] == [0, 1]
    with pytest.raises(ConfigError, match="recorded by its digest alone"):
        review.coverage(tmp_path / "runs.db", done.run_id)
    assert review.coverage(tmp_path / "runs.db", done.run_id, rows) == done.coverage


def test_messages_are_documents_too(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": words(9, 5_000)}, {"role": "user", "content": "Well?"}]
    model = ScriptedModel([block("FINAL(llm_query(messages[0]['content'][:700]))")])
    rlm = RLM(
        model, sub_model=ScriptedModel(["ok"], name="sub"), store=tmp_path / "runs.db", coverage=True
    )  # fmt: skip
    done = rlm.completion(messages=messages)
    assert done.coverage is not None
    assert (0, 700) in spans(done.coverage, "messages[0]['content']")
    assert review.coverage(tmp_path / "runs.db", done.run_id, messages=messages) == done.coverage


def test_a_direct_answer_has_read_it_all(tmp_path: Path) -> None:
    rlm = RLM(ScriptedModel(["It is."]), strategy="direct", store=tmp_path / "runs.db", coverage=True)
    done = rlm.completion("What?", words(10, 4_000))
    assert done.coverage is not None
    assert done.coverage.share == 1.0
    assert [reader.kind for reader in done.coverage.readers] == ["opening"]


def test_coverage_without_a_store_is_refused_before_anything_is_paid() -> None:
    with pytest.raises(ConfigError, match="store"):
        RLM(ScriptedModel([]), coverage=True)


def test_a_file_that_changed_meanwhile_costs_the_coverage_and_not_the_answer(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("first")

    def sub(messages: Sequence[Message]) -> str:
        (folder / "a.txt").write_text("something else")
        return "ok"

    done = run(tmp_path / "runs.db", "FINAL(llm_query('?'))", context=folder, sub=sub, coverage=True)
    assert (done.answer, done.coverage) == ("ok", None)


# Evidence -------------------------------------------------------------------------------------


def test_an_answer_leads_back_to_the_reply_and_to_what_its_call_read(tmp_path: Path) -> None:
    text = words(11, 50_000)
    reply = "The golden zebra sings opera on the third of May, in Moscow."
    code = (
        "r = llm_query('Find: ' + context[7_000:9_000] + '#')\n"
        "FINAL({'said': r, 'n': 3, 'quote': context[30_000:30_040], 'made': 'x' * 50})"
    )
    done = run(tmp_path / "runs.db", code, context=text, sub=lambda messages: reply)
    found = review.evidence(tmp_path / "runs.db", done.run_id, text)
    said = found.item("$['said']")
    (part,) = said.parts
    place, variable = sorted(part.found, key=lambda each: each.origin)
    assert (part.start, part.end) == (place.start, place.end) == (0, len(reply))
    assert (place.origin, variable.origin, variable.where) == ("reply", "variable", "1.1 r")
    assert found.reads[place.where] == (("context", Span(7_000, 9_000, (place.where,))),)
    quote = found.item("$['quote']").parts[0].found
    assert quote == (Found("context", "context", 30_000, 30_040),)
    assert found.item("$['n']").text is None
    assert found.item("$['made']").parts == ()
    without = review.evidence(tmp_path / "runs.db", done.run_id)
    assert "digest alone" in without.unknown
    assert without.item("$['said']").parts == said.parts
    assert without.item("$['quote']").parts == ()
    with pytest.raises(ConfigError, match="is not what"):
        review.evidence(tmp_path / "runs.db", done.run_id, "another text")
    json.dumps(found.to_json())


def test_an_answer_put_together_has_evidence_part_by_part() -> None:
    one, two = words(12, 100), words(13, 90)
    answer = f"First: {one}; then: {two}."
    found = trace(answer, [Said("reply", "a", f"<{one}>"), Said("output", "1.1", f"[{two}]")])
    (item,) = found.items
    assert [(answer[part.start : part.end], part.found[0].origin) for part in item.parts] == [
        (one, "reply"),
        (two, "output"),
    ]


def test_short_strings_are_evidence_as_a_whole_and_not_within_words() -> None:
    found = trace(
        ["Ada Lovelace", "Ada", "Lovelaces"],
        [
            Said("reply", "a", "It was Ada Lovelace."),
            Said("code", "1.1", "'Lovelaces'"),
            Said("reply", "b", "xLovelaces"),
        ],
    )
    assert [[each.where for part in item.parts for each in part.found] for item in found.items] == [
        ["a"],
        [],
        ["1.1"],
    ]


SAID = st.text(st.characters(), max_size=120)


@given(st.lists(SAID, min_size=1, max_size=4), SAID, st.data())
@settings(max_examples=100, deadline=None)
def test_all_evidence_stands_verbatim_where_it_is_said_to(
    replies: list[str], between: str, data: st.DataObject
) -> None:
    picked = data.draw(st.lists(st.sampled_from(replies), max_size=5))
    answer = {"whole": between.join(picked), "list": [*picked, 7]}
    text = between + "".join(reversed(replies))
    given_ = [Document("context", text)]
    found = trace(
        answer,
        [Said("reply", str(number), reply) for number, reply in enumerate(replies)],
        documents=given_,
        matcher=matcher_of(given_),
    )
    for item in found.items:
        for part in item.parts:
            for place in part.found:
                source = text if place.origin == "context" else replies[int(place.where)]
                assert source[place.start : place.end] == str(item.text)[part.start : part.end] != ""
    for number, reply in enumerate(picked):
        if len(reply) >= 32:
            assert found.item(f"$['list'][{number}]").parts


def test_what_stands_in_very_many_replies_is_no_evidence() -> None:
    found = trace("unknown to us", [Said("reply", str(number), "unknown to us") for number in range(100)])
    assert found.items[0].parts == ()


def test_an_answer_that_the_root_lm_wrote_is_found_in_its_code(tmp_path: Path) -> None:
    done = run(tmp_path / "runs.db", "FINAL('The answer is forty-two, of course it is.')", context="x")
    found = review.evidence(tmp_path / "runs.db", done.run_id, "x")
    assert [each.origin for part in found.items[0].parts for each in part.found] == ["code"]


# The command line -----------------------------------------------------------------------------


def cli(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "recursor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_command_line_shows_strips_and_what_nobody_read(tmp_path: Path) -> None:
    folder, store = tmp_path / "books", tmp_path / "runs.db"
    folder.mkdir()
    (folder / "one.txt").write_text(words(14, 8_000))
    (folder / "evil\x1b[31m.txt").write_text(words(15, 5_000) + "\x1b]0;title\x07 \x1b[2J" * 900)
    done = run(store, "FINAL(llm_query(context['one.txt'][4_000:]))", context=folder)
    shown = cli("runs", "coverage", done.run_id, "--store", store)
    assert "\x1b" not in shown
    lines = shown.splitlines()
    assert "in 2 documents read by 1 sub-call" in lines[0]
    (row,) = [line for line in lines if line.startswith("context['one.txt']")]
    assert "50." in row
    assert row.endswith("█████")
    assert "·····" in row
    assert any("evil" in line and words(15, 200)[100:110] in line for line in lines)
    found = json.loads(cli("runs", "coverage", done.run_id, "--store", store, "--json"))
    assert found["run_id"] == done.run_id
    assert (
        found
        == {"run_id": done.run_id, "share": found["share"]} | review.coverage(store, done.run_id).to_json()
    )
    strips = json.loads(cli("runs", "coverage", done.run_id, "--store", store, "--json", "--strip", "10"))
    assert [len(each["strip"]) for each in strips["documents"]] == [10, 10]


def test_the_command_line_takes_a_context_that_moved(tmp_path: Path) -> None:
    store, text = tmp_path / "runs.db", words(16, 3_000)
    done = run(
        store,
        "FINAL(llm_query(context[:1_500]))",
        context=text,
        sub=lambda messages: messages[-1].content[:50],
    )
    (tmp_path / "copy.txt").write_text(text)
    command = [sys.executable, "-m", "recursor", "runs", "coverage", done.run_id, "--store", str(store)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "digest alone" in refused.stderr
    shown = cli("runs", "coverage", done.run_id, "--store", store, "--context", tmp_path / "copy.txt")
    assert re.match(r"5\d\.\d % of 3,000 characters in 1 document read by 1 sub-call", shown)
    traced = cli("runs", "evidence", done.run_id, "--store", store, "--context", tmp_path / "copy.txt")
    assert "in reply" in traced
    assert "which read context[0:1,500]" in traced


def test_ask_says_in_its_json_where_the_answer_stands(tmp_path: Path) -> None:
    text = words(17, 4_000)
    (tmp_path / "book.txt").write_text(text)
    reply = "The captain of the ship is Anna Karlsson of Uppsala."
    turns = [block("FINAL(llm_query(context[1_000:2_000]))")]
    with ModelServer(lambda messages: turns[0] if messages[0].role == "system" else reply) as server:
        command = [sys.executable, "-m", "recursor", "ask", "Who?", str(tmp_path / "book.txt"), "--quiet"]
        command += ["--model", "m", "--base-url", server.url, "--store", str(tmp_path / "runs.db")]
        done = subprocess.run(
            [*command, "--json", "--evidence"], capture_output=True, text=True, timeout=60, check=True
        )
        refused = subprocess.run(
            [*command, "--evidence"], capture_output=True, text=True, timeout=60, check=False
        )
    found = json.loads(done.stdout)
    assert found["answer"] == reply
    assert 0.25 < found["coverage"]["share"] < 0.5
    places = [place for part in found["evidence"]["items"][0]["parts"] for place in part["found"]]
    assert {"reply", "variable"} >= {place["in"] for place in places} >= {"reply"}
    (read,) = found["evidence"]["reads"].values()
    assert (read[0]["start"], read[0]["end"]) == (1_000, 2_000)
    assert refused.returncode == 2


def test_texts_of_documents_that_only_a_sandbox_reads_are_covered(tmp_path: Path) -> None:
    files, store = tmp_path / "files", tmp_path / "runs.db"
    files.mkdir()
    report = words(7, 2_000).replace("\n", " ")
    body = f"<w:p><w:r><w:t>{report}</w:t></w:r></w:p>"
    files.joinpath("report.docx").write_bytes(kinds.word(body))
    files.joinpath("in.zip").write_bytes(kinds.packed({"d/notes.txt": words(8, 500)}))
    files.joinpath("table.csv").write_text("name,n\n" + words(9, 300))
    files.joinpath("broken.xlsx").write_bytes(b"PK\x03\x04 cut")
    done = run(
        store,
        "FINAL(llm_query('Read: ' + context['report.docx'][200:900] + context['in.zip']['d/notes.txt'][100:400]))",
        context=files,
        coverage=True,
    )
    for found in (done.coverage, review.coverage(store, done.run_id)):
        assert found is not None
        assert (200, 900) in spans(found, "context['report.docx']")
        assert (100, 400) in spans(found, "context['in.zip']['d/notes.txt']")
        assert found.document("context['table.csv']").length == 307
    alone = run(store, "FINAL(llm_query(context[500:700]))", context=files / "report.docx", coverage=True)
    assert alone.coverage is not None
    assert (500, 700) in spans(alone.coverage)
    evidence = review.evidence(store, alone.run_id)
    assert evidence.unknown == ""
