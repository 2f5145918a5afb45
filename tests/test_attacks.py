"""Every program of `recursor.testing.ATTACKS` against the default sandbox, as root and as an ordinary user.

All run once, several at a time; each test looks at what became of one. The rest tries the judge.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import recursor
from recursor.errors import SandboxError
from recursor.protocols import Repl
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import ATTACKS, Attack, Finding, Verdict, run_attacks
from recursor.testing.programs import QUICK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")

MB = 1 << 20
USER = 54321
"""Somebody whom nothing belongs to."""
NAMES = [attack.name for attack in ATTACKS]
AFTERWARDS = [
    "leaves descriptors open in the host",
    "leaves processes to the host",
    "lets the memory of the host grow",
]
REPORT = """
import asyncio, json, sys
from dataclasses import asdict
from recursor.sandboxes.{module} import {kind}
from recursor.testing import ATTACKS, run_attacks
from recursor.testing.programs import QUICK
findings = asyncio.run(run_attacks({kind}({options}), {attacks}))
print(json.dumps([asdict(finding) for finding in findings]))
"""


def report(module: str, kind: str, options: str = "", attacks: str = "ATTACKS") -> str:
    return REPORT.format(module=module, kind=kind, options=options, attacks=attacks)


def read(said: str) -> dict[str, Finding]:
    found = [
        Finding(**{**each, "verdict": Verdict(each["verdict"])}) for each in json.loads(said.splitlines()[-1])
    ]
    return {finding.attack: finding for finding in found}


PROCESS = report("process", "ProcessSandbox", f"memory={256 * MB}, scratch={8 * MB}")


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str] | None]:
    """All attacks by an ordinary user, in a process of its own; None where that cannot be had."""
    home = tmp_path_factory.mktemp("home")
    command = command_of_a_user(home)
    if command is None:
        yield None
        return
    arguments, options = command
    process = subprocess.Popen(
        [*arguments, PROCESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    with process:
        yield process
        process.kill()


def command_of_a_user(home: Path) -> tuple[list[str], dict[str, Any]] | None:
    """What runs Python code as an ordinary user, if this process may and there is a Python for users."""
    if os.geteuid() != 0:
        return None
    for folder in (home, *home.parents):
        if folder.stat().st_mode & 0o1007 == 0:  # those that pytest has made
            folder.chmod(0o755)
    shutil.copytree(Path(recursor.__file__).parent, home / "recursor", ignore=shutil.ignore_patterns("*.pyc"))
    # The environment of the tests may lie where others may not read; this is what recursor needs of it.
    shutil.copytree(Path(msgspec.__file__).parent, home / "msgspec", ignore=shutil.ignore_patterns("*.pyc"))
    os.chown(home, USER, USER)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(home)}
    options: dict[str, Any] = {
        "user": USER, "group": USER, "extra_groups": [], "cwd": home, "env": environment
    }  # fmt: skip
    version = f"import sys, recursor.testing; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}", "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", version], check=True, capture_output=True, **options)
        except (OSError, subprocess.CalledProcessError):
            continue
        return [python, "-c"], options
    return None


@pytest.fixture(scope="module")
def findings(ordinary: object) -> Mapping[str, Finding]:
    """What became of all attacks by whoever runs the tests, while the ordinary user's run, too."""
    sandbox = ProcessSandbox(memory=256 * MB, scratch=8 * MB)
    return {finding.attack: finding for finding in asyncio.run(run_attacks(sandbox))}


@pytest.mark.parametrize("attack", [*NAMES, *AFTERWARDS])
def test_the_sandbox_holds_against_code_that(findings: Mapping[str, Finding], attack: str) -> None:
    assert findings[attack].held, str(findings[attack])


def test_it_holds_for_an_ordinary_user_too(
    findings: Mapping[str, Finding], ordinary: subprocess.Popen[str] | None
) -> None:
    if ordinary is None:
        pytest.skip("the tests do not run as root, or no Python is there for others")
    said, errors = ordinary.communicate(timeout=100)
    assert ordinary.returncode == 0, errors
    found = read(said)
    assert list(found) == [*NAMES, *AFTERWARDS] == list(findings)
    assert [str(each) for each in found.values() if not each.held] == []


# The list -------------------------------------------------------------------------------------


def test_every_attack_has_a_name_of_its_own_and_says_what_it_wants() -> None:
    assert len(set(NAMES)) == len(NAMES) > 120
    for attack in ATTACKS:
        assert attack.goal
        compile(attack.code, attack.name, "exec") if "compile" not in attack.name else None
        assert "class " not in attack.code
        assert attack.silent or any(
            word in attack.code for word in ("attempt(", "call(", "'refused", "'tried")
        )


def test_what_the_doctor_tries_is_neither_dangerous_nor_slow() -> None:
    assert len(QUICK) > 20
    assert not any(attack.dangerous or attack.silent or attack.spoils for attack in QUICK)


# The judge ------------------------------------------------------------------------------------


class Odd:
    """The default sandbox with something added to its REPLs."""

    def __init__(self, change: Any) -> None:
        self._change = change

    async def open(self, **options: Any) -> Repl:
        repl = await ProcessSandbox(memory=256 * MB, scratch=8 * MB).open(**options)
        self._change(repl)
        return repl


def attack(code: str, *, dangerous: bool = False, silent: bool = False) -> Attack:
    return Attack("files", code, "", code, dangerous=dangerous, silent=silent)


