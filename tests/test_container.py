"""Containers: what is asked of the engine, what is in force in them, and that they are gone afterwards.

The engine is `tests/engine.py`, which runs what it is asked for under runc. No Docker and no Podman
has a part in this.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Bench
from engines import IMAGE, Engine, install, needs_runc
from recursor.context import prepare
from recursor.errors import ConfigError, IsolationUnavailable, SandboxError
from recursor.policy import Policy
from recursor.sandboxes import wire
from recursor.sandboxes.container import DockerSandbox, PodmanSandbox
from recursor.sandboxes.guest import linux
from recursor.testing import check_sandbox


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Puts a stand-in for both engines on the PATH; returns its state's folder."""

    def put(**settings: Any) -> Path:
        folder, state = install(tmp_path, **settings)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return state

    return put


@pytest.fixture
async def contained(engine: Engine) -> AsyncIterator[Bench]:
    engine()
    repl = await DockerSandbox(IMAGE).open(tools=["lookup"])
    yield Bench(repl)
    await repl.close()


# The contract ---------------------------------------------------------------------------------


@needs_runc
@pytest.mark.parametrize("kind", [DockerSandbox, PodmanSandbox])
async def test_a_container_keeps_the_contract(engine: Engine, kind: type[DockerSandbox]) -> None:
    engine()
    await check_sandbox(kind(IMAGE))


@needs_runc
async def test_contexts_of_a_hundred_megabytes_go_in_and_come_out(contained: Bench) -> None:
    await contained.repl.load("context", prepare("ab" * 50_000_000))
    assert await contained.answered("FINAL(context)") == "ab" * 50_000_000


# What is in force -----------------------------------------------------------------------------


def landlock() -> str:
    version = linux.landlock_version()
    return f", Landlock (version {version})" if version else ""


OWN_LOCKS = f"{landlock()}, seccomp (allow-list of 171 system calls)"


@needs_runc
async def test_what_is_in_force_is_said(contained: Bench) -> None:
    assert (
        str(contained.repl.isolation)
        == (
            f"sandbox docker\n"
            f"  files: the image {IMAGE}, read-only; a private /tmp in memory\n"
            "  network: none\n"
            "  processes: none; up to 400 threads\n"
            "  environment: none of the caller's\n"
            "  kernel: shared with the machine of the engine\n"
            "  memory: 2,048 MB of address space (RLIMIT_AS), 2,368 MB in all (cgroup)\n"
            "by: a container of docker (the engine's default runtime), AppArmor, seccomp (the engine's filter), "
            "user 65534, no capabilities, no new privileges"
        ).replace("\nby:", "\n  by:")
        + OWN_LOCKS
    )
    assert contained.repl.isolation.isolated


ATTACKS = {
    "reads the host's files": "import os\nopen('/etc/passwd')",
    "writes beside /tmp": "open('/python/x', 'w')",
    "runs what it wrote": "import os, subprocess\nopen('/tmp/x', 'w').write('#!/bin/sh')\nos.chmod('/tmp/x', 0o755)\nsubprocess.run(['/tmp/x'])",
    "becomes root": "import os\nos.setuid(0)",
    "reaches the network": "import socket\nsocket.create_connection(('1.1.1.1', 53), 2)",
    "reaches the host's loopback": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2)",
    "mounts": "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.mount(b'x', b'/tmp', b'tmpfs', 0, None): raise OSError(ctypes.get_errno(), 'no')",
    "fills /tmp": "open('/tmp/x', 'wb').write(bytes(100 << 20))",
    "has too many processes": "import subprocess\nps = [subprocess.Popen(['/usr/bin/sleep', '60']) for _ in range(500)]",
    "asks the engine": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/var/run/docker.sock')",
}


@needs_runc
@pytest.mark.parametrize("code", ATTACKS.values(), ids=ATTACKS)
async def test_code_in_a_container_fails_that(contained: Bench, code: str) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the host was reached")

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        execution = await contained.run(code.replace("PORT", str(port)))
    assert "Error: " in str(execution.error), execution
    assert await contained.shown("6 * 7") == "42\n"


