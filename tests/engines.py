"""Puts `engine.py`, a stand-in for the commands of Docker and Podman, where a test finds it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

IMAGE = "image:of-the-test"
DOCKER = {
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
    "Runtimes": {"runc": {"path": "runc"}, "runsc": {"path": "/usr/local/bin/runsc"}},
    "DefaultRuntime": "runc",
    "MemoryLimit": True,
    "PidsLimit": True,
    "ServerErrors": None,
}
PODMAN = {"host": {"arch": "amd64", "security": {"rootless": True, "apparmorEnabled": False}}, "version": {}}
Engine = Callable[..., Path]


def can_run() -> str:
    """Why runc can run nothing here; empty when it can."""
    if shutil.which("runc") is None:
        return "runc is not installed (Debian: apt-get install runc)"
    if os.geteuid() != 0:
        return "runc is run as root here"
    return ""


needs_runc = pytest.mark.skipif(bool(can_run()), reason=can_run())


def install(place: Path, **settings: Any) -> tuple[Path, Path]:
    """Put both commands into a folder; return that, to be put on the PATH, and the folder of their state."""
    folder, state = place / "bin", place / "state"
    folder.mkdir()
    for name in ("proc", "dev", "tmp", "usr", "lib", "lib64", "python"):
        (state / "root" / name).mkdir(parents=True)
    (state / "root" / "tmp").chmod(0o1777)  # as images have it: runc gives the mode to what is mounted there
    for name, info in (("docker", DOCKER), ("podman", PODMAN)):
        here = folder / name
        file = place / f"{name}.json"
        known = {"engine": name, "state": str(state), "images": [IMAGE], "info": info}
        file.write_text(json.dumps({**known, **settings}))
        script = Path(__file__).parent / "engine.py"
        here.write_text(f'#!/bin/sh\nENGINE={file} exec {sys.executable} {script} "$@"\n')
        here.chmod(0o755)
    return folder, state
