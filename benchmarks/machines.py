"""The sandbox on kernels and with engines that no test machine has: virtual machines of Debian's packages, and a table.

In each the wheel of this checkout is installed; then `recursor doctor`, `check_sandbox`, `ATTACKS` and the tests of the
sandbox run there as root and as an ordinary user. Without an accelerator for ordinary kernels it takes hours. What
was found is kept per machine, and the table is of all that is kept: writes benchmarks/results/machines.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from vm import build, report

RESULTS = environments.ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Machine:
    """One that is tried."""

    architecture: build.Architecture
    suite: str
    """Whose kernel it has; everything else is the same."""
    parts: tuple[str, ...]


MACHINES = {
    "trixie": Machine(build.X86, "trixie", ("processes", "groups", "apparmor", "engines", "suite")),
    "bullseye": Machine(build.X86, "bullseye", ("processes", "groups")),
    "bookworm": Machine(build.X86, "bookworm", ("processes", "groups")),
    "sid": Machine(build.X86, "sid", ("processes", "groups")),
    "arm": Machine(build.ARM, "trixie", ("processes", "groups", "suite")),
}


def main() -> None:
    """Try what the command line names, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("machines", nargs="*", default=list(MACHINES), help=", ".join(MACHINES))
    parser.add_argument(
        "--parts", help="processes, groups, apparmor, engines, suite: by default the machine's"
    )
    parser.add_argument(
        "--folder", type=Path, default=environments.ROOT / ".bench" / "machines", help="10 GB of disks"
    )
    parser.add_argument("--quick", action="store_true", help="the attacks of recursor doctor alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table is written")
    parser.add_argument("--hours", type=float, default=3.0, help="that a machine may take")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.machines:
        machine = MACHINES[name]
        parts = options.parts.split(",") if options.parts else machine.parts
        found = tried(options.folder.resolve(), name, machine, parts, options.quick, options.hours * 3600)
        if found:
            keep(options.folder / f"{name}.json", found)
    kept = {name: options.folder / f"{name}.json" for name in MACHINES}
    machines = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    facts = environments.machine()
    (options.out / "machines.json").write_text(json.dumps({"facts": facts, "machines": machines}, indent=1))
    (options.out / "machines.md").write_text(report.report(facts, machines))


def keep(path: Path, found: list[dict[str, Any]]) -> None:
    """Put what was found in place of what was found by the same parts before."""
    parts = {each["part"] for each in found}
    before = json.loads(path.read_text()) if path.exists() else []
    others = [each for each in before if each["part"] not in parts]
    path.write_text(json.dumps([found[0], *others, *found[1:]], indent=1))


def tried(
    folder: Path, name: str, machine: Machine, parts: Sequence[str], quick: bool, limit: float
) -> list[dict[str, Any]]:
    """Make a machine, run it, and return what it has found."""
    system = build.system(folder, machine.architecture)
    kernel = build.kernel(folder, machine.suite, machine.architecture)
    own = folder / name
    own.mkdir(exist_ok=True)
    payload = build.payload(own, folder, machine.architecture, kernel.modules)
    results = own / "results"
    results.write_bytes(bytes(32 << 20))
    begun = time.monotonic()
    words = f"PROGRAM=/usr/sbin/init tried={','.join(parts)}{' attacks=quick' if quick else ''}"
    build.start(own, machine.architecture, kernel, (system, payload), results, words=words, limit=limit)
    lines = results.read_bytes().partition(b"\0")[0].decode().splitlines()
    print(f"{name}: {len(lines)} results in {time.monotonic() - begun:,.0f} s", file=sys.stderr)
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
