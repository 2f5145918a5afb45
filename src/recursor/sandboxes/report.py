"""What a template process found to be in force, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from recursor.sandboxes.cgroups import Bound
from recursor.sandboxes.template import Tier
from recursor.types import Isolation


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the template process says of itself when it is ready."""

    namespaces: list[str]
    landlock: int
    syscalls: int
    threads: int
    """0 where nothing limits them."""
    open_files: int


_UNLIMITED = "the number of threads is not limited: the kernel counts none of root's"
_NO_LANDLOCK = "no Landlock in this kernel: namespaces and seccomp alone keep files away"
_NOTHING_WRITTEN = "no files can be written, not even temporary ones"
_SEEN = {
    "landlock": (
        "no namespaces: whether a file or process of this machine exists, and a file's size, owner and times, "
        "can be seen",
        _NOTHING_WRITTEN,
    ),
    "bubblewrap": ("no namespaces of each REPL's own, only those that all share", _NOTHING_WRITTEN),
    "namespaces": (),
}


def isolation(tier: Tier, facts: Facts, memory: int, mounts: Mapping[str, str], bound: Bound) -> Isolation:
    """Say what is in force for workers with so many bytes of memory.

    Args:
        bound: what holds for all workers together.
    """
    threads = f"up to {facts.threads} threads" if facts.threads else "threads without limit"
    weaknesses: Sequence[str] = (
        *_SEEN[tier],
        *(() if facts.landlock else (_NO_LANDLOCK,)),
        *(() if facts.threads else (_UNLIMITED,)),
        *(
            (f"no control group bounds the memory of all REPLs together: {bound.missing}",)
            if bound.missing
            else ()
        ),
    )
    names = {"bubblewrap": " of bubblewrap, shared by all REPLs", "namespaces": "", "landlock": ""}[tier]
    entered = f"namespaces{names}" + (f" ({', '.join(facts.namespaces)})" if facts.namespaces else "")
    places = f"; read-only folders at {', '.join(mounts)}" if mounts else ""
    scratch = "a private /tmp in memory" if tier == "namespaces" else "no other, and nothing to write to"
    return Isolation(
        sandbox="process" if tier == "namespaces" else "process:weak",
        files=f"Python and installed packages, read-only; {scratch}{places}",
        network="none",
        processes=f"none; {threads}",
        environment="none of the caller's",
        kernel="shared with this machine",
        memory=f"{memory >> 20:,} MB of address space (RLIMIT_AS)"
        + (f"; {bound.group}" if bound.group else ""),
        mechanisms=(
            *((entered,) if tier != "landlock" else ()),
            f"Landlock (version {facts.landlock})" if facts.landlock else "no Landlock in this kernel",
            f"seccomp (allow-list of {facts.syscalls} system calls)",
            f"rlimits ({facts.threads or 'any number of'} threads, {facts.open_files:,} open files)",
            "no capabilities, no new privileges",
        ),
        weaknesses=tuple(weaknesses),
    )
