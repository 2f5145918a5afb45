"""What a policy says before a run begins: endpoints, mounted folders, and how weak a sandbox may be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM, ConfigError, Limits, Policy
from recursor.errors import IsolationUnavailable
from recursor.policy import Request
from recursor.protocols import Repl
from recursor.sandboxes.guest import namespaces
from recursor.sandboxes.process import ProcessSandbox
from recursor.testing import ListSink, ScriptedModel
from recursor.testing.server import ModelServer
from recursor.trajectory import view
from recursor.types import Decided, Isolation, Reply, RunEnded, RunStarted
from test_attacks import USER, command_of_a_user
from test_weak import Landlock

linux = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")


def block(code: str) -> str:
    return f"```repl\n{code}\n```"


class At(ScriptedModel):
    """A model at some host."""

    def __init__(self, host: str, replies: list[str], name: str = "scripted") -> None:
        super().__init__(replies, name=name)
        self.host = host


class Silent:
    """A model that has what the protocol asks for, and says nothing more."""

    name = "silent"

    async def query(self, messages: Any, *, schema: Any = None, on_text: Any = None) -> Reply:
        raise AssertionError("nobody asks it")


ANSWER = [block("FINAL(llm_query('a') if False else 1)")]


def run(policy: Policy, **options: Any) -> tuple[RLM, ListSink]:
    sink = ListSink()
    rlm = RLM(options.pop("model", At("api.good.com", ANSWER)), policy=policy, sinks=[sink], **options)
    return rlm, sink


def decisions(sink: ListSink) -> list[tuple[str, str, bool, str]]:
    found = [event for event in sink.events if isinstance(event, Decided)]
    return [(each.kind, each.name, each.allowed, each.rule) for each in found]


# Endpoints ------------------------------------------------------------------------------------


def test_an_endpoint_that_is_not_allowed_is_not_called_and_the_refusal_is_recorded(tmp_path: Path) -> None:
    model = At("api.evil.com", ANSWER)
    rlm, sink = run(Policy(deny=["host:*.evil.com"]), model=model, store=tmp_path / "runs.db")
    with pytest.raises(
        ConfigError, match=r"api\.evil\.com is not allowed: the policy says no \(host:\*\.evil"
    ):
        rlm.completion("?")
    assert len(model.requests) == 0
    assert decisions(sink) == [("host", "api.evil.com", False, "host:*.evil.com")]
    kinds = [type(event) for event in sink.events]
    assert kinds.index(RunStarted) < kinds.index(Decided) < kinds.index(RunEnded)


def test_every_endpoint_of_the_routes_is_asked_about_before_any_is_called() -> None:
    good, bad = At("api.good.com", ANSWER), At("10.0.0.1", [], name="sub")
    rlm, sink = run(Policy(allow=["host:api.good.com"], default="deny"), model=good, sub_model=bad)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1 is not allowed"):
        rlm.completion("?")
    assert [(name, allowed) for _, name, allowed, _ in decisions(sink)] == [
        ("api.good.com", True),
        ("10.0.0.1", False),
    ]
    assert len(good.requests) == 0


def test_a_model_that_does_not_say_where_it_is_counts_as_unknown() -> None:
    rlm, _ = run(Policy(allow=["host:api.*"], default="deny"), model=ScriptedModel(ANSWER))
    with pytest.raises(ConfigError, match="unknown is not allowed"):
        rlm.completion("?")


def test_a_policy_without_patterns_for_hosts_bounds_none() -> None:
    rlm, sink = run(Policy(allow=["tool:*"], default="deny"))
    assert rlm.completion("?").answer == 1
    assert decisions(sink) == []


def test_a_person_may_be_asked_about_an_endpoint() -> None:
    asked: list[Request] = []

    def approve(request: Request) -> bool:
        asked.append(request)
        return request.name == "api.good.com"

    policy = Policy(ask=["host:*"], approve=approve)
    rlm, sink = run(policy)
    assert rlm.completion("?").answer == 1
    assert decisions(sink) == [("host", "api.good.com", True, "host:*, approved")]
    with pytest.raises(ConfigError, match=r"host:\*, refused"):
        run(policy, model=At("api.bad.com", []))[0].completion("?")
    assert [request.kind for request in asked] == ["host", "host"]


async def test_models_from_a_spec_say_their_host() -> None:
    with ModelServer(["hello"]) as server:
        rlm = RLM("openai/x", base_url=server.url, api_key="k", policy=Policy(deny=["host:127.0.0.1"]))
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1 is not allowed"):
            await rlm.acompletion("?")
        assert server.requests == []


# Mounts ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where anybody may read, since workers of root are nobody."""
    found = tmp_path / "papers"
    (found / "deep").mkdir(parents=True)
    (found / "a.txt").write_text("first")
    (found / "deep" / "b.txt").write_text("second")
    (tmp_path / "secret").write_text("swordfish")
    (found / "out").symlink_to("../secret")
    (found / "absolute").symlink_to(tmp_path / "secret")
    return found


