"""Stands in for the command `docker` or `podman`, over `runc`, the runtime of Docker itself.

Takes exactly the words that the sandbox uses and refuses any other, as the real command does. The
image is this machine's /usr and Python, read-only. What it does to a container is what the words
say: namespaces, a cgroup, a user, no capabilities, a seccomp filter. Settings come from the file
named in ENGINE: {"engine": name, "state": folder, "info": {...}, "images":
[...], "spoil": {...}}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

SETTINGS = json.loads(Path(os.environ["ENGINE"]).read_text())
STATE = Path(SETTINGS["state"])
ENGINE = SETTINGS["engine"]
RUNC = ["runc", "--root", str(STATE / "runc")]
CAPABILITIES = ("bounding", "effective", "permitted", "inheritable", "ambient")
DENIED = ["mount", "ptrace", "bpf", "keyctl"]


def refuse(text: str, status: int = 125) -> NoReturn:
    print(f"{ENGINE}: {text}", file=sys.stderr)
    sys.exit(status)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for flag in ("interactive", "rm", "read-only"):
        parser.add_argument(f"--{flag}", action="store_true", required=True)
    for option in ("name", "label", "pull", "network", "tmpfs", "workdir", "user", "cap-drop", "security-opt", "ipc", "hostname", "pids-limit", "memory", "memory-swap", "log-driver", "entrypoint"):  # fmt: skip
        parser.add_argument(f"--{option}", required=True)
    for option in ("env", "ulimit"):
        parser.add_argument(f"--{option}", action="append", required=True)
    parser.add_argument("--runtime")
    if ENGINE == "podman":
        parser.add_argument("--read-only-tmpfs", choices=["false"], required=True)
        parser.add_argument("--http-proxy", choices=["false"], required=True)
        parser.add_argument("--no-hosts", action="store_true", required=True)
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser.parse_args(words)


def tmpfs(text: str) -> dict[str, Any]:
    place, _, options = text.partition(":")
    return {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options.split(",")}


def rlimit(text: str) -> dict[str, Any]:
    name, _, values = text.partition("=")
    soft, hard = map(int, values.split(":"))
    return {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard}


def bind(source: str, place: str) -> dict[str, Any]:
    return {"destination": place, "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid"]}


def filter_of(more: list[str]) -> dict[str, Any]:
    rule = {"names": [*DENIED, *more], "action": "SCMP_ACT_ERRNO"}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def bundle(asked: argparse.Namespace) -> dict[str, Any]:
    """The container that was asked for, as OCI's runtime specification says it."""
    spoil = SETTINGS.get("spoil", {})
    user, group = map(int, asked.user.split(":"))
    limit, swap = int(asked.memory), int(asked.memory_swap)
    python = {"python3": f"/python/bin/{Path(sys.executable).resolve().name}"}.get(
        asked.entrypoint, asked.entrypoint
    )
    namespaces = ["pid", "mount", "uts", "ipc", "network"]
    if asked.network != "none" or spoil.get("network"):
        namespaces.remove("network")
    assert asked.cap_drop == "ALL"
    held = spoil.get("capabilities", [])
    return {
        "ociVersion": "1.0.2",
        "hostname": asked.hostname,
        "root": {"path": str(STATE / "root"), "readonly": asked.read_only and not spoil.get("root")},
        "process": {
            "args": [python, *asked.arguments],
            "cwd": asked.workdir,
            # Its library of functions is where it was; another version's would be found in /usr.
            "env": ["PATH=/usr/bin", "LD_LIBRARY_PATH=/python/lib", *asked.env],
            "user": {"uid": spoil.get("user", user), "gid": group},
            "capabilities": dict.fromkeys(CAPABILITIES, held),
            "rlimits": [rlimit(text) for text in asked.ulimit],
            "noNewPrivileges": asked.security_opt == "no-new-privileges" and not spoil.get("privileges"),
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            tmpfs(asked.tmpfs),
            *(bind(path, path) for path in ("/usr", "/lib", "/lib64")),
            bind(sys.base_prefix, "/python"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            "resources": {"memory": {"limit": limit, "swap": swap}, "pids": {"limit": int(asked.pids_limit)}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"],
            **({} if spoil.get("seccomp") else {"seccomp": filter_of(spoil.get("denied", []))}),
        },
    }


def run(words: list[str]) -> NoReturn:
    try:
        asked = parsed(words)
    except (argparse.ArgumentError, SystemExit) as error:
        refuse(f"wrong words: {error}")
    if asked.image not in SETTINGS["images"]:
        refuse(f"No such image: {asked.image}")
    place = STATE / asked.name
    place.mkdir()
    (place / "words.json").write_text(json.dumps(vars(asked)))
    (place / "config.json").write_text(json.dumps(bundle(asked)))
    done = subprocess.run([*RUNC, "run", "--bundle", str(place), asked.name], check=False)
    sys.exit(done.returncode)


def main(words: list[str]) -> NoReturn:
    if ENGINE == "podman" and words[0].startswith("--runtime="):
        words = [*words[1:2], words[0], *words[2:]]
    match words:
        case ["info", "--format={{json .}}"]:
            if "error" in SETTINGS:
                refuse(SETTINGS["error"], 1)
            print(json.dumps(SETTINGS["info"]))
        case ["image", "inspect", "--format={{.Id}}", image]:
            if image not in SETTINGS["images"]:
                refuse(f"No such image: {image}", 1)
            print("sha256:0")
        case ["rm", "--force", name]:
            subprocess.run([*RUNC, "delete", "--force", name], check=False, stderr=subprocess.DEVNULL)
        case ["run", *rest]:
            run(rest)
        case _:
            refuse(f"wrong words: {words}")
    sys.exit(0)


main(sys.argv[1:])
