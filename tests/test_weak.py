"""What is had where namespaces cannot be: `sandbox="process:weak"`, the order in which it falls back, and what it says."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import Bench
from recursor import RLM, plugins
from recursor.cli import doctor
from recursor.sandboxes.process import ProcessSandbox, WeakProcessSandbox, tried_tiers
from recursor.sandboxes.template import Tier
from recursor.testing import ATTACKS, Finding, ScriptedModel, check_sandbox, run_attacks
from recursor.testing.programs import QUICK
from test_attacks import command_of_a_user, read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are tiers of Linux")

MB = 1 << 20
ORACLE = "asks what is in the home directory"
"""The one attack that is open without namespaces, as the report says."""
HELD = [attack for attack in ATTACKS if attack.name != ORACLE]
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


class Landlock(ProcessSandbox):
    """Landlock and seccomp alone, also where more is to be had."""

    _tiers: tuple[Tier, ...] = ("landlock",)


class Bubblewrap(ProcessSandbox):
    _tiers: tuple[Tier, ...] = ("bubblewrap",)


TIERS = [Landlock, pytest.param(Bubblewrap, marks=needs_bubblewrap)]


def small(kind: type[ProcessSandbox]) -> ProcessSandbox:
    return kind(memory=256 * MB, scratch=8 * MB)


def broken(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if not finding.held]


@pytest.mark.parametrize("kind", TIERS)
async def test_without_namespaces_of_its_own_a_repl_does_what_a_repl_must(kind: type[ProcessSandbox]) -> None:
    await check_sandbox(small(kind))


def test_landlock_and_seccomp_alone_hold_against_every_attack_but_the_documented_one() -> None:
    assert broken(asyncio.run(run_attacks(small(Landlock), HELD))) == []


@needs_bubblewrap
def test_bubblewrap_hides_what_exists_too() -> None:
    quick = [attack for attack in ATTACKS if attack in QUICK or attack.name == ORACLE]
    assert broken(asyncio.run(run_attacks(small(Bubblewrap), quick))) == []


def test_they_hold_for_an_ordinary_user_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    command = command_of_a_user(tmp_path_factory.mktemp("home"))
    if command is None:
        pytest.skip("the tests do not run as root, or no Python is there for others")
    arguments, options = command
    script = f"""
import asyncio, json
from dataclasses import asdict
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import ATTACKS, run_attacks
class Landlock(ProcessSandbox):
    _tiers = ("landlock",)
attacks = [attack for attack in ATTACKS if attack.name != {ORACLE!r}]
findings = asyncio.run(run_attacks(Landlock(memory={256 * MB}, scratch={8 * MB}), attacks))
print(json.dumps([asdict(finding) for finding in findings]))
"""
    done = subprocess.run(
        [*arguments, script], capture_output=True, text=True, timeout=110, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    assert len(found) > len(HELD)
    assert broken(list(found.values())) == []


def test_root_becomes_nobody_where_nobody_can_run_python(tmp_path_factory: pytest.TempPathFactory) -> None:
    command = command_of_a_user(tmp_path_factory.mktemp("home"))
    if command is None:
        pytest.skip("the tests do not run as root, or no Python is there for others")
    arguments, options = command
    script = f"""
import asyncio
from recursor.sandboxes.process import ProcessSandbox
class Landlock(ProcessSandbox):
    _tiers = ("landlock",)
async def main():
    repl = await Landlock(memory={256 * MB}).open()
    print(repl.isolation.processes)
    print((await repl.execute("import os; print(os.getresuid(), os.getgroups())", None)).output.head)
    await repl.close()
