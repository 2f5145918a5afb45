"""What a person sees of a run while it goes: the real command line in a pseudo-terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from recursor.testing import ModelServer
from recursor.types import Message
from terminal import Terminal, screen, text

PIECES = """I ask about every piece.
```repl
pieces = [context[at : at + 100] for at in range(0, len(context), 100)]
found = llm_query_batched(["Does this passage mention Moscow? " + piece for piece in pieces])
print(len(found), "answers")
```"""
FINAL = "```repl\nFINAL('forty-two')\n```"
FRAME = b"\x1b[?2026h"
OURS = re.compile(rb"\x1b\[(?:0|[12]|3[126]|[12];3[126])m|\x1b\[\d*A|\x1b\[[KJ]|\x1b\[\?2026[hl]")
"""All sequences that progress is made of."""
EVIL = (
    "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1b]52;c;eA==\x1b\\\x1b]8;;http://evil\x1b\\link\x1b[6n\x1bP1$r\x1b\\"
    "\x9b31m\x9d0;c1\x9c\x07\x08\x0b\r\u202erev\u2066iso\u200f\u2028 \x1bc\x1b[?1049h end"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with nothing set up, at a terminal with colours."""
    dropped = ("NO_COLOR", "CI", "COLUMNS", "LINES")
    kept = {
        name: value for name, value in os.environ.items() if name not in dropped and "_API_KEY" not in name
    }
    return {
        **kept, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONWARNINGS": "error", "TERM": "xterm-256color",
    }  # fmt: skip


def script(*turns: str, sub: str = "no") -> ModelServer:
    """The root LM's turns in order; sub-calls get `sub`."""

    def reply(messages: Sequence[Message]) -> str:
        if messages[0].role != "system":
            return sub
        return turns[min(sum(each.role == "assistant" for each in messages), len(turns) - 1)]

    return ModelServer(reply, latency=0.3)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with script(PIECES, FINAL) as running:
        yield running


def ask(server: ModelServer, *more: str) -> tuple[str, ...]:
    return ("ask", "Where?", "text", "--model", "some-model", "--base-url", server.url, *more)


@pytest.fixture(autouse=True)
def _text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("In Moscow, " * 400)


