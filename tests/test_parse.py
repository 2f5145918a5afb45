"""Which code a reply holds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recursor.parse import Block, blocks, ending, is_whole, read, spoken


def codes(text: str) -> list[str]:
    return [block.code for block in blocks(text)]


def test_blocks_come_in_order_with_their_language() -> None:
    text = "First\n```repl\nx = 1\n```\nthen\n```Python title=a\nprint(x)\n```\nand ```inline```."
    assert blocks(text) == [Block("repl", "x = 1", True), Block("python", "print(x)", True)]


def test_an_indented_fence_loses_its_indentation() -> None:
    assert codes("1. look:\n   ```repl\n   for i in x:\n       print(i)\n   ```\n") == [
        "for i in x:\n    print(i)"
    ]


def test_a_fence_in_a_list_item_is_a_fence() -> None:
    assert codes("- ```repl\n  x = 1\n  y = 2\n  ```") == ["x = 1\ny = 2"]


def test_tildes_fence_as_backticks_do() -> None:
    assert codes("~~~repl\nprint('```')\n~~~\n") == ["print('```')"]


def test_a_longer_fence_holds_a_shorter_one() -> None:
    assert codes("````repl\nx = 1\n```\ny = 2\n````") == ["x = 1\n```\ny = 2"]


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_fence_inside_a_string_literal_closes_nothing(quotes: str) -> None:
    code = f"report = {quotes}\n```python\nx\n```\n{quotes}\nprint(report)"
    assert codes(f"```repl\n{code}\n```\nDone.\n```repl\ny = 2\n```") == [code, "y = 2"]


def test_a_block_with_a_syntax_error_does_not_swallow_the_next() -> None:
    assert codes("```repl\nx = (\n```\n\n```repl\ny = 2\n```") == ["x = (", "y = 2"]


def test_an_open_string_that_no_later_fence_closes_ends_at_the_first() -> None:
    assert codes('```repl\nx = """\n```\n\n```repl\ny = 2\n```')[0] == 'x = """'


@pytest.mark.parametrize(
    "code",
    [
        "x = \"a'''\"",
        "x = 'it\\'s \"\"\"'",
        '# don\'t """',
        'x = ""\ny = "" ""',
        'x = """a"""  # it\'s """',
        'x = """a\\"""\n``` \n"""',
        "x = r'\\d' + '\"\"\"'",
        'x = \'a\'"""b\n```\n"""',
        'print("don\'t", \'"""\')',
        "it's = '",
    ],
)
def test_quotation_marks_are_read_as_python_reads_them(code: str) -> None:
    assert codes(f"```repl\n{code}\n```\nText.\n```repl\ny = 2\n```") == [code, "y = 2"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("I think.\n```repl\n1/0\n```\n</think>\n\nFINAL(1)", "\n\nFINAL(1)"),
        ("Okay.</think>\r\nYes", "\nYes"),
        ("</thinking>\nYes", "\nYes"),
        ("<think>\na </think>\nb</think>\nc", "\nb</think>\nc"),
        ('x = "</think>"\n', 'x = "</think>"\n'),
        ("```repl\nt = '<think>'\n</think>\n```", "```repl\nt = '<think>'\n</think>\n```"),
        ("the tag `</think>`\nends it", "the tag `</think>`\nends it"),
    ],
)
def test_reasoning_at_the_head_is_no_part_of_what_is_said(reply: str, said: str) -> None:
    assert spoken(reply) == said


def test_an_unclosed_last_block_is_kept_and_marked() -> None:
    assert blocks("```repl\nx = 1\ny = 2") == [Block("repl", "x = 1\ny = 2", False)]


def test_windows_line_ends_close_fences_too() -> None:
    assert codes("```repl\r\nx = 1\r\n```\r\n") == ["x = 1"]


def test_other_languages_are_not_run_and_named_when_nothing_else_is() -> None:
    text = "```json\n{}\n```\n```\nplain\n```"
    assert read(f"{text}\n```repl\nx\n```", ("repl", "python"), "...") == (["x"], [])
    assert read(text, ("repl", "python"), "...") == (
        [],
        ["blocks marked json, no language do not run; mark code as ```repl"],
    )


