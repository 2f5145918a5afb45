"""What to say where this machine cannot isolate code: the step that failed, and what would help."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from pathlib import Path

from recursor.errors import SandboxError
from recursor.sandboxes.template import Tier

_CANNOT = "Code cannot be isolated on this machine"
_UNISOLATED = (
    'To run the code with no isolation at all, at your own risk, ask for it: sandbox="inprocess". '
    "Nothing was run, and nothing weaker is ever chosen silently."
)
_OTHERWISE = (
    'Or ask for what can be had without namespaces: sandbox="process:weak" (docs/sandbox.md says what it lacks); or '
    f'for a container: sandbox="docker". {_UNISOLATED}'
)


def explain_platform(platform: str) -> str:
    weaker = 'What macOS itself can do is weaker, and asked for by name: sandbox="process:weak" (Seatbelt). '
    return (
        f"The process sandbox is made of Linux system calls, and this is {platform}. "
        f"{weaker if platform == 'darwin' else ''}"
        'Or run the code in a container (sandbox="docker"), in a virtual machine (CommandSandbox), or at a service '
        f'(sandbox="modal"); or run all of recursor in Linux. {_UNISOLATED}'
    )


def explain_step(step: str, number: int, error: str) -> str:
    code = f" [{errno.errorcode.get(number, number)}]" if number else ""
    lines = [f"{_CANNOT}: {step} failed: {error}{code}."]
    if step == "seccomp filter":
        lines.append("The process sandbox knows the system calls of x86-64 and aarch64 only.")
    elif number == errno.ENOSYS:
        lines.append("It needs Linux 5.12 or later, with namespaces and seccomp.")
    else:
        lines += [f"- {remedy}" for remedy in remedies(number)]
    return "\n".join([*lines, _OTHERWISE])


def reason(failure: SandboxError) -> str:
    """The step that failed, in one line, without what would help."""
    return str(failure).partition("\n")[0].removeprefix(f"{_CANNOT}: ")


def explain_tiers(failures: Mapping[Tier, SandboxError]) -> str:
    """Say why none of several ways was to be had."""
    tried = [f"- {name}: {reason(error)}" for name, error in failures.items()]
    return "\n".join(
        [
            f"{_CANNOT}, not even weakly.",
            *tried,
            "What may help:",
            *map("- {}".format, remedies()),
            _UNISOLATED,
        ]
    )


def remedies(number: int = 0, root: Path = Path("/")) -> list[str]:
    """What to change, as far as the settings of this machine and its programs tell; else what mostly helps.

    Args:
        number: of the error that was met; 0 is unknown.
        root: where /proc is.
    """
    found = [
        advice
        for name, (bad, remedied_by, advice) in _SETTINGS.items()
        if (value := _read(root, "sys", *name.split("."))) == bad or (value and number == remedied_by)
    ]
    profile = _profile(root)
    if profile:
        found.append(
            f"the profile {profile!r} of AppArmor confines this program: add the rules `userns,` and `capability,` "
            "and `mount,` to it, or run Python outside of it"
        )
    if not found or profile.startswith(_OF_CONTAINERS):
        found.append(_CONTAINER)
    return found


_SETTINGS = {
    "kernel.apparmor_restrict_unprivileged_userns": (
        "1",
        None,
        "AppArmor keeps user namespaces from ordinary programs (the default of Ubuntu since 23.10): "
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for "
        f"{sys.executable} with the rule `userns,`",
    ),
    "kernel.unprivileged_userns_clone": (
        "0",
        None,
        "user namespaces are for root only: sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "user.max_user_namespaces": (
        "0",
        errno.ENOSPC,
        "user namespaces are turned off, or there are too many: sudo sysctl -w user.max_user_namespaces=15000",
    ),
}
"""Settings of the kernel: the value that is in the way, the error that speaks of it, and what to do."""
_OF_CONTAINERS = ("docker-", "containers-", "podman", "cri-containerd", "snap.")
_CONTAINER = (
    "in a container: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined (or the same for podman or Kubernetes)"
)


def _profile(root: Path) -> str:
    """The profile of AppArmor that holds this process; nothing where none does."""
    current = _read(root, "self", "attr", "apparmor", "current") or ""
    name, _, mode = current.rpartition(" ")
    return name if mode in ("(enforce)", "(kill)") else ""


def _read(root: Path, *names: str) -> str | None:
    try:
        return root.joinpath("proc", *names).read_text("utf-8", "replace").strip("\n\0 ")
    except OSError:
        return None