@needs_runc
async def test_secrets_of_the_caller_do_not_enter(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine()
    monkeypatch.setenv("OPENAI_API_KEY", "hostkey-123")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hostkey-123@proxy")
    repl = await DockerSandbox(IMAGE).open()
    assert "hostkey" not in await Bench(repl).shown("import os\nos.environ")
    await repl.close()
    repl = await DockerSandbox(IMAGE, processes=True).open()
    shown = "import subprocess\nsubprocess.check_output(['/usr/bin/cat', '/proc/self/environ'])"
    assert "hostkey" not in await Bench(repl).shown(shown)
    await repl.close()


@needs_runc
async def test_a_memory_bomb_is_a_memory_error_in_a_container(contained: Bench) -> None:
    assert "MemoryError" in str((await contained.run("x = bytearray(3 << 30)")).error)


@needs_runc
async def test_processes_of_a_container_cannot_take_more_memory_together(engine: Engine) -> None:
    engine()
    repl = await DockerSandbox(IMAGE, memory=64 << 20, scratch=1 << 20, processes=True).open()
    bench = Bench(repl)
    code = """
import os
def take():
    held = bytearray(50 << 20)
    os._exit(0 if os.read(go, 1) == b"" else 1)
go, hold = os.pipe()
children = [os.fork() or (os.close(hold), take()) for _ in range(12)]
os.close(hold)
print(sum(os.waitpid(child, 0)[1] == 9 for child in children))
"""
    execution = await bench.run(code)
    killed = execution.output.head.strip()
    assert "REPL died" in str(execution.error) or int(killed) > 0, execution
    assert await bench.shown("6 * 7") == "42\n"
    await repl.close()


@needs_runc
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ({"network": True}, "network"),
        ({"user": 0}, "rights of root"),
        ({"root": True}, "a root that can be written to"),
        ({"seccomp": True}, "no seccomp filter"),
    ],
)
async def test_a_container_that_is_weaker_than_asked_for_is_not_used(
    engine: Engine, spoil: dict[str, Any], named: str
) -> None:
    state = engine(spoil=spoil)
    with pytest.raises(IsolationUnavailable, match=f"{named}.*it was told not to have"):
        await DockerSandbox(IMAGE, processes="seccomp" in spoil).open()
    assert containers(state) == []


@needs_runc
async def test_a_worker_that_cannot_lock_itself_in_is_used_only_where_that_is_allowed(engine: Engine) -> None:
    state = engine(spoil={"denied": ["seccomp", "prctl"]})
    with pytest.raises(IsolationUnavailable, match=r"cannot lock itself in.*seccomp: .*`processes=True`"):
        await DockerSandbox(IMAGE).open()
    assert containers(state) == []
    repl = await PodmanSandbox(IMAGE, runtime="kata").open()
    assert "not seccomp: " in str(repl.isolation)
    await repl.close()


