"""Every program of `recursor.testing.ATTACKS` against containers: as they are, and as root in one.

The engine is `engine.py`, over runc. All run once for each; each test looks at what became of one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engines import IMAGE, install, needs_runc
from recursor.sandboxes import wire
from recursor.sandboxes.container import USER, DockerSandbox, _Engine
from recursor.testing import ATTACKS, Attack, Finding, run_attacks
from recursor.types import Isolation

MB = 1 << 20
OF_DOCKER = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT
    KILL AUDIT_WRITE
"""
"""The capabilities of a container that nobody has asked about."""


class AsRoot(DockerSandbox):
    """What a user has who starts a container without a word on users and capabilities."""

    def _command(self, name: str, in_all: int) -> list[str]:
        words = super()._command(name, in_all)
        return ["--user=0:0" if word == f"--user={USER}" else word for word in words]

    def _isolation(self, known: _Engine, facts: wire.Facts | None, memory: int, in_all: int) -> Isolation:
        assert facts is not None
        assert facts.uid == 0
        return Isolation("root", "", "none", "", "", "", "")


AS_ROOT = tuple(
    attack for attack in ATTACKS if attack.group in ("files", "secrets", "network", "processes", "kernel")
)
"""Where it matters who one is."""


def attacked(
    kind: type[DockerSandbox], attacks: tuple[Attack, ...], place: Path, **settings: Any
) -> Mapping[str, Finding]:
    folder, _ = install(place, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        sandbox = kind(IMAGE, memory=256 * MB, scratch=8 * MB)
        return {finding.attack: finding for finding in asyncio.run(run_attacks(sandbox, attacks))}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Finding]:
    return attacked(DockerSandbox, ATTACKS, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def findings_as_root(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Finding]:
    spoil = {"capabilities": [f"CAP_{name}" for name in OF_DOCKER.split()]}
    return attacked(AsRoot, AS_ROOT, tmp_path_factory.mktemp("engine"), spoil=spoil)


@needs_runc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", [attack.name for attack in ATTACKS])
def test_a_container_holds_against_code_that(findings: Mapping[str, Finding], attack: str) -> None:
    assert findings[attack].held, str(findings[attack])


@needs_runc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("attack", [attack.name for attack in AS_ROOT])
def test_a_container_holds_against_code_of_its_root_that(
    findings_as_root: Mapping[str, Finding], attack: str
) -> None:
    assert findings_as_root[attack].held, str(findings_as_root[attack])
