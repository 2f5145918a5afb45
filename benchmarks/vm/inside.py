"""What is tried in a virtual machine, as its root and as an ordinary user of it.

Installs what the disk at /mnt holds, tries what the kernel's command line names (`tried=a,b attacks=quick`), and
writes what became of each as lines of JSON to the third disk, at once. Started by systemd, in a delegated group.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MNT = Path("/mnt")
HOME = Path("/opt/recursor")
PYTHON = HOME / "venv/bin/python"
USER = "somebody"
RESULTS = Path("/dev/vdc")
PATIENCE = 5400
"""Seconds for one thing that is tried: an emulated processor is slow."""
TESTS = ("test_jail", "test_hostile", "test_newcomers", "test_fork", "test_attacks", "test_weak")
IMAGE = "docker.io/library/python:{0.major}.{0.minor}-slim"
NAMESPACES = "kernel.unprivileged_userns_clone"
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
PROFILE = """abi <abi/4.0>,
profile tried {program} flags=({flags}) {{
  {rules}
}}
"""
CONFINED = {
    "AppArmor: no userns": "allow all,\n  audit deny userns create,",
    # What Ubuntu does to programs that have no profile.
    "AppArmor: userns without capabilities": "allow all,\n  audit deny capability,",
}
"""Profiles that keep namespaces from programs."""


class Told:
    """Results, kept on the third disk."""

    def __init__(self) -> None:
        self.part = ""
        self._lines: list[str] = []
        self._begun = time.monotonic()

    def __call__(self, **found: Any) -> None:
        self._lines.append(json.dumps({"part": self.part, **found}))
        data = "\n".join([*self._lines, "\0"]).encode()
        with RESULTS.open("r+b", buffering=0) as disk:
            disk.write(data + bytes(-len(data) % 4096))
            os.fsync(disk.fileno())
        print(f"{time.monotonic() - self._begun:.0f} s: {str(found)[:300]}", flush=True)


told = Told()
COMMAND_LINE = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
QUICK = COMMAND_LINE.get("attacks") == "quick"


def attempt(what: str, who: str, words: list[str], setting: str = "", scope: bool = False) -> None:
    """Run something as somebody, and keep what it prints; the last line is JSON where it says so."""
    begun = time.monotonic()
    done = ran(who, words, scope)
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        found = json.loads(last if last.startswith("{") else done.stdout)
    except ValueError:
        found = None
    told(
        what=what,
        who=who,
        setting=setting,
        status=done.returncode,
        seconds=round(time.monotonic() - begun),
        found=found,
        said="" if found else done.stdout[-6000:],
        errors=done.stderr[-3000:],
    )


def ran(who: str, words: list[str], scope: bool = False) -> subprocess.CompletedProcess[str]:
    if scope:
        mine = ["--user"] if who != "root" else []
        words = ["systemd-run", *mine, "--scope", "--quiet", "-p", "Delegate=yes", *words]
    if who != "root":
        words = ["su", "-l", who, "-c", shlex.join(words)]
    try:
        return subprocess.run(
            words,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(words, 124, str(late.stdout or ""), str(late.stderr or ""))


def tried(name: str, who: str, setting: str = "", *options: str, scope: bool = False) -> None:
    quick = ["--quick"] if QUICK and "--quick" not in options else []
    words = [str(PYTHON), str(MNT / "tried.py"), name, *options, *quick]
    attempt(" ".join([name, *options, *quick]), who, words, setting, scope)


def doctor(who: str, setting: str = "") -> None:
    attempt("doctor", who, [str(PYTHON), "-m", "recursor", "doctor", "--json"], setting)


def suites(who: str, *names: str, setting: str = "", scope: bool = False) -> None:
    place = f"{'/home/' + USER if who == USER else '/root'}/tests"
    inside = [f"{place}/tests/{name}.py" for name in names]
    words = [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1200", *inside]
    attempt(
        "tests: " + " ".join(names),
        who,
        ["sh", "-c", f"cd {place} && exec {shlex.join(words)}"],
        setting,
        scope,
    )


def set_to(name: str, value: str) -> bool:
    """Set what the kernel lets one set; false where it has no such thing."""
    path = Path("/proc/sys", *name.split("."))
    if not path.exists():
        return False
    path.write_text(value)
    return True


def prepare() -> None:
    """Make an environment of what pip has unpacked on the disk, and an ordinary user."""
    subprocess.run(["ldconfig"], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", HOME / "venv"], check=True)
    packages = next((HOME / "venv/lib").glob("python*")) / "site-packages"
    shutil.copytree(MNT / "site-packages", packages, dirs_exist_ok=True)
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    subprocess.run(["loginctl", "enable-linger", USER], check=True)
    for name, home in (("root", Path("/root")), (USER, Path("/home", USER))):
        shutil.copytree(MNT / "tests", home / "tests/tests")
        shutil.copy(MNT / "pyproject.toml", home / "tests")
        subprocess.run(["chown", "-R", f"{name}:", home / "tests"], check=True)
    assert pwd.getpwnam(USER).pw_uid >= 1000


def facts() -> dict[str, str]:
    """What this machine is."""
    asked = (
        NAMESPACES,
        APPARMOR,
        "kernel.apparmor_restrict_unprivileged_unconfined",
        "user.max_user_namespaces",
    )
    found = {name: Path("/proc/sys", *name.split(".")) for name in asked}
    modules = Path("/sys/kernel/security/lsm")
    return {
        "kernel": os.uname().release,
        "processor": os.uname().machine,
        "modules": modules.read_text() if modules.exists() else "",
        "groups": Path("/proc/self/cgroup").read_text().strip(),
        **{name: path.read_text().strip() for name, path in found.items() if path.exists()},
    }


# The parts -------------------------------------------------------------------------------------


def processes() -> None:
    """The default sandbox and its weaker ways."""
    for name in ("process", "landlock", "bubblewrap"):
        for who in ("root", USER):
            tried(name, who)
    for who in ("root", USER):
        doctor(who)


def suite() -> None:
    """The tests of the sandbox."""
    for name in TESTS:
        for who in ("root", USER):
            suites(who, name)


def groups() -> None:
    """Control groups: of a scope of the system's for root, of the session's for a user."""
    for who in ("root", USER):
        suites(who, "test_cgroups", setting="delegated", scope=True)
        tried("process", who, "delegated", "--quick", "--bounded", scope=True)
    tried("process", USER, "not delegated", "--quick", "--bounded")


def apparmor() -> None:
    """AppArmor, and Debian's own setting, keep namespaces from ordinary users."""
    for setting, rules in CONFINED.items():
        profiles("-r", rules, PYTHON.resolve())
        doctor(USER, setting)
        tried("process", USER, setting, "--quick")
        tried("weak", USER, setting)
        suites(USER, "test_weak", setting=setting)
        profiles("-R", rules, PYTHON.resolve())
    if set_to(APPARMOR, "1"):
        setting = f"{APPARMOR}=1"
        doctor(USER, setting)
        tried("weak", USER, setting)
        profiles("-r", "userns,", PYTHON.resolve(), flags="unconfined")
        tried("process", USER, f"{setting}, a profile with userns", "--quick")
        profiles("-R", "userns,", PYTHON.resolve(), flags="unconfined")
        set_to(APPARMOR, "0")
    if set_to(NAMESPACES, "0"):
        setting = f"{NAMESPACES}=0"
        doctor(USER, setting)
        tried("process", USER, setting, "--quick")
        tried("weak", USER, setting, "--quick")
        suites(USER, "test_weak", setting=setting)
        Path("/usr/bin/bwrap").chmod(0o4755)
        tried("weak", USER, f"{setting}, setuid bwrap")
        Path("/usr/bin/bwrap").chmod(0o755)
        set_to(NAMESPACES, "1")