@linux
def test_code_reads_a_mounted_folder_and_nothing_beside_it(folder: Path) -> None:
    code = f"""
import os, pathlib
def tried(act, *arguments):
    try: return act(*arguments)
    except OSError as error: return type(error).__name__
root = pathlib.Path('/context')
FINAL([
    sorted(str(path) for path in root.rglob('*.txt')), (root / 'a.txt').read_text(),
    tried((root / 'a.txt').write_text, 'x'), tried(os.mkdir, '/context/new'), tried(os.unlink, '/context/a.txt'),
    sorted(os.listdir('/context')),
    tried((root / 'out').read_text), tried((root / 'absolute').read_text), tried(os.listdir, {str(folder.parent)!r}),
    tried(os.listdir, '/context/../..') == tried(os.listdir, '/'),
])
"""
    model = ScriptedModel([block(code)])
    done = RLM(model, mounts={"/context": folder}).completion("?")
    assert done.answer == [
        ["/context/a.txt", "/context/deep/b.txt"], "first", "OSError", "OSError", "OSError",
        ["a.txt", "absolute", "deep", "out"],
        "FileNotFoundError", "FileNotFoundError", "FileNotFoundError", True,
    ]  # fmt: skip
    assert (folder / "a.txt").read_text() == "first"
    assert done.isolation is not None
    assert "read-only folders at /context" in done.isolation.files
    assert done.isolation.isolated
    assert any("`/context` is a folder" in message.content for message in model.requests[0])


