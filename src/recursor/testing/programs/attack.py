"""What programs that attack a sandbox have in common: what they are, their goals, what comes before each."""

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
