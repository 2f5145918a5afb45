"""Core costs, beside two peers: start, turns, sub-calls, contexts, logs.

Every value comes from a fresh process; the systems take turns. All speak HTTP to one scripted model
server on the loopback interface; recursor is measured with a model inside its process too. Writes
benchmarks/results/core.json and core.md. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import environments as env
import tables
from environments import DSPY, OURS, PEERS, RLMS, SYSTEMS, System, environment
from loopback import control, served
from memory import Peak

PATIENCE = 300
"""Seconds for one process."""
TURNS, CALLS, BATCH, LOADS = 8, 300, 1000, 3


class NotRunError(Exception):
    """A process did not do what it was to do; the text says why."""


@dataclass
class Results:
    """Values by figure and column."""

    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    missing: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, figure: str, column: str, *values: float) -> None:
        self.values[figure][column] += values


@dataclass(frozen=True)
class Bench:
    """Where processes run, and what they speak to."""

    url: str
    home: Path
    dspy: str
    """The variant of dspy that runs here."""
    results: Results

    def run(self, system: System, measure: str, *options: str) -> Any:
        """Run one measure of a system in a process of its own."""
        command = self.command(system, measure, *options)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
                env=environment(self.home),
            )
        except subprocess.TimeoutExpired:
            raise NotRunError(f"nothing came of it within {PATIENCE} s") from None
        if done.returncode:
            raise NotRunError(done.stderr.strip()[-300:])
        return json.loads(done.stdout.splitlines()[-1])

    def command(self, system: System, measure: str, *options: str) -> list[str]:
        variant = ["--variant", self.dspy] if system is DSPY and self.dspy else []
        script = str(PEERS / system.script)
        return [str(system.python), script, measure, "--url", self.url, *variant, *options]

    def control(self, command: str) -> list[list[float]]:
        """See `loopback.control`."""
        requests: list[list[float]] = control(self.url, command)
        return requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="Processes for each figure and system.")
    parser.add_argument("--only", default="", help="Figures to measure, by name: turn,calls,...")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for system in SYSTEMS:
        env.ensure(system)
    facts = env.machine()
    only = options.only.split(",") if options.only else list(MEASURES)
    with tempfile.TemporaryDirectory() as folder, served() as url:
        why = env.why_not_default(Path(folder))
        bench = Bench(url, Path(folder), "local" if why else "", Results())
        for number in range(options.repeats):
            for name in only:
                print(f"{number + 1}/{options.repeats} {name}", file=sys.stderr)
                MEASURES[name](bench)
    if facts["commit"] != env.commit():
        facts["commit"] += f" to {env.commit()}"
    report(bench.results, facts, why, options.repeats, options.out)


def measure_start(bench: Bench) -> None:
    """CPU seconds of importing RLM beyond those of Python, and of `recursor --help` in all."""
    for system in SYSTEMS:
        bare, imported = (
            cpu(bench, [system.python, "-c", code]) for code in ("pass", f"from {system.module} import RLM")
        )
        bench.results.add("import", system.name, imported - bare)
    bench.results.add("help", OURS.name, cpu(bench, [OURS.python, "-m", "recursor", "--help"]))


def cpu(bench: Bench, command: list[str | Path]) -> float:
    """CPU seconds of a process and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environment(bench.home))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure_turn(bench: Bench) -> None:
    for system in SYSTEMS:
        with noted(bench, "cold", system.name):
            bench.control("reset")
            done = bench.run(system, "turn", "--count", str(TURNS))
            requests = zip(bench.control("reset"), done["began"], strict=True)
            waits = [request[0] - began for request, began in requests]
            bench.results.add("made", system.name, done["made"])
            bench.results.add("request cold", system.name, waits[0])
            bench.results.add("made, request cold", system.name, done["made"] + waits[0])
            bench.results.add("request warm", system.name, statistics.median(waits[1:]))
            _turns(bench, system.name, done)
            began = time.monotonic()
            bench.run(system, "turn", "--count", "1")
            at, size, _ = bench.control("reset")[0]
            bench.results.add("started", system.name, at - began)
            bench.results.add("prompt", system.name, size)
    for column, options in INSTANT.items():
        with noted(bench, "cold", column), recorded(bench, options) as folder:
            _turns(bench, column, bench.run(OURS, "turn", "--count", str(TURNS), "--instant", *folder))


