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
        lines += [f"- {remedy}" for remedy in _remedies()]
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
            *map("- {}".format, _remedies()),
            _UNISOLATED,
        ]
    )


def _remedies() -> list[str]:
    """What to change, as far as the settings of this machine tell; all that may help if they do not."""
    settings = {
        "kernel.apparmor_restrict_unprivileged_userns": (
            "1",
            "AppArmor keeps user namespaces from ordinary programs (the default of Ubuntu since 23.10): "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for "
            f"{sys.executable} with the rule `userns,`",
        ),
        "kernel.unprivileged_userns_clone": (
            "0",
            "user namespaces are for root only: sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        "user.max_user_namespaces": (
            "0",
            "user namespaces are turned off: sudo sysctl -w user.max_user_namespaces=15000",
        ),
    }
    found = [advice for name, (bad, advice) in settings.items() if _sysctl(name) == bad]
    everything = [advice for name, (_, advice) in settings.items() if _sysctl(name) is not None]
    container = (
        "in a container: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined (or the same for podman or Kubernetes)"
    )
    return found or [*everything, container]


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text("ascii").strip()
    except OSError:
        return None