def test_whitespace_inside_a_string_literal_survives() -> None:
    code = 'x = """a\n   \n  b"""'
    assert codes(f"```repl\n{code}\n```") == [code]


@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("x = 1", True),
        ("x = (", False),
        ('x = """a', False),
        ("", True),
        ("x = 'a", False),
        ("# it's (", True),
        ("x = '('", True),
        ("x = [\n  1,", False),
        ("x = f'{a[\"b\"]}'", True),
        ("x = 'a\ny = 1", True),
    ],
)
def test_whole_code_is_told_from_code_that_was_cut(code: str, whole: bool) -> None:
    assert is_whole(code) is whole


_PIECES = st.sampled_from(
    ["```", "~~~", "```repl", "   ```python", "x = 1", '"""', "'''", "\n", "\r\n", " ", "\0", "é", "("]
)


@given(st.lists(_PIECES | st.text(), max_size=30).map("".join))
def test_any_text_parses_and_every_line_of_code_is_in_it(text: str) -> None:
    for block in blocks(text):
        assert all(line.strip() in text for line in block.code.split("\n"))


@given(st.text(st.characters(codec="utf-8", exclude_characters="`~'\"\r\n")), st.text("` ~", max_size=3))
def test_a_fenced_line_is_found_whatever_stands_around_it(line: str, around: str) -> None:
    code = f"x = 1{' #' + line if line else ''}"
    assert code in codes(f"{around[:2]}\n```repl\n{code}\n```\n{line}") or around[:2].strip(" ") == "~~~"


_TAGS = st.sampled_from(
    [
        "FINAL(",
        "FINAL_VAR(",
        ")",
        "x",
        '"',
        "'",
        "\\",
        "```repl\n",
        "```\n",
        "\n",
        "<think>",
        "</think>",
        " ",
        "(",
        '"""',
    ]
)


@given(st.lists(_TAGS | st.text(max_size=5), max_size=30).map("".join), st.booleans(), st.booleans())
def test_any_reply_is_read_and_what_it_submits_is_code(reply: str, textual: bool, cut: bool) -> None:
    codes, notes = read(reply, ("repl",), "...", textual=textual, cut=cut)
    assert all(note.strip() for note in notes)
    fenced = [block.code for block in blocks(spoken(reply))]
    for code in codes:
        if code not in fenced:
            assert textual
            compile(code, "<answer>", "exec")


@given(st.text())
def test_a_text_that_is_written_as_a_literal_is_read_as_it_was(text: str) -> None:
    literal = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    final = ending(f"FINAL({literal})", [])
    assert final is not None
    assert (final.text, final.quoted) == (text, True)


@pytest.mark.parametrize(
    "reply",
    [
        "\n".join(["FINAL(" + "(" * 300] * 2_000),
        "\n".join(['FINAL("""'] * 100_000),
        "FINAL(x" + ")" * 500_000,
        "FINAL(x" + ")(" * 250_000,
        'FINAL("' + "\\" * 500_001,
        "<think>" * 100_000,
        "</think>" * 100_000,
        '```repl\nx = """\n' + ("a\n" * 8_000 + "```\n") * 60,
        '```repl\nx = """\n' + ('"""+"""\n' * 2_000 + "```\n") * 60,
        '```repl\nx = """\n```\n' * 20_000,
        "```repl\n" + "'\"" * 500_000,
        "```repl\n" + '\\"' * 500_000,
    ],
    ids=[
        "open",
        "quotes",
        "closed",
        "faces",
        "escapes",
        "thoughts",
        "ends of thoughts",
        "long string",
        "many strings",
        "many blocks",
        "mixed quotes",
        "escaped quotes",
    ],
)
def test_a_reply_made_to_keep_the_host_busy_does_not(reply: str) -> None:
    began = time.process_time()
    read(reply, ("repl",), "...", textual=True)
    assert time.process_time() - began < 3
