"""REPLs in WebAssembly: Pyodide, which is CPython compiled to it, under Deno. For machines that have nothing else.

A REPL is one process of Deno that has no rights: no files, no network, no environment, no processes. The
guest is the same as everywhere, and frames go over stdin and stdout. `wasm_host.mjs` runs in Deno.

Nothing is downloaded: where Deno or Pyodide is missing, the error says what to run.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from recursor.errors import ConfigError, IsolationUnavailable
from recursor.protocols import Repl
from recursor.sandboxes.link import Worker
from recursor.sandboxes.repl import opened
from recursor.sandboxes.sizes import MEMORY, PER_CONTEXT_BYTE, SCRATCH
from recursor.sandboxes.stream import CommandWorker, boot, preface
from recursor.threads import in_thread
from recursor.types import CallStyle, Isolation

TESTED: Final = "314.0.7"
"""The version of Pyodide that the tests run."""
FOLDER: Final = Path("~/.local/share/recursor")
"""Where npm is told to put Pyodide."""
SCRATCH_FILES = 20_000
BESIDE = 1 << 30
"""Bytes of memory that Deno and Pyodide may take beside Python's, where the system bounds that (Linux)."""
LOADING = 120.0
"""Seconds until a worker is there: a few of a processor's time, on a machine that may be busy."""
HOST = Path(__file__).with_name("wasm_host.mjs")
_PAGE = 1 << 16
_MOST = 1 << 32
"""Bytes that WebAssembly can address."""
_SMALLEST = 64 << 20
_HEAP = 512
"""MB of JavaScript's own objects."""
_FLAGS = (
    "--quiet", "--no-prompt", "--no-config", "--no-lock", "--no-check", "--no-remote", "--no-npm", "--cached-only",
    "--deny-net", "--deny-write", "--deny-env", "--deny-run", "--deny-ffi", "--deny-sys", "--deny-import",
)  # fmt: skip


_NO_EVAL = ("--disallow-code-generation-from-strings",)


class WasmWorker(CommandWorker):
    """A worker in a process of Deno.

    Args:
        command: without its last words.
        folder: of Pyodide.
        scratch: bytes of files in memory.
        data: bytes that the process may have in all, where the system bounds that.
    """

    def __init__(self, deno: str, flags: Sequence[str], folder: Path, scratch: int, data: int) -> None:
        descriptor, self._interrupts = tempfile.mkstemp(prefix="recursor-")
        self._descriptor: int | None = descriptor
        words = [folder.as_posix(), self._interrupts, str(scratch), str(SCRATCH_FILES)]
        reads = f"--allow-read={folder},{self._interrupts}"
        try:
            command = [deno, "run", *_FLAGS, *flags, reads, str(HOST), *words]
            super().__init__(command, _environment(deno), folder=tempfile.gettempdir())
        except BaseException:
            self._forget()
            raise
        self.interrupt = self._ask
        _bound(self._process.pid, data)

    def has_begun(self) -> None:
        """Take the name of the file away, which the process has opened: nothing is left of it should this one die."""
        Path(self._interrupts).unlink(missing_ok=True)

    def wait(self) -> str:
        how = super().wait()
        self._forget()
        return how

    def _ask(self) -> None:
        """Make the file longer, which is seen by the block that runs."""
        if self._descriptor is not None:
            os.write(self._descriptor, b".")

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            Path(self._interrupts).unlink(missing_ok=True)


