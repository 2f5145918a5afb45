"""Coverage says exactly which passages of a context stand in what models read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recursor.coverage import Coverage, Document, Reading, Span, cover, texts
from recursor.coverage.cover import unescaped
from recursor.coverage.index import MOST, SHORTEST, Piece
from recursor.coverage.matching import FRESH, Matcher
from recursor.coverage.ranges import gaps, union

LETTERS = "abcdefghijklmnopqrstuvwxyz \n"


def noise(seed: int, length: int, letters: str = LETTERS) -> str:
    return "".join(random.Random(seed).choices(letters, k=length))


def covered(documents: Sequence[str], *prompts: str) -> Coverage:
    return cover(
        [Document(f"d{number}", text) for number, text in enumerate(documents)],
        [Reading(f"c{number}", "sub-call", prompt) for number, prompt in enumerate(prompts)],
    )


def spans(document: str, *prompts: str) -> list[Span]:
    return list(covered([document], *prompts).documents[0].spans)


# What it says ---------------------------------------------------------------------------------


def test_a_slice_that_a_prompt_holds_is_found_with_its_call() -> None:
    text = noise(1, 50_000)
    found = covered([text], f"Summarize: <<{text[10_007:12_345]}>> Be brief.")
    (document,) = found.documents
    assert document.spans == (Span(10_007, 12_345, ("c0",)),)
    assert document.unread_ranges() == ((0, 10_007), (12_345, 50_000))
    assert (found.read, found.length, document.share) == (2_338, 50_000, 2_338 / 50_000)
    assert found.calls_at("d0", 12_344) == ("c0",)
    assert found.calls_at("d0", 12_345) == ()
    assert found.spans_of("c0") == (("d0", document.spans[0]),)


def test_a_slice_of_fewer_than_32_characters_is_not_counted() -> None:
    text = noise(2, 5_000)
    assert spans(text, f"<{text[100:131]}>") == []
    assert spans(text, f"<{text[100:132]}>") == [Span(100, 132, ("c0",))]


def test_calls_that_read_the_same_passage_share_a_span() -> None:
    text = noise(3, 5_000)
    found = spans(text, f"One: {text[:900]}#", f"Two: {text[:900]}#", f"Three: {text[800:1000]}#")
    assert found == [Span(0, 900, ("c0", "c1")), Span(800, 1000, ("c2",))]


def test_the_same_passage_at_two_places_is_counted_at_both_and_marked() -> None:
    licence = noise(4, 600)
    one, two = licence + noise(5, 300), licence + noise(6, 300)
    found = covered([one, two], f"<{licence}>")
    assert [list(document.spans) for document in found.documents] == [[Span(0, 600, ("c0",), True)]] * 2
    assert found.ambiguous == found.read == 1200
    longer = covered([one, two], f"<{two[:700]}>")  # the rest says which of the two it is
    assert [list(document.spans) for document in longer.documents] == [[], [Span(0, 700, ("c0",))]]


def test_what_stands_at_very_many_places_is_counted_at_none_and_said() -> None:
    rule = "-" * 80 + "\n"
    text = "".join(noise(seed, 200) + "\n" + rule for seed in range(MOST + 40))
    found = covered([text], f"Separated by:\n{rule}Go.")
    assert found.read == 0
    assert 60 <= found.common <= 90
    assert covered([text], text[150:3000]).read == 2850  # but a passage with such rules in it is found


def test_a_text_of_few_different_pieces_is_found_by_longer_ones() -> None:
    text = noise(7, 200_000, "01").replace("", ",")[:300_000]
    assert spans(text, f"# {text[20_001:29_999]} #") == [Span(20_000, 30_000, ("c0",))] or spans(
        text, f"# {text[20_001:29_999]} #"
    ) == [Span(20_001, 29_999, ("c0",))]


def test_short_strings_count_as_a_whole_and_not_within_words() -> None:
    found = covered(["Marie Curie", "Ada", "radiation"], "Of Marie Curie, and Ada. irradiations")
    assert [len(document.spans) for document in found.documents] == [1, 0, 0]
    assert [document.known for document in found.documents] == [True, False, True]
    assert covered(["Marie Curie"], "Marie Curies").read == 0
    assert found.length == len("Marie Curie") + len("radiation")


def test_a_short_string_within_a_longer_passage_of_another_text_is_not_counted() -> None:
    long = "It was in Paris that Marie Curie isolated the two elements."
    found = covered([long, "Marie Curie"], f"Read: {long}")
    assert [document.read for document in found.documents] == [len(long), 0]


def test_documents_are_the_strings_of_a_value_by_path() -> None:
    value = {"a": ["x", {"b'": b"caf\xc3\xa9"}], "n": 3, "raw": b"\xff\xfe", "t": ("y",)}
    assert list(texts("context", value)) == [
        Document("context['a'][0]", "x"),
        Document("""context['a'][1]["b'"]""", "café"),
        Document("context['raw']", None, 2),
        Document("context['t'][0]", "y"),
    ]
    assert list(texts("context", "plain")) == [Document("context", "plain")]


def test_bytes_that_are_no_text_are_unknown() -> None:
    (document,) = cover(list(texts("context", b"\xff" * 100)), []).documents
    assert (document.known, document.length, document.unread_ranges()) == (False, 100, ())


def test_it_is_json_with_spans_or_with_a_strip() -> None:
    text = noise(8, 1000)
    found = covered([text], f"<{text[250:500]}>", f"<{text[400:500]}>")
    whole = json.loads(json.dumps(found.to_json()))
    assert whole["documents"][0]["spans"] == [[250, 500, [0], False], [400, 500, [1], False]]
    assert whole["calls"][1] == {"id": "c1", "kind": "sub-call", "run_id": "", "turn": 0}
    small = json.loads(json.dumps(found.to_json(buckets=4)))
    assert (small["readers"], "calls" in small) == ({"sub-call": 2}, False)
    assert small["documents"][0]["strip"] == [[250, 0, 0], [250, 250, 2], [250, 0, 0], [250, 0, 0]]


@pytest.mark.parametrize("write", [repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
def test_a_text_that_was_shown_escaped_is_read(write: Callable[[str], str]) -> None:
    text = 'a "quote", it\'s\n\tC:\\new\r\n' * 2 + noise(12, 300) + "é\u4e2d\U0001f600\x00" + noise(13, 50)
    (document,) = covered(["x" * 99, text], f"print({write(text)})").documents[1:]
    assert document.read_ranges() == ((0, len(text)),)
    assert len(document.spans) == 1


@given(st.text())
def test_escapes_are_taken_back(text: str) -> None:
    assert unescaped(json.dumps(text)[1:-1]) == text
    assert unescaped(repr(text)[1:-1]) == text


# The exact rule, against a slow and plain statement of it -------------------------------------


def plainly(documents: Sequence[str], reading: str) -> list[Piece]:
    """All super-maximal matches, longest first, by trying everything."""

    def places(start: int, end: int) -> list[tuple[int, int]]:
        piece = reading[start:end]
        return [
            (number, offset)
            for number, text in enumerate(documents)
            for offset in range(len(text) - len(piece) + 1)
            if text.startswith(piece, offset)
        ]

    pieces: list[tuple[int, int]] = []
    reached = 0
    for start in range(len(reading)):
        end = max(reached, start)
        while end < len(reading) and places(start, end + 1):
            end += 1
        if end > reached and end - start >= SHORTEST:
            pieces.append((start, end))
        reached = max(reached, end)
    taken: list[tuple[int, int]] = []
    for start, end in sorted(pieces, key=lambda piece: (piece[0] - piece[1], piece)):
        free = gaps([(start, end)], taken)
        if sum(two - one for one, two in free) >= FRESH:
            taken.append((start, end))
    return [Piece(start, end, tuple(places(start, end))) for start, end in sorted(taken)]


ALPHABETS = st.sampled_from(["ab", "abc\n", "é\x00\ud800\r\n", LETTERS])


@st.composite
def contexts_and_prompts(draw: st.DrawFn) -> tuple[list[str], str]:
    letters = draw(ALPHABETS)
    seed = draw(st.integers(0, 1 << 30))
    bricks = [noise(seed + number, draw(st.integers(1, 60)), letters) for number in range(5)]
    documents = [
        "".join(draw(st.lists(st.sampled_from(bricks), max_size=6))) for _ in range(draw(st.integers(1, 3)))
    ]
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        text = draw(st.sampled_from(documents))
        start = draw(st.integers(0, len(text)))
        parts += [text[start : start + draw(st.integers(0, 120))], draw(st.sampled_from(["", "|", *bricks]))]
    return documents, "".join(parts)


@given(contexts_and_prompts())
@settings(max_examples=300, deadline=None)
def test_the_pieces_are_the_super_maximal_matches_of_the_rule(drawn: tuple[list[str], str]) -> None:
    documents, reading = drawn
    documents = [text for text in documents if len(text) >= SHORTEST]
    found = Matcher(documents).pieces(reading)
    expected = plainly(documents, reading)
    if not found.common:
        assert list(found.pieces) == expected
    else:
        assert set(found.pieces) <= set(expected)


TEXT = st.text(st.characters(), max_size=400)


@given(st.lists(TEXT, min_size=1, max_size=4), TEXT, st.data())
@settings(max_examples=150, deadline=None)
def test_every_span_stands_verbatim_in_the_prompts_of_its_calls(
    documents: list[str], around: str, data: st.DataObject
) -> None:
    prompts = []
    for _ in range(3):
        text = data.draw(st.sampled_from(documents))
        start = data.draw(st.integers(0, len(text)))
        prompts.append(around + text[start : start + data.draw(st.integers(0, 200))] + around)
    found = covered(documents, *prompts)
    for document, text in zip(found.documents, documents, strict=True):
        for span in document.spans:
            for call in span.calls:
                prompt = prompts[int(call[1:])]
                assert text[span.start : span.end] in prompt + "\0\0" + unescaped(prompt)
        read = {offset for span in document.spans for offset in range(span.start, span.end)}
        assert read == {offset for start, end in document.read_ranges() for offset in range(start, end)}
        if document.known:
            assert read ^ set(range(len(text))) == {
                offset for start, end in document.unread_ranges() for offset in range(start, end)
            }
        assert sum(bucket.read for bucket in document.strip(7)) == document.read == len(read)
        for offset in range(0, len(text), 13):
            calls = {
                call for span in document.spans if span.start <= offset < span.end for call in span.calls
            }
            assert set(document.calls_at(offset)) == calls


@given(st.integers(0, 1 << 30), st.lists(st.tuples(st.integers(0, 9_000), st.integers(32, 900)), max_size=6))
@settings(max_examples=60, deadline=None)
@example(0, [(0, 32), (31, 32), (9_000, 900)])
def test_planted_slices_are_found_exactly(seed: int, planted: list[tuple[int, int]]) -> None:
    text = noise(seed, 10_000, "abcdefghijklmnop\r\n\x00é\u0301\ud83d ")
    found = spans(text, "".join(f"#{text[start : start + length]}#" for start, length in planted))
    expected = {(start, min(start + length, 10_000)) for start, length in planted}
    assert {(span.start, span.end) for span in found} == expected


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=8),
)
def test_ranges_are_joined_and_taken_out(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    ranges, holes = ([(start, start + length) for start, length in each] for each in (one, two))
    held = {each for start, end in ranges for each in range(start, end)}
    without = held - {each for start, end in holes for each in range(start, end)}
    assert {each for start, end in union(ranges) for each in range(start, end)} == held
    assert {each for start, end in gaps(ranges, holes) for each in range(start, end)} == without
    assert all(start < end for start, end in gaps(ranges, holes))


# What it costs ----------------------------------------------------------------------------------


def test_the_work_is_linear_however_often_a_text_repeats_itself() -> None:
    unit = noise(9, 997)
    for text in ("a" * 400_000, "ab" * 200_000, unit * 400, noise(10, 100) * 4_000):
        work = []
        for length in (20_000, 80_000):
            matcher = Matcher([text])
            matcher.pieces("Look: " + text[1000 : 1000 + length] + " and tell.")
            spent = matcher.work
            work.append(spent.probes + spent.candidates + spent.characters + spent.scanned)
        assert work[1] < 8 * work[0] + 1_000_000, text[:20]
        assert work[1] < 100 * len(text), text[:20]


def test_a_prompt_is_looked_up_only_where_it_is_not_of_the_context() -> None:
    text = noise(11, 1_000_000)
    matcher = Matcher([text])
    matcher.pieces(f"Summarize: {text[100_000:900_000]}")
    assert matcher.work.probes < 200