def _turns(bench: Bench, column: str, done: dict[str, list[float]]) -> None:
    bench.results.add("cold", column, done["seconds"][0])
    bench.results.add("warm", column, statistics.median(done["seconds"][1:]))


def measure_calls(bench: Bench) -> None:
    _subcalls(bench, "calls", CALLS)


def measure_batch(bench: Bench) -> None:
    _subcalls(bench, "batch", BATCH)


def _subcalls(bench: Bench, measure: str, count: int) -> None:
    for system in SYSTEMS:
        with noted(bench, measure, system.name):
            done = bench.run(system, measure, "--count", str(count))
            bench.results.add(measure, system.name, done["seconds"])
    for column, options in {**INSTANT, STORED: ("--record",)}.items():
        with noted(bench, measure, column), recorded(bench, options) as folder:
            instant = () if column == STORED else ("--instant",)
            done = bench.run(OURS, measure, "--count", str(count), *instant, *folder)
            bench.results.add(measure, column, done["seconds"])


def measure_load(bench: Bench) -> None:
    """Medians over the pairs of one process: a value for each process."""
    runs = [(system, system.name, ()) for system in SYSTEMS]
    for system, column, options in [*runs, (OURS, "instant", ("--instant",))]:
        with noted(bench, "load seen", column):
            done = bench.run(system, "load", "--count", str(LOADS), *options)
            for name in ("seen", "whole"):
                pairs = zip(done[name], done[f"{name} without"], strict=True)
                bench.results.add(f"load {name}", column, statistics.median(a - b for a, b in pairs))


def measure_memory(bench: Bench) -> None:
    for system in SYSTEMS:
        with noted(bench, "copies", system.name):
            bench.results.add("copies", system.name, _copies(bench, system))


def _copies(bench: Bench, system: System) -> float:
    """What a large context adds to the growth in memory of a completion, as a multiple of its size."""
    growths = []
    with subprocess.Popen(
        bench.command(system, "memory"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(bench.home),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline()
        while said.strip() == "ready":
            with Peak(process.pid) as held:
                process.stdin.write("go\n")
                process.stdin.flush()
                said = process.stdout.readline()
            growths.append(held.peak - held.before)
    if len(growths) != 2 or not said:
        raise NotRunError("it ended without an answer")
    return (growths[1] - growths[0]) / float(json.loads(said)["size"])


def measure_log(bench: Bench) -> None:
    for system in (OURS, RLMS):
        with noted(bench, "log", system.name), recorded(bench, ("--record",)) as folder:
            bench.results.add("log", system.name, bench.run(system, "log", *folder)["bytes"])


MEASURES = {
    "start": measure_start,
    "turn": measure_turn,
    "calls": measure_calls,
    "batch": measure_batch,
    "load": measure_load,
    "memory": measure_memory,
    "log": measure_log,
}
STORED = "store"
INSTANT: dict[str, tuple[str, ...]] = {"instant": (), "instant, store": ("--record",)}
"""Columns of recursor with a model in its process -> options."""


@contextmanager
def noted(bench: Bench, figure: str, column: str) -> Iterator[None]:
    """Keep why a figure could not be measured."""
    try:
        yield
    except NotRunError as problem:
        bench.results.missing[figure][column] = str(problem)


@contextmanager
def recorded(bench: Bench, options: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the options, with an empty folder after --record."""
    if "--record" not in options:
        yield options
        return
    with tempfile.TemporaryDirectory(dir=bench.home) as folder:
        yield (*options, folder)


def report(results: Results, facts: dict[str, str], why: str, repeats: int, folder: Path) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    facts |= {"versions": ", ".join(f"{each.name} {each.version()}" for each in SYSTEMS)}
    medians = {
        figure: {column: statistics.median(values) for column, values in columns.items() if values}
        for figure, columns in results.values.items()
    }
    text = tables.core(medians, results.values, results.missing, facts, repeats, why)
    folder.mkdir(exist_ok=True)
    document = {**facts, "repeats": repeats, "dspy default interpreter": why or "runs"}
    document |= {"values": results.values, "not run": results.missing}
    (folder / "core.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "core.md").write_text(text)
    print(text)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    main()