@needs_runc
async def test_what_the_engine_left_is_given_up_by_the_worker(engine: Engine) -> None:
    engine(spoil={"capabilities": ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"], "privileges": True, "seccomp": True})
    repl = await DockerSandbox(IMAGE).open()
    mechanisms = repl.isolation.mechanisms
    await repl.close()
    assert {"user 65534, no capabilities", "no new privileges"} < set(mechanisms)
    assert not any("the engine's filter" in mechanism for mechanism in mechanisms)


@needs_runc
async def test_code_starts_processes_where_that_is_allowed(engine: Engine) -> None:
    engine()
    repl = await DockerSandbox(IMAGE, processes=True).open()
    bench = Bench(repl)
    code = "import subprocess\nsubprocess.run(['/usr/bin/echo', 'hello'], capture_output=True).stdout"
    assert await bench.shown(code) == "b'hello\\n'\n"
    assert repl.isolation.processes == "its own, up to 400 with threads"
    assert "allow-list" not in str(repl.isolation)
    await check_sandbox(DockerSandbox(IMAGE, processes=True))
    await repl.close()


@needs_runc
async def test_another_runtime_is_asked_for_and_named(engine: Engine) -> None:
    state = engine(spoil={"seccomp": True})
    repl = await DockerSandbox(IMAGE, runtime="runsc").open()
    assert repl.isolation.kernel == "gVisor's, in user space"
    assert "the engine's filter" not in str(repl.isolation)
    await repl.close()
    (words,) = (json.loads(file.read_text()) for file in state.glob("*/words.json"))
    assert words["runtime"] == "runsc"


# Ends -----------------------------------------------------------------------------------------


def containers(state: Path) -> list[str]:
    listed = subprocess.run(
        ["runc", "--root", str(state / "runc"), "list", "--quiet"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


@needs_runc
async def test_a_closed_repl_leaves_no_container_even_if_its_code_holds_on(engine: Engine) -> None:
    state = engine()
    repl = await DockerSandbox(IMAGE, processes=True).open()
    code = "import os, signal\nif os.fork() == 0:\n    signal.pause()\nprint('forked')"
    assert await Bench(repl).shown(code) == "forked\n"
    assert len(containers(state)) == 1
    await repl.close()
    assert containers(state) == []


@needs_runc
async def test_a_block_that_cannot_be_interrupted_is_killed_with_its_container(contained: Bench) -> None:
    await contained.repl.load("context", prepare("data"))
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    execution = await contained.run(code, max_time=0.3)
    assert "variables are lost" in execution.notes[0]
    assert await contained.shown("context") == "'data'\n"


# What goes wrong ------------------------------------------------------------------------------


async def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for kind in (DockerSandbox, PodmanSandbox):
        with pytest.raises(IsolationUnavailable, match=f"{kind.engine} is not installed"):
            await kind().open()


async def test_an_engine_that_does_not_run_is_quoted_with_the_remedy(engine: Engine) -> None:
    engine(error="Cannot connect to the Docker daemon")
    with pytest.raises(
        IsolationUnavailable, match=r"Cannot connect to the Docker daemon; start it .*systemctl"
    ):
        await DockerSandbox(IMAGE).open()


async def test_an_older_docker_that_says_so_in_its_answer_is_quoted_too(engine: Engine) -> None:
    engine(info={"ServerErrors": ["permission denied on the socket"]})
    with pytest.raises(IsolationUnavailable, match=r"permission denied on the socket; start it"):
        await DockerSandbox(IMAGE).open()


@pytest.mark.parametrize("info", [[], {"Runtimes": 3}, {"SecurityOptions": [1]}])
async def test_an_engine_that_talks_nonsense_is_an_error(engine: Engine, info: Any) -> None:
    engine(info=info)
    with pytest.raises(IsolationUnavailable, match="talks nonsense"):
        await DockerSandbox(IMAGE).open()


async def test_an_image_that_is_not_there_is_not_downloaded(engine: Engine) -> None:
    engine()
    with pytest.raises(IsolationUnavailable, match="has no image other:1: `podman pull other:1`"):
        await PodmanSandbox("other:1").open()


async def test_a_runtime_that_docker_does_not_know_is_named(engine: Engine) -> None:
    engine()
    with pytest.raises(IsolationUnavailable, match=r"no runtime 'kata' \(it has runc, runsc\)"):
        await DockerSandbox(IMAGE, runtime="kata").open()


@needs_runc
async def test_an_image_without_a_python_is_quoted(engine: Engine) -> None:
    engine()
    with pytest.raises(SandboxError, match=r"(?s)the worker did not start: .*no such file"):
        await DockerSandbox(IMAGE, executable="/no/python").open()


@pytest.mark.parametrize(
    "options", [{"image": "--privileged"}, {"runtime": "-x"}, {"memory": 0}, {"scratch": 1}, {"pids": 0}]
)
def test_settings_that_cannot_be_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DockerSandbox(**options)


def test_the_image_of_no_choice_has_this_python() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert DockerSandbox().image == f"docker.io/library/python:{version}-slim"


def test_the_limits_of_an_engine_that_has_none_are_not_claimed() -> None:
    facts = wire.Facts(65534, 0, True, ["lo"], True, 2, syscalls=171)
    known = DockerSandbox()._known_from(b'{"MemoryLimit": false, "PidsLimit": false}')
    isolation = DockerSandbox()._isolation(known, facts, 1 << 30, 2 << 30)
    assert "cgroup" not in isolation.memory
    assert isolation.processes == "none"
    assert "bounds no container's memory" in Policy(strict=True).unmet(isolation)


@pytest.mark.parametrize(("runtime", "weaker"), [(None, True), ("runsc", False)])
def test_a_container_without_landlock_is_weaker_but_where_its_kernel_is_another(
    runtime: str | None, weaker: bool
) -> None:
    facts = wire.Facts(65534, 0, True, ["lo"], True, 2, syscalls=171, missing=["Landlock: no such call"])
    known = DockerSandbox()._known_from(b"{}")
    isolation = DockerSandbox(runtime=runtime)._isolation(known, facts, 1 << 30, 2 << 30)
    assert bool(Policy(strict=True).unmet(isolation)) is weaker
    assert "Landlock: no such call" in str(isolation)


def test_an_image_named_after_the_host_is_not_taken_for_its_files() -> None:
    facts = wire.Facts(65534, 0, True, ["lo"], True, 2, syscalls=171)
    sandbox = PodmanSandbox("localhost/host/mine")
    isolation = sandbox._isolation(DockerSandbox()._known_from(b"{}"), facts, 1 << 30, 2 << 30)
    assert isolation.isolated
    assert Policy(strict=True, require={"files": "confined"}).unmet(isolation) == ""
