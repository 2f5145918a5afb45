"""Long files: read once by the host, shared by all REPLs, and read again when they have changed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Bench
from recursor import RLM
from recursor.context import FolderSource, prepare
from recursor.errors import ConfigError, SandboxError
from recursor.sandboxes import files
from recursor.sandboxes.files import FileSource
from recursor.sandboxes.guest import contexts
from recursor.sandboxes.guest.mapped import WIDTHS
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import ScriptedModel

LARGE = contexts.SHARED


def put(path: Path, data: bytes) -> FileSource:
    path.write_bytes(data)
    return source_of(path)


def source_of(path: Path) -> FileSource:
    source = prepare(path)
    assert isinstance(source, FileSource)
    return source


def filled(line: str, size: int = LARGE) -> bytes:
    data = line.encode()
    return data * (size // len(data) + 1)


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (filled("plain\n"), "ascii"),
        (filled("caf\xe9\n"), "latin-1"),
        (filled("\u20ac 5\n"), "ucs-2"),
        (filled("\U0001f600\n"), "ucs-4"),
        (filled("plain\n") + "\u20ac".encode(), "ucs-2"),
        (filled("plain\n") + b"\xff", "file"),
        (filled("plain\n", 1000), "file"),
    ],
)
async def test_two_repls_over_a_file_see_it_as_it_is(tmp_path: Path, data: bytes, form: str) -> None:
    source = put(tmp_path / "file", data)
    assert source.shared().form == form
    sandbox = ProcessSandbox()
    for _ in range(2):
        bench = Bench(await sandbox.open(context_size=source.size))
        info = await bench.repl.load("context", source)
        assert info.source == source.origin
        assert await bench.answered("FINAL(context)") == source.value()
        await bench.repl.close()


@given(st.text(st.characters() | st.sampled_from("\x7f\x80\xff\u0100\ud800\uffff\U00010000")))
def test_the_bound_of_a_text_is_the_least_that_holds(whole: str) -> None:
    largest = max(map(ord, whole), default=0)
    assert contexts.bound_of(whole) == min(bound for bound in WIDTHS if bound >= largest)


async def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    source = put(path, b"a" * LARGE)
    assert source.shared().form == "ascii"
    path.write_bytes(b"\xc3\xa9" * (LARGE // 2))
    assert source.shared().form == "latin-1"
    path.with_name("new").write_bytes(b"\xff" * LARGE)
    path.with_name("new").rename(path)
    assert source.shared() is source


def test_a_file_is_read_once_however_many_repls_ask_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(tmp_path / "file", filled("\u20ac\n"))
    monkeypatch.setattr(files, "SETTLED", -1e9)  # its times tell at once
    read: list[int] = []
    measure = contexts.measure

    def counted(descriptor: int, size: int, most: float) -> tuple[int, int]:
        read.append(size)
        return measure(descriptor, size, most)

    monkeypatch.setattr(contexts, "measure", counted)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(source.shared())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 1
    assert len(set(map(id, found))) == 1


async def test_a_file_that_is_not_utf_8_at_its_very_end_is_bytes(isolated: Bench, tmp_path: Path) -> None:
    source = put(tmp_path / "file", filled("\u20ac\n") + b"\xe2\x82")
    assert source.shared() is source
    info = await isolated.repl.load("context", source)
    assert info.type == "bytes"


async def test_a_repl_keeps_its_text_when_the_file_is_replaced(isolated: Bench, tmp_path: Path) -> None:
    path = tmp_path / "file"
    await isolated.repl.load("context", put(path, filled("old\n")))
    path.with_name("new").write_bytes(filled("new\n"))
    path.with_name("new").rename(path)
    assert await isolated.shown("context[:4], set(context.split())") == "('old\\n', {'old'})\n"


async def test_a_worker_that_writes_to_a_shared_text_changes_no_other(tmp_path: Path) -> None:
    source = put(tmp_path / "file", filled("\u20ac uro\n"))
    sandbox = ProcessSandbox()
    one, other = [Bench(await sandbox.open(context_size=source.size)) for _ in range(2)]
    for bench in (one, other):
        await bench.repl.load("context", source)
    # The address of the characters stands in the object, and the map is private and for reading.
    await one.run("import ctypes\nctypes.memset(context._map[0], 65, 4096)")
    await one.run(
        "import ctypes\nctypes.CDLL(None).mprotect(context._map[0], 4096, 3)\nctypes.memset(context._map[0], 65, 4096)"
    )
    assert await other.shown("context[:6]") == "'\u20ac uro\\n'\n"
    for bench in (one, other):
        await bench.repl.close()


async def test_the_event_loop_goes_on_while_a_long_file_is_read(isolated: Bench, tmp_path: Path) -> None:
    source = put(tmp_path / "file", filled("\u20ac and more text than that\n", 4 * LARGE))
    loading = asyncio.ensure_future(isolated.repl.load("context", source))
    turns = 0
    while not loading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await loading).type == "str"
    assert turns > 20


def test_what_was_read_is_freed_with_its_source(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    source = put(tmp_path / "file", filled("\u20ac\n"))
    descriptor = source.shared().open()
    os.close(descriptor)
    del source
    assert set(os.listdir("/proc/self/fd")) == before


async def test_what_would_need_much_memory_as_a_str_stays_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(tmp_path / "file", filled("plain\n") + "\u20ac".encode())
    monkeypatch.setattr(contexts, "LAZY", 2 * LARGE)
    assert source.shared() is source
    (tmp_path / "file").write_bytes(b"a" * source.size)
    assert source.shared().form == "ascii"


def test_links_that_lead_out_of_a_folder_are_left_out_and_told(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    folder.joinpath("a.txt").write_text("here")
    for name, target in {"out": secret, "deep/up": Path("../../secret"), "deep/in": Path("../a.txt")}.items():
        folder.joinpath(name).symlink_to(target)
    folder.joinpath("away").symlink_to(tmp_path)
    root = ScriptedModel(["```repl\nFINAL(dict(context))\n```"] * 2)
    assert RLM(root).completion("?", context=folder).answer == {"a.txt": "here", "deep/in": "here"}
    assert "2 links to files are left out, since they lead out of the folder" in root.requests[0][-1].content
    tmp_path.joinpath("link").symlink_to(folder)
    both = RLM(root).completion("?", context=[tmp_path / "link", folder / "out"]).answer
    assert sorted(both.values()) == ["here", "here", "s3cret"]
    folder.joinpath("a.txt").unlink()
    folder.joinpath("deep/in").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*2 links to files are left out"):
        prepare(folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_gitignore_that_is_no_file_holds_nobody_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    tmp_path.joinpath(".git", "info").mkdir(parents=True)
    tmp_path.joinpath("a.txt").write_text("here")
    for name in (".gitignore", ".git/info/exclude"):
        make(tmp_path / name)
    folder = prepare(tmp_path)
    assert isinstance(folder, FolderSource)
    assert [each.name for each in folder.documents] == ["a.txt"]


def test_links_in_a_circle_are_left_out_and_a_path_that_none_can_have_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("a.txt").write_text("here")
    tmp_path.joinpath("circle").symlink_to("circle")
    folder = prepare(tmp_path)
    assert isinstance(folder, FolderSource)
    assert [each.name for each in folder.documents] == ["a.txt"]
    for path in ("a" * 300, "a\0b", str(tmp_path / "circle")):
        with pytest.raises(ConfigError, match="context: "):
            prepare(Path(path))


def test_a_folder_that_changes_before_it_is_loaded_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    tmp_path.joinpath("a.txt").write_text("here")
    folder = prepare(tmp_path)
    tmp_path.joinpath("a.txt").write_text("there, and longer")
    with pytest.raises(SandboxError, match=r"'a.txt' was changed after the run had begun"):
        RLM(ScriptedModel([])).completion("?", folder)
