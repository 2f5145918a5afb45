"""Files of many kinds as contexts: what code finds, what the root LM is told, and what hostile files do."""

from __future__ import annotations

import bz2
import datetime
import gzip
import importlib.util
import io
import json
import lzma
import time
import zipfile
from collections.abc import AsyncIterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import kinds
from conftest import Bench, PlainSandbox
from recursor import RLM
from recursor.cli import contexts
from recursor.context import loaders, prepare
from recursor.errors import ConfigError, UnreadableFile
from recursor.files import Content, Raw
from recursor.inputs import recorded_inputs
from recursor.protocols import Sandbox
from recursor.sandboxes.guest import archives, loading
from recursor.sandboxes.inprocess import InProcessSandbox
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import ScriptedModel, check_loader
from recursor.types import ContextInfo

NO_PDF = importlib.util.find_spec("pypdfium2") is None
NO_YAML = importlib.util.find_spec("yaml") is None


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(await ProcessSandbox().open())
    yield bench
    await bench.repl.close()


def zipped(data: bytes) -> bytes:
    """The same bytes each time, since they are in the names of tests."""
    return gzip.compress(data, mtime=0)


async def given_to(bench: Bench, context: Any) -> tuple[Any, ContextInfo]:
    """What code finds, and what the root LM is told."""
    info = await bench.repl.load("context", prepare(context))
    return await bench.answered("FINAL(dict(context) if isinstance(context, dict) else context)"), info


def read(kind: str, data: bytes) -> loading.Loaded:
    return loading.load(kind, io.BytesIO(data), len(data))