def profiles(action: str, rules: str, program: Path, flags: str = "attach_disconnected") -> None:
    """Load or remove a profile of AppArmor for a program."""
    file = Path("/etc/apparmor.d/tried")
    file.write_text(PROFILE.format(program=program, rules=rules, flags=flags))
    attempt("profile", "root", ["apparmor_parser", action, str(file)], rules)


def engines() -> None:
    """Docker's daemon, and Podman with and without root, with an image of this system's Python."""
    image = IMAGE.format(sys.version_info)
    triple = f"{os.uname().machine}-linux-gnu"
    places = ["tmp", "lib", "lib64", f"usr/lib/{triple}", "usr/lib64", "usr/lib/python3", "etc/ld.so.cache"]
    places += ["etc/passwd"]
    places += [f"usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}", str(HOME)[1:]]
    places += [str(path)[1:] for path in Path("/usr/bin").glob("python3*")]
    packed = Path("/var/tmp/image.tar")
    subprocess.run(["tar", "-C", "/", "--no-recursion", "-cf", packed, "tmp"], check=True)
    others = [place for place in places[1:] if os.path.lexists(f"/{place}")]
    subprocess.run(["tar", "-C", "/", "-rf", packed, *others], check=True)
    subprocess.run(["usermod", "-aG", "docker", USER], check=True)
    attempt("start", "root", ["systemctl", "start", "docker"])
    for name, who in (("docker", "root"), ("podman", USER)):
        attempt("image", who, [name, "import", str(packed), image], name)
    for name, who in (("docker", "root"), ("podman", USER), ("docker", USER)):
        attempt("info", who, [name, "info", "--format={{json .}}"], name)
        tried(name, who, "", *(["--quick"] if (name, who) in SAME else []))
    for name, who in (("docker", "root"), ("podman", USER)):
        within(name, who, image)


SAME = (("docker", USER),)
"""Engine and user where it is the engine that is another, not the container."""
OPEN = [f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]


def within(engine: str, who: str, image: str) -> None:
    """The sandboxes of processes in a container of somebody's."""
    words = [engine, "run", "--rm", "--network=none", "--volume=/mnt:/mnt:ro"]
    for setting, options in (
        ("in a container", []),
        ("in a container, with what docs/sandbox.md says", OPEN),
    ):
        for user in ("0", "1234"):
            for name in ("process", "weak"):
                command = [str(PYTHON), str(MNT / "tried.py"), name, "--quick"]
                title = f"{name} in {engine}, user {user}"
                attempt(title, who, [*words, *options, f"--user={user}", image, *command], setting)


def main() -> None:
    told(what="facts", who="root", setting="", status=0, seconds=0, found=facts(), said="", errors="")
    prepare()
    print("prepared", flush=True)
    parts = {
        "processes": processes,
        "suite": suite,
        "groups": groups,
        "apparmor": apparmor,
        "engines": engines,
    }
    for name in COMMAND_LINE["tried"].split(","):
        told.part = name
        parts[name]()
        told(what="end", who="root", setting="", status=0, seconds=0, found={}, said="", errors="")


if __name__ == "__main__":
    main()
