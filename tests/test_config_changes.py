"""`recursor config set`, `unset`, `get` and `init`: what they do to a user's file, and what they leave alone."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import config
from recursor.config import changing, edit, tree
from recursor.errors import ConfigError
from terminal import Terminal
from test_cli import Cli, environment

__all__ = ["environment"]

MINE = """\
# my settings
model = "openai/gpt-5"   # the best = so far # really

sub_model = 'openai/gpt-5-mini'
allow = [
  "a",  # one
  "b",
]

# about limits
[limits]  # keep
max_turns = 7
  max_cost=1.5#tight

[models."a=b#c"]
extra_body = {top_k = 3, "x y" = {z = [1, 2]}}
[[routes]]
model = "a"
"""


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "recursor", "config", *arguments], capture_output=True, text=True, cwd=tmp_path,
            env=environment | variables, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config/recursor/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(MINE)
    return path


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (("model",), "x", 'model = "x"   # the best = so far # really'),
        (("sub_model",), 'q"\\\n', 'sub_model = "q\\"\\\\\\n"'),
        (("limits", "max_turns"), 8, "max_turns = 8"),
        (("limits", "max_cost"), 0.25, "  max_cost=0.25#tight"),
        (("models", "a=b#c", "extra_body", "top_k"), 4, 'extra_body = {top_k = 4, "x y" = {z = [1, 2]}}'),
    ],
)
def test_a_value_is_replaced_where_it_stands_and_nothing_else_changes(
    key: tuple[str, ...], value: Any, line: str
) -> None:
    after = edit.put(MINE, key, value)
    old, new = MINE.splitlines(), after.splitlines()
    assert [each for each in new if each not in old] == [line]
    assert len(new) == len(old)


@pytest.mark.parametrize(
    ("key", "value", "before", "line"),
    [
        (("strategy",), "auto", "]", 'strategy = "auto"'),
        (("limits", "max_time"), 3, "  max_cost=1.5#tight", "max_time = 3"),
        (("models", "a=b#c", "window"), 9, 'extra_body = {top_k = 3, "x y" = {z = [1, 2]}}', "window = 9"),
        (("models", "new", "window"), 9, '[models.new]', "window = 9"),
        (("profiles", "a b", "model"), "y", '[profiles."a b"]', 'model = "y"'),
    ],
)  # fmt: skip
def test_a_new_key_is_put_into_its_table_and_all_lines_stay(
    key: tuple[str, ...], value: Any, before: str, line: str
) -> None:
    after = edit.put(MINE, key, value).splitlines()
    assert after[after.index(line) - 1] == before
    rest = iter(after)
    assert all(each in rest for each in MINE.splitlines()), "in their order"


def test_a_key_goes_below_its_like_that_is_commented_out() -> None:
    assert (
        edit.put("# a = 1\n# b = 2\n\n[t]\n# c = 3\n# d = 4\n", ("t", "c"), 5)
        == "# a = 1\n# b = 2\n\n[t]\n# c = 3\nc = 5\n# d = 4\n"
    )


def test_what_was_taken_out_leaves_comments_and_the_rest() -> None:
    after = edit.take(MINE, ("limits", "max_turns"))
    assert after == MINE.replace("max_turns = 7\n", "")
    after = edit.take(MINE, ("allow",))
    assert tomllib.loads(after)["model"] == "openai/gpt-5"
    assert "allow" not in after
    assert "# one" not in after
    after = edit.take(MINE, ("limits",))
    assert "# about limits" in after
    assert "max_turns" not in after
    assert "[limits]" not in after


def test_line_ends_and_the_mark_of_an_encoding_stay() -> None:
    text = "\ufeff" + MINE.replace("\n", "\r\n")
    after = edit.put(text, ("limits", "max_time"), 3)
    assert after.startswith("\ufeff# my settings\r\n")
    assert after.count("\n") == after.count("\r\n") == MINE.count("\n") + 1
    assert edit.take(after, ("limits", "max_time")) == text


def test_a_file_without_a_last_line_end_gets_one_when_something_follows() -> None:
    assert edit.put("a = 1", ("b",), 2) == "a = 1\nb = 2\n"
    assert edit.put("a = 1", ("a",), 2) == "a = 2"
    assert edit.put("", ("t", "b"), 2) == "[t]\nb = 2\n"


@pytest.mark.parametrize(
    ("text", "key"),
    [("[[routes]]\nmodel = 'a'\n", ("routes",)), ("limits = 3\n", ("limits", "max_turns"))],
)
def test_what_cannot_be_changed_alone_is_refused(text: str, key: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"edit it by hand|is no table"):
        edit.put(text, key, 1)


NAMES = st.sampled_from(["a", "b", "c d", "e.f", 'q"#=', "é"])
LEAVES = st.one_of(
    st.integers(-9, 9), st.booleans(), st.text(max_size=5), st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(NAMES, st.integers(0, 9), max_size=2),
)  # fmt: skip
COMMENTS = st.sampled_from(["", "\n", "# c = 1\n", "  # [t] # x\n", "\n\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Text that is mostly TOML: pairs, dotted pairs, tables, comments, values over several lines."""
    text = ""
    for _ in range(draw(st.integers(0, 4))):
        keys = draw(st.lists(NAMES, min_size=1, max_size=2))
        value = edit.rendered(draw(LEAVES))
        if draw(st.booleans()):
            value = value.replace(", ", ",\n ") if value.startswith("[") else value
        text += f"{draw(COMMENTS)}{tree.written(tuple(keys))} = {value}{draw(st.sampled_from(['', ' # x', '#y=1']))}\n"
    for _ in range(draw(st.integers(0, 3))):
        keys = draw(st.lists(NAMES, min_size=1, max_size=2))
        inner = (
            f"{tree.written((draw(NAMES),))} = {edit.rendered(draw(LEAVES))}\n" if draw(st.booleans()) else ""
        )
        text += f"{draw(COMMENTS)}[{tree.written(tuple(keys))}]\n{draw(COMMENTS)}{inner}"
    return text