@pytest.mark.parametrize(
    ("name", "data", "expected", "told"),
    [
        ("a.csv", b"name,n\nAda,1\n\"x,y\",2\n", [{"name": "Ada", "n": "1"}, {"name": "x,y", "n": "2"}], "columns: name, n; context[i] is line i + 2"),
        ("a.csv", b"\xef\xbb\xbfname;n\r\nAda;1\r\n", [{"name": "Ada", "n": "1"}], "columns: name, n"),
        ("a.tsv", b"1\t2\n3\t4\n", [["1", "2"], ["3", "4"]], "without a header"),
        ("a.csv", b"a,b\n1\n1,2,3\n", [{"a": "1", "b": None}, {"a": "1", "b": "2", None: ["3"]}], "2 rows have more or fewer"),
        ("a.csv", b"caf\xe9,n\nx,1\n", [{"café": "x", "n": "1"}], "Windows-1252"),
        ("a.json", b'{"a": [1, null]}', {"a": [1, None]}, "from JSON"),
        ("a.json", b'{"a": ', '{"a": ', "cannot be read as JSON"),
        ("a.jsonl", b'{"a": 1}\n{oh\n\n[2]\n', [{"a": 1}, [2]], "1 of 4 lines are no JSON and left out: 2"),
        ("a.html", b"<title>T</title><script>x()</script><h1>Hi</h1><p>see <a href='/x'>this</a><ul><li>one<li>two</ul><table><tr><td>1<td>2</table>", "# Hi\n\nsee this (/x)\n\n- one\n- two\n\n1 | 2\n", "its title: T"),
        ("a.docx", kinds.word(), "# Results\nAll is well.\na | b\n", "Word"),
        ("a.pptx", kinds.slides(), ["first", "second"], "context[i] is slide i + 1"),
        ("a.xlsx", kinds.excel(), {"Sales": [{"name": "tea", "price": 1.5, "day": datetime.date(2020, 1, 2)}, {"name": None, "price": None, "day": None}, {"name": None, "price": 2, "day": None}]}, "'Sales': 3 rows, columns: name, price, day; [i] is row i + 2"),
        ("a.tar.gz", kinds.tarred({"d/a.json": b"[1]", "../up": b"x"}), {"d/a.json": [1]}, "left out: 2 (../up (it leads out of the archive), link (a link or a device))"),
        ("a.log.gz", zipped(b"one\ntwo\n"), "one\ntwo\n", "unpacked from gzip"),
        ("a.csv.gz", zipped(b"name,n\nAda,1\n"), [{"name": "Ada", "n": "1"}], "context[i] is line i + 2; unpacked from gzip"),
        ("a.jsonl.xz", lzma.compress(b"[1]\n[2]\n"), [[1], [2]], "unpacked from xz"),
        ("dump.bz2", bz2.compress(b"caf\xc3\xa9"), "caf\xe9", "unpacked from bzip2"),
        ("data", zipped(kinds.word()), "# Results\nAll is well.\na | b\n", "unpacked from gzip"),
        ("a.gz", zipped(zipped(b"x")), zipped(b"x"), "unpacked from gzip"),
        ("a.txt", "Gr\xf6\xdfe\n".encode("utf-16"), "Gr\xf6\xdfe\n", "decoded from UTF-16"),
        ("a.bin", b"\xff\xfe\xff\x00\x00\x00", b"\xff\xfe\xff\x00\x00\x00", "xff"),
        ("a.zip", kinds.packed({"b.docx": kinds.word(), "n.txt": "hello", "/etc/x": "y"}), {"b.docx": "# Results\nAll is well.\na | b\n", "n.txt": "hello"}, "left out: 1"),
    ],
)  # fmt: skip
async def test_a_file_is_what_a_person_would_expect(
    tmp_path: Path, bench: Bench, name: str, data: bytes, expected: Any, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    value, info = await given_to(bench, path)
    assert value == expected
    assert told in info.preview
    assert info.source == str(path)


async def test_the_tables_of_a_database_are_rows(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "people.db"
    path.write_bytes(kinds.database(tmp_path))
    value, info = await given_to(bench, path)
    assert value == {"people": [{"name": "Ada", "age": 36}, {"name": "Max", "age": None}]}
    assert "people (2 rows: name, age)" in info.preview


@pytest.mark.skipif(NO_YAML, reason="needs PyYAML")
async def test_yaml_is_its_value_and_bombs_of_aliases_stay_text(tmp_path: Path, bench: Bench) -> None:
    good, bomb = tmp_path / "a.yaml", tmp_path / "b.yml"
    good.write_text("a: 1\nb: [x, y]\n")
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    bomb.write_text("l0: &l0 [" + "x, " * 9 + "]\n" + "\n".join(levels))
    assert (await given_to(bench, good))[0] == {"a": 1, "b": ["x", "y"]}
    value, info = await given_to(bench, bomb)
    assert value == bomb.read_text()
    assert "its aliases stand for more than" in info.preview
    assert "!!python" in read("yaml", b"!!python/object/apply:os.system ['id']").value


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
async def test_parquet_is_a_list_of_rows(tmp_path: Path, bench: Bench) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"name": ["Ada", None], "age": [36, 1]}), tmp_path / "a.parquet")
    value, info = await given_to(bench, tmp_path / "a.parquet")
    assert value == [{"name": "Ada", "age": 36}, {"name": None, "age": 1}]
    assert "columns: name (string), age (int64)" in info.preview


@pytest.mark.parametrize("sandbox", [PlainSandbox(), InProcessSandbox()], ids=["stream", "inprocess"])
async def test_files_are_read_where_only_bytes_reach_and_in_process(tmp_path: Path, sandbox: Sandbox) -> None:
    tmp_path.joinpath("a.csv").write_text("k,v\nx,1\n")
    tmp_path.joinpath("b.docx").write_bytes(kinds.word())
    tmp_path.joinpath("c.zip").write_bytes(b"PK\x03\x04 cut")
    bench = Bench(await sandbox.open())
    try:
        value, info = await given_to(bench, tmp_path)
        assert (value["a.csv"], value["b.docx"][:9]) == ([{"k": "x", "v": "1"}], "# Results")
        assert "1 cannot be read, and say so in their place: [c.zip: it cannot be read as ZIP" in info.preview
        assert (await given_to(bench, tmp_path / "a.csv"))[0] == [{"k": "x", "v": "1"}]
    finally:
        await bench.repl.close()


