"""What is run as `python -c` where a sandbox has nothing of ours: takes the guest from its stdin, and serves.

The first bytes on stdin are a little-endian u32 and, as long as that says, zlib-compressed JSON:
{"modules": {name: source}, "lock": the arguments of `selflock.lock_in`}. After that stdin and stdout
are the line to the host; code finds /dev/null and stderr in their places.
"""

import importlib
import json
import os
import sys
import zlib
from importlib import machinery
from typing import Any, NoReturn

_MINIMUM = (3, 11)


class _Modules:
    """Imports modules from their sources."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name not in self._sources:
            return None
        place = f"/{name.replace('.', '/')}.py"
        spec = machinery.ModuleSpec(name, self, origin=place, is_package=name == "guest")  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, _spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        code = compile(self._sources[module.__name__], module.__file__, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - the host's own code


def main() -> NoReturn:
    """Take over this process as the REPL of the host at the other end of stdin and stdout."""
    if sys.version_info < _MINIMUM:
        sys.exit(f"the sandbox has Python {sys.version.split()[0]}; it needs 3.11 or later")
    # Out of the way of code that prints to the descriptors 1 and 2, or closes them.
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    for descriptor in (incoming, outgoing):
        os.set_blocking(descriptor, True)
    size = int.from_bytes(_take(incoming, 4), "little")
    setup = json.loads(zlib.decompress(_take(incoming, size)))
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, _Modules(setup["modules"]))
    if sys.platform == "emscripten":
        wasm: Any = importlib.import_module("guest.wasm")
        wasm.serve(incoming, outgoing)
    serving: Any = importlib.import_module("guest.serving")
    selflock: Any = importlib.import_module("guest.selflock")
    serving.serve_stream(incoming, outgoing, selflock.lock_in(**setup["lock"]))
    raise AssertionError("unreachable")


def _take(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


if __name__ == "__main__":
    main()
