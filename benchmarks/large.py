"""`recursor ask` over 21 MB and 331 MB of books: exact answers, equal prompts, bounded memory.

The scripted root LM counts a planted sentence, follows a regular expression and takes slices; plain
Python checks what it found. Writes benchmarks/results/large.json and large.md. Fails when an answer
is wrong, when prompts grow with the text, or when memory passes its bound. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tables
from environments import PEERS, environment, machine
from loopback import control, served
from memory import Peak

sys.path.append(str(PEERS))
import script  # what the root LM looks for

LARGE = 331_000_000
SHARE, FIXED = 1.2, 150_000_000
"""Memory may be so many times the context, and so many bytes beside."""
TAIL = "\nEnd of the books \u2013 nothing follows.\n" * 20


@dataclass(frozen=True)
class Run:
    name: str
    size: int
    """Bytes of the context."""
    seconds: float
    peak: int
    """The most bytes that all processes of the command held."""
    prompts: list[int]
    """Bytes of each root prompt."""
    bare: list[int]
    """The same without numbers and the name of the context's type."""
    needles: int
    matches: int
    problems: list[str]

    @property
    def bound(self) -> int:
        return int(SHARE * self.size + FIXED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("books", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder, served() as url:
        home = Path(folder)
        contexts = prepare(options.books, home)
        runs = [ask(name, path, url, home) for name, path in contexts.items()]
    report(runs, facts, options.out)
    problems = [f"{run.name}: {problem}" for run in runs for problem in run.problems] + compare(runs)
    sys.exit("\n".join(problems) or 0)


def prepare(books: Path, home: Path) -> dict[str, Path]:
    """Make the contexts: a folder, its files in one, and these again and again up to 331 MB."""
    files = sorted(books.glob("*.md"))
    (home / "books").mkdir()
    for file in files:
        join([file], home / "books" / file.name)
    once, often = home / "21.md", home / "33.md"
    join(files, once)
    size, count = sum(file.stat().st_size for file in files), 0
    while size * count < len(files) * LARGE:
        count += 1
    join(list(itertools.islice(itertools.cycle(files), count)), often)
    return {"folder": home / "books", "file": once, "large file": often}


def join(files: Sequence[Path], into: Path) -> None:
    """Write files one after another, the needle after every third, and an end that is always the same."""
    with into.open("wb") as out:
        for number, file in enumerate(files):
            out.write(file.read_bytes())
            out.write(f"\n{script.NEEDLE}\n".encode() if number % 3 == 0 else b"\n")
        out.write(TAIL.encode())


def ask(name: str, path: Path, url: str, home: Path) -> Run:
    """Run `recursor ask` over a path and check everything about it."""
    control(url, "reset")
    command = [sys.executable, "-m", "recursor", "ask", "Find it: task=large", path.name, "--json", "--quiet"]
    command += ["--model", "bench", "--base-url", url, "--store", str(home / "runs.db")]
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    ) as process:
        with Peak(process.pid) as held:
            said, errors = process.communicate()
        seconds = time.monotonic() - began
    requests = control(url, "reset")
    found, problems = checked(said, errors.decode(), path)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    run = Run(
        name,
        sum(file.stat().st_size for file in files),
        seconds,
        held.peak,
        [int(request[1]) for request in requests],
        [int(request[2]) for request in requests],
        sum(each["count"] for each in found.values()),
        sum(each["matches"] for each in found.values()),
        problems,
    )
    if run.peak > run.bound:
        problems.append(f"{run.peak:,} bytes of memory, and {run.bound:,} are allowed")
    return run


def checked(said: bytes, errors: str, path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """Return the answer and what is wrong with it."""
    try:
        found = json.loads(said)["answer"]
    except (ValueError, KeyError):
        return {}, [f"no answer: {errors[-500:]}"]
    expected = {file.name: plain(file) for file in path.glob("*")} if path.is_dir() else {"": plain(path)}
    if not isinstance(found, dict) or found.keys() != expected.keys():
        return {}, [f"answered over {list(found)[:20]}, not over {list(expected)[:20]}"]
    return found, [
        f"{name} {key} is {str(found[name].get(key))[:80]}, not {str(value)[:80]}"
        for name, row in expected.items()
        for key, value in row.items()
        if found[name].get(key) != value
    ]


def plain(file: Path) -> dict[str, Any]:
    """What the root LM's code should find, by other means: one `str` in this process."""
    text = file.read_bytes().decode("utf-8")
    places = [match.start() for match in re.finditer(re.escape(script.NEEDLE), text)]
    around = hashlib.sha256()
    for place in places:
        around.update(text[place - 20 : place + 60].encode())
    starts = [match.start() for match in re.finditer(script.PATTERN, text)]
    ends = itertools.accumulate(len(line) + 1 for line in text.split("\n"))
    return {
        "length": len(text),
        "count": len(text.split(script.NEEDLE)) - 1,
        "places": places,
        "around": around.hexdigest(),
        "matches": len(starts),
        "starts": sum(starts),
        "lines": _lines_hit(starts, ends),
        "middle": hashlib.sha256(text[len(text) // 2 :][:5000].encode()).hexdigest(),
        "end": text[len(text) - 100 :],
    }


def _lines_hit(starts: Sequence[int], ends: itertools.accumulate[int]) -> int:
    """In how many lines a match starts."""
    hit, end = 0, 0
    for start in starts:
        if start >= end:
            hit += 1
            while end <= start:
                end = next(ends)
    return hit


def compare(runs: Sequence[Run]) -> list[str]:
    """Say where the prompts over the large file differ from those over the small one."""
    small, large = runs[1], runs[2]
    if small.bare != large.bare:
        return [f"prompts over {small.name} and {large.name} differ: {small.bare} and {large.bare} bytes"]
    return []


def report(runs: Sequence[Run], facts: dict[str, str], folder: Path) -> None:
    """Write results as JSON and as Markdown, and print the latter."""
    rows = [
        [
            run.name,
            tables.shown(run.size, "B"),
            f"{run.seconds:.1f} s",
            f"{run.needles:,} and {run.matches:,}",
            "; ".join(run.problems) or "all exact",
            ", ".join(f"{size:,}" for size in run.prompts),
            f"{tables.shown(run.peak, 'B')} of {tables.shown(run.bound, 'B')}",
        ]
        for run in runs
    ]
    head = ["context", "size", "time", "needles, matches", "answers", "root prompts, bytes", "most memory"]
    same = "; ".join(compare(runs)) or "differ in the length of printed numbers and the type's name alone"
    text = "\n\n".join(
        [
            "# Large contexts",
            tables.facts_of(facts),
            "`recursor ask` over ten books, over the same in one file, and over a file of them again and "
            f"again. Prompts over the two files {same}. Memory is that of all processes of the command, and "
            f"may be {SHARE} times the context and {FIXED // 10**6} MB. See docs/benchmarks.md.",
            tables.table(head, rows),
        ]
    )
    folder.mkdir(exist_ok=True)
    document = {**facts, "runs": [asdict(run) for run in runs]}
    (folder / "large.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "large.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
