"""Attacks a sandbox with every program of `programs`, and says what held.

`run_attacks` sets up what there is to attack on the host (`Targets`), runs each program in a REPL of its
own, and judges by what happened to the targets before it believes what the program printed. Whether
the sandbox does what a REPL must do is another question: see `check_sandbox`.

It proves nothing about holes in the kernel or the machine, and knows only the programs on its list.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from recursor.context import prepare
from recursor.errors import RLMError, SandboxError
from recursor.protocols import Repl, Sandbox
from recursor.sandboxes.guest import syscalls
from recursor.testing.programs import ATTACKS
from recursor.testing.programs.attack import TOOLS, Attack
from recursor.types import Execution, LlmQuery, Subcall

AT_ONCE = 4
PATIENCE = 30.0
"""Seconds beyond its own time within which the host must be done with a block."""
NEXT_BLOCKS = 3
"""Blocks after which a REPL must work again: one that has been lied to may die of it once."""
MAX_GROWTH = 2 << 30
"""Bytes that the memory of this process may grow by, at its peak."""
_NEEDLE: Final = "recursor-secret-"
_MAX_ENTRIES = 10_000


class Verdict(StrEnum):
    """What became of an attack."""

    HELD = "held"
    """It was stopped, and its REPL goes on."""
    ENDED = "ended"
    """It ended in an error, or with its REPL; the host is well and runs the next block."""
    OPEN = "OPEN"
    """It reached its goal."""
    UNCLEAR = "unclear"
    """The program failed before it came to its attempt: nothing is known."""
    UNTRIED = "not tried"
    """It could have harmed this machine, and another one had reached its goal."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one attack."""

    group: str
    attack: str
    """Ends the sentence "code that ..."."""
    verdict: Verdict
    detail: str
    """The first thing that speaks for the verdict, in one line of at most 300 characters."""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether the sandbox is known to hold."""
        return self.verdict in (Verdict.HELD, Verdict.ENDED)

    def __str__(self) -> str:
        return f"{self.verdict}  {self.group}: code that {self.attack}: {self.detail}"


async def run_attacks(sandbox: Sandbox, attacks: Sequence[Attack] = ATTACKS) -> list[Finding]:
    """Attack a sandbox on this machine (Linux), and say what held.

    What could harm the machine is tried last, and only if nothing before has reached its goal. Takes
    half a minute for all of them; sets an environment variable and starts a process meanwhile.

    Returns:
        A finding for each attack in their order, and further ones, of the group "afterwards", on what
        was left behind.

    Raises:
        IsolationUnavailable: there is no sandbox to attack.
    """
    with Bystander() as bystander:
        repl = await sandbox.open()  # what opens for the first time stays open
        await repl.close()
        before = _Belongings()
        places = asyncio.Semaphore(AT_ONCE)

        async def one(attack: Attack) -> Finding:
            async with places:
                return await _run(sandbox, attack, bystander)

        harmless = [attack for attack in attacks if not attack.dangerous]
        findings = dict(zip(harmless, await asyncio.gather(*map(one, harmless)), strict=True))
        way_out = next((each for each in findings.values() if each.verdict is Verdict.OPEN), None)
        for attack in attacks:
            if not attack.dangerous:
                continue
            if way_out is None:
                findings[attack] = await one(attack)
            else:
                why = f'it may harm this machine, and "{way_out.attack}" got through'
                findings[attack] = Finding(attack.group, attack.name, Verdict.UNTRIED, why)
        afterwards = before.compare()
    return [*(findings[attack] for attack in attacks), *afterwards]


# What there is to attack ----------------------------------------------------------------------


class Bystander:
    """What all attacks of one go share: a process of the user, a secret in the environment of this
    one, and one in a file that a careless program would inherit."""

    def __init__(self) -> None:
        self.secret = _NEEDLE + secrets.token_hex(16)
        self.variable = "RECURSOR_CANARY"
        self._stack = ExitStack()

    def __enter__(self) -> Bystander:
        self.victim = self._start()
        file = self._stack.enter_context(tempfile.TemporaryFile())
        file.write(self.secret.encode())
        file.flush()
        os.set_inheritable(file.fileno(), True)
        os.environ[self.variable] = self.secret
        self._stack.callback(os.environ.pop, self.variable, None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._end()

    def lives(self) -> bool:
        """Whether the process was left alone; if not, there is a new one."""
        if self.victim.poll() is None:
            return True
        self._end()
        self.victim = self._start()
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )

    def _end(self) -> None:
        assert self.victim.stdin is not None
        self.victim.stdin.close()
        self.victim.wait(10)


@dataclass
class Targets:
    """What one attack is after, on the host."""

    folder: Path
    secret: Path
    context: Path
    mark: str
    """In the name of whatever it makes."""
    sockets: dict[str, socket.socket]
    bystander: Bystander

    def constants(self, code: str) -> str:
        """Assignments that tell a program where everything is."""
        numbers = syscalls.ARCHITECTURES.get(platform.machine())
        calls = (
            {name: number for name, number in numbers.numbers.items() if f"'{name}'" in code}
            if numbers
            else {}
        )
        listening = [
            self.sockets[name].getsockname()[:2] for name in ("IPv4", "IPv6") if name in self.sockets
        ]
        facts: dict[str, Any] = {
            "FOLDER": str(self.folder),
            "SECRET": str(self.secret),
            "PRIVATE": _something_at_home(),
            "PLACES": list(map(str, _writable_folders())),
            "HOST": os.getpid(),
            "VICTIM": self.bystander.victim.pid,
            "ADDRESSES": listening,
            "DATAGRAMS": self.sockets["UDP"].getsockname(),
            "SOCKET": self.sockets["path"].getsockname(),
            "ABSTRACT": self.mark,
            "MARK": self.mark,
            "VARIABLE": self.bystander.variable,
            "NEEDLE": _NEEDLE,
            "NUMBERS": calls,
        }
        return "\n".join(f"{name} = {value!r}" for name, value in facts.items())

    def harm(self, said: str) -> str:
        """What the attack has achieved, as the host sees it; nothing when it is well."""
        if not self.bystander.lives():
            return "it, or one that ran beside it, ended another process"
        if self.bystander.secret in said or self._text in said:
            return "it shows a secret of the host"
        reached, _, _ = select.select(self.sockets.values(), [], [], 0)
        names = [name for name, each in self.sockets.items() if each in reached]
        return f"it reached a socket of the host: {names[0]}" if names else self._changed() or self._left()

    def _changed(self) -> str:
        if self.context.read_bytes() != _CONTEXT:
            return "it changed a file that was handed in"
        now = self.secret.stat()
        if self.secret.read_text() != self._text or now.st_mode & 0o777 != 0o600 or now.st_mtime < self._born:
            return "it changed a file of the user"
        extra = {path.name for path in self.folder.iterdir()} - {"secret", "socket", "context"}
        return f"it wrote {min(extra)} into a folder of the user" if extra else ""

    def __post_init__(self) -> None:
        self._text = _NEEDLE + secrets.token_hex(16)
        self._born = time.time() - 1
        self.secret.write_text(self._text)
        self.secret.chmod(0o600)
        self.context.write_bytes(_CONTEXT)

    def _left(self) -> str:
        """A file or process that is there, outside, and should not be; it is removed."""
        for folder in {*_writable_folders(), Path("/var/tmp"), Path("/dev/shm")}:  # noqa: S108
            with suppress(OSError):
                for path in folder.glob(f"*{self.mark}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    return f"it wrote {path}"
        for name in Path("/proc").glob("[0-9]*/comm"):
            with suppress(OSError):
                if name.read_text().strip() == self.mark[:15]:
                    os.kill(int(name.parent.name), signal.SIGKILL)
                    return "it left a process behind"
        return ""


_CONTEXT = b"A context. " * 1000


@contextmanager
def targets(bystander: Bystander) -> Iterator[Targets]:
    """Set up what one attack is after, and take it away again."""
    mark = "recursor" + secrets.token_hex(8)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recursor-attacks-")))

        def listen(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
            end = stack.enter_context(socket.socket(family, kind))
            end.bind(address)
            if kind == socket.SOCK_STREAM:
                end.listen()
            return end

        sockets = {
            "IPv4": listen(socket.AF_INET, ("127.0.0.1", 0)),
            "UDP": listen(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM),
            "path": listen(socket.AF_UNIX, str(folder / "socket")),
            "abstract": listen(socket.AF_UNIX, f"\0{mark}"),
        }
        with suppress(OSError):
            sockets["IPv6"] = listen(socket.AF_INET6, ("::1", 0))
        yield Targets(folder, folder / "secret", folder / "context", mark, sockets, bystander)


def _writable_folders() -> list[Path]:
    """Where a user may write, and what shall not be written to from the sandbox."""
    candidates = (Path.home(), Path.cwd(), Path("/tmp"), Path("/dev/shm"))  # noqa: S108 - tried, not used
    return [path for path in dict.fromkeys(candidates) if os.access(path, os.W_OK)]


def _something_at_home() -> str:
    """Something in the home directory that does not lead to the interpreter."""
    needed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, *sys.path)]
    with suppress(OSError):
        for path in Path.home().iterdir():
            if not any(each.is_relative_to(path) for each in needed):
                return str(path)
    return str(Path.home() / "anything")


# One attack -----------------------------------------------------------------------------------


class _Answers:
    """Answers a plain sub-call with as much as it asked, and refuses every other."""

    async def answer(self, subcall: Subcall) -> Any:
        if isinstance(subcall, LlmQuery):
            return subcall.prompt
        raise RLMError("this is an attack, and there is no model")


async def _run(sandbox: Sandbox, attack: Attack, bystander: Bystander) -> Finding:
    started = time.monotonic()
    with targets(bystander) as target:
        code = f"{TOOLS}\n{target.constants(attack.code)}\n{attack.code}"
        said, error, problem = "", None, ""
        try:
            async with asyncio.timeout(attack.max_time + PATIENCE):
                said, error, problem = await _attempt(sandbox, attack, code, target)
        except TimeoutError:
            problem = "the host waited in vain"
        except Exception as failure:  # noqa: BLE001 - whatever a sandbox raises here, the attack brought it about
            problem = f"the host's call raised {type(failure).__name__}: {failure}"
        verdict, detail = _judge(attack, said, error, target.harm(said) or problem)
    return Finding(attack.group, attack.name, verdict, _line(detail), time.monotonic() - started)


async def _attempt(
    sandbox: Sandbox, attack: Attack, code: str, target: Targets
) -> tuple[str, str | None, str]:
    """Run it; return what was printed, the error, and what is wrong with the host afterwards."""
    repl = await sandbox.open()
    try:
        if "context" in attack.code:
            await repl.load("context", prepare(target.context))
        try:
            bound = attack.max_time
            done = await repl.execute(code, _Answers(), max_time=bound, max_wall=bound + 1)
        except SandboxError as failure:
            return "", str(failure), "" if attack.spoils else f"the REPL could not go on: {failure}"
        said = "\n".join((done.output.head, done.output.tail, done.error or ""))
        problem = await _next_block(repl, attack)
    finally:
        await repl.close()
    if attack.spoils and not problem:
        fresh = await sandbox.open()
        try:
            problem = await _next_block(fresh, None)
        finally:
            await fresh.close()
    return said, done.error, problem


async def _next_block(repl: Repl, attack: Attack | None) -> str:
    """What keeps the REPL from running a block; nothing when it does."""
    shown = ""
    for _ in range(NEXT_BLOCKS):
        try:
            execution = await repl.execute("6 * 7", _Answers(), max_time=2.0)
        except SandboxError as failure:
            shown = str(failure)
            break
        shown = _shown(execution)
        if execution.error is None and shown.endswith("42"):
            return ""
    spoilt = attack is not None and attack.spoils
    return "" if spoilt else f"the next block shows {shown[:200]!r}"


def _shown(execution: Execution) -> str:
    return execution.error or (execution.output.head + execution.output.tail).strip()


def _judge(attack: Attack, said: str, error: str | None, harm: str) -> tuple[Verdict, str]:
    lines = said.splitlines()
    broken = [line for line in lines if line.startswith("BROKEN")]
    if harm or broken:
        return Verdict.OPEN, harm or broken[0].removeprefix("BROKEN ")
    if attack.silent:
        last = error.strip().splitlines()[-1] if error and error.strip() else ""
        return (Verdict.ENDED, last) if error else (Verdict.HELD, "the host is well")
    if error is not None:
        return Verdict.UNCLEAR, error.strip().splitlines()[-1]
    refused = [line for line in lines if line.startswith("refused")]
    if refused:
        return Verdict.HELD, refused[0].removeprefix("refused ")
    if any(line.startswith("tried") for line in lines):
        return Verdict.HELD, "it ran, and achieved nothing"
    return Verdict.UNCLEAR, "it said nothing"


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", "".join(each if each.isprintable() else " " for each in text[:1000])).strip()[
        :300
    ]


# Afterwards -----------------------------------------------------------------------------------


class _Belongings:
    """What this process holds: descriptors, children, memory."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._children = _children()
        self._peak = _peak()

    def compare(self) -> list[Finding]:
        """What has come to it since."""
        descriptors = sorted(set(_descriptors().items()) - set(self._descriptors.items()))
        children = _children() - self._children
        growth = _peak() - self._peak
        return [
            _afterwards("leaves descriptors open in the host", bool(descriptors), f"{descriptors or 'none'}"),
            _afterwards("leaves processes to the host", bool(children), f"{sorted(children) or 'none'}"),
            _afterwards(
                "lets the memory of the host grow", growth > MAX_GROWTH, f"{growth >> 20:,} MB at the peak"
            ),
        ]


def _afterwards(name: str, harmed: bool, detail: str) -> Finding:
    return Finding("afterwards", name, Verdict.OPEN if harmed else Verdict.HELD, detail)


def _descriptors() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found[path.name] = str(path.readlink())
    return {name: to for name, to in found.items() if not to.startswith(f"/proc/{os.getpid()}/fd")}


def _children() -> set[int]:
    """Children of this process, whichever thread started them."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found


def _peak() -> int:
    """Bytes of memory that this process had at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
