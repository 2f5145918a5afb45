"""Sub-calls, children and resumption in numbers that no prompt could hold, beside two peers.

Each value comes from a fresh process. Where the row says HTTP, it speaks to a server in another
process (peers/lean.py), whose own CPU is counted apart; elsewhere a model in the process answers at
once. Writes benchmarks/results/scale.json and scale.md. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import environments as env
import tables
from core import Bench, NotRunError, Results, noted
from environments import DSPY, OURS, PEERS, RLMS, SYSTEMS, environment
from loopback import control, served
from memory import Peak

FAN, WIDTH, LATENCY = 10_000, 1000, 0.05
IDEAL = FAN / WIDTH * LATENCY
PROMPTS = 100_000
SIDE = 1000
"""The pairs are its square."""
CHILDREN, NEST, THREADS = 100, 16, 256
SIZE = 100_000_000
KILLED, KILLED_WIDTH, POINTS = 10_000, 100, 5
BESIDE, BESIDE_KILLED = 1000, 1000
PATIENCE = 600

GOALS: list[tables.Goal] = [
    ("fan", "recursor", "10,000 sub-calls of 50 ms, 1,000 at once, HTTP", None, "s"),
    ("fan", "most", "most that were at the server at once", None, ""),
    ("fan", "server", "CPU of the server in it", None, "s"),
    ("fan", "host", "CPU of the host process in it", None, "s"),
    ("fan", "guest", "CPU of the REPL in it", None, "s"),
    ("fan", "ideal", "the time less the server's CPU, times the ideal 0.5 s", 1.3, "x"),
    ("fan", "bare", "the same requests by the HTTP client alone", None, "s"),
    ("fan", "to bare", "recursor's time, times that", None, "x"),
    ("fan", "store", "the 10,000 with a store, HTTP", None, "s"),
    ("prompts", "seconds", "100,000 prompts in one batch", None, "s"),
    ("prompts", "cpu", "CPU of all processes for each", 0.0003, "s"),
    ("prompts", "host", "of that the host's", None, "s"),
    ("prompts", "memory", "memory that all processes grow by", None, "B"),
    ("prompts", "host memory", "of that the host's, at most", None, "B"),
    ("prompts, store", "seconds", "100,000 prompts in one batch with a store", None, "s"),
    ("prompts, store", "cpu", "CPU of all processes for each", 0.0003, "s"),
    ("prompts, store", "host", "of that the host's", None, "s"),
    ("prompts, store", "memory", "memory that all processes grow by", None, "B"),
    ("prompts, store", "host memory", "of that the host's, at most", None, "B"),
    ("prompts, store", "size", "the store on disk, for each call", None, "B"),
    ("pairs", "seconds", "1,000,000 pairs from a generator", None, "s"),
    ("pairs", "cpu", "CPU of all processes for each", 0.0003, "s"),
    ("pairs", "memory", "memory that all processes grow by", None, "B"),
    ("pairs", "host memory", "of that the host's, at most", None, "B"),
    ("children", "one", "a child, one after another", 0.01, "s"),
    ("children", "batched", "a child, in a batch of 100", 0.01, "s"),
    ("children", "nested", "16 children with 16 each, all 272", None, "s"),
    ("handed", "seconds", "a child over the parent's 100 MB", None, "s"),
    ("handed", "memory", "memory beyond the caller's own text, both REPLs included", None, "x"),
    ("threads", "seconds", "256 threads with a call each, all at once", None, "s"),
    ("replay", "seconds", "10,000 recorded calls, replayed to the end of the run", 1.0, "s"),
]

BESIDE_ROWS: dict[str, tuple[str, str]] = {
    "batch": ("1,000 sub-calls of 50 ms in one batch", "s"),
    "fan": ("10,000 of them", "s"),
    "children": ("a child RLM, one after another", "s"),
    "twice": ("killed after 500 of 1,000 sub-calls and run again: calls paid twice", ""),
}


@dataclass(frozen=True)
class Killed:
    """A run that was killed, and went on."""

    asked: int
    """Sub-calls that the server had received when the process died."""
    replayed: int
    """Of these, those that were recorded: they are not asked again."""
    twice: int
    """Of these, those that were asked again."""
    seconds: float
    """Until the answer, replay and remaining calls together."""
    right: bool


class Scale(Bench):
    """What is measured, and where."""

    def trial(self, task: str, *options: str) -> dict[str, Any]:
        """Run one measurement of recursor in a process of its own."""
        done = subprocess.run(
            self.trial_command(task, *options),
            capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment(self.home),
        )  # fmt: skip
        if done.returncode:
            raise NotRunError(done.stderr.strip()[-300:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def trial_command(self, task: str, *options: str) -> list[str]:
        return [str(OURS.python), str(PEERS / "trial.py"), task, *options]

    def grown(self, task: str, *options: str) -> tuple[int, dict[str, Any]]:
        """Run one measurement; the most bytes that all its processes grew by while it went."""
        with subprocess.Popen(
            self.trial_command(task, "--paced", *options),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(self.home),
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            with Peak(process.pid) as held:
                process.stdin.write("go\n")
                process.stdin.flush()
                said = process.stdout.readline()
            if not said:
                raise NotRunError(process.stderr.read().strip()[-300:])
        return held.peak - held.before, json.loads(said)

    @contextmanager
    def store(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            yield Path(folder, "runs.db")

    def stats(self, command: str = "stats") -> dict[str, float]:
        found: dict[str, float] = control(self.url, command)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3, help="Processes for each figure.")
    parser.add_argument("--only", default="", help="What to measure, by name: fan,prompts,...")
    parser.add_argument("--million", action="store_true", help="Also 1,000,000 sub-calls: minutes.")
    parser.add_argument("--seed", type=int, default=1, help="Of the points at which runs are killed.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for system in SYSTEMS:
        env.ensure(system)
    facts = env.machine()
    only = options.only.split(",") if options.only else [*MEASURES, "killed"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with served("lean.py", environment(home)) as url:
            why = env.why_not_default(home)
            bench = Scale(url, home, "local" if why else "", Results())
            for number in range(options.repeats):
                for name in (each for each in only if each in MEASURES):
                    print(f"{number + 1}/{options.repeats} {name}", file=sys.stderr)
                    with noted(bench, name, "recursor"):
                        MEASURES[name](bench)
            kills = list(killed(bench, options.seed)) if "killed" in only else []
            if options.million:
                with noted(bench, "pairs", "recursor"):
                    measure_pairs(bench)
    if facts["commit"] != env.commit():
        facts["commit"] += f" to {env.commit()}"
    facts |= {"versions": ", ".join(f"{each.name} {each.version()}" for each in SYSTEMS)}
    report(bench.results, facts, kills, options, why)
    sys.exit("a resumed run answered wrongly" if not all(each.right for each in kills) else 0)


def measure_fan(bench: Scale) -> None:
    add, common = bench.results.add, ("--count", str(FAN), "--url", bench.url, "--width", str(WIDTH))
    bare = bench.trial("bare", *common)["seconds"]
    bench.stats("reset")
    done = bench.trial("fan", *common)
    stats = bench.stats()
    seconds, guest = done["answer"]
    add("fan", "recursor", seconds)
    add("fan", "most", stats["most at once"])
    add("fan", "server", stats["cpu"])
    add("fan", "host", done["cpu"])
    add("fan", "guest", guest)
    add("fan", "ideal", (seconds - stats["cpu"]) / IDEAL)
    add("fan", "bare", bare)
    add("fan", "to bare", seconds / bare)
    with bench.store() as store:
        add("fan", "store", bench.trial("fan", *common, "--store", str(store))["answer"][0])


def measure_prompts(bench: Scale) -> None:
    _many(bench, "prompts", "listed", PROMPTS)
    with bench.store() as store:
        _many(bench, "prompts, store", "listed", PROMPTS, "--store", str(store))


def measure_pairs(bench: Scale) -> None:
    _many(bench, "pairs", "pairs", SIDE)


def _many(bench: Scale, figure: str, task: str, count: int, *options: str) -> None:
    """A batch in one process for its time, and in another for its memory: watching that takes CPU."""
    add = bench.results.add
    done = bench.trial(task, "--count", str(count), *options)
    calls, (seconds, guest) = done["calls"], done["answer"]
    add(figure, "seconds", seconds)
    add(figure, "host", done["cpu"] / calls)
    add(figure, "cpu", (done["cpu"] + guest) / calls)
    if options:
        files = Path(options[-1]).parent.glob("*")
        add(figure, "size", sum(file.stat().st_size for file in files) / calls)
    grown, watched = bench.grown(task, "--count", str(count), *options)
    add(figure, "memory", grown)
    add(figure, "host memory", watched["grown"])


def measure_children(bench: Scale) -> None:
    add = bench.results.add
    add("children", "one", bench.trial("children", "--count", str(CHILDREN))["answer"])
    add("children", "batched", bench.trial("childbatch", "--count", str(CHILDREN))["answer"])
    add("children", "nested", bench.trial("nested", "--count", str(NEST))["answer"])


def measure_handed(bench: Scale) -> None:
    bench.results.add("handed", "seconds", bench.trial("handed", "--context")["answer"])
    bench.results.add("handed", "memory", bench.grown("handed", "--context")[0] / SIZE)


def measure_threads(bench: Scale) -> None:
    bench.results.add("threads", "seconds", bench.trial("threads", "--count", str(THREADS))["answer"])


def measure_replay(bench: Scale) -> None:
    """Kill a run that has all its sub-calls and waits for its second turn; then go on with it."""
    with bench.store() as store:
        bench.stats("reset")
        control(bench.url, "hold")
        try:
            run_id = _kill(bench, store, KILLED, until=lambda stats: stats["roots"] == 2)
        finally:
            control(bench.url, "release")
        done = _resumed(bench, store, run_id)
    if done["answer"] != KILLED or done["replayed"] != KILLED + 1:
        raise NotRunError(f"answered {done['answer']!r} with {done['replayed']:,} replayed")
    bench.results.add("replay", "seconds", done["seconds"])


def measure_beside(bench: Scale) -> None:
    """What the others can do too."""
    for system in SYSTEMS:
        for figure, count in (("batch", BESIDE), ("fan", FAN)):
            if figure == "fan" and system.name in bench.results.values["beside fan"]:
                continue  # minutes, and the same each time
            with noted(bench, f"beside {figure}", system.name):
                done = bench.run(system, "batch", "--count", str(count))
                bench.results.add(f"beside {figure}", system.name, done["seconds"])
    for system, count in ((OURS, CHILDREN), (RLMS, 10)):
        with noted(bench, "beside children", system.name):
            done = bench.run(system, "children", "--count", str(count), "--depth", "2")
            bench.results.add("beside children", system.name, done["seconds"])
    for system in (RLMS, DSPY):
        with noted(bench, "beside twice", system.name):
            bench.stats("reset")
            process = subprocess.Popen(
                bench.command(system, "batch", "--count", str(BESIDE_KILLED)),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(bench.home),
            )  # fmt: skip
            _kill_when(bench, process, lambda stats: stats["received"] >= BESIDE_KILLED // 2)
            bench.run(system, "batch", "--count", str(BESIDE_KILLED))
            stats = bench.stats()
            bench.results.add("beside twice", system.name, stats["received"] - stats["distinct"])
    killed = _kill_and_resume(bench, BESIDE_KILLED, BESIDE_KILLED // 2, width=16)
    bench.results.add("beside twice", OURS.name, killed.twice)


MEASURES = {
    "fan": measure_fan,
    "prompts": measure_prompts,
    "children": measure_children,
    "handed": measure_handed,
    "threads": measure_threads,
    "replay": measure_replay,
    "beside": measure_beside,
}


def killed(bench: Scale, seed: int) -> Iterator[Killed]:
    """Kill runs at random points, and go on with them."""
    points = random.Random(seed)
    for _ in range(POINTS):
        point = points.randrange(KILLED // 20, KILLED - KILLED // 20)
        print(f"killed at {point:,}", file=sys.stderr)
        yield _kill_and_resume(bench, KILLED, point, KILLED_WIDTH)


def _kill_and_resume(bench: Scale, count: int, point: int, width: int) -> Killed:
    with bench.store() as store:
        bench.stats("reset")
        run_id = _kill(bench, store, count, lambda stats: stats["received"] >= point, width)
        asked = int(bench.stats()["received"])
        done = _resumed(bench, store, run_id, width)
        stats = bench.stats()
    twice = int(stats["received"] - stats["distinct"])
    right = done["answer"] == count and stats["distinct"] == count
    return Killed(asked, done["replayed"] - 1, twice, done["seconds"], right)


def _kill(bench: Scale, store: Path, count: int, until: Any, width: int = WIDTH) -> str:
    """Run the two turns until the server says so, and kill the process; return the run's id."""
    options = ("--count", str(count), "--url", bench.url, "--store", str(store), "--width", str(width))
    process = subprocess.Popen(
        bench.trial_command("killed", *options),
        stdout=subprocess.PIPE, text=True, env=environment(bench.home),
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as said:
        run_id = said.readline().strip()
        _kill_when(bench, process, until)
    return run_id


def _kill_when(bench: Scale, process: subprocess.Popen[Any], until: Any) -> None:
    try:
        while not until(bench.stats()):
            if process.poll() is not None:
                raise NotRunError("it ended before it could be killed")
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _resumed(bench: Scale, store: Path, run_id: str, width: int = WIDTH) -> dict[str, Any]:
    options = ("--url", bench.url, "--store", str(store), "--width", str(width))
    return bench.trial("killed", *options, "--resume", run_id)


def report(
    results: Results, facts: dict[str, str], kills: Sequence[Killed], options: argparse.Namespace, why: str
) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    medians = {
        figure: {column: statistics.median(values) for column, values in columns.items()}
        for figure, columns in results.values.items()
    }
    rows = [
        tables.goal_row(goal, medians, results.values)
        for goal in GOALS
        if goal[0] in medians or goal[0] in results.missing
    ]
    parts = [
        "# Scale",
        tables.facts_of(facts),
        f"Medians of {options.repeats} processes. Without HTTP in a row, a model inside the process answers "
        "at once, so that a row is recursor's own cost. The ideal for 10,000 calls of 50 ms, 1,000 at once, "
        "is 0.5 s, which no HTTP client in Python reaches on this machine: its CPU for one request, times "
        "10,000, is more. The row of the HTTP client alone says how much. See docs/benchmarks.md.",
        tables.table(["", "median", "least to most", "goal", ""], rows),
    ]
    if kills:
        parts += ["## Killed and resumed", _kills(kills, options.seed)]
    beside = {figure.removeprefix("beside "): row for figure, row in medians.items() if "beside " in figure}
    if beside:
        parts += ["## Beside peers", _beside(beside, results, why)]
    reasons = [
        f"- {figure}, {name}: {text}" for figure, row in results.missing.items() for name, text in row.items()
    ]
    if reasons:
        parts += ["## Not run", "\n".join(reasons)]
    text = "\n\n".join(parts) + "\n"
    options.out.mkdir(exist_ok=True)
    document = {**facts, "repeats": options.repeats, "seed": options.seed, "values": results.values}
    document |= {"killed": [asdict(each) for each in kills], "not run": results.missing}
    (options.out / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "scale.md").write_text(text)
    print(text)


def _kills(kills: Sequence[Killed], seed: int) -> str:
    head = ["asked when killed", "recorded", "lost", "asked twice", "resumed in", "at least", "answer"]
    rows = [
        [
            f"{each.asked:,}", f"{each.replayed:,}", f"{each.asked - each.replayed:,}", f"{each.twice:,}",
            f"{each.seconds:.2f} s", f"{(KILLED - each.replayed) / KILLED_WIDTH * LATENCY:.2f} s",
            "right" if each.right else "wrong",
        ]
        for each in kills
    ]  # fmt: skip
    text = (
        f"A run of {KILLED:,} sub-calls of 50 ms, {KILLED_WIDTH} at once, killed (SIGKILL) at points drawn with "
        f"seed {seed}; then `RLM.resume` to the end. Lost are calls that were on their way when the process "
        "died: no record can hold their replies. The calls that remain take 50 ms, 100 at once, at least."
    )
    return f"{text}\n\n{tables.table(head, rows)}"


def _beside(medians: dict[str, dict[str, float]], results: Results, why: str) -> str:
    rows = []
    for figure, (title, unit) in BESIDE_ROWS.items():
        found, ours = medians.get(figure, {}), medians.get(figure, {}).get(OURS.name)
        cells = []
        for system in SYSTEMS:
            value = found.get(system.name)
            missing = results.missing.get(f"beside {figure}", {}).get(system.name)
            if value is None:
                cells.append("not run" if missing else "cannot")
            elif system is OURS or not ours or not unit:
                cells.append(tables.shown(value, unit))
            else:
                cells.append(f"{tables.shown(value, unit)} ({value / ours:.2g})")
        rows.append([title, *cells])
    local = f"dspy runs in its LocalInterpreter, since {why}. " if why else ""
    text = (
        "All over HTTP to the same server; in brackets, times recursor's. "
        + local
        + "dspy.RLM has no children. "
        "Neither peer can go on with a run: the second attempt asks everything again, and what was answered "
        "before the kill is paid twice; recursor loses what was on its way, 16 calls at once here as in rlms."
    )
    return f"{text}\n\n{tables.table(['', *(each.name for each in SYSTEMS)], rows)}"


if __name__ == "__main__":
    main()
