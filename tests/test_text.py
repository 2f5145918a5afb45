"""Large texts: helpers that find and cut, texts that stay in their files, folders that are read as they are used."""

from __future__ import annotations

import mmap
import os
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Bench
from recursor.context import prepare, same
from recursor.sandboxes.guest import contexts
from recursor.sandboxes.guest.helpers import chunk, grep
from recursor.sandboxes.guest.mapped import mapped
from recursor.sandboxes.guest.ranking import search
from recursor.sandboxes.guest.text import Text
from recursor.sandboxes.handed import HandedSource
from recursor.sandboxes.process import ProcessSandbox

POEM = (
    "Tyger Tyger, burning bright,\nIn the forests of the night;\n\nWhat immortal hand or eye,\nCould frame\n"
)


# Helpers --------------------------------------------------------------------------------------


async def test_the_helpers_are_there_in_every_sandbox(bench: Bench) -> None:
    await bench.repl.load("context", prepare(POEM))
    assert (
        await bench.shown("grep('tyger', context, ignore_case=True)") == "1: Tyger Tyger, burning bright,\n"
    )
    assert await bench.shown("[len(piece) for piece in chunk(context, 40)]") == "[29, 30, 39]\n"
    assert await bench.answered("FINAL(search('frames of hands', context)[0])") == POEM
    assert await bench.answered("FINAL(grep('night', context)[0])") is not None


async def test_a_variable_may_have_the_name_of_a_helper_and_one_note_says_so(bench: Bench) -> None:
    execution = await bench.run("for chunk in ['a', 'b']: pass")
    assert [note.split("`")[1] for note in execution.notes] == ["chunk"]
    assert await bench.shown("chunk, SHOW_VARS()") == "('b', 'chunk: str')\n"
    assert not (await bench.run("chunk = 1")).notes
    await bench.shown("del chunk")
    assert await bench.shown("len(chunk('ab', 1, by='characters'))") == "2\n"


@given(
    st.text(alphabet="ab \n\u20ac\U0001f600", max_size=200),
    st.integers(1, 30),
    st.sampled_from(["lines", "paragraphs", "characters"]),
)
def test_pieces_without_overlap_are_the_whole_text_in_order(text: str, size: int, by: str) -> None:
    pieces = chunk(text, size, by=by)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size and text[piece.start : piece.end] == piece for piece in pieces)


@given(st.text(alphabet="ab \n", max_size=200), st.integers(2, 30), st.data())
def test_overlapping_pieces_leave_nothing_out(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, size - 1))
    pieces = list(chunk(text, size, overlap))
    assert not pieces or (pieces[0].start == 0 and pieces[-1].end == len(text))
    for one, other in pairwise(pieces):
        assert one.start < other.start <= one.end
        assert one.end - other.start <= overlap


@given(st.text(alphabet="abx\n", max_size=200), st.sampled_from(["x", "^a", "b$", "a.b", "ab*"]))
def test_grep_finds_the_lines_that_match(text: str, pattern: str) -> None:
    lines = text.split("\n")
    expected = [
        (number, line) for number, line in enumerate(lines, 1) if re.search(pattern, line, re.MULTILINE)
    ]
    found = grep(pattern, text, limit=None)
    assert [(hit.number, hit.line) for hit in found] == expected
    for hit in found:
        assert re.compile(pattern, re.MULTILINE).match(text, hit.position)


def test_grep_names_documents_keeps_neighbours_and_says_where_it_stopped() -> None:
    found = grep("x", {"a.txt": "1\nx\n3\n", "b.bin": b"x", "c.txt": "x\nx"}, context=1, limit=2)
    assert [(hit.document, hit.number, hit.before, hit.after) for hit in found] == [
        ("a.txt", 2, ("1",), ("3",)),
        ("c.txt", 1, (), ("x",)),
    ]
    assert "stopped at limit=2" in repr(found)
    assert repr(grep("nowhere", "text")) == "[nothing found]"
    assert [hit.document for hit in grep(re.compile("B", re.I), ["abc", "cde", "bcd"])] == [0, 2]


def test_a_line_without_end_is_kept_around_its_match_alone() -> None:
    (hit,) = grep("needle", "." * 10**6 + "needle" + "." * 10**6)
    assert "needle" in hit.line
    assert len(hit.line) == 2000


def test_search_ranks_passages_by_the_words_of_the_query() -> None:
    documents = {f"{number}.txt": f"filler {number}\n" * 100 for number in range(50)}
    documents["7.txt"] += "The zebras were singing.\n"
    documents["9.txt"] += "A zebra slept.\n"
    found = search("zebra sings", documents)
    assert [passage.document for passage in found] == ["7.txt", "9.txt"]
    assert all(documents[each.document][each.start : each.end] == each for each in found)
    assert [each.document for each in search('"zebra slept"', documents)] == ["9.txt"]
    assert search("giraffe", documents) == []
    documents["8.txt"] += "giraffe"
    assert len(search("giraffe", documents)) == 1
    assert search('" OR passages : * AND (', "and or") != []


