"""Programs that go for what is outside: files, secrets, the network."""

# A program reads better below its name than in a column of arguments.
# fmt: off
from __future__ import annotations

from recursor.testing.programs.attack import CHANGED, GRANTED, REACHED, SHOWN, STARTED, Attack

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
