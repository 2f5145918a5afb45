"""Which attacks hold, in the default sandbox, in a container and in the REPL of a peer: a table of all of them.

Runs `recursor.testing.ATTACKS` as whoever starts it and, when that is root, as an ordinary user and in
containers under runc; the local REPL of `rlms` as an ordinary user only, in processes of their own,
and without what could harm the machine. Writes benchmarks/results/attacks.md and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import environments
import sandbox
import tables
from environments import RLMS, ROOT

from recursor.sandboxes.template import installed_packages

USER = 54321
"""Somebody whom nothing belongs to."""
RESULTS = ROOT / "benchmarks" / "results"
TOTALS = ("held", "ended", "OPEN", "unclear", "not tried")


def main() -> None:
    """Attack, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rlms", type=Path, default=RLMS.python, help="a Python that imports rlm")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table is written")
    options = parser.parse_args()
    columns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as home:
        root = os.geteuid() == 0
        if root:
            columns["recursor, as root"] = attacked(Path(home), ["recursor"], None)
            columns["process:weak by Landlock, as root"] = attacked(Path(home), ["weak"], None)
            if sandbox.can_contain():
                sandbox.put_engine(Path(home))
                columns["recursor, in a container"] = attacked(Path(home), ["container", sandbox.IMAGE], None)
        user = USER if root else None
        python = python_for_users(Path(home)) if root else sys.executable
        if python:
            columns["recursor, as a user"] = attacked(Path(home), ["recursor"], user, python)
            columns["process:weak by Landlock, as a user"] = attacked(Path(home), ["weak"], user, python)
            if options.rlms == RLMS.python:
                environments.ensure(RLMS)
            packages = next(options.rlms.parent.parent.glob("lib/python*/site-packages"))
            columns["rlms 0.1.3, as a user"] = attacked(
                Path(home), ["rlms", wrapper(Path(home), python, packages)], user, python
            )
    facts = environments.machine()
    (options.out / "attacks.json").write_text(json.dumps({"facts": facts, "findings": columns}, indent=1))
    (options.out / "attacks.md").write_text(table(facts, columns))


def wrapper(home: Path, python: str, packages: Path) -> str:
    """A command that is that Python with those packages, and not with ours."""
    path = home / "python-rlms"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {python} "$@"\n')
    path.chmod(0o755)
    return str(path)


def python_for_users(home: Path) -> str | None:
    """A Python of our version that an ordinary user can run; the code is copied to where he can read it."""
    home.chmod(0o755)
    for name in ("src/recursor", "benchmarks/peers"):
        shutil.copytree(ROOT / name, home / Path(name).name, ignore=shutil.ignore_patterns("*.pyc"))
    (home / "home").mkdir()
    os.chown(home / "home", USER, USER)
    code = f"import sys, recursor.testing; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}", "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", code], user=USER, group=USER, extra_groups=[], cwd=home / "home",
                env=variables(home), capture_output=True, check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


def variables(home: Path) -> dict[str, str]:
    path = os.pathsep.join([str(home), *installed_packages()])
    return {"HOME": str(home / "home"), "PATH": os.environ["PATH"], "PYTHONPATH": path}


def attacked(
    home: Path,
    arguments: list[str],
    user: int | None,
    python: str = sys.executable,
) -> list[dict[str, Any]]:
    """Attack one sandbox in a process of its own."""
    print(*arguments, "as", user or "this user", file=sys.stderr)
    peers = home / "peers" if user else ROOT / "benchmarks" / "peers"
    given: dict[str, Any] = {"cwd": home / "home", "env": variables(home)} if user else {}
    if user:
        given |= {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(
        [python, str(peers / "attacked.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        **given,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return [{name: each[name] for name in ("group", "attack", "verdict")} for each in found]


def table(facts: Mapping[str, str], columns: Mapping[str, list[dict[str, Any]]]) -> str:
    """The report."""
    verdicts = {name: {each["attack"]: each["verdict"] for each in found} for name, found in columns.items()}
    names = list(columns)
    counts = {name: Counter(found.values()) for name, found in verdicts.items()}
    totals = [[total, *(str(counts[name][total]) for name in names)] for total in TOTALS]
    first = next(iter(columns.values()))
    rows = [
        [
            each["group"],
            f"code that {each['attack']}",
            *(verdicts[name].get(each["attack"], "") for name in names),
        ]
        for each in first
    ]
    return "\n\n".join(
        [
            "# Attacks",
            tables.facts_of(facts),
            "`recursor.testing.ATTACKS`, each in a REPL of its own: see docs/sandbox.md. held: it was stopped, "
            "and its REPL goes on. ended: it ended in an error, or with its REPL, and the host is well. OPEN: it "
            "reached its goal, which for the local REPL of rlms may be that the program that uses it hangs or "
            "dies. unclear: it failed before it tried. not tried: it could harm the machine, and others had "
            "reached their goals. Empty: it is about something that this REPL does not have, or, for process:weak, "
            "what is known to be open without namespaces.",
            tables.table(["", *names], totals),
            tables.table(["group", "", *names], rows),
        ]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
