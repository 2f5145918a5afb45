"""CPython in WebAssembly: a REPL as any other, without threads; and what holds it in, lock by lock.

Needs Deno (the Python package `deno`, or on the PATH) and `make pyodide`. A start takes seconds.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import Bench
from recursor import SandboxError
from recursor.context import prepare
from recursor.errors import ConfigError, IsolationUnavailable
from recursor.sandboxes import wasm
from recursor.sandboxes.guest import linux
from recursor.sandboxes.wasm import WasmSandbox
from recursor.testing import check_sandbox, run_attacks
from recursor.testing.programs import QUICK

MB = 1 << 20
PYODIDE = Path(__file__).parent / "pyodide" / "node_modules" / "pyodide"
DENO = wasm._deno_of_python() or shutil.which("deno")
needs_wasm = pytest.mark.skipif(
    DENO is None or not PYODIDE.is_dir(), reason="needs Deno (pip install deno) and `make pyodide`"
)
pytestmark = pytest.mark.timeout(600)


def sandbox() -> WasmSandbox:
    return WasmSandbox(PYODIDE, deno=DENO, memory=512 * MB, scratch=8 * MB)


@pytest.fixture
async def repl() -> AsyncIterator[Bench]:
    opened = await sandbox().open(tools=["lookup"])
    yield Bench(opened)
    await opened.close()


@needs_wasm
async def test_webassembly_keeps_the_contract() -> None:
    await check_sandbox(sandbox())


@needs_wasm
async def test_a_block_does_what_it_does_elsewhere(repl: Bench) -> None:
    assert str(repl.repl.isolation).startswith("sandbox wasm\n  files: none of this machine's")
    assert repl.repl.isolation.isolated
    await repl.repl.load("context", prepare("né" * (10 * MB)))
    assert await repl.shown("len(context), context[-2:]") == f"({20 * MB}, 'né')\n"
    assert await repl.shown("llm_query_batched([str(n) for n in range(5000)])[-1]") == "'4999'\n"
    code = """
import asyncio
async def slow(n):
    await asyncio.sleep(0.01)
    return await allm_query(str(n))
await asyncio.gather(*(slow(n) for n in range(300)), asyncio.sleep(0.05))
"""
    assert (await repl.shown(code)).endswith("'299', None]\n")
    assert (
        await repl.shown("rlm_query('q', context[:MB])['context'] == context[:MB]".replace("MB", "1_000_000"))
        == "True\n"
    )
    assert "can't start new thread" in str(
        (await repl.run("import threading\nthreading.Thread().start()")).error
    )


@needs_wasm
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(1e9)",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "import asyncio\nawait asyncio.Event().wait()",
        "while True: llm_query('a' * 100_000)",
    ],
)
async def test_a_runaway_block_is_interrupted_and_its_variables_stay(repl: Bench, code: str) -> None:
    await repl.shown("kept = 1")
    execution = await repl.run(code, max_time=0.5, max_wall=1.5)
    assert execution.error, execution
    assert "variables are lost" not in "".join(execution.notes), execution
    assert await repl.shown("kept") == "1\n"


HOST = """
import asyncio, sys
from recursor.sandboxes.wasm import WasmSandbox
async def main():
    repl = await WasmSandbox(sys.argv[1], deno=sys.argv[2], memory=512 << 20).open()
    print(repl._link.worker._process.pid, repl._link.worker._interrupts, flush=True)
    await repl.execute("while True: pass", None)
