"""Programs that go for the machine: its processes, its kernel, its memory, disk and time."""

# A program reads better below its name than in a column of arguments.
# fmt: off
from __future__ import annotations

from recursor.testing.programs.attack import GRANTED, STARTED, STUCK, UNBOUNDED, Attack

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
    call('process_madvise', 3, None, 0, 20, 0)
    if hasattr(sys, 'remote_exec'): attempt('remote_exec', sys.remote_exec, pid, os.__file__)""", quick=True),
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