@linux
@pytest.mark.parametrize("tier", ["namespaces", "bubblewrap"])
def test_an_ordinary_user_mounts_what_is_his(tmp_path_factory: pytest.TempPathFactory, tier: str) -> None:
    home = tmp_path_factory.mktemp("home")
    command = command_of_a_user(home)
    if command is None:
        pytest.skip("the tests do not run as root, or no Python is there for others")
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    (home / "papers").mkdir()
    (home / "papers" / "a.txt").write_text("mine")
    (home / "papers" / "a.txt").chmod(0o600)
    for path in (home / "papers", home / "papers" / "a.txt"):
        os.chown(path, USER, USER)
    script = f"""
import asyncio
from recursor.sandboxes.process import ProcessSandbox
class Sandbox(ProcessSandbox):
    _tiers = ({tier!r},)
async def main():
    repl = await Sandbox(mounts={{"/context": "papers"}}).open()
    for code in ("print(open('/context/a.txt').read())", "open('/context/a.txt', 'w')", "open({str(home / "papers" / "a.txt")!r})"):
        done = await repl.execute(code, None)
        last = [line for line in (done.output.head or done.error).splitlines() if not line.startswith("(")][-1]
        print(last.partition(":")[0])
    await repl.close()
asyncio.run(main())
"""
    arguments, options = command
    done = subprocess.run(
        [*arguments, script], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split()
    assert first == "mine"
    assert second in ("OSError", "PermissionError")
    assert third == "FileNotFoundError"


@linux
def test_a_child_run_sees_the_mount_too(folder: Path) -> None:
    root = ScriptedModel(
        [block("FINAL(rlm_query('read it'))"), block("FINAL(open('/context/deep/b.txt').read())")]
    )
    assert (
        RLM(root, mounts={"/context": folder}, limits=Limits(max_depth=2)).completion("?").answer == "second"
    )


@linux
async def test_sandboxes_with_other_mounts_do_not_see_each_others(folder: Path) -> None:
    sandboxes = [ProcessSandbox(mounts={f"/{name}": folder}) for name in ("one", "two")]
    repls: list[Repl] = [await sandbox.open() for sandbox in (*sandboxes, ProcessSandbox())]
    try:
        seen = []
        for repl in repls:
            done = await repl.execute("import os; print(sorted({'one', 'two'} & set(os.listdir('/'))))", None)  # type: ignore[arg-type]
            seen.append(done.output.head)
        assert seen == ["['one']\n", "['two']\n", "[]\n"]
    finally:
        for repl in repls:
            await repl.close()


@linux
def test_a_mount_is_decided_by_its_path(folder: Path) -> None:
    policy = Policy(deny=[f"mount:{folder.parent}/*"])
    rlm, sink = run(policy, mounts={"/context": folder})
    with pytest.raises(ConfigError, match=r"a mount of .*papers is not allowed"):
        rlm.completion("?")
    assert ("mount", str(folder), False, f"mount:{folder.parent}/*") in decisions(sink)
    rlm, sink = run(Policy(allow=[f"mount:{folder}"], default="deny"), mounts={"/context": folder})
    assert rlm.completion("?").answer == 1
    assert ("mount", str(folder), True, f"mount:{folder}") in decisions(sink)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("context", "no plain absolute path"),
        ("/context/", "no plain absolute path"),
        ("/", "no plain absolute path"),
        ("/a/../usr", "no plain absolute path"),
        ("//context", "no plain absolute path"),
        ("/a\0b", "no plain absolute path"),
        ("/usr/share", "the sandbox's own"),
        ("/tmp/x", "the sandbox's own"),
    ],
)
def test_a_place_that_is_taken_or_no_path_is_an_error(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RLM(ScriptedModel([]), mounts={place: tmp_path})


def test_a_place_where_python_is_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/venv")
    for place in ("/opt", "/opt/venv", "/opt/venv/lib/python3"):
        with pytest.raises(ConfigError, match="Python is in /opt/venv; use a path such as /context"):
            RLM(ScriptedModel([]), mounts={place: tmp_path})
    ProcessSandbox(mounts={"/opt/data": tmp_path})


@linux
async def test_a_link_that_takes_the_place_of_a_mounted_folder_is_not_followed(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    secret.mkdir()
    allowed.mkdir()
    sandbox = ProcessSandbox(mounts={"/context": allowed})
    allowed.rename(tmp_path / "moved")
    allowed.symlink_to(secret)
    with pytest.raises(ConfigError, match="behind a link now"):
        await sandbox.open()
    (secret / "below").mkdir()
    with pytest.raises(OSError, match="behind a link now"):
        namespaces._clone_folder(str(allowed / "below"))


def test_what_is_no_folder_of_regular_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "pipes" / "deep").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes" / "deep" / "pipe")
    for folder, message in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "file", "is no folder"),
        (tmp_path / "pipes", "no regular file"),
        (Path("/"), "files of the kernel"),
        (Path("/proc/self"), "files of the kernel"),
        (3, "is no folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            RLM(ScriptedModel([]), mounts={"/context": folder})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="lie in each other"):
        ProcessSandbox(mounts={"/data": tmp_path / "pipes" / "deep" / "..", "/data/x": tmp_path})
    for wrong in ({"sandbox": "inprocess"}, {"sandbox": ProcessSandbox()}):
        with pytest.raises(ConfigError, match="mounts"):
            RLM(ScriptedModel([]), mounts={"/context": tmp_path}, **wrong)


# Strict ---------------------------------------------------------------------------------------


def test_strict_refuses_a_sandbox_that_isolates_nothing() -> None:
    model = ScriptedModel(ANSWER)
    with pytest.raises(IsolationUnavailable, match="it has none"):
        RLM(model, sandbox="inprocess", policy=Policy(strict=True)).completion("?")
    assert len(model.requests) == 0


@linux
def test_strict_refuses_a_sandbox_that_had_to_fall_back_and_takes_one_that_had_not() -> None:
    model = ScriptedModel(ANSWER)
    with pytest.raises(IsolationUnavailable, match="no namespaces"):
        RLM(model, sandbox=Landlock(), policy=Policy(strict=True)).completion("?")
    assert len(model.requests) == 0
    assert (
        RLM(ScriptedModel(ANSWER), sandbox="process:weak", policy=Policy(strict=True)).completion("?").answer
        == 1
    )


def test_strict_refuses_a_bound_of_money_with_a_model_that_does_not_say_its_price() -> None:
    with pytest.raises(ConfigError, match="known price"):
        RLM(Silent(), limits=Limits(max_cost=1.0), policy=Policy(strict=True))
    RLM(Silent(), limits=Limits(max_cost=1.0), policy=Policy())
    RLM(ScriptedModel([]), limits=Limits(max_cost=1.0), policy=Policy(strict=True))


@linux
@pytest.mark.parametrize("demand", [{"kernel": "separate"}, {"kernel": "separate", "network": "none"}])
def test_a_demand_that_is_not_met_ends_the_run_before_it_costs_anything(demand: dict[str, str]) -> None:
    model = ScriptedModel(ANSWER)
    with pytest.raises(IsolationUnavailable, match="demands, and nothing was run: kernel: separate"):
        RLM(model, policy=Policy(require=demand)).completion("?")
    assert len(model.requests) == 0


@linux
def test_what_the_default_sandbox_has_may_be_demanded() -> None:
    policy = Policy(strict=True, require={"network": "none", "files": "confined", "processes": "none"})
    assert RLM(ScriptedModel(ANSWER), policy=policy).completion("?").answer == 1


@pytest.mark.parametrize(
    ("kernel", "separate"),
    [
        ("shared with the machine of the engine", False),
        ("as runtime custom has it", False),
        ("that of the service's machines or its own", False),
        ("gVisor's, in user space", True),
        ("its own", True),
    ],
)
def test_a_kernel_is_separate_where_the_sandbox_says_so_and_not_where_nobody_knows(
    kernel: str, separate: bool
) -> None:
    isolation = Isolation("x", "its own", "none", "none", "none", kernel, "limited")
    assert Policy(require={"kernel": "separate"}).unmet(isolation) == ("" if separate else "kernel: separate")


@pytest.mark.parametrize("demand", [{"net": "none"}, {"network": "some"}])
def test_a_demand_that_means_nothing_is_an_error(demand: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Policy.require.*'network': 'none'"):
        Policy(require=demand)


def test_decisions_on_places_are_recorded(tmp_path: Path) -> None:
    rlm, _ = run(Policy(allow=["host:api.good.com"]), store=tmp_path / "runs.db")
    done = rlm.completion("?")
    with view.open(tmp_path / "runs.db") as recorded:
        assert [note["name"] for note in recorded.notes(done.run_id, "Decided")] == ["api.good.com"]
