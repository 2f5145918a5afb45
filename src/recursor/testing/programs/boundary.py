"""Programs that go for the line to the host, and for what the host does with what comes over it."""

# A program reads better below its name than in a column of arguments.
# fmt: off
from __future__ import annotations

from recursor.testing.programs.attack import STUCK, Attack

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
    Attack("channel", "sends the smallest frames without end", STUCK, """
end, frame = channel(), b'{"op":"part","of":1}'
frames = (struct.pack('<II', len(frame), 0) + frame) * 100
while True: os.write(end, frames)""", silent=True, max_time=2.0),
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
    Attack("values", "asks with a fraction that would take minutes to reduce", STUCK, """
halves = b'1%x/1%x' % (int.from_bytes(os.urandom(1 << 20)), int.from_bytes(os.urandom(1 << 20)))
send(b'{"op":"tool","id":-1,"name":"x","apart":[],"ahead":0}', b'[[{"$":["fraction","' + halves + b'"]}],[]]')
time.sleep(20)""", silent=True, max_time=2.0),
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
