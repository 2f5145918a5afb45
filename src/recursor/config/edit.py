"""Changes to the text of a TOML file that leave all else in it as it stands: order, comments, blanks. Pure.

The strict parser of the standard library cuts the text into statements: one ends where what came so far is TOML. The
outcome is parsed again, too, and compared with what it should say: an edit that would change anything else, or
that the places of the file do not allow, is refused.
"""

from __future__ import annotations

import copy
import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recursor.config.tree import Key, quoted, written
from recursor.errors import ConfigError

_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class _Statement:
    """A line of the file, or the lines of one value."""

    text: str
    kind: Literal["pair", "table", "array", "blank"]
    """A header of a table, or of one in an array; comments are blank."""
    table: Key
    """The table in which it stands; of a header, its own."""
    key: Key = ()
    """Of a pair, from the root of the file."""
    value: Any = None


def put(text: str, key: Key, value: Any) -> str:
    """Return the text with a key set.

    Raises:
        ConfigError: where the file has it, or would have it, no single value can be written.
    """
    wanted = tomllib.loads(text.removeprefix(_MARK))
    inner = wanted
    for name in key[:-1]:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{written(key)} cannot be set: {name} is no table there")
    inner[key[-1]] = value
    return _same(text, _put(_statements(text), key, value, _line_end(text)), wanted, key)


def take(text: str, key: Key) -> str:
    """Return the text without a key, or a table; tables around it that are left empty go, too.

    Raises:
        ConfigError: the file does not have it, or it cannot be taken out of where it stands.
    """
    wanted = tomllib.loads(text.removeprefix(_MARK))
    above: list[dict[str, Any]] = [wanted]
    for name in key[:-1]:
        found = above[-1].get(name)
        above.append(found if isinstance(found, dict) else {})
    if key[-1] not in above[-1]:
        raise ConfigError(f"{written(key)} is not set")
    gone = len(key)
    del above[-1][key[-1]]
    while gone > 1 and not above[gone - 1]:
        gone -= 1
        del above[gone - 1][key[gone - 1]]
    statements = list(_without(_statements(text), key[:gone]))
    return _same(text, statements, wanted, key)


def rendered(value: Any) -> str:
    """Return a value as TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written((name,))} = {rendered(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(rendered, value)) + "]"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return repr(value)


def _same(before: str, statements: list[str], wanted: dict[str, Any], key: Key) -> str:
    """The text of the statements, if it says what it should."""
    text = "".join(statements)
    try:
        right = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise ConfigError(
            f"{written(key)} cannot be changed without touching more of the file: edit it by hand"
        )
    return (_MARK if before.startswith(_MARK) else "") + text


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _statements(text: str) -> list[_Statement]:
    found: list[_Statement] = []
    table: Key = ()
    piece = ""
    for line in re.findall(r"[^\n]*\n|[^\n]+\Z", text.removeprefix(_MARK)):
        piece += line
        start = piece.lstrip()
        if not start or start.startswith("#"):
            found.append(_Statement(piece, "blank", table))
        elif start.startswith("["):
            table = _chain(tomllib.loads(piece))
            found.append(_Statement(piece, "array" if start.startswith("[[") else "table", table))
        else:
            pair = _pair(piece, table)
            if pair is None:  # its value goes on in the next line
                continue
            found.append(pair)
        piece = ""
    return found


def _chain(document: Any) -> Key:
    """The names of tables that lie in each other, of which each has one."""
    names: list[str] = []
    while isinstance(document, dict) and len(document) == 1:
        ((name, document),) = document.items()
        names.append(name)
    return tuple(names)


def _pair(piece: str, table: Key) -> _Statement | None:
    try:
        value = tomllib.loads(piece)
    except tomllib.TOMLDecodeError:
        return None
    key = _chain(tomllib.loads(_sides(piece)[0] + "= 0"))
    for name in key:
        value = value[name]
    return _Statement(piece, "pair", table, (*table, *key), value)


def _sides(pair: str) -> tuple[str, str, str]:
    """The key of a pair; "=" and its value; and what follows that: blanks, a comment, the line's end."""
    for equals in (match.start() for match in re.finditer("=", pair)):
        if _parses(pair[:equals] + "= 0"):
            break
    end = len(pair.rstrip())
    value = tomllib.loads(pair)
    for sign in (match.start() for match in re.finditer("#", pair[equals:])):
        if _parses(pair[: equals + sign]) and tomllib.loads(pair[: equals + sign]) == value:
            end = len(pair[: equals + sign].rstrip())
            break
    return pair[:equals], pair[equals:end], pair[end:]


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _revalued(statement: _Statement, value: Any) -> str:
    name, old, rest = _sides(statement.text)
    blanks = re.match(r"=[ \t]*", old)
    assert blanks is not None, "it begins with the sign"
    return name + blanks[0] + rendered(value) + rest


