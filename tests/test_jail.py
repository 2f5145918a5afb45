"""What the default sandbox keeps from the code in it, tried from inside; and how its host side behaves.

An attack prints "BROKEN" when it reaches its goal and "refused" when it was tried and stopped, so
that one which fails for another reason does not pass. It runs in a real REPL; afterwards the host
must be unharmed and the REPL must answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import Bench
from recursor.errors import ConfigError, IsolationUnavailable, SandboxError
from recursor.sandboxes import jail, template, templates, workers
from recursor.sandboxes.guest import seccomp, syscalls
from recursor.sandboxes.process import ProcessSandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process sandbox is made of Linux")

MB = 1 << 20
SECRET = "the key is swordfish"
TOOLS = """
import ctypes, fcntl, mmap, os, resource, signal, socket, struct, subprocess, tempfile, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def attempt(goal, act, *arguments, **options):
    try:
        result = act(*arguments, **options)
    except (OSError, ValueError, RuntimeError) as error:
        print("refused", goal, error)
    else:
        print("BROKEN", goal, result)

def call(goal, number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result == 0 and goal.endswith("process"):
        os._exit(0)
    print("BROKEN" if result >= 0 else "refused", goal, os.strerror(ctypes.get_errno()))
"""


@dataclass
class Canary:
    """What an attack is after, on the host."""

    folder: Path
    secret: Path
    victim: subprocess.Popen[bytes]
    listener: socket.socket
    path_listener: socket.socket
    abstract_listener: socket.socket
    datagrams: socket.socket

    @property
    def names(self) -> str:
        """Assignments that tell the attack where everything is."""
        facts = {
            "FOLDER": str(self.folder),
            "SECRET": str(self.secret),
            "HOST": os.getpid(),
            "VICTIM": self.victim.pid,
            "PORT": self.listener.getsockname()[1],
            "UDP_PORT": self.datagrams.getsockname()[1],
            "SOCKET": self.path_listener.getsockname(),
            "ABSTRACT": self.abstract_listener.getsockname().decode().replace("\0", "@"),
        }
        return "\n".join(f"{name} = {value!r}" for name, value in facts.items())

    def assert_unharmed(self) -> None:
        assert self.secret.read_text() == SECRET
        assert self.secret.stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in self.folder.iterdir()) == ["secret", "socket"]
        assert self.victim.poll() is None
        reached, _, _ = select.select(
            [self.listener, self.path_listener, self.abstract_listener, self.datagrams], [], [], 0
        )
        assert not reached


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    folder = tmp_path_factory.mktemp("canary")
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    victim = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as path_listener,
        socket.socket(socket.AF_UNIX) as abstract_listener,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        path_listener.bind(os.fspath(folder / "socket"))
        path_listener.listen()
        abstract_listener.bind(f"\0recursor-{os.getpid()}")
        abstract_listener.listen()
        datagrams.bind(("127.0.0.1", 0))
        yield Canary(folder, secret, victim, listener, path_listener, abstract_listener, datagrams)
    assert victim.stdin is not None
    victim.stdin.close()
    victim.wait(10)


@pytest.fixture
async def inside(isolated: Bench, canary: Canary) -> AsyncIterator[Bench]:
    """A REPL that knows what to look for and has the tools."""
    await isolated.shown(TOOLS + canary.names)
    yield isolated
    canary.assert_unharmed()


ATTACKS = {
    # Files
    "reads a system file": "attempt('passwd', open, '/etc/passwd')",
    "reads a secret of the user": "attempt('secret', open, SECRET)",
    "asks whether a file exists": "attempt('size', os.stat, SECRET); attempt('access', os.listdir, FOLDER)",
    "links to a secret": """
for link in (os.symlink, os.link):
    def through():
        link(SECRET, '/tmp/' + link.__name__)
        return open('/tmp/' + link.__name__).read()
    attempt(link.__name__, through)""",
    "changes the metadata of a secret": """
attempt('mode', os.chmod, SECRET, 0o666)
attempt('times', os.utime, SECRET, (1, 1))
attempt('owner', os.chown, SECRET, 1000, 1000)
attempt('attribute', os.setxattr, SECRET, 'user.x', b'1')""",
    "writes outside its scratch space": """
for path in (FOLDER + '/evil', '/evil', '/usr/evil', '/var/tmp/evil', '/dev/evil'):
    attempt(path, open, path, 'w')""",
    "plants code in an installation": """
import sys
for folder in [sys.prefix, *sys.path]:
    attempt(folder, open, folder + '/evil.pth', 'w')
    attempt('mode', os.chmod, folder, 0o777)
attempt('change', open, os.__file__, 'a')""",
    "looks into proc": """
attempt('list', os.listdir, '/proc')
attempt('environment', open, '/proc/self/environ')
attempt('memory', open, f'/proc/{HOST}/mem', 'rb')
attempt('root', os.listdir, f'/proc/{HOST}/root')""",
    "opens raw devices": """
for device in ('vda', 'sda', 'mem', 'kmsg', 'fuse', 'kvm', 'tty', 'shm', 'pts'):
    attempt(device, os.open, '/dev/' + device, os.O_RDWR)""",
    "makes nodes": """
attempt('block', os.mknod, '/tmp/block', 0o60600, os.makedev(254, 0))
attempt('pipe', os.mkfifo, '/tmp/fifo')""",
    "runs native code from its scratch space": """
import sys
source = next(path for folder in sys.path if os.path.isdir(folder) for path, _, names in os.walk(folder)
              for name in names if name.endswith('.so') for path in [path + '/' + name])
with open(source, 'rb') as original, open('/tmp/copy.so', 'wb') as copy:
    copy.write(original.read())
attempt('load', ctypes.CDLL, '/tmp/copy.so')""",
    "changes the file behind a descriptor": """
with open('/tmp/own', 'w') as file:
    attempt('mode', os.chmod, file.fileno(), 0o666)
    attempt('times', os.utime, file.fileno(), (1, 1))
    attempt('lock', fcntl.flock, file, fcntl.LOCK_EX)
    attempt('lease', fcntl.fcntl, file, 1024, fcntl.F_WRLCK)
    call('times by an empty path', 280, file.fileno(), b'', None, 0x1000)""",
    # Network
    "opens a socket of any kind": """
for family in range(1, 46):
    for kind in (1, 2, 3, 5):
        for protocol in (0, 1, 6, 17, 262):
            attempt(f'{family} {kind} {protocol}', socket.socket, family, kind, protocol)""",
    "connects by TCP": "attempt('connect', socket.create_connection, ('127.0.0.1', PORT), 2)",
    "looks up a name": "attempt('resolve', socket.getaddrinfo, 'example.com', 80)",
    "sends datagrams from a pair": """
for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    attempt('pair', socket.socketpair, socket.AF_UNIX, kind)
pair = socket.socketpair()
for address in (SOCKET, chr(0) + ABSTRACT[1:]):
    attempt('connect', pair[0].connect, address)
    attempt('send', pair[0].sendto, b'evil', address)
    attempt('listen', pair[0].listen)""",
    # Processes
    "forks": """
attempt('fork', os.fork)
call('fork process', 57)
call('vfork process', 58)
call('clone process', 56, 17, None, None, None, None)""",
    "runs a program": """
attempt('run', subprocess.run, ['/bin/sh', '-c', 'id'])
attempt('exec', os.execv, '/bin/su', ['su'])
import sys
attempt('self', os.execv, sys.executable, ['python'])""",
    "runs a program from memory": """
call('memfd', 319, b'x', 0)
call('fexecve', 322, 0, b'', None, None, 0x1000)""",
    "traces or reads another process": """
for pid in (HOST, VICTIM, 1):
    call('attach', 101, 16, pid, None, None)
    call('read', 310, pid, None, 0, None, 0, 0)
    call('pidfd', 434, pid, 0)
    call('steal', 438, 3, 0, 0)""",
    "signals the host": """
for pid in (HOST, VICTIM):
    attempt(f'signal {pid}', os.kill, pid, signal.SIGTERM)
attempt('everyone', os.kill, -1, signal.SIGKILL)""",
    # Kernel
    "makes namespaces": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    call(f'unshare {flag:x}', 272, flag)
    call(f'clone {flag:x} process', 56, flag | 17, None, None, None, None)
    call(f'thread in {flag:x} process', 56, flag | 0x10000, None, None, None, None)
    arguments = struct.pack('=11Q', flag, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    call(f'clone3 {flag:x} process', 435, arguments, len(arguments))
call('setns', 308, 3, 0)""",
    "mounts": """
call('mount', 165, b'none', b'/tmp', b'tmpfs', 0, None)
call('remount', 165, None, b'/', None, 32 | 4096, None)
call('umount', 166, b'/tmp', 2)
call('chroot', 161, b'/tmp')
call('pivot_root', 155, b'/tmp', b'/tmp')
call('open_tree', 428, -100, b'/', 1)
call('fsopen', 430, b'tmpfs', 0)
call('mount_setattr', 442, -100, b'/', 0, bytes(32), 32)""",
    "uses keyrings": """
call('keyctl', 250, 0, -3, 1)
call('add_key', 248, b'user', b'x', b'y', 1, -3)
call('request_key', 249, b'user', b'x', None, -3)""",
    "uses the risky corners of the kernel": """
call('io_uring', 425, 8, ctypes.create_string_buffer(248))
call('bpf', 321, 0, ctypes.create_string_buffer(128), 128)
call('perf', 298, ctypes.create_string_buffer(128), 0, -1, -1, 0)
call('userfaultfd', 323, 1)
call('personality', 135, 0x0040000)
call('vmsplice', 278, 1, None, 0, 0)
call('fanotify', 300, 0, 0)
call('name_to_handle', 303, -100, b'/', ctypes.create_string_buffer(128), ctypes.create_string_buffer(8), 0)
call('open_by_handle', 304, -100, ctypes.create_string_buffer(128), 0)
call('seccomp', 317, 1, 0, None)
call('landlock', 444, None, 0, 1)
call('memfd_secret', 447, 0)
call('a call of the future', 999)""",
    "becomes someone else": """
for user in (0, 1, 65534):
    attempt(f'setuid {user}', os.setuid, user)
    attempt(f'setgid {user}', os.setgid, user)
call('capset', 126, struct.pack('=Ii', 0x20080522, 0), b'\\xff' * 24)
attempt('sethostname', socket.sethostname, 'evil')
attempt('groups', os.setgroups, [0])
call('prctl', 157, 24, 0, 0, 0, 0)
call('dumpable', 157, 4, 1, 0, 0, 0)""",
    "uses shared memory of the system": """
call('shmget', 29, 0x1234, 4096, 0o1666)
call('msgget', 68, 0x1234, 0o1666)
call('mq_open', 240, b'evil', 0o102, 0o600, None)
from multiprocessing import shared_memory
attempt('posix', shared_memory.SharedMemory, create=True, size=4096)""",
    "types into a terminal": """
for number in (0x5412, 0x541C, 0x5403):
    attempt('ioctl', fcntl.ioctl, 0, number, b'x')""",
    "raises its limits": """
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
    _, hard = resource.getrlimit(kind)
    attempt('limit', resource.setrlimit, kind, (hard + 1, hard + 1))
    attempt('of the host', resource.prlimit, HOST, kind)""",
    # Resources
    "fills the memory that a limit of one map misses": """
kept = []
def fill():
    for _ in range(100):
        kept.append(mmap.mmap(-1, 64 << 20))
        kept[-1][0] = 1
attempt('shared maps', fill)
del kept""",
    "fills the disk": """
def fill():
    for number in range(100):
        with open(f'/tmp/{number}', 'wb') as file:
            file.write(bytes(4 << 20))
attempt('disk', fill)
attempt('one file', lambda: open('/tmp/0', 'wb').truncate(1 << 40))
for name in os.listdir('/tmp'): os.unlink('/tmp/' + name)""",
    "uses up inodes": """
def fill():
    for number in range(100_000):
        os.close(os.open(f'/tmp/{number}', os.O_CREAT | os.O_WRONLY))
attempt('inodes', fill)
for name in os.listdir('/tmp'): os.unlink('/tmp/' + name)""",
    "opens files without end": """
kept = []
attempt('descriptors', lambda: [kept.append(os.open('/dev/null', 0)) for _ in range(100_000)])
for descriptor in kept: os.close(descriptor)""",
    "starts threads without end": """
gate = threading.Event()
started = []
def start():
    for _ in range(3000):
        thread = threading.Thread(target=gate.wait)
        thread.start()
        started.append(thread)
attempt('threads', start)
gate.set()
for thread in started: thread.join()""",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_refused_is_code_that(inside: Bench, attack: str) -> None:
    execution = await inside.run(attack)
    said = execution.output.head + execution.output.tail
    assert "BROKEN" not in said, said
    assert "refused" in said, (said, execution.error)
    assert execution.error is None, execution.error
    assert await inside.shown("6 * 7") == "42\n"


DEADLY = {
    "dereferences null": ("ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
    "leaves": ("os._exit(7)", "status 7"),
    "aborts": ("os.abort()", "signal"),
    "makes a call of the x32 convention": (
        "libc.syscall(ctypes.c_long(0x40000000 + 39))",
        "signal 31 (SIGSYS)",
    ),
    "forges an answer": (
        'header = b\'{"op":"loaded","re":999,"type":"","size":"","preview":""}\'\n'
        "os.write(3, struct.pack('<II', len(header), 0) + header)\ntime.sleep(20)",
        "protocol",
    ),
    "sends a frame of four gigabytes": ("os.write(3, b'\\xff' * 1000)\ntime.sleep(20)", "protocol"),
    "sends what is not JSON": (
        "os.write(3, struct.pack('<II', 4, 0) + b'\\xff\\xfe\\0[')\ntime.sleep(20)",
        "protocol",
    ),
    "sends an unknown frame": (
        "os.write(3, struct.pack('<II', 14, 0) + b'{\"op\":\"sudo\"} ')\ntime.sleep(20)",
        "protocol",
    ),
    "hangs up": ("os.close(3)\nos.dup2(0, 3)\ntime.sleep(20)", ""),
}


@pytest.mark.parametrize(("attack", "named"), DEADLY.values(), ids=DEADLY)
async def test_only_itself_is_ended_by_code_that(inside: Bench, attack: str, named: str) -> None:
    execution = await inside.run(attack, max_time=10)
    assert named in str(execution.error), execution
    assert any("started anew" in note for note in execution.notes)
    assert await inside.shown("6 * 7") == "42\n"


UNSTOPPABLE = {
    "swallows every exception": """
while True:
    try:
        while True: pass
    except BaseException: pass""",
    "blocks signals": """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass""",
    "begins a frame and stalls": """
os.write(3, struct.pack('<II', 100, 0))
while True:
    try: time.sleep(1)
    except BaseException: pass""",
}


@pytest.mark.parametrize("attack", UNSTOPPABLE.values(), ids=UNSTOPPABLE)
async def test_ended_at_its_time_is_code_that(inside: Bench, attack: str) -> None:
    execution = await inside.run(attack, max_time=0.2)
    assert "0.2 s" in f"{execution.error} {execution.notes}", execution
    assert await inside.shown("6 * 7") == "42\n"


async def test_a_process_cannot_stop_or_kill_itself_into_a_state_that_nobody_ends(inside: Bench) -> None:
    await inside.shown("os.kill(os.getpid(), signal.SIGTSTP)")
    await inside.shown("attempt('stop', os.kill, os.getpid(), signal.SIGSTOP)")
    await inside.shown("attempt('stop', signal.pthread_kill, threading.get_ident(), signal.SIGSTOP)")
    killed = await inside.run("os.kill(os.getpid(), signal.SIGKILL)")
    assert "SIGKILL" in str(killed.error)
    assert await inside.shown("6 * 7") == "42\n"


async def test_the_root_holds_python_and_nothing_of_the_host(inside: Bench) -> None:
    shown = await inside.shown("print(*sorted(os.listdir('/')), *sorted(os.listdir('/dev')))")
    assert not {"proc", "sys", "run", "home", "boot", "bin", "sbin", "var", "old"} & set(shown.split())
    assert {"null", "zero", "random", "urandom", "tmp"} <= set(shown.split())
    assert await inside.shown("print(os.listdir('/tmp'), os.getcwd())") == "[] /tmp\n"


async def test_only_the_sockets_and_pipes_of_the_sandbox_are_open(inside: Bench) -> None:
    code = """
import stat
for descriptor in range(3, 1024):
    try: print(descriptor, stat.S_ISSOCK(os.fstat(descriptor).st_mode))
    except OSError: pass"""
    assert await inside.shown(code) == "3 True\n4 True\n"


def test_a_descriptor_of_the_host_that_programs_inherit_does_not_arrive(canary: Canary) -> None:
    leaked = os.open(canary.secret, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    zygote = jail.Zygote()
    try:
        worker = zygote.spawn(memory=256 * MB, scratch=MB)
        descriptors = Path(f"/proc/{zygote._pid}/fd")
        assert all("secret" not in str(entry.readlink()) for entry in descriptors.iterdir())
        worker.close()
    finally:
        zygote.close()
        os.close(leaked)


async def test_nothing_of_the_callers_environment_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("PYTHONPATH", "/nonexistent/evil")
    held = templates.Templates()
    monkeypatch.setattr(templates, "_shared", {"namespaces": held})
    repl = await ProcessSandbox().open()
    try:
        inside = Bench(repl)
        assert await inside.shown(
            "import os, sys\nprint(sorted(os.environ), '/nonexistent/evil' in sys.path)"
        ) == ("['HOME', 'LANG', 'PATH', 'TMPDIR'] False\n")
        # What the C library sees is what the process was started with.
        await inside.shown(
            "import ctypes\ngetenv = ctypes.CDLL(None).getenv\ngetenv.restype = ctypes.c_char_p"
        )
        assert await inside.shown("print(getenv(b'OPENAI_API_KEY'), getenv(b'HOME'))") == "None b'/tmp'\n"
    finally:
        await repl.close()
        held.close()


async def test_sessions_see_neither_files_nor_processes_of_each_other() -> None:
    first, second = [Bench(await ProcessSandbox().open()) for _ in range(2)]
    try:
        await first.shown("open('/tmp/note', 'w').write('x')")
        assert (
            await second.shown("import os\nprint(os.listdir('/tmp'), os.getpid(), os.getppid())")
            == "[] 2 0\n"
        )
    finally:
        await first.repl.close()
        await second.repl.close()


NEEDED = {
    "threads by the hundreds": """
import threading
gate = threading.Barrier(301)
threads = [threading.Thread(target=gate.wait) for _ in range(300)]
for thread in threads: thread.start()
gate.wait()
for thread in threads: thread.join()
print('ok')""",
    "asyncio with streams and threads": """
import asyncio, socket
async def echo():
    ends = socket.socketpair()
    (reader, one), (_, other) = [await asyncio.open_connection(sock=end) for end in ends]
    other.write(b'ok\\n')
    await other.drain()
    line = await reader.readline()
    one.close()
    other.close()
    return line.decode()
print(await asyncio.to_thread(str.strip, await echo()))""",
    "temporary files": """
import os, pathlib, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'a')
    path.write_text('ok')
    shutil.copy2(path, folder + '/b')
    os.chmod(folder + '/b', 0o600)
    shutil.make_archive('/tmp/c', 'zip', folder)
    print(pathlib.Path(folder, 'b').read_text())""",
    "a database": """
import contextlib, sqlite3
with contextlib.closing(sqlite3.connect('/tmp/db')) as database:
    database.execute('create table t (x)')
    database.execute("insert into t values ('ok')")
    database.commit()
    print(database.execute('select x from t').fetchone()[0])""",
    "modules that are imported late": """
import bz2, email, lzma, sqlite3, ssl, xml.etree.ElementTree
print('ok')""",
    "installed packages": """
import msgspec
print(msgspec.json.decode(b'"ok"'))""",
    "time zones": """
from zoneinfo import ZoneInfo
print('ok' if ZoneInfo('Europe/Berlin') else '')""",
    "maps, locks and timers": """
import fcntl, mmap, threading
with open('/tmp/map', 'w+b') as file:
    file.truncate(4096)
    fcntl.lockf(file, fcntl.LOCK_EX)
    mmap.mmap(file.fileno(), 4096)[:2] = b'ok'
    print(file.read(2).decode())
done = threading.Event()
threading.Timer(0.01, done.set).start()
assert done.wait(5)""",
    "callbacks from native code": """
import ctypes
import errno
print('ok' if ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)(1) == 2 else '')""",
}


@pytest.mark.parametrize("code", NEEDED.values(), ids=NEEDED)
async def test_honest_code_can_use(isolated: Bench, code: str) -> None:
    assert await isolated.shown(code) == "ok\n"


async def small() -> Bench:
    return Bench(await ProcessSandbox(memory=64 * MB).open())


FILL = "while True: kept.append(bytearray(1000))"


async def test_a_block_that_fills_the_memory_is_told_what_to_do_and_the_next_one_can_do_it() -> None:
    bench = await small()
    try:
        full = await bench.run(f"state, kept = 7, []\n{FILL}")
        assert "MemoryError" in str(full.error)
        assert "`del` what you no longer need" in str(full.error)
        assert await bench.shown("del kept\nstate") == "7\n"
        assert await bench.shown("len(bytearray(50 << 20))") == f"{50 << 20}\n"
    finally:
        await bench.repl.close()


async def test_memory_that_is_filled_again_and_again_ends_the_repl_at_once_and_says_why() -> None:
    bench = await small()
    try:
        await bench.run(f"kept = []\n{FILL}")
        await bench.run(FILL)
        ended = await bench.run("1", max_time=20)
        assert "the memory was full" in str(ended.error)
        assert ended.duration < 10
        assert await bench.shown("6 * 7") == "42\n"
    finally:
        await bench.repl.close()


# The host side --------------------------------------------------------------------------------


@pytest.fixture
def zygote() -> Iterator[jail.Zygote]:
    zygote = jail.Zygote()
    yield zygote
    zygote.close()


def ready(worker: workers.Spawned) -> workers.Spawned:
    worker.rpc.settimeout(10)
    assert worker.rpc.recv(100)
    return worker


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 10)[0])


def test_the_kernel_confirms_what_the_report_says(zygote: jail.Zygote) -> None:
    worker = ready(zygote.spawn(memory=256 * MB, scratch=MB))
    rows = (row.split(":", 1) for row in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
    status = {name: value.split() for name, value in rows}
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    assert {int(status[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert "0" not in status["Uid"]
    assert len(status["NSpid"]) >= 3
    worker.close()
    isolation = zygote.isolation(256 * MB)
    assert isolation.isolated
    assert "256 MB" in isolation.memory
    assert any("user" in mechanism and "net" in mechanism for mechanism in isolation.mechanisms)


def test_an_interrupt_reaches_what_runs_and_a_kill_ends_it(zygote: jail.Zygote) -> None:
    worker = ready(zygote.spawn(memory=256 * MB, scratch=MB))
    worker.interrupt()
    assert worker.exit_status() is None
    worker.kill()
    assert worker.wait() == worker.wait() == "killed by signal 9 (SIGKILL)"
    assert worker.exit_status() == "killed by signal 9 (SIGKILL)"
    worker.interrupt()
    worker.close()
    worker.close()


def test_a_worker_leaves_when_the_host_hangs_up(zygote: jail.Zygote) -> None:
    worker = ready(zygote.spawn(memory=256 * MB, scratch=MB))
    worker.rpc.close()
    assert worker.wait() == "exited with status 0"
    worker.close()


def test_many_threads_spawn_at_once(zygote: jail.Zygote) -> None:
    spawned: list[workers.Spawned] = []

    def spawn() -> None:
        spawned.append(zygote.spawn(memory=256 * MB, scratch=MB))

    threads = [threading.Thread(target=spawn) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({worker.pid for worker in spawned}) == 16
    for worker in spawned:  # alive, although the threads that asked for them have ended
        ready(worker).close()


def test_no_descriptor_is_left_open(zygote: jail.Zygote) -> None:
    zygote.spawn(memory=256 * MB, scratch=MB).close()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        zygote.spawn(memory=256 * MB, scratch=MB).close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_workers_die_with_the_template_process_and_the_next_one_has_a_new_one() -> None:
    old = templates.shared()
    worker = ready(templates.spawn(memory=256 * MB, scratch=MB))
    os.kill(old._pid, signal.SIGKILL)
    assert worker.wait() == "killed together with the sandbox's template process"
    worker.close()
    with pytest.raises(SandboxError, match="gone"):
        old.spawn(memory=256 * MB, scratch=MB)
    ready(templates.spawn(memory=256 * MB, scratch=MB)).close()
    assert templates.shared() is not old


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense", b"[]", b'{"spawned":"x"}', b'{"status":1}', b'{"spawned":1}', b"\xff"]
)
def test_a_reply_that_makes_no_sense_is_a_sandbox_error(zygote: jail.Zygote, reply: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    zygote._control.close()
    zygote._control = ours
    theirs.send(reply)
    with pytest.raises(SandboxError, match="gone"):
        zygote.spawn(memory=256 * MB, scratch=MB)
    assert not zygote.alive
    theirs.close()


def test_too_little_memory_is_a_mistake_of_the_caller(zygote: jail.Zygote) -> None:
    with pytest.raises(ConfigError):
        zygote.spawn(memory=0, scratch=MB)
    with pytest.raises(ConfigError):
        zygote.spawn(memory=256 * MB, scratch=0)


def run(script: str, *, kill: bool = False) -> tuple[int, str]:
    """Run a host of its own; with `kill` end it by SIGKILL once it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with process:
        if kill:
            said = process.stdout.readline()
            pidfds = [os.pidfd_open(int(pid)) for pid in said.split()]
            process.kill()
            for pidfd in pidfds:
                assert ended(pidfd)
                os.close(pidfd)
        else:
            said, _ = process.communicate(timeout=60)
    return process.returncode, said


SPAWN = (
    "from recursor.sandboxes import templates\nworker = templates.spawn(memory=1 << 28, scratch=1 << 20)\n"
)


def test_too_many_descriptors_on_their_way_end_no_other_repl(
    zygote: jail.Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ready(zygote.spawn(memory=256 * MB, scratch=MB))
    with monkeypatch.context() as patched:

        def refused(*_: object) -> NoReturn:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

        patched.setattr(socket, "send_fds", refused)
        with pytest.raises(SandboxError, match="no room for another REPL now"):
            zygote.spawn(memory=256 * MB, scratch=MB)
    assert zygote.alive
    ready(zygote.spawn(memory=256 * MB, scratch=MB)).close()
    assert other.exit_status() is None
    other.close()


def test_a_host_with_no_descriptors_left_loses_no_repl() -> None:
    script = SPAWN + (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError: pass\n"
        "for left in range(8):\n"
        "    try: templates.spawn(memory=1 << 28, scratch=1 << 20).close()\n"
        "    except OSError: print('refused', end=' ')\n"
        "    else: print('there', end=' ')\n"
        "    os.close(held.pop())\n"
        "print(worker.exit_status())\n"
        "worker.close()\n"
    )
    status, said = run(script)
    assert (status, said.split()) == (0, ["refused"] * 6 + ["there"] * 2 + ["None"])


def test_nothing_survives_a_host_that_is_killed() -> None:
    run(SPAWN + "print(worker.pid, templates.shared()._pid, flush=True)\ninput()", kill=True)


def test_a_host_that_ends_without_closing_anything_ends_well() -> None:
    assert run(SPAWN + "print('done')") == (0, "done\n")


def test_a_forked_child_has_a_template_process_of_its_own_and_leaves_its_parents_alone() -> None:
    script = """
import os
parent = templates.shared()._pid
child = os.fork()
if not child:
    other = templates.spawn(memory=1 << 28, scratch=1 << 20)
    own = templates.shared()._pid != parent
    other.close()
    templates.shared().close()
    os._exit(0 if own else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, worker.exit_status(), templates.shared()._pid == parent)
worker.close()
"""
    assert run(SPAWN + script) == (0, "0 None True\n")


def in_a_user_namespace(then: str) -> str:
    """Without privileges on the outside, and with settings that can be changed."""
    return (
        "import os\nfrom pathlib import Path\nfrom recursor.sandboxes.guest import linux\n"
        "user, group = os.geteuid(), os.getegid()\nlinux.unshare(linux.NEWUSER)\n"
        "proc = Path('/proc/self')\n(proc / 'setgroups').write_text('deny')\n"
        "(proc / 'uid_map').write_text(f'0 {user} 1')\n(proc / 'gid_map').write_text(f'0 {group} 1')\n" + then
    )


REPORT = """
from recursor.errors import IsolationUnavailable
from recursor.sandboxes import templates
try:
    worker = templates.spawn(memory=1 << 28, scratch=1 << 20)
    print("spawned")
    worker.close()
except IsolationUnavailable as error:
    print(error)
"""


def test_root_of_a_container_with_a_single_user_is_isolated_too() -> None:
    assert run(in_a_user_namespace(REPORT)) == (0, "spawned\n")


def test_where_namespaces_are_forbidden_the_error_names_the_step_and_the_remedy() -> None:
    forbid = "Path('/proc/sys/user/max_user_namespaces').write_text('0')\nlinux.drop_capabilities()\n"
    status, said = run(in_a_user_namespace(forbid + REPORT))
    assert status == 0
    assert "unshare(user) failed" in said
    assert "ENOSPC" in said
    assert "sysctl -w user.max_user_namespaces" in said
    assert "inprocess" in said


def test_other_systems_are_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationUnavailable, match="darwin") as raised:
        jail.Zygote()
    assert "inprocess" in str(raised.value)


def test_an_unknown_architecture_is_an_error_and_not_an_open_door() -> None:
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp.Filter("riscv64")


def test_every_system_call_that_is_named_has_a_number_and_one_verdict() -> None:
    known = syscalls.X86_64.numbers
    verdicts = [*syscalls.ALLOWED, *syscalls.DENIED, *syscalls.UNSUPPORTED, *seccomp._CONDITIONAL]
    assert len(verdicts) == len(set(verdicts))
    assert set(verdicts) <= set(known)
    assert len(set(known.values())) == len(known)


_ABSENT = """
open stat lstat poll access pipe select dup2 pause alarm fork vfork getdents rename mkdir rmdir
creat link unlink symlink readlink chmod chown lchown getpgrp utime mknod arch_prctl time
epoll_create epoll_wait utimes futimesat signalfd eventfd
"""
ABSENT = set(_ABSENT.split())
"""Calls of x86-64 that newer architectures do without: the C library makes others."""


def test_every_call_has_a_number_on_aarch64_or_is_absent_there() -> None:
    known = syscalls.AARCH64.numbers
    assert set(syscalls.X86_64.numbers) - set(known) == ABSENT
    assert set(known) <= set(syscalls.X86_64.numbers)
    assert len(set(known.values())) == len(known)
    new = {name: number for name, number in syscalls.X86_64.numbers.items() if number >= 424}
    assert {name: known[name] for name in new} == new  # from there on they are the same everywhere
    assert seccomp.Filter("aarch64").allowed > 100


def test_the_numbers_of_aarch64_are_those_of_the_kernel() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("the headers of the kernel are not installed")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    theirs = {{"fstatat": "newfstatat"}.get(name, name): int(number) for name, number in lines}
    ours = syscalls.AARCH64.numbers
    assert not ABSENT & set(theirs)
    assert {name: number for name, number in ours.items() if theirs.get(name, number) != number} == {}
    assert len(set(ours) & set(theirs)) > 200


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_the_numbers_are_those_of_libseccomp(machine: str) -> None:
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip("libseccomp is not installed")
    architecture = syscalls.ARCHITECTURES[machine]
    for name, number in architecture.numbers.items():
        theirs = resolve(ctypes.c_uint32(architecture.audit), name.encode())
        assert theirs in (number, -1), name  # -1: later than the library
    if machine == "aarch64":
        assert all(resolve(ctypes.c_uint32(architecture.audit), name.encode()) < 0 for name in ABSENT)


async def test_repls_start_side_by_side() -> None:
    repls = await asyncio.wait_for(asyncio.gather(*(ProcessSandbox().open() for _ in range(8))), 30)
    shown = await asyncio.gather(
        *(Bench(repl).shown(f"print({number})") for number, repl in enumerate(repls))
    )
    assert shown == [f"{number}\n" for number in range(8)]
    for repl in repls:
        await repl.close()


def test_a_template_process_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_BOOT", "raise RuntimeError('out of luck')")
    with pytest.raises(SandboxError, match=r"(?s)did not start.*out of luck"):
        jail.Zygote()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(SandboxError, match="/nonexistent/python could not be started"):
        jail.Zygote()


async def test_more_repls_are_open_at_once_than_a_worker_may_open_files() -> None:
    sandbox = ProcessSandbox()
    repls = [await sandbox.open() for _ in range(260)]
    try:
        assert await Bench(repls[-1]).shown("print(6 * 7)") == "42\n"
    finally:
        await asyncio.gather(*(repl.close() for repl in repls))