@pytest.mark.skipif(NO_PDF, reason="needs pypdfium2")
async def test_a_pdf_is_a_list_of_pages(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(kinds.pdf("first page", "", "third"))
    value, info = await given_to(bench, path)
    assert [page.strip() for page in value] == ["first page", "", "third"]
    assert "PDF, 3 pages; context[i] is page i + 1, `context[i].image()` its picture" in info.preview
    shown = await bench.shown(
        "print(context[0].image(), context[2].image(300).height, context[0] in context)"
    )
    assert shown.startswith("<Image: image/png, 1,237 x 1,600 pixels, ")
    assert shown.endswith(" bytes, from 'page 1'> 300 True\n")
    tmp_path.joinpath("b.pdf").write_bytes(kinds.pdf("other"))
    await given_to(bench, tmp_path)
    assert await bench.answered("FINAL(context['b.pdf'][0].image(100).width)") == 78
    assert "without text (pictures of it?): 1 pages (2)" in info.preview


async def test_a_folder_of_many_kinds_is_read_as_they_are_and_says_what_is_broken(
    tmp_path: Path, bench: Bench
) -> None:
    for name, data in {
        "a.csv": b"k,v\nx,1\n", "b.xlsx": kinds.excel(), "c.xlsx": b"PK\x03\x04 cut", "d/e.txt": b"plain words",
        "d/f": kinds.word(), "d/g.bin": b"\xff\x00",
    }.items():  # fmt: skip
        tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(name).write_bytes(data)
    value, info = await given_to(bench, tmp_path)
    assert list(value) == ["a.csv", "b.xlsx", "c.xlsx", "d/e.txt", "d/f", "d/g.bin"]
    assert value["a.csv"] == [{"k": "x", "v": "1"}]
    assert value["b.xlsx"]["Sales"][0]["name"] == "tea"
    assert value["c.xlsx"].startswith("[c.xlsx: it cannot be read as XLSX:")
    assert value["d/f"] == "# Results\nAll is well.\na | b\n"
    assert (value["d/e.txt"], value["d/g.bin"]) == ("plain words", b"\xff\x00")
    assert "among them 1 CSV (a list of rows), 2 Excel (rows by sheet)" in info.preview
    assert "1 cannot be read, and say so in their place: [c.xlsx" in info.preview
    found = await bench.shown("print([hit.document for hit in grep('tea|words|well', context)])")
    assert found == "['b.xlsx', 'd/e.txt', 'd/f']\n"
    assert "All is well" in await bench.shown("print(search('well', context))")


async def test_large_documents_of_a_folder_are_not_read_before_code_takes_them(
    tmp_path: Path, bench: Bench
) -> None:
    tmp_path.joinpath("a.csv").write_text("k,v\n" + "x,1\n" * 300_000)
    tmp_path.joinpath("b.zip").write_bytes(b"PK\x03\x04" + bytes(1 << 20))
    info = await bench.repl.load("context", prepare(tmp_path))
    assert "'a.csv': CSV (a list of rows), 1,200,004 bytes" in info.preview
    assert "'b.zip': ZIP (its files by path), 1,048,580 bytes" in info.preview
    assert await bench.shown("print(len(context['a.csv']), context['b.zip'][:30])") == (
        "300000 [b.zip: it cannot be read as Z\n"
    )


async def test_raw_gives_files_as_they_stand(tmp_path: Path, bench: Bench) -> None:
    table, document = tmp_path / "a.csv", tmp_path / "b.docx"
    table.write_text("k,v\nx,1\n")
    document.write_bytes(kinds.word())
    assert (await given_to(bench, Raw(table)))[0] == "k,v\nx,1\n"
    assert (await given_to(bench, Raw(tmp_path)))[0] == {"a.csv": "k,v\nx,1\n", "b.docx": kinds.word()}
    assert list((await given_to(bench, Raw([table])))[0].values()) == ["k,v\nx,1\n"]
    assert prepare(Raw(table)).digest() != prepare(table).digest()


async def test_old_documents_of_a_folder_are_said_to_be_so_in_their_places(
    tmp_path: Path, bench: Bench
) -> None:
    tmp_path.joinpath("a.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    tmp_path.joinpath("b.log.gz").write_bytes(zipped(b"b\n"))
    value, _ = await given_to(bench, tmp_path)
    assert value["a.xls"].startswith(
        "[a.xls: it cannot be read as a document: it is of the format that Office had"
    )
    assert value["b.log.gz"] == "b\n"


async def test_content_without_a_file_is_read_by_its_name_or_its_first_bytes(bench: Bench) -> None:
    assert (await given_to(bench, Content(b"k,v\nx,1\n", "up.csv")))[0] == [{"k": "x", "v": "1"}]
    assert (await given_to(bench, Content(kinds.word())))[0] == "# Results\nAll is well.\na | b\n"
    assert (await given_to(bench, Content(b"[1]")))[0] == "[1]"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.xlsx", kinds.word(), r"it cannot be read as XLSX: it is no Excel file"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "as DOCX: it is encrypted"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 Workbook", "it is of the old format"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "as a document: it is of the format that Office had before 2007"),
        ("a.log.gz", zipped(b"one\n" * 9999)[:-9], "as gzip: EOFError: Compressed file ended"),
        ("a.log.gz", b"not packed at all", "as gzip: BadGzipFile: Not a gzipped file"),
        ("a.xz", b"\xfd7zXZ\0 cut", "as xz: "),
        ("a.log.gz", zipped(bytes(1 << 22)), "as gzip: it unpacks like a bomb"),
        ("a.docx.gz", zipped(b"no document"), "as gzip: it cannot be read as DOCX: "),
        ("a.zip", kinds.locked(kinds.packed({"x": "1", "y": "2"})), "as ZIP: it is encrypted"),
        pytest.param("a.pdf", kinds.LOCKED_PDF, "as PDF: it is encrypted, and opens with a password only",
                     marks=pytest.mark.skipif(NO_PDF, reason="needs pypdfium2")),
        pytest.param("a.pdf", b"%PDF-1.4 oh", "cannot be read as PDF: ",
                     marks=pytest.mark.skipif(NO_PDF, reason="needs pypdfium2")),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, bench: Bench, name: str, data: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UnreadableFile, match=said) as raised:
        await bench.repl.load("context", prepare(path))
    assert str(path) in str(raised.value)
    assert await bench.shown("print('alive')") == "alive\n"