def _put(statements: list[_Statement], key: Key, value: Any, line_end: str) -> list[str]:
    texts = [statement.text for statement in statements]
    for at, each in enumerate(statements):
        if each.kind == "pair" and each.key == key:
            texts[at] = _revalued(each, value)
            return texts
        if each.kind == "pair" and each.key == key[: len(each.key)] and isinstance(each.value, dict):
            changed = copy.deepcopy(each.value)
            inner = changed
            for name in key[len(each.key) : -1]:
                inner = inner.setdefault(name, {})
            inner[key[-1]] = value
            texts[at] = _revalued(each, changed)
            return texts
    if texts and not texts[-1].endswith("\n"):
        texts[-1] += line_end
    at, table = _place(statements, key)
    if table is None:
        header = f"[{written(key[:-1])}]{line_end}"
        gap = line_end if at and texts[at - 1].strip() else ""
        after = line_end if at < len(texts) and texts[at].strip() else ""
        new = [gap, header, f"{written(key[-1:])} = {rendered(value)}{line_end}", after]
    else:
        new = [f"{written(key[len(table) :])} = {rendered(value)}{line_end}"]
        if not table and at < len(statements) and statements[at].kind in ("table", "array"):
            new.append(line_end)
    return [*texts[:at], *new, *texts[at:]]


def _place(statements: list[_Statement], key: Key) -> tuple[int, Key | None]:
    """Where a new pair goes: before which statement, and into which table; None needs a header of its own."""
    tables = [each.table for each in statements if each.kind == "table"]
    if len(key) == 1 or key[:-1] in tables:
        return _within(statements, key[:-1], key), key[:-1]
    siblings = [
        at for at, each in enumerate(statements)
        if each.kind == "pair" and each.key[:-1] == key[:-1] and len(each.table) < len(key) - 1
    ]  # fmt: skip
    if siblings:
        return siblings[-1] + 1, statements[siblings[-1]].table
    related = [at for at, each in enumerate(statements) if each.table[:1] == key[:1] and each.kind != "blank"]
    return (related[-1] + 1 if related else len(statements)), None


def _within(statements: list[_Statement], table: Key, key: Key) -> int:
    """Before which statement a pair of a table goes: after its like that is commented out, else after the last."""
    start = 0
    if table:
        start = 1 + next(
            at for at, each in enumerate(statements) if each.kind == "table" and each.table == table
        )
    end = next(
        (at for at in range(start, len(statements)) if statements[at].kind in ("table", "array")),
        len(statements),
    )
    for at in range(start, end):
        if re.match(rf"\s*#\s*{re.escape(written(key[-1:]))}\s*=", statements[at].text):
            return at + 1
    pairs = [at for at in range(start, end) if statements[at].kind == "pair"]
    if pairs:
        return pairs[-1] + 1
    if table:
        return start
    # Comments right above the first header are about what follows it.
    blank = [at for at in range(start, end) if not statements[at].text.strip()]
    return end if end == len(statements) else blank[-1] + 1 if blank else 0


def _without(statements: list[_Statement], key: Key) -> Iterator[str]:
    """The text without a key or a table. Comments stay; of blank lines around what goes, those before it."""
    blank, gone = True, False
    for each in statements:
        if (each.kind == "pair" and each.key[: len(key)] == key) or (
            each.kind in ("table", "array") and each.table[: len(key)] == key
        ):
            gone = True
            continue
        if not each.text.strip():
            if gone and blank:
                continue
            blank = True
        else:
            blank = gone = False
        if each.kind == "pair" and each.key == key[: len(each.key)] and isinstance(each.value, dict):
            changed = copy.deepcopy(each.value)
            inner = changed
            for name in key[len(each.key) : -1]:
                inner = inner[name]
            del inner[key[-1]]
            yield _revalued(each, changed)
        else:
            yield each.text