class WasmSandbox:
    """CPython in WebAssembly under Deno.

    Args:
        pyodide: folder of the npm package; by default where the error that it is missing says to put it.
        deno: the executable; by default that of the Python package `deno`, or the one on the PATH.
        memory: bytes that each REPL may take, beside room for its context; 4 GB in all at most.
        scratch: bytes of its files, which are memory, too.
    """

    def __init__(
        self,
        pyodide: str | Path | None = None,
        *,
        deno: str | None = None,
        memory: int = MEMORY,
        scratch: int = SCRATCH,
    ) -> None:
        if memory < _SMALLEST or scratch < 1:
            raise ConfigError(
                f"a REPL in WebAssembly needs {_SMALLEST:,} bytes of memory, and some of scratch"
            )
        self._folder = Path(pyodide or FOLDER / "node_modules" / "pyodide").expanduser().absolute()
        self._deno = deno
        self._memory = memory
        self._scratch = scratch
        self._found: tuple[str, str, str] | None = None
        """Deno's path, its version, Pyodide's version."""

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        if self._found is None:
            self._found = await in_thread(self._find)
        deno, version, pyodide = self._found
        memory = min(self._memory + PER_CONTEXT_BYTE * context_size, _MOST)

        async def spawn() -> Worker:
            start = partial(self._start, deno, memory)
            return await in_thread(start, discard=CommandWorker.close)

        isolation = Isolation(
            sandbox="wasm",
            files=f"none of this machine's; its own in memory, {self._scratch >> 20:,} MB",
            network="none",
            processes="none, and no threads",
            environment="none of the caller's",
            kernel="none for Python, which is WebAssembly; Deno shares this machine's",
            memory=f"{memory >> 20:,} MB (of WebAssembly)",
            mechanisms=(f"Pyodide {pyodide}", f"Deno {version} without any rights"),
        )
        return await opened(spawn, isolation, tools, seed=seed, calls=calls)

    def _start(self, deno: str, memory: int) -> CommandWorker:
        of_v8 = (f"--wasm-max-mem-pages={memory // _PAGE}", f"--max-old-space-size={_HEAP}", *_NO_EVAL)
        flags = (f"--v8-flags={','.join(of_v8)}",)
        data = memory + self._scratch + BESIDE
        worker = WasmWorker(deno, flags, self._folder, self._scratch, data)
        source = boot().encode()
        worker.send_ahead(len(source).to_bytes(4, "little") + source + preface(None))
        if select.select([worker.rpc], [], [], LOADING)[0]:  # its first word, or its end
            with suppress(OSError):  # where a file that is open has to have a name
                worker.has_begun()
        return worker

    def _find(self) -> tuple[str, str, str]:
        deno = self._deno or _deno_of_python() or shutil.which("deno")
        if deno is None:
            raise IsolationUnavailable('Deno is not there: pip install "recursor[wasm]"')
        try:
            said = subprocess.run([deno, "--version"], capture_output=True, check=True, timeout=30)  # noqa: S603
        except (OSError, subprocess.SubprocessError) as error:
            raise IsolationUnavailable(f"{deno} does not run: {error}") from error
        version = re.match(rb"deno (\d+)(\S*)", said.stdout)
        if version is None or int(version[1]) < 2:
            raise IsolationUnavailable(f"{deno} is no Deno 2: pip install --upgrade deno")
        return deno, (version[1] + version[2]).decode(), self._version_of_pyodide()

    def _version_of_pyodide(self) -> str:
        try:
            package = json.loads((self._folder / "package.json").read_text("utf-8"))
            (self._folder / "pyodide.asm.wasm").stat()
            return str(package["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IsolationUnavailable(
                f"Pyodide is not in {self._folder}: npm install --prefix {FOLDER} --ignore-scripts pyodide@{TESTED}, "
                "or pass the folder of the npm package as `pyodide=`"
            ) from error


def _deno_of_python() -> str | None:
    try:
        package: Any = importlib.import_module("deno")
        return str(package.find_deno_bin())
    except (ImportError, AttributeError, FileNotFoundError):
        return None


def _environment(deno: str) -> dict[str, str]:
    # Deno keeps what it stores, and what code would store by it, below a folder: a file is none.
    environment = {
        "DENO_DIR": f"{deno}/none",
        "NO_COLOR": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PROMPT": "1",
    }
    if sys.platform == "win32":
        environment["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "C:\\Windows")
    return environment


def _bound(pid: int, data: int) -> None:
    """Bound what a process can have of memory of its own, in JavaScript, too (Linux)."""
    with suppress(ImportError, AttributeError, OSError):
        resource: Any = importlib.import_module("resource")
        resource.prlimit(pid, resource.RLIMIT_DATA, (data, data))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