@pytest.mark.parametrize("source", [5, None, [1], {"a": 1}, b"bytes"])
def test_what_holds_no_text_is_a_type_error_that_says_so(source: Any) -> None:
    for call in (lambda: grep("a", source), lambda: chunk(source), lambda: search("a", source)):
        with pytest.raises(TypeError, match=r"takes (a text|texts)"):
            call()


# Texts in maps --------------------------------------------------------------------------------

LARGE = contexts.SHARED


def _long(character: str) -> str:
    line = f"line {character} of many " * 500 + "\n"
    return (line * (LARGE // len(line) + 1))[:LARGE]


def _check(length: int, character: str) -> str:
    return f"""
import re, hashlib, json
print(isinstance(context, str), len(context) == {length}, context[5] == {character!r}, context[-1:-3:-1] == context[-2:][::-1])
print(hashlib.sha256(context.encode('utf-8', 'surrogatepass')).hexdigest())
print(re.compile('^l', re.M).search(context, 1).start(), context.rfind('line') == context.rindex('line'))
print(context == context[:], {{context: 1}}[context[:]], json.loads(json.dumps(context)) == context)
lines = context.splitlines()
print(len(lines), context.count('\\n'), len(grep('^l', context, limit=None)))
"""


@pytest.mark.parametrize("character", ["a", "\xe9", "\u20ac", "\U0001f600", "\ud800"])
async def test_a_long_text_is_a_str_in_every_respect(bench: Bench, character: str) -> None:
    text = _long(character)
    source = prepare(text)
    info = await bench.repl.load("context", source)
    assert (info.type, info.size) == ("str", f"{len(text):,} characters")
    first, digest, *rest = (await bench.shown(_check(len(text), character))).splitlines()
    assert first == "True True True True"
    assert f"sha256:{digest}" == source.digest()
    lines = len(text.splitlines())
    assert rest == [
        f"{len(text.partition(chr(10))[0]) + 1} True",
        "True 1 True",
        f"{lines} {text.count(chr(10))} {lines}",
    ]
    assert len(await bench.shown("context")) < 70_000


async def test_children_share_a_long_text_and_it_can_be_returned(isolated: Bench, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(_long("a"))
    source = prepare(path)
    await isolated.repl.load("context", source)
    assert await isolated.answered("FINAL(context)") == path.read_text()
    await isolated.run("rlm_query('q', context)")
    assert await isolated.answered("FINAL(rlm_query('q', context)['context'] == context)")


def _own_memory() -> int:
    """Bytes that belong to this process and its descendants alone, file pages left out."""
    total, processes = 0, [os.getpid()]
    while processes:
        process = processes.pop()
        with suppress(ProcessLookupError):  # it has ended
            rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(row.split()[1]) << 10 for row in rows if row.startswith("Anonymous:"))
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            processes += map(int, children.read_text().split())
    return total


@pytest.mark.parametrize(("kind", "character"), [("file", "a"), ("file", "\u20ac"), ("str", "a")])
async def test_siblings_hold_no_copies_of_their_context(tmp_path: Path, kind: str, character: str) -> None:
    text = _long(character) * 4
    path = tmp_path / "long.txt"
    path.write_text(text)
    source = prepare(path if kind == "file" else text)
    sandbox = ProcessSandbox()
    repls = [await sandbox.open(context_size=source.size) for _ in range(4)]
    before = _own_memory()
    for repl in repls:
        await repl.load("context", source)
        assert await Bench(repl).shown("context.count('many')") == f"{text.count('many')}\n"
    assert _own_memory() - before < len(text) // 2
    for repl in repls:
        await repl.close()


def test_a_text_is_the_same_however_wide_it_is_written() -> None:
    text = _long("\u20ac")
    handed = HandedSource("text", text.encode(), len(text.encode()))
    assert same(prepare(text), handed)
    assert same(prepare(text), prepare(text))
    assert not same(prepare(text[:-1] + "x"), handed)


def test_nobody_can_change_a_text_that_is_shared() -> None:
    given = prepare(_long("a")).open()
    descriptor = os.open(f"/proc/self/fd/{given}", os.O_RDWR)  # as one who holds it may try
    os.close(given)
    try:
        for change in (
            lambda: os.pwrite(descriptor, b"b", 0),
            lambda: os.ftruncate(descriptor, 0),
            lambda: mmap.mmap(descriptor, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097])
def test_a_mapped_text_ends_where_its_file_does_and_frees_its_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "digits"
    path.write_bytes(b"7" * size)
    monkeypatch.setattr("recursor.sandboxes.guest.mapped._allowed", True)
    with path.open("rb") as file:
        for _ in range(100):
            text = mapped(file.fileno(), size, 0x7F)
            assert float(text[:20]) == float("7" * min(size, 20))
            assert text == "7" * size
            assert str(path) not in Path("/proc/self/maps").read_text().replace(str(path), "", 1)
            del text
    assert str(path) not in Path("/proc/self/maps").read_text()


@given(st.text(alphabet="ab\u20ac", max_size=60), st.text(alphabet="ab\u20ac", min_size=1, max_size=3))
def test_a_count_does_not_depend_on_where_blocks_end(whole: str, part: str) -> None:
    data = whole.encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("recursor.sandboxes.guest.text.COUNTED", 5)
        text = Text(data, len(whole))  # type: ignore[arg-type]  # bytes do what a map does
        assert text.count(part) == whole.count(part)
        assert text.count(part, 1, -1) == whole.count(part, 1, -1)


# Folders --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2500):
        path = tmp_path / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"document {number} \u20ac\n")
    (tmp_path / "bytes.bin").write_bytes(b"\xff\x80")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "large.txt").write_text(_long("a"))
    (tmp_path / "middle.txt").write_text("\u20ac" * 600_000)
    (tmp_path / ".hidden").write_text("no")
    return tmp_path


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = data if b"\xff" in data else data.decode()
    return found


