"""What is advised where code cannot be isolated: what is in the way on this machine, and nothing that is not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from recursor.sandboxes.remedies import remedies

CLONE = "kernel.unprivileged_userns_clone"
MOST = "user.max_user_namespaces"
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


def machine(root: Path, profile: str = "unconfined\n", **settings: str) -> Path:
    """A folder that looks like /proc; settings have __ for the dot."""
    for name, value in settings.items():
        path = root / "proc/sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    current = root / "proc/self/attr/apparmor/current"
    current.parent.mkdir(parents=True)
    current.write_text(profile)
    return root


@pytest.mark.parametrize("name", [CLONE, MOST, APPARMOR])
def test_the_setting_that_is_in_the_way_is_named_and_no_other(tmp_path: Path, name: str) -> None:
    settings = {CLONE: "1", MOST: "11620", APPARMOR: "0"} | {name: "1" if name == APPARMOR else "0"}
    root = machine(tmp_path, **{key.replace(".", "__"): value for key, value in settings.items()})
    (advice,) = remedies(errno.EPERM, root)
    assert f"sudo sysctl -w {name}=" in advice


def test_a_profile_that_forbids_namespaces_is_named(tmp_path: Path) -> None:
    root = machine(tmp_path, "of python (enforce)\n", kernel__unprivileged_userns_clone="1")
    (advice,) = remedies(errno.EACCES, root)
    assert advice.startswith("the profile 'of python' of AppArmor confines this program")


def test_in_a_container_its_options_are_named_beside_its_profile(tmp_path: Path) -> None:
    profile, options = remedies(errno.EACCES, machine(tmp_path, "docker-default (enforce)\n"))
    assert "'docker-default'" in profile
    assert "--security-opt apparmor=unconfined" in options


def test_where_there_are_as_many_namespaces_as_there_may_be_the_limit_is_named(tmp_path: Path) -> None:
    root = machine(tmp_path, user__max_user_namespaces="3", kernel__unprivileged_userns_clone="1")
    (advice,) = remedies(errno.ENOSPC, root)
    assert f"sudo sysctl -w {MOST}=15000" in advice


@pytest.mark.parametrize("profile", ["unconfined\n", "of python (unconfined)\n", "of python (complain)\n"])
def test_where_nothing_is_known_to_be_in_the_way_it_may_be_a_container(tmp_path: Path, profile: str) -> None:
    (advice,) = remedies(errno.EPERM, machine(tmp_path, profile, kernel__unprivileged_userns_clone="1"))
    assert advice.startswith("in a container: ")
