"""A bound on the memory of all REPLs together, by a control group.

Version 1 is tried for real where the tests run as root, version 2 where a group is delegated to them, as in the virtual
machines of `make machines`; elsewhere against a folder that looks like it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from conftest import Bench
from recursor import ConfigError, Policy
from recursor.sandboxes import cgroups
from recursor.sandboxes.cgroups import NoGroup, confine
from recursor.sandboxes.process import ProcessSandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

MB = 1 << 20


def groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").rglob(f"recursor-{os.getpid()}-*")}


async def bounded(memory: int) -> ProcessSandbox:
    """A sandbox in a group; skips where no group is to be had."""
    sandbox = ProcessSandbox(memory=1024 * MB, total_memory=memory)
    repl = await sandbox.open()
    await repl.close()
    if repl.isolation.weaknesses:
        pytest.skip(repl.isolation.weaknesses[0])
    return sandbox


async def test_of_repls_that_take_too_much_together_one_is_ended_and_the_work_goes_on() -> None:
    sandbox = await bounded(300 * MB)
    benches = [Bench(await sandbox.open()) for _ in range(2)]
    try:
        isolation = benches[0].repl.isolation
        assert "300 MB of all REPLs together (cgroup v" in isolation.memory
        assert Policy(strict=True, require={"memory": "cgroup"}).unmet(isolation) == ""
        fill = "kept = []\nfor _ in range(17): kept.append(bytearray(b'x') * (10 << 20))"
        for bench in benches:
            await bench.run(fill)
        has = [(await bench.run("kept")).error is None for bench in benches]
        assert not all(has)  # whichever the kernel has chosen
        assert [await bench.shown("print(6 * 7)") for bench in benches] == ["42\n"] * 2
    finally:
        for bench in benches:
            await bench.repl.close()


async def test_what_the_kernel_keeps_for_a_repl_counts_too_and_the_code_reads_why_it_ended() -> None:
    sandbox = ProcessSandbox(memory=1024 * MB, scratch=512 * MB, total_memory=200 * MB)
    repl = await sandbox.open()
    try:
        if repl.isolation.weaknesses:
            pytest.skip(repl.isolation.weaknesses[0])
        done = await Bench(repl).run("open('/tmp/x', 'wb').write(bytes(400 << 20))")
        assert "all REPLs share" in (done.error or "")
    finally:
        await repl.close()


async def test_a_group_goes_with_its_sandbox() -> None:
    sandbox = await bounded(300 * MB)
    assert groups()
    del sandbox
    gc.collect()
    assert groups() == set()


async def test_a_bound_that_cannot_be_had_is_a_weakness(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(pid: int, memory: int) -> cgroups.Group:
        raise NoGroup("nothing is delegated")

    monkeypatch.setattr(cgroups, "confine", none)
    repl = await ProcessSandbox(total_memory=300 * MB).open()
    await repl.close()
    (weakness,) = repl.isolation.weaknesses
    assert weakness.endswith("all REPLs together: nothing is delegated")
    assert Policy(strict=True).unmet(repl.isolation) == weakness
    assert Policy(require={"memory": "cgroup"}).unmet(repl.isolation) == "memory: cgroup"


def test_less_than_a_template_process_needs_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="total_memory"):
        ProcessSandbox(total_memory=MB)


# Version 2 ------------------------------------------------------------------------------------


def delegated(
    root: Path,
    *,
    processes: str = "",
    controllers: str = "cpu memory pids",
    enabled: str = "",
    inside: str = "",
    parents: Mapping[int, int] = MappingProxyType({}),
) -> Path:
    """A folder that looks like /proc and a delegated group.

    Args:
        inside: the group below it that this process is in.
        parents: of other processes.
    """
    own = root / "sys/fs/cgroup/user.slice/recursor.scope"
    own.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::/user.slice/recursor.scope{inside}\n")
    for number, parent in parents.items():
        (root / f"proc/{number}").mkdir()
        (root / f"proc/{number}/stat").write_text(f"{number} (a) name) S {parent} 1 1 0 -1\n")
    mount = "25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    (root / "proc/self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/sda rw\n{mount}")
    (own / "cgroup.controllers").write_text(controllers)
    (own / "cgroup.subtree_control").write_text(enabled)
    (own / "cgroup.procs").write_text(processes)
    return own


def test_in_version_2_this_process_moves_beside_its_workers_and_the_group_has_bounds(tmp_path: Path) -> None:
    own = delegated(tmp_path, processes=f"{os.getpid()}\n")
    group = confine(4711, 512 * MB, tmp_path)
    (folder,) = group.folders
    assert folder.parent == own
    assert folder.name.startswith(f"recursor-{os.getpid()}-")
    assert (folder / "memory.max").read_text() == str(512 * MB)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == str(cgroups.TASKS)
    assert (folder / "cgroup.procs").read_text() == "4711"
    assert (own / "recursor-host" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+pids"
    assert str(group) == "512 MB of all REPLs together (cgroup v2)"
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.kills() == 3


def test_what_this_process_has_started_moves_with_it(tmp_path: Path) -> None:
    parents = {4711: os.getpid(), 4712: 4711}
    own = delegated(tmp_path, processes=f"{os.getpid()}\n4711\n4712\n", parents=parents)
    (own / "recursor-host").mkdir()
    moved = own / "recursor-host" / "cgroup.procs"
    os.mkfifo(moved)
    reader = os.open(moved, os.O_RDONLY | os.O_NONBLOCK)
    try:
        (folder,) = confine(4711, 512 * MB, tmp_path).folders
        assert os.read(reader, 100) == f"{os.getpid()}47114712".encode()
    finally:
        os.close(reader)
    assert (folder / "cgroup.procs").read_text() == "4711"


def test_the_second_group_of_a_process_is_beside_the_first(tmp_path: Path) -> None:
    own = delegated(tmp_path, enabled="memory pids", inside="/recursor-host")
    (own / "recursor-host").mkdir()
    (folder,) = confine(4711, 512 * MB, tmp_path).folders
    assert folder.parent == own


def test_where_the_controller_is_enabled_already_nothing_moves(tmp_path: Path) -> None:
    own = delegated(tmp_path, processes="1\n2\n", enabled="memory pids")
    confine(4711, 512 * MB, tmp_path)
    assert not (own / "recursor-host").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"processes": "1\n"}, "has other processes in it"),
        ({"processes": "4711\n", "parents": {4711: 4710, 4710: 1}}, "has other processes in it"),
        ({"controllers": "cpu"}, "no memory controller here"),
    ],
)
def test_where_it_was_not_delegated_to_this_process_alone_it_is_left_alone(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    own = delegated(tmp_path, **options)
    with pytest.raises(NoGroup, match=why):
        confine(4711, 512 * MB, tmp_path)
    assert sorted(path.name for path in own.iterdir()) == [
        "cgroup.controllers",
        "cgroup.procs",
        "cgroup.subtree_control",
    ]
