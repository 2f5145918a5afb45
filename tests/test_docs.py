"""What the documents print is run: their Python, their commands, their settings, the options and anchors they name."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest

import kinds
import recursor
from recursor import RLM, tool
from recursor.cli import COMMANDS, cli
from recursor.config import loading
from recursor.models import presets
from recursor.server import keys
from recursor.testing import ModelServer, ScriptedModel
from recursor.types import Message

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path | str, *kinds: str) -> list[str]:
    """The fenced blocks of a page, of some kinds, in their order."""
    text = (ROOT / page).read_text("utf-8")
    return [
        found[2] for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if found[1] in kinds
    ]


# Python ------------------------------------------------------------------------------------------

SIGNATURE = re.compile(r"^(?:async for \w+ in |await )?([\w.]+)\((?!\.\.\.\)).*\)(?:  -> .*)?$", re.S)
OF_THE_REPL = ("docs/files.md", 1), ("docs/recursion.md", 0), ("docs/recursion.md", 2), ("docs/repl.md", 0)
"""Run in a REPL, as a root LM writes them."""
SIGNATURES = ("docs/python.md", 1), ("docs/python.md", 2), ("docs/recursion.md", 1), ("docs/sessions.md", 1)
"""Say how something is called: compared with how it is."""
ELSEWHERE = {
    ("docs/clients.md", 1), ("docs/clients.md", 2),  # packages that `make compat` installs
    ("docs/server.md", 0), ("docs/server.md", 1),  # a server at the usual port; tests of it ask it as these do
    ("docs/files.md", 3),  # the Internet
    ("docs/sandbox.md", 2), ("docs/sandbox.md", 5),  # Pyodide; a sandbox of the reader's own
    ("README.md", 1), *(("docs/models.md", number) for number in range(10)),  # in test_documents
}  # fmt: skip
"""Not run here, but what they import of recursor is there."""
PYTHON = [
    (name, number)
    for name in NAMES
    for number, _ in enumerate(blocks(name, "python"))
    if (name, number) not in {*OF_THE_REPL, *SIGNATURES, *ELSEWHERE}
]
PUBLIC: dict[str, Any] = {name: getattr(recursor, name) for name in recursor.__all__}
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
"""The beginning of a picture of one pixel."""
CANDIDATES = '{"number": 1, "items": []}', "[]", "'done'"


@dataclass
class Item:
    """What the documents leave to the reader."""

    name: str


@dataclass
class Invoice:
    """As docs/python.md has it."""

    number: int
    items: list[Item]


@tool
def lookup(word: str) -> list[str]:
    """Find a word."""
    return [word]


@tool
def send_mail(to: str, text: str) -> None:
    """Send a letter."""


def _answer(messages: Sequence[Message]) -> str:
    """Submit one thing after another, until one fits; answer sub-calls as examples/what_was_read.py does."""
    if messages[0].role != "system":
        return "Deserialize ``fp`` (a ``.read()``-supporting file-like object)."
    turn = sum(each.role == "assistant" for each in messages)
    first = (
        'llm_query("What does this do?\\n\\n" + list(context.values())[0])\n'
        if "'json" in str(messages)
        else ""
    )
    return f"```repl\n{first}FINAL({CANDIDATES[turn % len(CANDIDATES)]})\n```"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the documents name in it, keys, and providers that are all on this machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("books", "speeches", "reports", "contracts", "papers", "json"):
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "a.txt").write_text("The meeting was in Moscow. " * 20)
    for name in ("other.txt", "notes.md", "log.txt"):
        tmp_path.joinpath(name).write_text("A text.\n")
    for name in ("invoices.csv", "b.csv"):
        tmp_path.joinpath(name).write_text("number,sum\n1,2\n")
    tmp_path.joinpath("invoices.xlsx").write_bytes(kinds.excel())
    tmp_path.joinpath("a.pdf").write_bytes(kinds.pdf("One page."))
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "E2B"):
        monkeypatch.setenv(f"{name}_API_KEY", "none")
    with ModelServer(_answer) as server:
        for name in ("openai", "anthropic", "gemini", "vllm"):
            monkeypatch.setitem(
                presets.PRESETS, name, replace(presets.PRESETS[name], base_url=server.url, wire="chat")
            )
        yield tmp_path


@pytest.fixture
def names(folder: Path) -> dict[str, Any]:
    """What the documents take as given: what was made before, and what is the reader's own."""
    rlm = RLM("openai/gpt-5", store="runs.db")
    done = rlm.completion("What does `load` do?", context=folder / "json")
    return PUBLIC | {
        "Path": Path, "dataclass": dataclass, "Item": Item, "Invoice": Invoice, "lookup": lookup, "send_mail": send_mail,
        "rlm": rlm, "question": "Which?", "questions": ["Which?", "Who?"], "context": "a text", "text": {"a.txt": ""},
        "data": b"PK", "token": "t", "run_id": done.run_id, "call_id": "c", "model": ScriptedModel([]),
        "parse": str.split, "io": io, "setup": "x = 1", "attempt": "x += 1", "host": None,
    }  # fmt: skip