async def judged(code: str, change: Any = lambda _: None, *, silent: bool = False) -> Finding:
    return (await run_attacks(Odd(change), [attack(code, silent=silent)]))[0]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("attempt('x', open, '/etc/passwd')", Verdict.HELD),
        ("print('tried')", Verdict.HELD),
        ("attempt('x', len, '')", Verdict.OPEN),
        ("print('refused')\nundefined", Verdict.UNCLEAR),
        ("pass", Verdict.UNCLEAR),
        ("print(1)", Verdict.UNCLEAR),
    ],
)
async def test_a_program_is_believed_only_when_it_came_to_its_attempt(code: str, verdict: Verdict) -> None:
    assert (await judged(code)).verdict is verdict


def reach(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as end:
        end.connect(address)
        end.send(b"x")


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("Path(SECRET).read_text()", "secret"),
        ("os.environ[VARIABLE]", "secret"),
        ("Path(SECRET).write_text('x')", "changed a file of the user"),
        ("os.chmod(SECRET, 0o644)", "changed a file of the user"),
        ("os.utime(SECRET, (1, 1))", "changed a file of the user"),
        ("Path(FOLDER, 'context').write_text('x')", "handed in"),
        ("Path(FOLDER, 'other').touch()", "wrote other"),
        ("Path('/tmp', MARK).touch()", "wrote /tmp"),
        ("reach(2, 1, tuple(ADDRESSES[0]))", "IPv4"),
        ("reach(2, 2, DATAGRAMS)", "UDP"),
        ("reach(1, 1, chr(0) + ABSTRACT)", "abstract"),
        ("reach(1, 1, SOCKET)", "path"),
        ("(os.kill(VICTIM, 9), os.waitpid(VICTIM, 0))", "ended another process"),
    ],
)
async def test_harm_to_the_host_is_seen_whatever_the_program_says(
    harm: str, named: str, silent: bool
) -> None:
    """The harm is done on the host, by a REPL that runs what it is given there."""

    def change(repl: Any) -> None:
        inner = repl.execute

        async def execute(code: str, subcalls: Any, **bounds: Any) -> Any:
            if "HARM" in code:
                names: dict[str, Any] = {"Path": Path, "reach": reach}
                exec(code, names)
                code = f"print({str(names['HARM']())!r}, 'refused')"
            return await inner(code, subcalls, **bounds)

        repl.execute = execute

    finding = await judged(f"HARM = lambda: {harm}", change, silent=silent)
    assert finding.verdict is Verdict.OPEN
    assert named in finding.detail


async def test_a_host_that_raises_hangs_or_cannot_go_on_is_harmed(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> Any:
        async def execute(code: str, subcalls: Any, **bounds: Any) -> Any:
            raise error

        return lambda repl: setattr(repl, "execute", execute)

    for error in (KeyError("x"), SandboxError("gone")):
        finding = await judged("print('refused')", raising(error), silent=True)
        assert finding.verdict is Verdict.OPEN
        assert "gone" in finding.detail or "KeyError" in finding.detail

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("recursor.testing.attacks.PATIENCE", -19.9)
    finding = await judged("pass", lambda repl: setattr(repl, "execute", never), silent=True)
    assert (finding.verdict, finding.detail) == (Verdict.OPEN, "the host waited in vain")


async def test_what_is_left_behind_in_the_host_is_found() -> None:
    kept: list[Any] = []

    def leave(_: Repl) -> None:
        kept.append(os.pipe())
        kept.append(subprocess.Popen(["/bin/sleep", "60"]))

    findings = await run_attacks(Odd(leave), [attack("print('refused')")])
    for each in kept:
        if isinstance(each, subprocess.Popen):
            each.kill()
            each.wait()
        else:
            os.close(each[0])
            os.close(each[1])
    assert [finding.verdict for finding in findings[1:]] == [Verdict.OPEN, Verdict.OPEN, Verdict.HELD]


async def test_where_one_gets_through_nothing_dangerous_is_tried() -> None:
    attacks = [attack("print('BROKEN')"), attack("print('BROKEN again')", dangerous=True)]
    findings = await run_attacks(Odd(lambda _: None), attacks)
    assert [finding.verdict for finding in findings[:2]] == [Verdict.OPEN, Verdict.UNTRIED]
    assert not findings[1].held
    assert "got through" in str(findings[1])


def test_a_repl_without_isolation_is_found_open(tmp_path: Path) -> None:
    plain = "[each for each in QUICK if each.group in ('files', 'secrets', 'network')]"
    done = subprocess.run(
        [sys.executable, "-c", report("inprocess", "InProcessSandbox", attacks=plain)],
        capture_output=True, text=True, timeout=100, check=True, cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found = read(done.stdout)
    for name in (
        "reads a file of the user",
        "reads the environment of the host",
        "writes into folders of the host",
        "connects to this machine",
        "waits for connections",
    ):
        assert found[name].verdict is Verdict.OPEN, str(found[name])


def test_the_doctor_does_not_attack_itself(tmp_path: Path) -> None:
    (tmp_path / "recursor").mkdir()
    (tmp_path / "recursor" / "config.toml").write_text('sandbox = "inprocess"')
    done = subprocess.run(
        [sys.executable, "-m", "recursor", "doctor"],
        capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 6
    assert "isolates nothing" in done.stdout
    assert "DOES NOT HOLD" in done.stdout
