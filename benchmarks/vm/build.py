"""Virtual machines of Debian's packages: kernels, a file system, and the wheels that go in.

Everything is made in one folder and kept there: remove a part of it to have it made anew. Needs root,
debootstrap, qemu, and an apt that is set up for Debian, whose mirror and keys are used.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
SUITE = "trixie"
"""The Debian that runs in all of them; it has Python 3.13."""
PYTHON = "3.13"
BASE = (
    "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "udev", "kmod", "procps", "iproute2", "python3",
    "python3-venv", "apparmor", "bubblewrap", "uidmap", "passwd", "sudo",
)  # fmt: skip
ENGINES = (
    "docker.io", "docker-cli", "podman", "crun", "passt", "slirp4netns", "fuse-overlayfs", "iptables", "netavark",
)  # fmt: skip
TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "pip")
DRIVERS = ("virtio_pci", "virtio_blk", "ext4")
"""What a kernel needs before it has its disk."""
DISK = 4 << 30
"""Bytes of the file system; a sparse file."""
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Architecture:
    """How a processor is called by all who have to do with it."""

    debian: str
    wheels: str
    emulator: tuple[str, ...]
    console: str


X86 = Architecture("amd64", "x86_64", ("qemu-system-x86_64", "-M", "q35"), "ttyS0")
ARM = Architecture("arm64", "aarch64", ("qemu-system-aarch64", "-M", "virt"), "ttyAMA0")


def run(*words: str | Path, **options: object) -> None:
    """Run a command, which must succeed; what it prints goes to stderr."""
    subprocess.run([*map(str, words)], check=True, stdout=sys.stderr, **options)  # type: ignore[call-overload]


def said(*words: str | Path) -> str:
    return subprocess.run([*map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def mirror() -> str:
    """Where this machine has Debian from."""
    lines = said(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"
    )
    for line in lines.splitlines():
        origin, label, address = line.split(" ", 2)
        if origin == label == "Debian":
            return address
    raise SystemExit("apt is not set up for Debian here, or has no lists: apt-get update")


def accelerated(architecture: Architecture) -> bool:
    """Whether the processor itself can run an ordinary kernel here; else it is emulated."""
    if architecture.debian != said("dpkg", "--print-architecture").strip() or not os.access(
        "/dev/kvm", os.W_OK
    ):
        return False
    return architecture is ARM or any(Path("/sys/module", name).exists() for name in ("kvm_intel", "kvm_amd"))


# Packages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packages:
    """Packages of one suite for one processor, checked by apt, and unpacked without being installed."""

    folder: Path
    suite: str
    architecture: Architecture

    def unpacked(self, name: str, also: str = "") -> Path:
        """A folder with a package's files, and with those that it needs whose names begin so."""
        place = self.folder / name
        if place.exists():
            return place
        self._prepare()
        words = (
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
        )
        names = said("apt-cache", *self._options(), "depends", *words, "--no-enhances", name).splitlines()
        wanted = [name, *(each for each in names if also and each.startswith(also) and each != name)]
        downloads = self.folder / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        run("apt-get", *self._options(), "download", *wanted, cwd=downloads)
        for package in downloads.iterdir():
            run("dpkg-deb", "-x", package, place)
        shutil.rmtree(downloads)
        return place

    def _prepare(self) -> None:
        if (self.folder / "lists").exists():
            return
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "status").touch()
        options = f"[arch={self.architecture.debian} signed-by={KEYS}]"
        (self.folder / "sources.list").write_text(f"deb {options} {mirror()} {self.suite} main\n")
        run("apt-get", *self._options(), "update")

    def _options(self) -> list[str]:
        here, name = self.folder, self.architecture.debian
        settings = {
            "APT::Architecture": name, "APT::Architectures": name, "APT::Sandbox::User": "root",
            "Dir::Etc": here, "Dir::Etc::sourcelist": here / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": here, "Dir::State::lists": here / "lists", "Dir::State::status": here / "status",
            "Dir::Cache": here,
        }  # fmt: skip
        return ["-q", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]


# Kernels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """A kernel of Debian's with its modules, and what starts the system from its disk."""

    image: Path
    start: Path
    modules: Path
    version: str


