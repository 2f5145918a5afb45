"""`recursor doctor`: try on this machine what the sandbox promises, and say what else is there."""

from __future__ import annotations

import asyncio
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from recursor import config
from recursor.cli import checkup, complete, endpoints, exits, options
from recursor.cli.text import clean, preview, to_json
from recursor.errors import ConfigError, SandboxError
from recursor.sandboxes.process import tried_tiers
from recursor.testing import Finding, run_attacks
from recursor.testing.programs import QUICK
from recursor.types import Isolation

_USED = {
    "namespaces": 'sandbox="process", and "process:weak" where it works',
    "bubblewrap": '"process:weak" where namespaces do not work',
    "landlock": '"process:weak" where neither does',
}


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found."""

    python: str
    platform: str
    findings: tuple[Finding, ...]
    isolation: Isolation | None
    error: str
    """Why there is no sandbox; empty when there is one."""
    tiers: dict[str, str]
    """Ways to isolate a process, strongest first, and why each cannot be had here; empty where it can."""
    servers: tuple[endpoints.Endpoint, ...]
    keys: dict[str, str]
    keys_error: str
    store: str

    @property
    def healthy(self) -> bool:
        return bool(self.findings) and all(finding.held for finding in self.findings)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--model",
    "-m",
    metavar="SPEC",
    help="Try instead whether this model's server cuts long prompts.",
    shell_complete=complete.models,
)
@click.option("--base-url", metavar="URL", help="With --model: its endpoint.")
@click.option(
    "--tokens",
    type=click.IntRange(1_000),
    metavar="N",
    help="With --model: of the prompt. [what a run sends]",
)
@click.option("--yes", "sure", is_flag=True, help="With --model: do not ask before it costs money.")
@options.FILE
def command(
    *,
    as_json: bool,
    model: str | None,
    base_url: str | None,
    tokens: int | None,
    sure: bool,
    file: Path | None,
) -> None:
    """Check this machine: really attack the sandbox, find endpoints, keys and the store.

    With --model it sends that model one short prompt and one as long as a run's, with code words in it, and
    says whether all of it arrived. What that costs is said before.

    Exit codes: 0 the sandbox holds, 6 it does not or cannot be had. With --model: 0 the prompt arrives whole, or
    is refused in so many words; 1 it is cut, or not clear; others as of `ask`.
    """
    if model is not None:
        settings = options.in_force(file, {"base_url": base_url}).settings
        sys.exit(checkup.check(model, settings, tokens=tokens, sure=sure, as_json=as_json))
    if tokens or sure or base_url:
        raise click.UsageError("--tokens, --yes and --base-url are for --model")
    report = examine(file)
    if as_json:
        found = [asdict(finding) | {"held": finding.held} for finding in report.findings]
        click.echo(to_json(asdict(report) | {"findings": found, "healthy": report.healthy}, indent=2))
    else:
        for line in _lines(report):
            click.echo(clean(line))
    sys.exit(exits.ANSWERED if report.healthy else exits.SANDBOX)


def examine(file: Path | None = None) -> Report:
    """Try everything once."""
    findings: tuple[Finding, ...] = ()
    isolation, error, keys_error = None, "", ""
    name = "process"
    keys: dict[str, str] = {}
    try:
        settings = options.in_force(file)
        name, store = settings.settings.sandbox, str(settings.store_path)
        keys = endpoints.detect_keys()
    except ConfigError as failure:
        keys_error, store = str(failure), str(config.default_store())
    try:
        isolation, findings = asyncio.run(_attack(name))
    except (SandboxError, ConfigError) as failure:
        error = str(failure)
    return Report(
        python=f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}",
        platform=f"{platform.system()} {platform.release()} on {platform.machine()}",
        findings=findings, isolation=isolation, error=error,
        tiers={str(tier): why for tier, why in tried_tiers().items()}, servers=endpoints.detect_endpoints(),
        keys=keys, keys_error=keys_error, store=store,
    )  # fmt: skip


async def _attack(name: str) -> tuple[Isolation, tuple[Finding, ...]]:
    """Try what the sandbox in force must refuse, against things that really exist."""
    sandbox = config.sandbox(name)
    repl = await sandbox.open()
    await repl.close()
    if not repl.isolation.isolated:
        raise ConfigError(f"the settings ask for the sandbox {name!r}, which isolates nothing; not tried")
    return repl.isolation, tuple(await run_attacks(sandbox, QUICK))


def _lines(report: Report) -> list[str]:
    lines = [
        f"Python    {report.python}",
        f"Platform  {report.platform}",
        "",
        "Sandbox: tried from within, by",
    ]
    lines += [_told(finding) for finding in report.findings]
    if report.error:
        lines.append(f"  none: {report.error}")
    if report.isolation is not None:
        lines += ["", str(report.isolation)]
    lines += ["", "Ways to isolate a process here, strongest first"]
    lines += [f"  {tier:<10}  {_USED[tier]}: {why or 'works'}" for tier, why in report.tiers.items()]
    lines += ["", "Model servers on this machine"]
    servers = [f"  {each.provider} at {each.base_url}: {_some(each.models)}" for each in report.servers]
    keys = [f"  {provider}: {where}" for provider, where in report.keys.items()]
    lines += [*(servers or ["  none"]), "", "Keys (names only)", *(keys or ["  none"])]
    if report.keys_error:
        lines.append(f"  {report.keys_error}")
    verdict = "The sandbox holds." if report.healthy else "THE SANDBOX DOES NOT HOLD."
    return [*lines, "", f"Store     {report.store}", "", verdict]


def _told(finding: Finding) -> str:
    why = "" if finding.held else f": {preview(finding.detail, 80)}"
    return f"  {finding.verdict:<5}  code that {finding.attack}{why}"


def _some(models: tuple[str, ...]) -> str:
    more = f" and {len(models) - 4} more" if len(models) > 4 else ""
    return (", ".join(models[:4]) or "no models loaded") + more
