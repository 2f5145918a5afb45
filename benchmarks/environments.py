"""Environments of the peers under .bench/, and what this machine is."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"


@dataclass(frozen=True)
class System:
    """One system that is measured."""

    name: str
    module: str
    """What a program imports."""
    script: str
    python: Path
    packages: tuple[str, ...] = ()
    """What its environment is made of; empty for ours, which runs in the present one."""

    def version(self) -> str:
        """The version of its package, as its environment says it."""
        code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
        return output([self.python, "-c", code, self.name])


OURS = System("recursor", "recursor", "ours.py", Path(sys.executable))
RLMS = System("rlms", "rlm", "rlms.py", ROOT / ".bench/rlms/bin/python", ("rlms==0.1.3",))
KERNEL = System("rlms", "rlm", "", ROOT / ".bench/kernel/bin/python", ("rlms[ipython]==0.1.3",))
"""rlms with what its REPL in an IPython kernel needs."""
DSPY = System("dspy", "dspy", "dspy_rlm.py", ROOT / ".bench/dspy/bin/python", ("dspy[deno]",))
SYSTEMS = (OURS, RLMS, DSPY)


def ensure(system: System) -> None:
    """Make the environment of a system when it is not there."""
    if not system.packages or system.python.exists():
        return
    folder = system.python.parent.parent
    print(f"making {folder} with {', '.join(system.packages)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([system.python, "-m", "pip", "install", "--quiet", *system.packages], check=True)


def environment(home: Path) -> dict[str, str]:
    """Environment variables for everything that is measured: this checkout, no settings, no keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG_"))}
    deno = str(ROOT / ".bench/deno")
    own = {"HOME": str(home), "PYTHONPATH": str(ROOT / "src"), "DENO_DIR": deno}
    return {**kept, **own, "OPENAI_API_KEY": "none", "NO_COLOR": "1"}


def machine() -> dict[str, str]:
    """Date, hardware, versions, and what else keeps it busy: ask before anything is measured."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} cores, {cpu[0].partition(':')[2].strip()}, {memory} GiB",
        "system": f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        "commit": commit(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def commit() -> str:
    """What is checked out; "-dirty" when files differ from it."""
    return output(["git", "-C", ROOT, "describe", "--always", "--dirty"]) or "unknown"


def output(command: list[str | Path]) -> str:
    """Return what a command prints; nothing when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def why_not_default(home: Path) -> str:
    """Return why dspy's default interpreter does not run here; nothing when it does."""
    done = subprocess.run(
        [DSPY.python, PEERS / DSPY.script, "--probe"],
        capture_output=True, text=True, check=False, env=environment(home),
    )  # fmt: skip
    if done.returncode:
        return done.stderr.strip()[-300:]
    why: str = json.loads(done.stdout.splitlines()[-1])["why"]
    offline = "://" in why or "health check" in why
    return "Deno fetches modules over the network at its first use" if offline else why[-300:]