async def _run(code: str, names: dict[str, Any]) -> None:
    made = eval(compile(code, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), names)
    if isinstance(made, Awaitable):
        await made


CHANGED: Mapping[tuple[str, int], Sequence[tuple[str, str]]] = {
    # Names of the run that the page tells of, in place of which there is one of the tests'.
    ("docs/coverage.md", 0): [("['__init__.py']", "['a.txt']"), (", context=text", "")],
    ("docs/coverage.md", 1): [
        ("$['said'][0]", "$['number']"), ("item.parts[0].found", "item.parts"), ('found.reads["b5b3..."]', "found.reads"),
    ],
    ("docs/files.md", 2): [("upload.docx", "upload.txt")],
}  # fmt: skip
"""What is written otherwise than in the document before it is run."""
AFTER = {
    ("docs/repl.md", 1): "await fork.close()\nawait kept.close()\nawait repl.close()",
    ("docs/files.md", 4): "rows = dbf.load(io.StringIO('a b'))",
}
"""What is run after it."""


def _code(page: str, number: int) -> str:
    code = blocks(page, "python")[number]
    for old, new in CHANGED.get((page, number), ()):
        assert old in code
        code = code.replace(old, new)
    return code + AFTER.get((page, number), "")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("page", "number"), PYTHON)
def test_the_python_of_the_documents_runs(names: dict[str, Any], page: str, number: int) -> None:
    before = [_code(page, 0)] if page == "docs/coverage.md" and number else []
    for code in (*before, _code(page, number)):
        asyncio.run(_run(code, names))


@pytest.mark.parametrize(("page", "number"), OF_THE_REPL)
def test_the_python_that_is_of_the_repl_runs_in_one(page: str, number: int) -> None:
    pair = ["a", "b"]
    script = [f"```repl\nparse = str.split\n{blocks(page, 'python')[number]}\nFINAL('ran')\n```"]
    rlm = RLM(
        ScriptedModel(script),
        sub_model=ScriptedModel(lambda _: "```repl\nFINAL(1)\n```"),
        values={"lines": pair, "left": pair, "right": pair, "pairs": [pair], "shots": [PIXEL, PIXEL]},
        limits=recursor.Limits(max_depth=2),
    )
    assert rlm.completion("q", context=PIXEL if page == "docs/files.md" else "a text").answer == "ran"


@pytest.mark.parametrize(("page", "number"), sorted(ELSEWHERE))
def test_what_other_blocks_import_of_recursor_is_there(page: str, number: int) -> None:
    code = blocks(page, "python")[number]
    lines = [line for line in code.splitlines() if re.match(r"(from|import) recursor\b", line)]
    asyncio.run(_run("\n".join(lines), {}))
    compile(code, page, "exec")


# In the REPL a function has what its prompt says; here is where each of the others lives.
OWNERS: Mapping[str, Callable[..., Any]] = {
    "RLM": RLM.__init__, "rlm.completion": RLM.completion, "rlm.map": RLM.map, "rlm.resume": RLM.resume,
    "rlm.session": RLM.session, "rlm.with_changes": RLM.with_changes,
}  # fmt: skip