asyncio.run(main())
"""


@needs_wasm
def test_nothing_is_left_of_a_block_whose_host_is_killed() -> None:
    words = [sys.executable, "-c", HOST, str(PYODIDE.resolve()), str(DENO)]
    host = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert host.stdout is not None
    pid, _, file = host.stdout.readline().decode().strip().partition(" ")
    ended = linux.pidfd_open(int(pid))
    host.kill()
    host.communicate()
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    assert not Path(file).exists()


@needs_wasm
async def test_memory_and_files_have_an_end(repl: Bench) -> None:
    assert "MemoryError" in str((await repl.run("x = bytearray(600 << 20)")).error)
    fill = "for n in range(20): open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))"
    assert "No space left" in str((await repl.run(fill)).error)
    many = "for n in range(30_000): open(f'/tmp/x{n}', 'w').close()"
    assert "No space left" in str((await repl.run(many)).error)
    assert await repl.shown("6 * 7") == "42\n"


@needs_wasm
async def test_the_plain_attacks_get_nowhere() -> None:
    findings = await run_attacks(sandbox(), [attack for attack in QUICK if attack.group != "processes"][:8])
    assert [str(finding) for finding in findings if not finding.held] == []


# Lock by lock ---------------------------------------------------------------------------------


@needs_wasm
@pytest.mark.parametrize("name", ["js", "pyodide_js"])
async def test_python_has_no_module_that_is_javascript(repl: Bench, name: str) -> None:
    assert "ModuleNotFoundError" in str((await repl.run(f"import {name}")).error)
    assert "Error" in str((await repl.run("from pyodide.code import run_js\nrun_js('1')")).error)


@needs_wasm
async def test_native_code_that_evaluates_javascript_ends_the_process(repl: Bench) -> None:
    execution = await repl.run("import ctypes\nctypes.CDLL(None).emscripten_run_script(b'1')")
    assert "variables are lost" in execution.notes[0]
    assert await repl.shown("6 * 7") == "42\n"


TRIED = {
    "reads": "require('fs').readFileSync(SECRET, 'utf8')",
    "reads what was needed to start": "require('fs').readFileSync(PYODIDE + '/package.json')",
    "asks what is there": "require('fs').statSync(SECRET)",
    "writes": "require('fs').writeFileSync(FOLDER + '/evil', 'x')",
    "runs": "require('child_process').execSync('id')",
    "listens": "require('net').createServer().listen(0)",
    "is told the environment": "JSON.stringify(require('process').env)",
    "looks at the machine": "require('os').hostname()",
    "signals": "require('process').kill(1, 0)",
    "loads native code": "require('process').dlopen({exports: {}}, '/lib/x86_64-linux-gnu/libc.so.6')",
    "opens a debugger": "require('inspector').open(0)",
    "makes a database": "new (require('node:sqlite').DatabaseSync)(FOLDER + '/evil')",
    "takes another root": "Module.FS.mount(Module.FS.filesystems.NODEFS, {root: FOLDER}, '/home')",
    "starts a thread that writes": "new (require('worker_threads').Worker)(`require('fs').writeFileSync('${FOLDER}/evil', 'x')`, {eval: true})",
}  # fmt: skip


@needs_wasm
async def test_javascript_that_gets_through_all_other_locks_has_no_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deno with the locks that are ours taken away: code may evaluate JavaScript, and has all names."""
    host = tmp_path / "host.mjs"
    source = wasm.HOST.read_text("utf-8")
    assert "if (!KEPT.has(name))" in source
    host.write_text(source.replace("if (!KEPT.has(name))", "if (false)"))
    monkeypatch.setattr(wasm, "HOST", host)
    monkeypatch.setattr(wasm, "_NO_EVAL", ())
    (tmp_path / "secret").write_text("recursor-secret")
    names = {"SECRET": str(tmp_path / "secret"), "FOLDER": str(tmp_path), "PYODIDE": str(PYODIDE)}
    assignments = "".join(f"const {name} = {json.dumps(value)}; " for name, value in names.items())
    repl = await sandbox().open()
    bench = Bench(repl)
    await bench.shown(
        "import ctypes\nrun = ctypes.CDLL(None).emscripten_run_script_string\nrun.restype = ctypes.c_char_p"
    )
    found = {}
    for what, tried in {"computes": "6 * 7", **TRIED}.items():
        script = f"(() => {{ {assignments} try {{ return String({tried}) }} catch (e) {{ return 'ERR ' + e }} }})()"
        found[what] = await bench.shown(f"print(run({script!r}.encode()).decode())")
    await repl.close()
    assert found.pop("computes") == "42\n"
    assert found.pop("starts a thread that writes") == "[object Object]\n"
    assert {what: said for what, said in found.items() if "NotCapable" not in said} == {}
    assert sorted(os.listdir(tmp_path)) == ["host.mjs", "secret"]


# What goes wrong ------------------------------------------------------------------------------


async def test_what_is_missing_is_named_with_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm, "_deno_of_python", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IsolationUnavailable, match=r'pip install "recursor\[wasm\]"'):
        await WasmSandbox().open()
    old = tmp_path / "deno"
    old.write_text("#!/bin/sh\necho deno 1.46.3\n")
    old.chmod(0o755)
    with pytest.raises(IsolationUnavailable, match="is no Deno 2: pip install --upgrade deno"):
        await WasmSandbox().open()
    old.write_text("#!/bin/sh\necho deno 2.9.8\n")
    with pytest.raises(
        IsolationUnavailable, match=r"npm install --prefix ~/.local/share/recursor .*pyodide@314"
    ):
        await WasmSandbox(tmp_path).open()
    with pytest.raises(IsolationUnavailable, match="does not run"):
        await WasmSandbox(deno="/no/deno").open()
    with pytest.raises(ConfigError):
        WasmSandbox(memory=1)


@needs_wasm
async def test_a_python_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    shutil.copy(PYODIDE / "package.json", tmp_path)
    (tmp_path / "pyodide.asm.wasm").touch()
    with pytest.raises(SandboxError, match=r"(?s)the worker did not start: .*pyodide.mjs"):
        await WasmSandbox(tmp_path, deno=DENO).open()