@settings(max_examples=300, deadline=None)
@given(documents(), st.lists(NAMES, min_size=1, max_size=3), LEAVES)
def test_any_edit_does_exactly_what_was_asked_or_says_that_it_cannot(
    text: str, names: list[str], value: Any
) -> None:
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    key = tuple(names)
    try:
        after = edit.put(text, key, value)
    except ConfigError:
        return
    wanted: Any = before
    for name in key[:-1]:
        wanted = wanted.setdefault(name, {})
    wanted[key[-1]] = value
    assert tomllib.loads(after) == before
    comments = [line for line in text.splitlines() if line.strip().startswith("#")]
    left = iter(after.splitlines())
    assert all(line in left for line in comments)
    try:
        taken = edit.take(after, key)
    except ConfigError:
        return
    assert all(line in taken for line in comments)


def test_set_is_checked_against_the_tree_and_changes_the_users_file(cli: Cli, file: Path) -> None:
    file.write_text('# mine\nmodel = "a/b"\n')
    assert cli("set", "limits.max_cost", "2.50").returncode == 0
    assert cli("set", "models.openai/gpt-4.1.temperature", "0").returncode == 0
    assert cli("set", "models.gpt-4.1.price", "{input = 1, output = 2}").returncode == 0
    assert cli("get", "models.gpt-4.1.price.output").stdout == "2.0\n"
    assert cli("unset", "models.gpt-4.1").returncode == 0
    assert cli("set", "--profile", "cheap", "sub_model", "x/y").returncode == 0
    assert cli("set", "record", "false").returncode == 0
    assert file.read_text() == (
        '# mine\nmodel = "a/b"\nrecord = false\n\n[limits]\nmax_cost = 2.50\n'.replace("2.50", "2.5")
        + '\n[models."openai/gpt-4.1"]\ntemperature = 0\n\n[profiles.cheap]\nsub_model = "x/y"\n'
    )
    got = cli("get", "sub_model", "--profile", "cheap")
    assert (got.returncode, got.stdout) == (0, "x/y\n")
    assert cli("get", "sub_model").returncode == 1
    assert cli("get", "models.openai/gpt-4.1").stdout == '{"temperature": 0.0}\n'
    assert cli("unset", "models.openai/gpt-4.1").returncode == 0
    assert cli("unset", "profiles.cheap.sub_model").returncode == 0
    assert tomllib.loads(file.read_text()) == {"model": "a/b", "record": False, "limits": {"max_cost": 2.5}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "modle", "x"], "unknown key 'modle'; did you mean 'model'?"),
        (["set", "limits.max_turn", "3"], "did you mean 'max_turns'?"),
        (["set", "profiles.a.modle", "x"], "did you mean 'model'?"),
        (["set", "profiles.a", "x"], "is a table of settings"),
        (["set", "profiles.a.profile", "x"], "a profile names no other one"),
        (["set", "limits", "3"], "limits is a table: name one of its keys"),
        (["set", "limits", "{}"], "limits is a table: name one of its keys"),
        (["set", "limits", "{max_turn = 3}"], "unknown key 'limits.max_turn'"),
        (["set", "models.a/b", "{price = {input = 1}}"], "needs output"),
        (["set", "models.a/gpt-5.temprature", "1"], "did you mean 'temperature'?"),
        (["set", "limits.max_turns", "many"], "limits.max_turns: expected a whole number, not 'many'"),
        (["set", "limits.max_turns", "0"], "max_turns must be"),
        (["set", "limits.max_turns", "1\nmodel = 'x'"], "expected a whole number"),
        (["set", "strategy", "auot"], "expected 'rlm' or 'direct' or 'auto'"),
        (["set", "profile", "chep"], "unknown profile 'chep'"),
        (["set", "allow", '["b"]'], "allow goes with [[routes]]"),
        (["set", "a = 1\nb", "x"], "is no key"),
        (["set", "model.x", "y"], "model is no table"),
        (["get", "modle"], "did you mean 'model'?"),
        (["unset", "limits.max_turns"], "limits.max_turns is not set"),
    ],
)
def test_what_is_wrong_is_named_and_the_file_stays(
    cli: Cli, file: Path, arguments: list[str], said: str
) -> None:
    file.write_text('model = "a/b"\n')
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == 'model = "a/b"\n'