def kernel(folder: Path, suite: str, architecture: Architecture) -> Kernel:
    """The newest kernel of a suite."""
    name = architecture.debian
    packages = Packages(folder / f"packages-{suite}-{name}", suite, architecture)
    place = packages.unpacked(f"linux-image-cloud-{name}", "linux-")
    image = next(place.rglob("vmlinu*"))
    modules = next(path for path in (place / "usr/lib/modules", place / "lib/modules") if path.is_dir())
    version = next(modules.iterdir()).name
    if not (modules / version / "modules.dep").exists():
        run("depmod", "-b", modules.parent.parent, version)
    start = place / "start.cpio"
    if not start.exists():
        shell = Packages(folder / f"packages-{SUITE}-{name}", SUITE, architecture).unpacked("busybox-static")
        busybox = next(
            path for path in shell.rglob("busybox") if path.is_file() and path.parent.name == "bin"
        )
        start.write_bytes(_archive(busybox.read_bytes(), list(_drivers(modules / version))))
    return Kernel(image, start, modules, version)


def _drivers(modules: Path) -> Iterator[tuple[str, bytes]]:
    """The modules that lead to the disk, in the order in which they are to be loaded."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    names = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    loaded: list[str] = []
    checksum = ("crc32c_generic", "crc32c", "libcrc32c")  # ext4 asks for it by its purpose
    for name in (*checksum, *DRIVERS):
        if name in names:  # else it is part of the kernel
            loaded += [*reversed(needs[names[name]]), names[name]]
    for path in dict.fromkeys(loaded):
        data = (modules / path).read_bytes()
        yield Path(path).name.partition(".")[0], lzma.decompress(data) if path.endswith(".xz") else data


_START = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for each in {modules}; do /bin/busybox insmod /modules/$each; done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount -t ext4 -o ro /dev/vdb /new/mnt
/bin/busybox mount --bind /new/mnt/modules /new/usr/lib/modules
/bin/busybox umount /proc
/bin/busybox mount --move /dev /new/dev
exec /bin/busybox switch_root /new $PROGRAM
"""


def _archive(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """An initial file system, in the format "newc" of cpio."""
    names = " ".join(name for name, _ in modules)
    files = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "modules", "new", "proc")]
    files += [("bin/busybox", stat.S_IFREG | 0o755, busybox)]
    files += [("init", stat.S_IFREG | 0o755, _START.format(modules=names).encode())]
    files += [(f"modules/{name}", stat.S_IFREG | 0o644, data) for name, data in modules]
    out = io.BytesIO()
    for number, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")]):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        out.write(bytes(-out.tell() % 4) + data)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


# Disks -----------------------------------------------------------------------------------------


def system(folder: Path, architecture: Architecture) -> Path:
    """A disk with Debian, in which `inside.py` is started; for another processor without engines of containers."""
    name = architecture.debian
    disk = folder / f"{SUITE}-{name}.img"
    if disk.exists():
        return disk
    tree = folder / f"{SUITE}-{name}"
    shutil.rmtree(tree, ignore_errors=True)
    own = name == said("dpkg", "--print-architecture").strip()
    (tree / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
    (tree / "etc/dpkg/dpkg.cfg.d/quick").write_text("force-unsafe-io\npath-exclude=/usr/share/doc/*\n")
    cache = folder / "archives"
    cache.mkdir(exist_ok=True)
    wanted = ",".join((*BASE, *(ENGINES if own else ())))
    run(
        "debootstrap", *([] if own else ["--foreign"]), f"--arch={name}", "--variant=minbase", f"--include={wanted}",
        f"--cache-dir={cache}", f"--keyring={KEYS}", SUITE, tree, mirror(),
    )  # fmt: skip
    units = tree / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "inside.service", units)
    (units / "multi-user.target.wants/inside.service").symlink_to("/etc/systemd/system/inside.service")
    (tree / "etc/hostname").write_text("machine\n")
    (tree / "etc/fstab").write_text("")
    if not own:
        _settle(tree)
    made = disk.with_suffix(".part")
    image(tree, made, DISK)
    shutil.rmtree(tree)
    made.rename(disk)
    return disk


def _settle(tree: Path) -> None:
    """Do what the scripts of packages for another processor would do, as far as it is needed here."""
    archives = tree / "var/cache/apt/archives"
    for package in archives.glob("*.deb"):
        run("dpkg-deb", "-x", package, tree)
        package.unlink()
    shutil.rmtree(tree / "debootstrap")
    for name in ("mnt", "opt", "srv", "media", "usr/lib/modules", "var/lib/systemd"):
        (tree / name).mkdir(exist_ok=True, parents=True)
    if not (tree / "var/run").exists():
        (tree / "var/run").symlink_to("/run")
    for name in ("passwd", "group"):
        users = (tree / f"usr/share/base-passwd/{name}.master").read_text()
        (tree / "etc" / name).write_text(users.replace("root:*:", "root:x:"))
    (tree / "etc/shadow").write_text("root:*:20000::::::\n")
    (tree / "etc/machine-id").write_text("")
    for name in (
        "systemd-hwdb-update",
        "systemd-journal-catalog-update",
        "ldconfig",
    ):  # long, and for nothing here
        (tree / f"etc/systemd/system/{name}.service").symlink_to("/dev/null")
    sessions = "session required pam_unix.so\nsession optional pam_systemd.so\n"
    for name, text in {
        "common-auth": "auth required pam_permit.so\n",
        "common-account": "account required pam_unix.so\n",
        "common-password": "password required pam_permit.so\n",
        "common-session": sessions,
        "common-session-noninteractive": sessions,
    }.items():
        (tree / "etc/pam.d" / name).write_text(text)