def test_a_broken_file_ends_the_run_before_a_model_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04 cut")
    model = ScriptedModel(["never"])
    with pytest.raises(ConfigError, match=r"a\.xlsx: it cannot be read as XLSX"):
        RLM(model).completion("?", context=path)
    assert not model.requests
    rest = ScriptedModel(["```repl\nFINAL(list(context.values())[0])\n```"])
    assert "a.xlsx: it cannot be read as XLSX: " in RLM(rest).completion("?", context=[path]).answer
    assert "1 cannot be read, and say so in their place" in rest.requests[0][-1].content


def test_what_only_a_sandbox_reads_goes_into_no_plain_call(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(kinds.word())
    root = ScriptedModel(["```repl\nFINAL(context.splitlines()[0])\n```"])
    assert RLM(root, strategy="auto").completion("title?", context=path).answer == "# Results"
    with pytest.raises(ConfigError, match="one plain call"):
        RLM(root, strategy="direct").completion("title?", context=path)
    table = tmp_path / "a.csv"
    table.write_text("k,v\nx,1\n")
    plain = ScriptedModel(["x"])
    assert RLM(plain, strategy="direct").completion("k?", context=table).answer == "x"
    assert "k,v\nx,1" in plain.requests[0][-1].content


def test_a_resumed_run_is_given_what_it_was_given_raw_or_not(tmp_path: Path) -> None:
    from recursor.trajectory.view import open as opened

    table, store = tmp_path / "a.csv", tmp_path / "runs.db"
    table.write_text("k,v\nx,1\n")
    for context, expected in ((table, list), (Raw(table), str)):
        rlm = RLM(ScriptedModel(["```repl\nFINAL(1)\n```"]), store=store)
        done = rlm.completion("?", context=context)
        with opened(store) as recorded:
            source = recorded_inputs(recorded.run(done.run_id), None, None)[1]["context"]
        assert type(loading_value(source)) is expected


def loading_value(source: Any) -> Any:
    from recursor.sandboxes.guest import contexts

    return contexts.load(source.open(), source.form, source.size)


def test_git_decides_what_of_a_repository_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".git" / "info").mkdir(parents=True)
    (tmp_path / ".git" / "info" / "exclude").write_text("secret\n")
    (tmp_path / ".gitignore").write_text("# build\n*.log\n!keep.log\n/out/\ndocs/**/*.tmp\n*a*a*a*a*a*b\n")
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / ".gitignore").write_text("deep/x[0-9].py\n!/local.log\n")
    (tmp_path / "docs" / "a" / "b").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    names = [
        "a.log", "keep.log", "main.py", "page.html", "secret", "out/x", "src/out", "src/b.log", "src/local.log",
        "src/deep/x1.py", "src/deep/xy.py", "docs/a/b/c.tmp", "docs/d.tmp", "a" * 200,
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("<p>text")
    found = prepare(tmp_path).value()
    assert isinstance(found, dict)
    assert set(found) == {
        "keep.log",
        "main.py",
        "page.html",
        "src/out",
        "src/local.log",
        "src/deep/xy.py",
        "a" * 200,
    }
    assert set(prepare(tmp_path / "src").value()) == {"out", "local.log", "deep/xy.py"}


async def test_files_of_text_stay_text_in_a_repository(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "page.html").write_text("<p>text")
    (tmp_path / "x.log").write_text("x")
    (tmp_path / "manual.docx").write_bytes(kinds.word())
    value, info = await given_to(bench, tmp_path)
    assert value == {"manual.docx": "# Results\nAll is well.\na | b\n", "page.html": "<p>text"}
    assert "1 files and folders are left out, since git ignores them" in info.preview


def test_html_of_the_wild_is_read() -> None:
    picture = "A" * 100_000
    page = (
        f"<!DOCTYPE html><html><head><meta charset=iso-8859-1><title>A &amp; B</title><style>p > a {{}}</style>"
        f"<body>1 < 2 &lt; 3<br/>caf\xe9 <img alt='a cat' src='data:image/png;base64,{picture}'><img alt=\"dog>\">"
        "<!-- <p>no --><pre>  two\n  lines</pre><a href=#top>up</a><textarea><b>x</b></textarea></div></p>end"
    )
    value, note = read("html", page.encode("latin-1"))
    assert value == "1 < 2 < 3\ncafé [dog>]\n\n  two\n  lines\nup<b>x</b>\nend\n"
    assert note == "the text of a page of HTML, its title: A & B; decoded from iso-8859-1"


@pytest.mark.parametrize(
    ("kind", "piece"),
    [("html", "<"), ("html", "<a "), ("html", "<!--"), ("html", "<a '\""), ("html", "<script>"), ("html", "<li> "), ("csv", '"'), ("csv", "a,"),
     ("json", "["), ("yaml", "["), ("yaml", "? "), ("jsonl", "[\n")],
)  # fmt: skip
def test_what_repeats_for_ever_is_read_in_time_that_grows_with_its_length(kind: str, piece: str) -> None:
    if kind != "yaml" or not NO_YAML:
        began = time.process_time()
        assert read(kind, piece.encode() * 100_000).note
        assert time.process_time() - began < 20


# Hostile files ---------------------------------------------------------------------------------


def test_bombs_are_refused() -> None:
    bomb = kinds.packed({"a.txt": b"0" * 20_000_000, "b.txt": "fine"})
    value, note = read("zip", bomb)
    assert value == {"b.txt": "fine"}
    assert "a.txt (it unpacks like a bomb)" in note
    nested: bytes = kinds.packed({"x.txt": "deep"})
    for _ in range(4):
        nested = kinds.packed({"n.zip": nested})
    value = read("zip", nested).value
    for _ in range(archives.DEEPEST - 1):
        value = value["n.zip"]
    assert "it is an archive in 3 others" in value["n.zip"]
    with pytest.raises(loading.Unreadable, match="unpacks to more than"):
        read("tar", kinds.tarred({"a": b"0" * 50_000_000}, "w:xz"))
    entities = "<!DOCTYPE w [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>"
    hostile = kinds.packed({"word/document.xml": f"{entities}<w><t>&b;</t></w>"})
    with pytest.raises(loading.Unreadable, match="document type"):
        read("docx", hostile)
    with pytest.raises(loading.Unreadable, match="nested more than"):
        read("docx", kinds.word("<w:p>" * 5_000 + "</w:p>" * 5_000))
    assert "nested" in read("json", b"[" * 200_000).note


def test_many_members_and_members_that_overlap_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    with pytest.raises(loading.Unreadable, match="it has 4 members"):
        read("zip", kinds.packed(dict.fromkeys("abcd", "x")))
    data = kinds.packed({"a": "x" * 100, "b": "y" * 100})
    entry = data.rindex(b"PK\x01\x02")
    with pytest.raises(loading.Unreadable, match="overlap"):
        read("zip", data[: entry + 42] + b"\0\0\0\0" + data[entry + 46 :])


async def test_members_of_an_archive_are_unpacked_when_they_are_taken(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "a.zip"
    rows = "".join(f"{number:08d}," for number in range(1_300_000)).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(16):
            archive.writestr(f"{number}.txt", b"%d\n" % number + rows)
        archive.writestr("in.zip", kinds.packed({"x.csv": "k,v\na,1\n", "bad.xlsx": b"PK\x03\x04 cut"}))
        archive.writestr("a.docx", kinds.word())
        archive.writestr("broken.pdf", b"no PDF")
    info = await bench.repl.load("context", prepare(path))
    assert (info.type, info.size) == ("dict", "19 keys")
    assert (
        "ZIP, its 19 files by path; cannot be read: 1 ([broken.pdf: it cannot be read as PDF: "
        in info.preview
    )
    code = (
        "import resource\nfound = [len(text) for text in context.values() if isinstance(text, str) and text[:1].isdigit()]\n"
        "print(len(found), sum(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 180_000)"
    )
    assert await bench.shown(code) == "16 187200038 True\n"
    assert await bench.shown("print(context['in.zip']['x.csv'], context['in.zip']['bad.xlsx'][:29])") == (
        "[{'k': 'a', 'v': '1'}] [bad.xlsx: it cannot be read \n"
    )
    assert "All is well" in await bench.shown("print(grep('All is', {'a': context['a.docx']}))")
    assert "cannot be changed" in str((await bench.run("context['x'] = 1")).error)
    child = await bench.answered("FINAL(rlm_query('?', {'part': context['in.zip']})['context'])")
    assert child["part"]["x.csv"] == [{"k": "a", "v": "1"}]


async def test_more_large_archives_are_held_than_files_may_be_open(tmp_path: Path, bench: Bench) -> None:
    for number in range(300):
        with zipfile.ZipFile(tmp_path / f"{number:03}.zip", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("pad", bytes(1 << 20))
            archive.writestr("n.txt", str(number))
    await bench.repl.load("context", prepare(tmp_path))
    code = (
        "import resource\nsoft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "held = [context[name] for name in context]\nprint(soft < 300, sum(int(each['n.txt']) for each in held))"
    )
    assert await bench.shown(code) == "True 44850\n"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
async def test_a_tar_is_read_whether_it_is_packed_or_not(tmp_path: Path, bench: Bench, mode: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(kinds.tarred({"./a.json": b"[1]", "b/c.txt": b"text", "../up": b"x"}, mode))
    value, info = await given_to(bench, path)
    assert value == {"a.json": [1], "b/c.txt": "text"}
    assert "left out: 2 (../up (it leads out of the archive), link (a link or a device))" in info.preview
    path.write_bytes(path.read_bytes()[:300] if mode == "w" else b"")
    with pytest.raises(UnreadableFile, match="cannot be read as TAR"):
        await bench.repl.load("context", prepare(path))


def test_a_member_that_is_damaged_says_so_in_its_place() -> None:
    data = bytearray(kinds.packed({"a.txt": "x" * 100, "b.txt": "fine"}))
    data[data.index(b"a.txt") + 5] ^= 0xFF
    value = read("zip", bytes(data)).value
    assert value["b.txt"] == "fine"
    assert value["a.txt"].startswith("[a.txt: it cannot be read: ")


SAMPLES = {
    "csv": b'name,n\nAda,1\n"x,y",2\n', "json": b'{"a": [1, null, "x"]}', "jsonl": b'{"a": 1}\n[2]\n',
    "html": b"<h1>Hi</h1><p>see <a href='/x'>this</a><table><tr><td>1</table>", "docx": kinds.word(),
    "xlsx": kinds.excel(), "pptx": kinds.slides(), "zip": kinds.packed({"a.json": "[1]", "b.docx": kinds.word()}),
    "tar": kinds.tarred({"a.json": b"[1]"}), "?": kinds.word(), "yaml": b"a: &x [1, 2]\nb: *x\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_is_read_or_is_unreadable_and_nothing_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(SAMPLES[kind])
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        value, note = read(kind, cut)
    except loading.Unreadable as error:
        assert "cannot be read as" in str(error)
    else:
        assert isinstance(note, str)
        value = dict(value) if isinstance(value, dict) else value
        assert value is None or isinstance(
            value, str | bytes | list | dict | int | float | bool | datetime.date
        )


@pytest.mark.skipif(NO_PDF, reason="needs pypdfium2")
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_pdf_is_read_or_is_unreadable(data: st.DataObject) -> None:
    whole = bytearray(kinds.pdf("one", "two"))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        pages = read("pdf", bytes(whole[: data.draw(st.integers(0, len(whole)))])).value
        assert all(isinstance(page, str) for page in pages)
    except loading.Unreadable as error:
        assert "cannot be read as PDF" in str(error)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_database_is_read_or_is_unreadable(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(kinds.database(tmp_path_factory.mktemp("made")))
    for _ in range(data.draw(st.integers(1, 20))):
        whole[data.draw(st.integers(100, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(read("sqlite", bytes(whole)).value, dict)
    except loading.Unreadable as error:
        assert "cannot be read as SQLite" in str(error)


@given(st.lists(st.lists(st.text('ab1,;"\n ', max_size=5), min_size=2, max_size=3), min_size=2, max_size=6))
@example([["", ";\n"], [";\n", ";"]])
def test_the_cells_of_a_csv_are_all_there(cells: list[list[str]]) -> None:
    import csv

    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["name", "other", "third"], *cells])
    found = read("csv", file.getvalue().encode()).value
    assert [list(row.values())[: len(wrote)] for row, wrote in zip(found, cells, strict=True)] == cells


def test_a_large_file_of_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recursor.sandboxes.guest import kinds as known

    monkeypatch.setattr(known, "MOST_TEXT", 10)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(list(range(10))))
    assert prepare(path).form == "file"


class Upside:
    """Reads files whose lines are upside down."""

    suffixes = (".down",)

    def load(self, file: BinaryIO) -> tuple[Any, str]:
        text = file.read().decode("utf-8")
        if not text.startswith("down"):
            raise ValueError("it does not begin with down")
        return text.splitlines()[::-1], "from the last line to the first"


class Careless(Upside):
    def load(self, file: BinaryIO) -> tuple[Any, str]:
        return {"first": file.read()[4]}, ""


def test_the_check_of_loaders_finds_what_breaks_the_contract() -> None:
    check_loader(Upside(), {"a": b"down\none\ntwo"})
    with pytest.raises(AssertionError, match="load must raise ValueError alone, not IndexError"):
        check_loader(Careless(), {"a": b"down\none"})
    with pytest.raises(AssertionError, match="is a good file, and load says: it does not begin"):
        check_loader(Upside(), {"a": b"up"})


async def test_an_installed_loader_reads_its_files_inside_the_sandbox(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("down", "test_kinds:Nothing", group)]

    monkeypatch.setattr(metadata, "entry_points", points)
    loaders.installed.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"the loader 'down' .* cannot be imported"):
            loaders.installed()
        monkeypatch.setattr(
            metadata, "entry_points", lambda group: [EntryPoint("down", "test_kinds:upside", group)]
        )
        path = tmp_path / "a.DOWN"
        path.write_bytes(b"down\none")
        with pytest.raises(UnreadableFile, match="its loader test_kinds:upside is not in the sandbox"):
            await bench.repl.load("context", prepare(path))
        await bench.run(
            "import sys, types\nclass Upside:\n    def load(self, file):\n        return file.read().decode().splitlines()[::-1], 'reversed'\n"
            "sys.modules['test_kinds'] = types.SimpleNamespace(upside=Upside())"
        )
        value, info = await given_to(bench, path)
        assert (value, info.preview.splitlines()[0]) == (["one", "down"], "reversed")
    finally:
        loaders.installed.cache_clear()


upside = Upside()


def test_the_command_line_takes_files_as_they_are_read_or_as_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def piped(data: bytes) -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return contexts.read(("-",))

    assert contexts.read(("a.csv",)) == Path("a.csv")
    assert contexts.read(("a.csv",), raw=True) == Raw(Path("a.csv"))
    assert contexts.read(("a.csv", "b"), raw=True) == Raw([Path("a.csv"), Path("b")])
    assert piped(b"k,v\nx,1\n") == "k,v\nx,1\n"
    assert piped(kinds.word()) == Content(kinds.word())