def test_show_leaves_out_of_an_address_what_a_key_may_be_in(cli: Cli) -> None:
    assert cli("set", "base_url", "http://user:secret@host/v1?api-version=1&key=secret").returncode == 0
    done = cli("show", "--origin")
    assert 'base_url = "http://host/v1?api-version=1"' in done.stdout
    assert "secret" not in done.stdout + cli("show", "--json").stdout


def test_a_file_that_is_wrong_can_be_put_right_key_by_key(cli: Cli, file: Path) -> None:
    file.write_text('modle = "a/b"\nstrateg = "auto"\n')
    done = cli("unset", "modle")
    assert done.returncode == 0
    assert "still wrong" in done.stderr
    assert "'strateg'" in done.stderr
    done = cli("unset", "strateg")
    assert (done.returncode, done.stderr, file.read_text()) == (0, "", "")


def test_a_link_and_the_permissions_of_a_file_stay(cli: Cli, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.write_text('model = "a"\n')
    target.chmod(0o640)
    file.unlink()
    file.symlink_to(target)
    assert cli("set", "model", "b").returncode == 0
    assert file.is_symlink()
    assert target.read_text() == 'model = "b"\n'
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(each.name for each in file.parent.iterdir()) == ["config.toml"], "nothing is left beside it"


def test_a_first_key_makes_the_file_for_the_user_alone(cli: Cli, tmp_path: Path) -> None:
    assert cli("set", "limits.max_turns", "3").returncode == 0
    path = tmp_path / "config/recursor/config.toml"
    assert path.read_text() == "[limits]\nmax_turns = 3\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_changes_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    names = ["max_turns", "max_calls", "max_tokens", "max_depth", "max_errors", "max_time"]
    threads = [
        threading.Thread(target=changing.put, args=(path, ("limits", name), str(number)))
        for number, name in enumerate(names, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tomllib.loads(path.read_text()) == {"limits": {name: at for at, name in enumerate(names, 1)}}


def test_a_folder_that_cannot_be_written_is_said_to_be_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    for arguments in (("set", "model", "x"), ("init",)):
        done = cli(*arguments)
        assert done.returncode == 2
        assert "cannot change" in done.stderr


def test_init_explains_every_key_and_sets_only_what_was_given(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", "--model", "openai/gpt-5", "--max-cost", "2")
    path = tmp_path / "config/recursor/config.toml"
    assert (done.returncode, done.stdout) == (0, "")
    assert f"wrote {path}" in done.stderr
    assert "there is no key of openai yet: recursor keys set openai" in done.stderr
    text = path.read_text()
    assert tomllib.loads(text) == {"model": "openai/gpt-5", "limits": {"max_cost": 2.0}}
    for key in tree.every_key():
        assert key[-1] in text, f"{tree.written(key)} is not explained"


def test_every_example_of_the_first_file_is_right(tmp_path: Path) -> None:
    lines = []
    for line in changing.starting({}).splitlines():
        off = line.removeprefix("# ")
        is_setting = off != line and re.match(r"\[|[a-z_.]+ = ", off) and not off.startswith("price = ")
        lines.append(off if is_setting else line)
    path = tmp_path / "on.toml"
    path.write_text("\n".join(lines).replace("allow = []", ""))
    loaded = config.load(path)
    assert loaded.settings.profile == "cheap"
    assert loaded.settings.mcp["files"].command == ("mcp-server-git",)
    assert loaded.settings.models["openai/gpt-5"].max_concurrency == 20
    assert loaded.settings.limits.max_cost == 0.20


def test_init_never_replaces_a_file_unasked_and_keeps_the_old_one(cli: Cli, file: Path) -> None:
    done = cli("init", "--model", "openai/gpt-5")
    assert (done.returncode, file.read_text()) == (2, MINE)
    assert "is there already" in done.stderr
    assert cli("init", "--model", "opnai/gpt-5", "--force").returncode == 2
    assert file.read_text() == MINE
    assert cli("init", "--model", "openai/gpt-5", "--force").returncode == 0
    assert tomllib.loads(file.read_text())["model"] == "openai/gpt-5"
    assert file.with_name("config.toml.old").read_text() == MINE


def test_init_asks_on_a_terminal_until_it_has_an_answer_that_is_right(
    environment: dict[str, str], tmp_path: Path
) -> None:
    variables = {**environment, "OPENAI_API_KEY": "sk-never-shown"}
    with Terminal("config", "init", env=variables, cwd=tmp_path, columns=120) as terminal:
        terminal.until(lambda raw: b"Root LM" in raw)
        assert b"openai/gpt-5-mini" in terminal.raw
        terminal.press(b"opnai/gpt-5\r")
        terminal.until(lambda raw: b'did you mean "openai"' in raw)
        terminal.press(b"openai/gpt-5\r")
        terminal.until(lambda raw: b"Sub-LM" in raw)
        terminal.press(b"-\r")
        terminal.until(lambda raw: b"US dollars" in raw)
        terminal.press(b"0.5\r")
        assert terminal.end() == 0
        assert b"sk-never-shown" not in terminal.raw
    written = tomllib.loads((tmp_path / "config/recursor/config.toml").read_text())
    assert written == {"model": "openai/gpt-5", "limits": {"max_cost": 0.5}}