asyncio.run(main())
"""
    as_root = {name: options[name] for name in ("cwd", "env")}
    done = subprocess.run(
        [*arguments, script], capture_output=True, text=True, timeout=60, check=False, **as_root
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "none; up to 1000 threads\n(65534, 65534, 65534) []\n\n"


async def test_what_it_lacks_is_true_and_said(tmp_path: Path) -> None:
    """Whether a file exists can be seen, and nothing else of it."""
    secret = tmp_path / "secret"
    secret.write_text("swordfish")
    repl = await small(Landlock).open()
    try:
        inside = Bench(repl)
        assert await inside.shown(f"import os; print(os.path.getsize({str(secret)!r}))") == "9\n"
        for code in (f"open({str(secret)!r})", "open('/tmp/recursor-nowhere', 'w')"):
            assert "PermissionError" in ((await inside.run(code)).error or "")
        weaknesses = " ".join(repl.isolation.weaknesses)
        assert "whether a file or process of this machine exists" in weaknesses
        assert "no files can be written" in weaknesses
        assert repl.isolation.sandbox == "process:weak"
        assert repl.isolation.isolated
        assert all(weakness in str(repl.isolation) for weakness in repl.isolation.weaknesses)
    finally:
        await repl.close()


async def test_code_that_wants_a_temporary_file_is_told_that_there_is_none() -> None:
    repl = await small(Landlock).open()
    try:
        for code in ("import tempfile; tempfile.TemporaryFile()", "open('/usr/lib/x', 'w')"):
            error = (await Bench(repl).run(code)).error or ""
            assert "none can be written: keep data in variables" in error
    finally:
        await repl.close()


async def test_where_namespaces_work_it_is_the_default_sandbox() -> None:
    repl = await WeakProcessSandbox().open()
    await repl.close()
    assert repl.isolation.sandbox == "process"
    assert repl.isolation.weaknesses == ()


def test_it_has_a_name() -> None:
    assert plugins.load("recursor.sandboxes", "process:weak") is WeakProcessSandbox
    assert "process:weak" in plugins.names("recursor.sandboxes")
    done = RLM(ScriptedModel(["```repl\nFINAL(6 * 7)\n```"]), sandbox="process:weak").completion("?")
    assert done.answer == 42


# Falling back ---------------------------------------------------------------------------------

PRELUDE = """
import asyncio, ctypes, errno, os, struct, sys
from recursor.sandboxes.guest import linux, syscalls
def forbid(**errors):
    \"\"\"As the profile of a container engine: some system calls fail, for all processes from here on.\"\"\"
    table = syscalls.ARCHITECTURES[os.uname().machine]
    op = lambda code, operand, yes=0, no=0: struct.pack("=HBBI", code, yes, no, operand)
    program = [op(0x20, 0)]
    for name, number in errors.items():
        program += [op(0x15, table.numbers[name], 0, 1), op(0x06, 0x50000 | number)]
    code = b"".join([*program, op(0x06, 0x7FFF0000)])
    buffer = ctypes.create_string_buffer(code, len(code))
    linux.set_no_new_privileges()
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    linux.syscall("seccomp", table.seccomp, 1, 0, header)
"""
OPEN = """
from recursor.errors import IsolationUnavailable
from recursor.sandboxes.process import ProcessSandbox, WeakProcessSandbox
async def open():
    try:
        repl = await {kind}().open()
    except IsolationUnavailable as error:
        print(error)
    else:
        print(repl.isolation)
        await repl.close()
asyncio.run(open())
"""


def said(script: str, kind: str = "WeakProcessSandbox", *, within: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [*within, sys.executable, "-c", PRELUDE + script + OPEN.format(kind=kind)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_where_user_namespaces_are_forbidden_landlock_holds_the_code_in() -> None:
    """Docker's default profile: no namespaces, Landlock."""
    told = said("os.environ['PATH'] = '/nonexistent'\nforbid(unshare=errno.EPERM)\n")
    assert "sandbox process:weak" in told
    assert "by: Landlock" in told
    assert "namespaces of bubblewrap" not in told


@needs_bubblewrap
def test_where_only_bubblewrap_may_make_namespaces_it_makes_them() -> None:
    """A profile of AppArmor for bubblewrap, and none for Python: it makes them by clone(2)."""
    told = said("forbid(unshare=errno.EPERM)\n")
    assert "sandbox process:weak" in told
    assert "namespaces of bubblewrap" in told


@needs_bubblewrap
def test_inside_a_place_that_disables_user_namespaces_it_falls_back_and_the_default_does_not() -> None:
    within = ("bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--")
    told = said("", within=within)
    assert "sandbox process:weak" in told
    assert "by: Landlock" in told
    refused = said("", "ProcessSandbox", within=within)
    assert "unshare(user) failed" in refused
    assert 'sandbox="process:weak"' in refused


def test_where_nothing_can_be_had_every_attempt_is_named_with_its_reason() -> None:
    script = "os.environ['PATH'] = '/nonexistent'\n"
    script += "forbid(unshare=errno.EPERM, landlock_create_ruleset=errno.ENOSYS)\n"
    told = said(script)
    assert "not even weakly" in told
    for line in (
        "- namespaces: unshare(",
        "Operation not permitted [EPERM]",
        "- bubblewrap: bubblewrap (bwrap) is not installed",
        "- landlock: asking for Landlock failed: this kernel has none",
        'sandbox="inprocess"',
    ):
        assert line in told


def test_the_doctor_says_which_ways_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = tried_tiers()
    assert list(found) == ["namespaces", "bubblewrap", "landlock"]
    assert found["namespaces"] == found["landlock"] == ""
    assert found["bubblewrap"] == "bubblewrap (bwrap) is not installed"
    report = CliRunner().invoke(doctor.command)
    assert "namespaces  " in report.output
    assert "bubblewrap (bwrap) is not installed" in report.output
