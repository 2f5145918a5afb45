"""`recursor doctor`: try on this machine what the sandbox promises, and say what else is there."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from recursor import config, plugins
from recursor.cli import endpoints, exits
from recursor.cli.text import clean, preview, to_json
from recursor.errors import ConfigError, RLMError, SandboxError
from recursor.protocols import Repl
from recursor.types import Isolation, Subcall

CANARY = "RECURSOR_DOCTOR_CANARY"
PROBE_SECONDS = 10.0
TRY = """
try:
    {attempt}
except BaseException as refused:
    print("held", type(refused).__name__, refused)
else:
    print("open", found)
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """Something that code in the sandbox must not be able to do, tried."""

    what: str
    held: bool
    detail: str

    @property
    def line(self) -> str:
        return f"  {'held' if self.held else 'OPEN'}  {self.what}: {preview(self.detail, 80)}"


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found."""

    python: str
    platform: str
    probes: tuple[Probe, ...]
    isolation: Isolation | None
    error: str
    """Why there is no sandbox; empty when there is one."""
    servers: tuple[endpoints.Endpoint, ...]
    keys: dict[str, str]
    keys_error: str
    store: str

    @property
    def healthy(self) -> bool:
        return bool(self.probes) and all(probe.held for probe in self.probes)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Check this machine: really attack the sandbox, find endpoints, keys and the store.

    Exit codes: 0 the sandbox holds, 6 it does not or cannot be had.
    """
    report = examine()
    if as_json:
        click.echo(to_json(asdict(report) | {"healthy": report.healthy}, indent=2))
    else:
        for line in _lines(report):
            click.echo(clean(line))
    sys.exit(exits.ANSWERED if report.healthy else exits.SANDBOX)


def examine() -> Report:
    """Try everything once."""
    probes: tuple[Probe, ...] = ()
    isolation, error = None, ""
    os.environ[CANARY] = "visible"
    with tempfile.TemporaryDirectory(prefix="recursor-doctor-") as folder, socket.socket() as listener:
        secret = Path(folder, "secret")
        secret.write_text("visible", encoding="utf-8")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            isolation, probes = asyncio.run(_attack(secret, listener.getsockname()[1]))
        except (SandboxError, ConfigError) as failure:
            error = str(failure)
    del os.environ[CANARY]
    keys, keys_error = {}, ""
    try:
        keys = endpoints.detect_keys()
        store = str(config.load().store_path)
    except ConfigError as failure:
        keys_error, store = str(failure), str(config.default_store())
    return Report(
        python=f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}",
        platform=f"{platform.system()} {platform.release()} on {platform.machine()}",
        probes=probes, isolation=isolation, error=error, servers=endpoints.detect_endpoints(),
        keys=keys, keys_error=keys_error, store=store,
    )  # fmt: skip


async def _attack(secret: Path, port: int) -> tuple[Isolation, tuple[Probe, ...]]:
    """Open the default sandbox and try what it must refuse, against things that really exist."""
    repl = await plugins.load("recursor.sandboxes", "process")().open()
    try:
        probes = []
        for what, attempt in _attempts(secret, port):
            held, detail = await _try(repl, attempt)
            probes.append(Probe(what, held, detail))
        for folder in _folders():
            target = Path(folder, secret.parent.name + ".written")
            refused, detail = await _try(repl, f"found = open({str(target)!r}, 'w').write('x')")
            held = not _taken_away(target)
            detail = "it went to a private one" if held and not refused else detail
            probes.append(Probe(f"write to {folder}", held, detail))
        return repl.isolation, tuple(probes)
    finally:
        await repl.close()


async def _try(repl: Repl, attempt: str) -> tuple[bool, str]:
    """Run an attempt; return whether it was refused, and what came of it."""
    done = await repl.execute(TRY.format(attempt=attempt), _NoSubcalls(), max_time=PROBE_SECONDS)
    said = done.output.head.strip()
    detail = said.partition(" ")[2] or done.error or "; ".join(done.notes) or "no output"
    return not said.startswith("open"), detail


def _attempts(secret: Path, port: int) -> tuple[tuple[str, str], ...]:
    """What is tried, and one line of code that sets `found` or raises."""
    here = ("127.0.0.1", port)
    return (
        ("read /etc/passwd", "found = open('/etc/passwd').read(40)"),
        ("read a file of yours", f"found = open({str(secret)!r}).read(40)"),
        ("see what is in your home", f"import os; found = os.stat({_private()!r})"),
        ("see your environment", f"import os; found = os.environ[{CANARY!r}]"),
        ("connect to this machine", f"import socket; found = socket.create_connection({here}, 2)"),
        ("start a process", "import subprocess; found = subprocess.run(['/bin/true'])"),
        ("fork", "import os; found = os.fork() or os._exit(0)"),
        ("signal this process", f"import os; found = os.kill({os.getpid()}, 0)"),
    )


class _NoSubcalls:
    async def answer(self, subcall: Subcall) -> Any:
        raise RLMError(f"the doctor answers no sub-calls: {type(subcall).__name__}")


def _folders() -> list[Path]:
    """Where a user may write, and what shall not be written to from the sandbox."""
    candidates = (Path.home(), Path.cwd(), Path("/tmp"), Path("/dev/shm"))  # noqa: S108 - tried, not used
    return [path for path in dict.fromkeys(candidates) if os.access(path, os.W_OK)]


def _private() -> str:
    """Something in the home directory that does not lead to the interpreter."""
    needed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, *sys.path)]
    entries = (
        path for path in Path.home().iterdir() if not any(each.is_relative_to(path) for each in needed)
    )
    return str(next(entries, Path.home() / "anything"))


def _taken_away(path: Path) -> bool:
    """Remove what a probe that got through has written; return whether it did."""
    written = path.exists()
    path.unlink(missing_ok=True)
    return written


def _lines(report: Report) -> list[str]:
    lines = [f"Python    {report.python}", f"Platform  {report.platform}", "", "Sandbox: tried from within"]
    lines += [each.line for each in report.probes]
    if report.error:
        lines.append(f"  none: {report.error}")
    if report.isolation is not None:
        lines += ["", str(report.isolation)]
    lines += ["", "Model servers on this machine"]
    servers = [f"  {each.provider} at {each.base_url}: {_some(each.models)}" for each in report.servers]
    keys = [f"  {provider}: {where}" for provider, where in report.keys.items()]
    lines += [*(servers or ["  none"]), "", "Keys (names only)", *(keys or ["  none"])]
    if report.keys_error:
        lines.append(f"  {report.keys_error}")
    verdict = "The sandbox holds." if report.healthy else "THE SANDBOX DOES NOT HOLD."
    return [*lines, "", f"Store     {report.store}", "", verdict]


def _some(models: tuple[str, ...]) -> str:
    more = f" and {len(models) - 4} more" if len(models) > 4 else ""
    return (", ".join(models[:4]) or "no models loaded") + more