def test_a_terminal_shows_the_tree_then_the_lines_the_table_and_the_answer(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(*ask(server), env=environment, cwd=tmp_path) as terminal:
        terminal.until(lambda raw: b"of 44" in raw)
        assert terminal.end() == 0
    shown = text(screen(terminal.raw, 80, 24))
    assert re.search(
        r"turn 1 · some-model · .*in, \d+ out\n  │ pieces = .*\n(?:  │ .*\n)+  → 44 answers\n  ╰ ran .* · 44 sub-calls\n\n"
        r"turn 2 · .*\n  │ FINAL\('forty-two'\)\n  ╰ ran .*\n\nanswered · 2 turns · .* · cost unknown · 44 sub-calls.*\n"
        r"  depth  model +calls +input +cached +output +cost\n  0      some-model +2 .*unknown\n"
        r"  1      some-model +44 .*unknown\n         total +46 .*unknown\n"
        r"  recursor view [0-9a-f]{12}\n\nforty-two$",
        shown,
    ), shown


def test_nothing_flickers(server: ModelServer, environment: dict[str, str], tmp_path: Path) -> None:
    with Terminal(*ask(server), env=environment, cwd=tmp_path) as terminal:
        terminal.end()
    frames = terminal.raw.split(FRAME)[1:]
    assert 3 <= len(frames) < 60
    for frame in frames:
        assert frame.count(b"\x1b[J") == 1
        assert frame.index(b"\x1b[J") > frame.rindex(b"\x1b[K"), "what follows is erased last"
        assert not re.search(rb"\x1b\[K[^\r]*\x1b\[K", frame.replace(b"\r\n", b"\r")), (
            "no line is erased twice"
        )
    for harsh in (b"\x1b[2J", b"\x1b[2K", b"\x1b[?1049h", b"\x1b[?25l"):
        assert harsh not in terminal.raw


@pytest.mark.parametrize("columns", [40, 60, 110])
def test_no_line_is_wider_than_the_terminal(
    server: ModelServer, environment: dict[str, str], tmp_path: Path, columns: int
) -> None:
    with Terminal(*ask(server, "--no-store"), env=environment, cwd=tmp_path, columns=columns) as terminal:
        terminal.end()
    plain = OURS.sub(b"", terminal.raw).decode()
    assert max(len(line) for line in plain.replace("\r", "\n").split("\n")) < columns
    shown = text(screen(terminal.raw, columns, 24))
    assert re.search("some-model +44 .*unknown", shown), shown
    assert shown.endswith("forty-two")


def test_a_window_that_is_made_smaller_keeps_what_was_said(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(*ask(server), env=environment, cwd=tmp_path, columns=100) as terminal:
        terminal.until(lambda raw: b"of 44" in raw)
        terminal.resize(50, 12)
        terminal.until(lambda raw: b"turn 2" in raw)
        terminal.resize(120, 30)
        assert terminal.end() == 0
    shown = text(screen(terminal.raw, 120, 30))
    for said in ("run ", "context: str", "turn 1 · ", "  ╰ ran ", "turn 2 · ", "answered · 2 turns"):
        assert len(re.findall(f"^{said}", shown, re.MULTILINE)) >= 1, said
    assert shown.endswith("forty-two")


def test_ctrl_c_leaves_a_clean_terminal_and_the_command_to_go_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with script("```repl\nprint('begun')\n```", "```repl\nwhile True: pass\n```") as server, Terminal(
        *ask(server), env=environment, cwd=tmp_path
    ) as terminal:  # fmt: skip
        terminal.until(lambda raw: b"while True" in raw)
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert terminal.settings == terminal.before
    shown = screen(terminal.raw, 80, 24)
    lines = [line.rstrip() for line in shown.display if line.strip()]
    at = lines.index("Interrupted.")
    assert lines[at + 1].startswith("What was done until then is recorded. To go on: recursor resume ")
    assert len(lines) <= at + 3
    assert not any("of 30" in line for line in lines), "the frame is gone"
    assert not shown.cursor.hidden
    assert shown.cursor.attrs.bold is False


def test_no_escape_sequence_of_others_reaches_the_terminal(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text(EVIL * 20)
    code = f"# {EVIL.replace(chr(13), '').replace(chr(0x2028), '')}\nprint(context[:3000])\nreplies = llm_query_batched"
    calls = (
        f"{code}([{EVIL!r} + 'prompt %d' % n for n in range(9)])\nprint(replies)\nraise ValueError({EVIL!r})"
    )
    turns = f"{EVIL}\n```repl\n{calls}\n```", f"{EVIL}\n```repl\nFINAL({EVIL!r})\n```"
    with script(*turns, sub=EVIL) as server, Terminal(
        "ask", EVIL, *ask(server)[2:], "--max-turns", "4", env=environment, cwd=tmp_path
    ) as terminal:  # fmt: skip
        assert terminal.end() == 0
    plain = OURS.sub(b"", terminal.raw).decode()
    assert "red" in plain
    assert "9 sub-calls" in plain
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", plain)


def test_no_color_leaves_colours_out(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(*ask(server), env=environment | {"NO_COLOR": "1"}, cwd=tmp_path) as terminal:
        terminal.end()
    assert FRAME in terminal.raw
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.raw)


def test_colours_are_the_palettes_own(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(*ask(server), env=environment, cwd=tmp_path) as terminal:
        terminal.end()
    used = set(re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw))
    assert used <= {b"0", b"1", b"2", b"31", b"32", b"36", b"1;31", b"1;32"}


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"CI": "true"}, {"TERM": ""}], ids=["dumb", "CI", "no TERM"]
)
def test_where_nothing_can_be_redrawn_there_are_plain_lines(
    server: ModelServer, environment: dict[str, str], tmp_path: Path, variables: dict[str, str]
) -> None:
    with Terminal(*ask(server), env=environment | variables, cwd=tmp_path) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw
    assert b"turn 2" in terminal.raw


@pytest.mark.parametrize("flags", [("--display", "none"), ("-q",)])
def test_display_none_shows_nothing(
    server: ModelServer, environment: dict[str, str], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with Terminal(*ask(server, *flags), env=environment, cwd=tmp_path) as terminal:
        assert terminal.end() == 0
    assert terminal.raw == b"forty-two\r\n"


def test_the_answer_alone_is_on_stdout(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(
        *ask(server, "--display", "tree"), env=environment | {"CI": "1"}, cwd=tmp_path, apart=True
    ) as terminal:
        assert terminal.end() == 0
        assert terminal.process.stdout
        assert terminal.process.stdout.read() == b"forty-two\n"
    assert FRAME in terminal.raw
    assert b"forty-two\r\n" not in terminal.raw.split(b"recursor view")[1]


def test_a_run_that_is_not_recorded_names_no_viewer(
    server: ModelServer, environment: dict[str, str], tmp_path: Path
) -> None:
    with Terminal(*ask(server, "--no-store"), env=environment, cwd=tmp_path) as terminal:
        terminal.end()
    assert b"recursor view" not in terminal.raw
