"""What machines have found -> Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tables

Found: TypeAlias = Mapping[str, Any]
HELD = ("held", "ended")


def report(facts: Mapping[str, str], machines: Mapping[str, Sequence[Found]]) -> str:
    """The whole report."""
    parts = [
        "# Machines",
        tables.facts_of(facts),
        "Virtual machines of Debian's packages, see `make machines`: what was tried in each, by its root and by an "
        "ordinary user. held: attacks of `recursor.testing.ATTACKS` that were stopped, or ended in an error. open: "
        "those that reached their goal. unclear: those that failed before they tried. quick: the attacks of "
        "`recursor doctor` alone. The contract is `check_sandbox`.",
    ]
    for name, found in machines.items():
        rows = [row for each in found if (row := _row(each))]
        parts += [
            f"## {name}",
            _machine(found),
            tables.table(["setting", "by", "tried", "attacks", "contract", "in force"], rows),
        ]
        ran = [_tests(each) for each in found if each["what"].startswith("tests: ")]
        if ran:
            parts += [tables.table(["setting", "by", "tests", "outcome"], ran)]
        failed = [line for each in found for line in _failures(each)]
        parts += ["What failed:\n\n" + "\n".join(failed) if failed else "Nothing failed."]
        begun = dict.fromkeys(each["part"] for each in found if each["part"])
        ended = {each["part"] for each in found if each["what"] == "end"}
        if open_ended := [part for part in begun if part not in ended]:
            parts += [f"Did not come to their end: {', '.join(open_ended)}."]
    return "\n\n".join(parts) + "\n"


def _machine(found: Sequence[Found]) -> str:
    own = found[0]["found"]
    lines = [
        f"- kernel: {own['kernel']}, {own['processor']}",
        f"- security modules: {own['modules'] or 'not told'}",
    ]
    lines += [
        f"- {key}: {value}" for key, value in own.items() if key not in ("kernel", "processor", "modules")
    ]
    return "\n".join(lines)


def _row(each: Found) -> list[str] | None:
    found = each["found"]
    if not isinstance(found, dict) or "findings" not in found or each["what"] == "doctor":
        return None
    counts = Counter(verdict for _, _, verdict, _ in found["findings"])
    held = sum(counts[verdict] for verdict in HELD)
    attacks = f"{held} held" + "".join(
        f", {counts[name]} {name}" for name in ("OPEN", "unclear", "not tried") if counts[name]
    )
    if found["error"]:
        return [_setting(each), each["who"], each["what"], "-", "-", _short(found["error"])]
    force = "; ".join([*found["mechanisms"], found["memory"]])
    weak = found["weaknesses"]
    force += f". Told as missing: {'; '.join(weak)}" if weak else ""
    contract = "kept" if not found["check"] else "BROKEN"
    return [_setting(each), each["who"], each["what"], attacks, contract, _short(force, 900)]


def _setting(each: Found) -> str:
    return each["setting"] or "as installed"


def _tests(each: Found) -> list[str]:
    last = each["said"].strip().rpartition("\n")[2]
    outcome = re.sub(r" in [\d.]+s.*", "", last.strip("= "))
    return [_setting(each), each["who"], each["what"].removeprefix("tests: "), _short(outcome)]


def _failures(each: Found) -> list[str]:
    where = f"- {_setting(each)}, {each['who']}, {each['what']}: "
    found = each["found"]
    if each["what"].startswith("tests: "):
        lines = each["said"].splitlines()
        return [where + _short(line) for line in lines if line.startswith(("FAILED", "ERROR"))]
    if isinstance(found, dict) and "findings" in found and each["what"] != "doctor":
        bad = [
            f"{verdict}: code that {name}: {why}"
            for _, name, verdict, why in found["findings"]
            if verdict not in HELD
        ]
        return [where + _short(line) for line in [*bad, *([found["check"]] if found["check"] else [])]]
    if each["status"] and each["what"] != "doctor":
        return [where + _short(f"status {each['status']} {each['errors'] or each['said']}")]
    return []


def _short(text: str, most: int = 300) -> str:
    line = re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
    return line if len(line) <= most else f"{line[:most]}..."
