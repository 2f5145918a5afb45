"""Has clients that nobody here wrote talk to `recursor serve`, and writes down what works.

    python compat/run.py [CLIENT ...]    # all of them: benchmarks/results/compat.md is written

Each client has an environment of its own under .compat/, made at the first run from what is published then;
remove a folder there to have a newer one. The models are a loopback server with a scripted root LM, `root.py`.
Nothing but the installation leaves the machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import commands
from clients import CLIENTS, Check, Client, Place
from root import says

from recursor.testing import ModelServer

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".compat"
RESULTS = ROOT / "benchmarks/results/compat.md"


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """A `recursor serve` over scripted models; its base URL. Raises AssertionError when it made a mistake."""
    log = home / "server.log"
    with ModelServer(says) as models, log.open("w") as errors:
        command = [sys.executable, "-m", "recursor", "serve", "--model", "openai/scripted", "--port", "0"]
        command += ["--base-url", models.url, "--store", str(home / "runs.db"), "--grace", "1"]
        environment = {**os.environ, "OPENAI_API_KEY": "none", "HOME": str(home), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stderr=errors, env=environment)
        try:
            yield _url(process, log)
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"serving (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(log.read_text())


def checked(client: Client, url: str, home: Path) -> list[Check]:
    """What works with a client, and what does not."""
    home.mkdir()
    place = Place(url, FOLDER / client.name, home, commands.environment(url, home))
    return list(client.checks(place))


def table(found: Sequence[tuple[Client, str, Sequence[Check]]]) -> str:
    """The results as a page."""
    lines = ["# Clients", ""]
    commit = commands.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], env=os.environ)
    lines += [f"- date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC", f"- commit: {commit}", ""]
    lines += [
        "Clients that nobody here wrote, without a screen and without a network, against `recursor serve` over a",
        "scripted root LM (`make compat`). How to set them up: [docs/clients.md](../../docs/clients.md).", "",
        "| client | version | works | |", "| --- | --- | ---: | --- |",
    ]  # fmt: skip
    for client, version, checks in found:
        failed = [f"{each.what}: {each.why}" for each in checks if each.why]
        said = "; ".join(failed).replace("|", "\\|").replace("\n", " ")[:500]
        lines.append(
            f"| {client.title} | {version} | {len(checks) - len(failed)} of {len(checks)} | {said} |"
        )
    lines += ["", "| client | what was done | |", "| --- | --- | --- |"]
    for client, _, checks in found:
        lines += [
            f"| {client.title} | {each.what} | {'failed' if each.why else 'works'} |" for each in checks
        ]
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> int:
    chosen = [each for each in CLIENTS if not names or each.name in names]
    found = []
    with tempfile.TemporaryDirectory(prefix="recursor-compat-") as folder, serving(Path(folder)) as url:
        for client in chosen:
            commands.ensure(client.python, client.npm, FOLDER / client.name)
            version = commands.version(client.python, client.npm, FOLDER / client.name)
            print(f"{client.name} {version}", file=sys.stderr)
            checks = checked(client, url, Path(folder) / client.name)
            for each in checks:
                print(
                    f"  {'FAILED ' + each.why[:600] if each.why else 'works'}: {each.what}", file=sys.stderr
                )
            found.append((client, version, checks))
    if not names:
        RESULTS.write_text(table(found))
    return any(each.why for _, _, checks in found for each in checks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("client", nargs="*", choices=[[], *(each.name for each in CLIENTS)])
    sys.exit(main(parser.parse_args().client))
