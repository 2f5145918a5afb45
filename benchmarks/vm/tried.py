"""Tries one sandbox on this machine, and prints what became of it as JSON.

    python tried.py process|landlock|bubblewrap|weak|docker|podman [--quick] [--bounded]

`landlock` and `bubblewrap` are those tiers of process:weak, also where more is to be had; `weak` is what that takes
by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import replace
from typing import Any

from recursor.protocols import Sandbox
from recursor.sandboxes import container, jail, repl
from recursor.sandboxes.container import DockerSandbox, PodmanSandbox
from recursor.sandboxes.process import ProcessSandbox, WeakProcessSandbox
from recursor.sandboxes.template import Tier
from recursor.testing import ATTACKS, Attack, Finding, Verdict, check_sandbox, run_attacks
from recursor.testing import attacks as judge
from recursor.testing.programs import QUICK
from recursor.types import Isolation

ORACLE = "asks what is in the home directory"
"""The attack that is known to be open without namespaces."""


class Landlock(ProcessSandbox):
    _tiers: tuple[Tier, ...] = ("landlock",)


class Bubblewrap(ProcessSandbox):
    _tiers: tuple[Tier, ...] = ("bubblewrap",)


def sandbox(name: str, bounded: bool) -> Sandbox:
    memory, scratch = 256 << 20, 8 << 20
    if name in ("docker", "podman"):
        return {"docker": DockerSandbox, "podman": PodmanSandbox}[name](memory=memory, scratch=scratch)
    kinds = {
        "process": ProcessSandbox,
        "landlock": Landlock,
        "bubblewrap": Bubblewrap,
        "weak": WeakProcessSandbox,
    }
    return kinds[name](memory, scratch, total_memory=1 << 30 if bounded else None)


async def opened(tried: Sandbox) -> Isolation:
    first = await tried.open()
    await first.close()
    return first.isolation


async def attacked(name: str, bounded: bool, attacks: tuple[Attack, ...]) -> list[Finding]:
    """Attack it, and again with more time where a program did not come to its attempt."""
    findings = await run_attacks(sandbox(name, bounded), attacks)
    late = {each.attack for each in findings if each.verdict is Verdict.UNCLEAR}
    more = [replace(attack, max_time=attack.max_time * 10) for attack in attacks if attack.name in late]
    again = {each.attack: each for each in await run_attacks(sandbox(name, bounded), more)} if more else {}
    return [again.get(each.attack, each) for each in findings]


def main() -> None:
    """Open it, check it, attack it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bounded", action="store_true", help="with a bound on all REPLs together")
    options = parser.parse_args()
    jail._START = container.ANSWER = repl.START = judge.PATIENCE = 600.0  # an emulated processor is slow
    found: dict[str, Any] = {"error": "", "check": "", "findings": []}
    try:
        tried = sandbox(options.name, options.bounded)
        isolation = asyncio.run(opened(tried))
        found |= {
            "memory": isolation.memory,
            "mechanisms": isolation.mechanisms,
            "weaknesses": isolation.weaknesses,
        }
    except Exception as error:
        print(json.dumps(found | {"error": f"{type(error).__name__}: {error}"}))
        return
    try:
        asyncio.run(check_sandbox(sandbox(options.name, options.bounded)))
    except Exception as error:
        found["check"] = f"{type(error).__name__}: {error}"
    held_out = any("no namespaces: " in weakness for weakness in isolation.weaknesses)
    attacks: tuple[Attack, ...] = tuple(QUICK if options.quick else ATTACKS)
    attacks = tuple(attack for attack in attacks if not (held_out and attack.name == ORACLE))
    try:
        findings = asyncio.run(attacked(options.name, options.bounded, attacks))
        found["findings"] = [(each.group, each.attack, each.verdict, each.detail) for each in findings]
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