@pytest.mark.parametrize(("page", "number"), [each for each in SIGNATURES if each[0] != "docs/recursion.md"])
def test_signatures_in_the_documents_are_the_signatures(page: str, number: int) -> None:
    code = blocks(page, "python")[number]
    calls = [code] if code.startswith("RLM(") else code.splitlines()
    compared = 0
    for call in calls:
        if (found := SIGNATURE.match(call.strip())) is None:
            continue
        said = " ".join(call.partition("(")[2].partition("  -> ")[0].split()).removesuffix(")")
        wanted = inspect.signature(eval(f"lambda {said}: 0", PUBLIC.copy()))
        real = inspect.signature(OWNERS[found[1]])
        mine = {name: each for name, each in real.parameters.items() if name != "self"}
        assert list(wanted.parameters) == list(mine), call
        for name, each in wanted.parameters.items():
            assert each.kind == mine[name].kind
            assert each.default == mine[name].default or mine[name].default == {}, name
        compared += 1
    assert compared


# Commands ----------------------------------------------------------------------------------------


def _commands(page: str) -> Iterator[str]:
    """The lines of a page that a reader would type, in blocks and between backticks, `recursor` first."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|\| |-- |= )(recursor .*)", line):
                yield found[1]
    for found in re.finditer(r"`(recursor [^`\n]+)`", (ROOT / page).read_text("utf-8")):
        yield found[1]


def _words(line: str) -> list[str]:
    """The words of one command: up to a comment, a pipe, a redirection."""
    words = shlex.split(
        re.split(r"\s#\s|\s#$| \| | [<>] ", line.removesuffix(')"'))[0].replace("...", "X"), comments=False
    )
    return words[1:]


PLACEHOLDERS = {"COMMAND", "..."}


@pytest.mark.parametrize("page", NAMES)
def test_the_commands_of_the_documents_are_commands(page: str) -> None:
    for line in _commands(page):
        words = _words(line)
        if not words or words[0] in PLACEHOLDERS:
            continue
        context, command, rest = click.Context(cli, info_name="recursor"), cli, words
        at: click.Command = command
        while isinstance(at, click.Group) and rest and not rest[0].startswith("-"):
            found = at.get_command(context, rest[0])
            assert found is not None, line
            context, at, rest = click.Context(found, parent=context, info_name=rest[0]), found, rest[1:]
        try:
            at.make_parser(context).parse_args(list(rest))
        except click.UsageError as error:
            raise AssertionError(f"{page}: {line}: {error.message}") from error


def _options() -> Iterator[tuple[str, str]]:
    def under(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
        if isinstance(command, click.Group):
            for each in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), each)
                assert found is not None
                yield from under(f"{name} {each}".strip(), found)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield name, next(each for each in parameter.opts if each.startswith("--"))

    return under("", cli)


def test_every_option_and_command_is_in_the_documents() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    told = set(re.findall(r"--[a-z][a-z-]*", text))
    missing = sorted({f"{name} {option}" for name, option in _options() if option not in told})
    assert missing == []
    assert [name for name in COMMANDS if f"`recursor {name}" not in text] == []


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["docs/configuration.md", "docs/models.md", "docs/mcp.md"])
def test_the_settings_of_the_documents_are_settings(page: str) -> None:
    for block in blocks(page, "toml"):
        if "entry-points" in block or block.startswith("openai ="):
            continue
        # What is commented out, too, but for what goes with routes alone.
        for text in (block, re.sub(r"^# (?!allow)(?=[\w.\[]+(?: = |\]))", "", block, flags=re.M)):
            loading.merged(text, Path("config.toml"))


def test_the_keys_of_the_documents_are_keys(tmp_path: Path) -> None:
    (block,) = blocks("docs/server.md", "toml")
    path = tmp_path / "clients.toml"
    path.write_text(block.replace("sha256:...", f"sha256:{'0' * 64}"))
    assert [client.name for client in keys.read(path).values()] == ["alice"]


# Links -------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_to_parts_of_pages_lead_to_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        other = (page.parent / target).resolve() if target else page
        if other.suffix == ".md":
            assert anchor in _anchors(other), f"{target}#{anchor}"