async def test_a_folder_is_a_dict_of_all_its_documents(bench: Bench, folder: Path) -> None:
    source = prepare(folder)
    info = await bench.repl.load("context", source)
    assert (info.type, info.size) == ("dict", "2,504 keys")
    assert await bench.shown(
        "isinstance(context, dict), len(context), 'large.txt' in context, 'x' in context"
    ) == ("(True, 2504, True, False)\n")
    assert await bench.shown(
        "context['3/3.txt'], context.get('x'), context['bytes.bin'], context['empty.txt']"
    ) == ("('document 3 \u20ac\\n', None, b'\\xff\\x80', '')\n")
    expected = _read(folder)
    assert await bench.answered("FINAL(dict(context))") == expected
    assert await bench.answered("FINAL({**context})") == expected
    assert await bench.answered("FINAL({name: text for name, text in context.items()})") == expected
    assert await bench.answered("FINAL(dict(zip(context.keys(), context.values())))") == expected
    assert await bench.shown(
        "context == dict(context), context != {}, (context | {'a': 1})['3/3.txt'][:8]"
    ) == ("(True, True, 'document')\n")
    assert "KeyError" in str((await bench.run("context['nothing']")).error)
    assert await bench.shown("[hit.document for hit in grep('document 77 ', context)]") == "['0/77.txt']\n"
    assert await bench.shown("[p.document for p in search('77', context)], len(chunk(context)) > 2500") == (
        "(['0/77.txt'], True)\n"
    )
    assert source.value() == expected


async def test_nothing_of_a_folder_is_read_before_it_is_taken(isolated: Bench, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("x" * (1 << 20))
    source = prepare(tmp_path)
    await isolated.repl.load("context", source)
    (tmp_path / "12.txt").write_text("changed")
    (tmp_path / "13.txt").unlink()
    assert await isolated.shown("len(context['11.txt'])") == "1048576\n"
    assert "'12.txt' was changed" in str((await isolated.run("context['12.txt']")).error)
    assert "'13.txt' cannot be read" in str((await isolated.run("context['13.txt']")).error)
    assert await isolated.shown("len(context['14.txt'])") == "1048576\n"


async def test_a_folder_goes_to_a_child_by_name(isolated: Bench, folder: Path) -> None:
    await isolated.repl.load("context", prepare(folder))
    assert await isolated.answered("FINAL(len(rlm_query('q', context)['context']))") == 2504
    assert "make a dict" in str((await isolated.run("context['3/3.txt'] = 1")).error)
    assert len(await isolated.shown("context")) < 200


async def test_a_repl_that_asks_a_folder_for_what_it_has_not_harms_nobody(
    isolated: Bench, folder: Path
) -> None:
    await isolated.repl.load("context", prepare(folder))
    code = """
for number in (10**9, -5, 2**63 - 1):
    try:
        context._fetch(number)
    except OSError as error:
        print(error)
context._socket.send(b"abc")
try:
    context._fetch(0)
except OSError as error:
    print(type(error).__name__)
"""
    shown = await isolated.shown(code)
    assert shown.startswith("there is no such pack\n" * 3)
    assert await isolated.shown("1 + 1") == "2\n"
