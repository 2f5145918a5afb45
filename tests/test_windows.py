"""Regular expressions and lines of a text that is decoded window by window: what `str` and `re` find in the whole."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Bench
from recursor.context import prepare
from recursor.sandboxes.guest import patterns, text, windows
from recursor.sandboxes.guest.text import Text


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Windows so small that short texts have many."""
    with pytest.MonkeyPatch.context() as patched:
        for name, size in {"WINDOW": 16, "LONGEST": 24, "MARGIN": 6, "BEHIND": 4}.items():
            patched.setattr(windows, name, size)
        patched.setattr(text, "WINDOW", 8)
        patched.setattr(text, "BLOCK", 16)
        yield


def over(whole: str) -> Text:
    data = whole.encode("utf-8", "surrogatepass")
    return Text(data, len(whole))  # type: ignore[arg-type]  # bytes do what a map does


_WHOLE = st.text(st.sampled_from("ab \n\r\x0b\u2028\u20ac"), max_size=120)
_SEPARATORS = st.none() | st.text(st.sampled_from("ab \n\u20ac"), min_size=1, max_size=3)


@given(_WHOLE, st.booleans())
def test_lines_are_those_of_the_whole(whole: str, keepends: bool) -> None:
    assert over(whole).splitlines(keepends) == whole.splitlines(keepends)


@given(_WHOLE, _SEPARATORS, st.integers(-1, 3))
def test_parts_are_those_of_the_whole(whole: str, separator: str | None, most: int) -> None:
    assert over(whole).split(separator, most) == whole.split(separator, most)


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(ValueError, match="empty separator"):
        over("ab").split("")


@given(_WHOLE, st.integers(-1, 130), st.none() | st.integers(0, 130))
@settings(max_examples=300)
def test_short_matches_are_those_of_the_whole(whole: str, pos: int, endpos: int | None) -> None:
    subject = over(whole)
    end = len(whole) if endpos is None else endpos
    for pattern in ("a{1,6}", r"\b\w", "\u20ac|b", "(a)(b)?", "^a", "b$", "", "(?m)^.", "(?<=a)b", "a(?=b)"):
        compiled = re.compile(pattern)
        expected = [match.span() for match in compiled.finditer(whole, pos, end)]
        assert [match.span() for match in subject.finditer(pattern, 0, pos, endpos)] == expected, pattern
        if pos <= end:
            found, first = subject.match(pattern, 0, pos, endpos), compiled.match(whole, pos, end)
            assert (found and found.span()) == (first and first.span()), pattern


@given(st.integers(0, 100), st.integers(0, 20), st.integers(0, 60))
def test_a_match_up_to_the_longest_is_found_wherever_it_starts(ahead: int, inside: int, after: int) -> None:
    whole = "-" * ahead + "<" + "x" * inside + ">" + "-" * after
    found = over(whole).search("(?s)<.*?>")
    assert found is not None
    assert found.span() == (ahead, ahead + inside + 2)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compile", *patterns._LAZY, *patterns._WHOLE):
        monkeypatch.setattr(re, name, getattr(re, name))
    patterns.teach_re()
    patterns.teach_re()


@pytest.mark.usefixtures("taught")
def test_a_compiled_pattern_takes_a_text_and_whatever_it_took_before() -> None:
    whole = "one two\nthree four\n" * 20
    compiled = re.compile(r"t(\w+)", re.IGNORECASE)
    subjects: list[Any] = [over(whole), whole]
    for each in subjects:
        assert [match.start() for match in compiled.finditer(each, 3, 200)][:2] == [4, 8]
        assert compiled.findall(each)[:2] == ["wo", "hree"]
        assert [match.group() for match in (compiled.search(each, 5),) if match] == ["three"]
        assert [match.end() for match in (compiled.match(each, 4),) if match] == [7]
        assert compiled.sub("-", each, 1)[:8] == "one -\nth"
        assert compiled.split(each, maxsplit=1)[1] == "wo"
        assert re.sub(compiled, "-", each, count=1)[:8] == "one -\nth"
        assert re.sub("one", "-", string=each)[:5] == "- two"
        assert len(re.findall(compiled, each)) == 40
    assert compiled.findall(string=whole, pos=369) == ["hree"]


@pytest.mark.usefixtures("taught")
def test_a_compiled_pattern_is_one_in_every_respect() -> None:
    compiled = re.compile("a+")
    assert isinstance(compiled, re.Pattern)
    assert (compiled.pattern, compiled.groups, repr(compiled)) == ("a+", 0, "re.compile('a+')")
    assert re.compile(compiled) is compiled
    for other in (re.compile("a+"), pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)):
        assert (compiled, hash(compiled)) == (other, hash(other))
    assert compiled != re.compile("b")
    assert re.compile(b"a+").findall(b"caab") == [b"aa"]
    with pytest.raises(re.error):
        re.compile("(")


async def test_code_uses_a_compiled_pattern_on_a_text(isolated: Bench) -> None:
    line = "caf\u20ac of many things\n"
    await isolated.repl.load("context", prepare(line * 3))
    code = f"import re\nfrom guest import contexts, patterns, text\npatterns.teach_re()\nt = text.Text({line.encode() * 3!r}, {len(line) * 3})\n"
    await isolated.run(code)
    assert await isolated.shown("[m.start() for m in re.compile('caf(.)').finditer(t)]") == "[0, 20, 40]\n"
