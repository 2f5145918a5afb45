"""REPLs by themselves, without a model: start, cells, calls of the host, contexts, many at once.

Every value comes from a fresh process; the sandboxes take turns. Writes benchmarks/results/sandbox.json
and sandbox.md. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import environments as env
import tables
from core import Results, noted
from environments import KERNEL, OURS, PEERS, RLMS, System
from scale import Scale

SMALL, LARGE = 100_000_000, 1_000_000_000
PIECE = 1 << 20
LINE = "2031-05-14 INFO worker-07 request served in 12 ms, cache hit, 1,024 bytes, no error to report.\n"

ROWS: dict[str, tuple[str, float | None, str]] = {
    "cold": ("first REPL of a process, until an empty cell has run", None, "s"),
    "open": ("a later REPL, until it is open", 0.005, "s"),
    "first cell": ("a later REPL, until an empty cell has run", None, "s"),
    "cell": ("an empty cell", 0.00015, "s"),
    "tool": ("a tool that does nothing, called from code", 0.0001, "s"),
    "query": ("`llm_query`, answered at once", 0.0001, "s"),
    "batched": ("one of 10,000 (rlms: of 1,000) in `llm_query_batched`, answered at once", None, "s"),
    "payload in": ("a tool that returns 10 MB", None, "s"),
    "payload out": ("a tool that is given 10 MB", None, "s"),
    "interrupt": ("`while True: pass`, from its bound until the next cell has run", 0.005, "s"),
    "rebirth": ("a cell that ends the worker, and the next cell", None, "s"),
    "seen 100 MB str": ("a `str` of 100 MB, until code sees it", None, "s"),
    "memory 100 MB str": ("memory beyond the caller's own, times its size", None, "x"),
    "seen 1 GB str": ("a `str` of 1 GB, until code sees it", 1.0, "s"),
    "memory 1 GB str": ("memory beyond the caller's own, times its size", 1.2, "x"),
    "further 1 GB str": ("one more REPL over it, until code sees it", 0.01, "s"),
    "seen 1 GB file": ("a file of 1 GB, until code sees it", 1.0, "s"),
    "scan 1 GB file": ("one search through it", None, "s"),
    "further 1 GB file": ("one more REPL over that file, until code sees it", 0.01, "s"),
    "memory 1 GB file": ("memory, the file's own pages included, times its size", 1.2, "x"),
    "many": ("100 REPLs, opened at once, until each has run a cell", None, "s"),
    "many memory": ("memory of the 100, idle", 400e6, "B"),
    "fork 100 MB": ("a copy of a REPL with 100 MB of its own, until it is open", 0.003, "s"),
    "fork 1 GB": ("a copy of a REPL over a context of 1 GB, until it is open", 0.005, "s"),
    "snapshot": ("keeping the state of the one with 100 MB", None, "s"),
    "restore": ("going back to it", None, "s"),
}
"""Figure -> title, goal for the default sandbox, unit."""


@dataclass(frozen=True)
class Column:
    """A sandbox that is measured."""

    name: str
    system: System
    script: str
    options: tuple[str, ...] = ()
    tasks: frozenset[str] = frozenset(
        {"start", "cell", "calls", "interrupt", "rebirth", "context", "many", "copy"}
    )
    """What it can do."""


IMAGE = "image:none"
CONTAINER = ("--sandbox", "docker", "--image", IMAGE)
PYODIDE = env.ROOT / "tests" / "pyodide" / "node_modules" / "pyodide"
WASM = ("--sandbox", "wasm", "--image", str(PYODIDE))
COLUMNS = (
    Column("process", OURS, "repl.py"),
    Column("container", OURS, "repl.py", CONTAINER, Column.tasks - {"context", "many", "copy"}),
    Column("wasm", OURS, "repl.py", WASM, Column.tasks - {"context", "many", "copy"}),
    Column("inprocess", OURS, "repl.py", ("--sandbox", "inprocess"), Column.tasks - {"rebirth", "copy"}),
    Column("rlms", RLMS, "rlms_repl.py", (), Column.tasks - {"interrupt", "rebirth", "copy"}),
    Column("rlms ipykernel", KERNEL, "rlms_repl.py", ("--kernel",), frozenset({"start", "cell", "calls"})),
)


@dataclass(frozen=True)
class Sandboxes(Scale):
    """What is measured, where, and of which sandbox."""

    column: Column
    large: Path
    """A file of 1 GB."""

    def trial_command(self, task: str, *options: str) -> list[str]:
        script = str(PEERS / self.column.script)
        return [str(self.column.system.python), script, task, *self.column.options, *options]

    def measure(self, task: str) -> None:
        """Run one task in a process of its own, or in several, and keep what it finds."""
        with noted(self, task, self.column.name):
            if task == "context":
                self._context("100 MB str", SMALL, "--size", str(SMALL))
                self._context("1 GB str", LARGE, "--size", str(LARGE))
                self._context("1 GB file", LARGE, "--file", str(self.large))
                return
            self._keep(self.trial(task))
            if task == "many":
                grown, _ = self.grown(task)
                self.results.add("many memory", self.column.name, grown)

    def _context(self, title: str, size: int, *options: str) -> None:
        self._keep(self.trial("context", *options), f" {title}")
        grown, _ = self.grown("context", *options)
        self.results.add(f"memory {title}", self.column.name, grown / size)

    def _keep(self, figures: dict[str, Any], title: str = "") -> None:
        """Keep the median of each figure: one value for a process."""
        for figure, found in figures.items():
            value = statistics.median(found) if isinstance(found, list) else found
            self.results.add(figure + title, self.column.name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="Processes for each figure and sandbox.")
    parser.add_argument("--only", default="", help="Tasks to measure, by name: start,cell,...")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    env.ensure(RLMS)
    env.ensure(KERNEL)
    facts = env.machine()
    only = options.only.split(",") if options.only else sorted(Column.tasks)
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large.txt")
        write_large(large)
        containers = can_contain()
        if containers:
            put_engine(Path(folder))
        absent = {*(() if containers else ("container",)), *(() if PYODIDE.is_dir() else ("wasm",))}
        first = Sandboxes("", Path(folder), "", results, COLUMNS[0], large)
        for number in range(options.repeats):
            for task in only:
                for column in COLUMNS:
                    if task in column.tasks and column.name not in absent:
                        print(f"{number + 1}/{options.repeats} {task} {column.name}", file=sys.stderr)
                        replace(first, column=column).measure(task)
    facts["load after"] = f"{os.getloadavg()[0]:.1f}"
    if facts["commit"] != env.commit():
        facts["commit"] += f" to {env.commit()}"
    report(results, facts, options)


def can_contain() -> bool:
    return shutil.which("runc") is not None and os.geteuid() == 0


def put_engine(folder: Path) -> None:
    """Put a `docker` on the PATH that is the stand-in of the tests: runc without an engine."""
    state, script = folder / "state", folder / "bin" / "docker"
    for place in ("proc", "dev", "tmp", "usr", "lib", "lib64", "python"):
        (state / "root" / place).mkdir(parents=True)
    (state / "root" / "tmp").chmod(0o1777)  # as images have it
    info: dict[str, Any] = {
        "SecurityOptions": ["name=seccomp"],
        "Runtimes": {"runc": {}},
        "ServerErrors": None,
    }
    info |= {"MemoryLimit": True, "PidsLimit": True}
    settings = folder / "engine.json"
    settings.write_text(
        json.dumps({"engine": "docker", "state": str(state), "images": [IMAGE], "info": info})
    )
    script.parent.mkdir()
    engine = env.ROOT / "tests" / "engine.py"
    script.write_text(f'#!/bin/sh\nENGINE={settings} exec {sys.executable} {engine} "$@"\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{script.parent}:{os.environ['PATH']}"


def write_large(path: Path) -> None:
    piece = (LINE * (PIECE // len(LINE) + 1)).encode()
    with path.open("wb") as file:
        while file.tell() < LARGE:
            file.write(piece[: LARGE - file.tell()])


def report(results: Results, facts: dict[str, str], options: argparse.Namespace) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    facts |= {"versions": f"recursor {OURS.version()}, rlms {RLMS.version()}"}
    medians = {
        figure: {column: statistics.median(values) for column, values in row.items() if values}
        for figure, row in results.values.items()
    }
    goals: list[tables.Goal] = [
        (figure, "process", title, bound, unit) for figure, (title, bound, unit) in ROWS.items()
    ]
    names = [column.name for column in COLUMNS]
    parts = [
        "# Sandboxes",
        tables.facts_of(facts),
        f"Medians of {options.repeats} processes, of many values each where that can be. No model and no engine: "
        "every call is answered at once. See docs/benchmarks.md.",
        "## The default sandbox",
        tables.table(
            ["", "median", "least to most", "goal", ""],
            [tables.goal_row(goal, medians, results.values) for goal in goals if goal[0] in medians],
        ),
        "## Beside others",
        "`inprocess` and the local REPL of rlms run code in the caller's own process, without isolation: a tool "
        "is a plain call there, and so it is in the IPython kernel of `rlms ipykernel`, a process of its own without "
        "isolation. `container` is runc under the stand-in for an engine of tests/engine.py, so that a "
        "start holds no engine's own time. `wasm` is Python in WebAssembly (`make pyodide`). In brackets, times "
        "that of `process`.",
        tables.table(["", *names], [_row(figure, medians, names) for figure in ROWS if figure in medians]),
    ]
    reasons = [
        f"- {figure}, {name}: {text}" for figure, row in results.missing.items() for name, text in row.items()
    ]
    if reasons:
        parts += ["## Not run", "\n".join(reasons)]
    text = "\n\n".join(parts) + "\n"
    options.out.mkdir(exist_ok=True)
    document = {**facts, "repeats": options.repeats, "values": results.values, "not run": results.missing}
    (options.out / "sandbox.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "sandbox.md").write_text(text)
    print(text)


def _row(figure: str, medians: dict[str, dict[str, float]], names: list[str]) -> list[str]:
    title, _, unit = ROWS[figure]
    found = medians[figure]
    ours = found.get("process")
    cells = []
    for name in names:
        value = found.get(name)
        if value is None:
            cells.append("-")
        elif name == "process" or not ours:
            cells.append(tables.shown(value, unit))
        else:
            cells.append(f"{tables.shown(value, unit)} ({value / ours:.2g})")
    return [title, *cells]


if __name__ == "__main__":
    main()