def image(tree: Path, disk: Path, size: int) -> None:
    """A file system with what a folder holds."""
    disk.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, disk, str(size >> 10))


def payload(folder: Path, kept: Path, architecture: Architecture, modules: Path) -> Path:
    """A disk with the wheel and all that it needs, the tests, and the kernel's modules.

    Args:
        kept: where wheels are that were downloaded before.
    """
    tree, disk = folder / "payload", folder / "payload.img"
    shutil.rmtree(tree, ignore_errors=True)
    wheels = tree / "wheels"
    wheels.mkdir(parents=True)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels, cwd=ROOT)
    downloaded = kept / f"wheels-{architecture.debian}"
    if not downloaded.exists():
        _pip(architecture, "download", "--dest", downloaded, *wheels.iterdir(), *TESTS)
    others = [wheel for wheel in downloaded.glob("*.whl") if not wheel.name.startswith("recursor-")]
    packages = tree / "site-packages"
    offline = ("--no-index", "--no-deps", "--no-compile")
    _pip(architecture, "install", *offline, "--target", packages, *wheels.iterdir(), *others)
    shutil.copytree(
        ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("node_modules", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tree)
    for name in ("inside.py", "tried.py"):
        shutil.copy(HERE / name, tree)
    shutil.copytree(modules, tree / "modules", symlinks=True)
    size = sum(path.lstat().st_size for path in tree.rglob("*"))
    image(tree, disk, size * 5 // 4 + (64 << 20))
    shutil.rmtree(tree)
    return disk


def _pip(architecture: Architecture, *words: str | Path) -> None:
    """Run pip for the Python and the processor of a machine."""
    version = PYTHON.replace(".", "")
    platforms = [f"manylinux_2_{minor}_{architecture.wheels}" for minor in (17, 24, 28, 34)]
    tags = ["--platform", "any", *(word for each in platforms for word in ("--platform", each))]
    abis = ["--abi", f"cp{version}", "--abi", "abi3", "--abi", "none"]
    fixed = [
        "--quiet",
        "--only-binary=:all:",
        "--python-version",
        PYTHON,
        "--implementation",
        "cp",
        *abis,
        *tags,
    ]
    run(sys.executable, "-m", "pip", words[0], *fixed, *words[1:])


# Running ---------------------------------------------------------------------------------------


def start(
    folder: Path,
    architecture: Architecture,
    found: Kernel,
    disks: Sequence[Path],
    results: Path,
    *,
    words: str,
    limit: float,
) -> str:
    """Run a machine until it ends or its time is over, and return what it has printed.

    Args:
        disks: the system, which stays as it is, and the payload.
        results: a file that the machine can write to.
        words: further ones for the kernel's command line.
        limit: seconds.
    """
    # An emulator of some years has not got the former right, and the latter is slow.
    emulated = "max,cx16=off,la57=off" if architecture is X86 else "max"
    way = ["-accel", "tcg,tb-size=768", "-cpu", emulated]
    if accelerated(architecture):
        way = ["-accel", "kvm", "-cpu", "host"]
    drives = [(disks[0], "snapshot=on"), (disks[1], "readonly=on"), (results, "cache=writethrough")]
    options = [word for path, how in drives for word in ("-drive", f"file={path},format=raw,if=virtio,{how}")]
    waits = " ".join(f"systemd.default_{what}_sec=900" for what in ("timeout_start", "device_timeout"))
    patience = f"systemd.service_watchdogs=0 {waits}"
    line = f"console={architecture.console} panic=-1 quiet {patience} {words}"
    console = folder / "console.txt"
    command = [
        "nice", *architecture.emulator, *way, "-smp", "1", "-m", "2048", "-nographic", "-no-reboot", "-nic", "none",
        "-serial", f"file:{console}", "-monitor", "none", "-kernel", str(found.image), "-initrd", str(found.start),
        "-append", line, *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)})
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        print("its time is over", file=sys.stderr)
    finally:
        process.kill()
        process.wait()
    return console.read_text("utf-8", "replace")
