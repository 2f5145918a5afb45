"""Workers that the host has not been given: they lock themselves in, and wait to be addressed.

One is begun when the one before it has gone, so that most of the time who asks finds it waiting. It has
nothing of the host's, and runs nothing but these lines, until it is addressed.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from . import linux
from .families import Family

_MESSAGE = 4096


class Newcomer:
    """A worker, as its template holds it before anybody else does.

    Args:
        number: as its host will know it.
        scratch: bytes of its /tmp.
        door: the other end of what it waits at.
    """

    def __init__(self, number: int, pid: int, family: Family, scratch: int, door: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.family = family
        self.scratch = scratch
        self.door = door
        self.report: dict[str, Any] = {"step": "lock in", "errno": 0, "error": "the worker ended"}
        """What kept it from locking itself in."""
        self.admitted = False
        """Whether it has, and its filter's descriptor is with its family."""

    def admit(self) -> bool:
        """Wait until it has locked itself in, or has failed to; return whether it has.

        Raises:
            OSError: it has ended.
        """
        said = json.loads(self.door.recv(_MESSAGE) or b"{}")
        if "listener" in said:
            self.family.take_listener(self.pid, said["listener"])
            self.door.send(b"taken")
            self.admitted = True
        self.report = said or self.report
        return self.admitted

    def address(self, memory: int, descriptors: list[int]) -> None:
        """Give it what it is to have, and let go of it.

        Raises:
            OSError: it has ended.
        """
        socket.send_fds(self.door, [b"%d" % memory], descriptors)
        self.door.close()


def failed(door: socket.socket, report: dict[str, Any]) -> None:
    """In a worker: say what kept it from locking itself in."""
    door.send(json.dumps(report).encode())


def addressed(door: socket.socket, listener: int) -> tuple[int, list[int]]:
    """In a worker that is locked in: close it to others of its user, and wait; return bytes of memory and descriptors.

    Args:
        listener: descriptor of its filter; -1 where there is none.
    """
    door.send(b'{"listener": %d}' % listener)
    if not door.recv(_MESSAGE):
        os._exit(0)
    linux.set_dumpable(False)
    if listener >= 0:
        os.close(listener)
    message, descriptors, _, _ = socket.recv_fds(door, _MESSAGE, 3)
    if not message:
        os._exit(0)
    door.close()
    return int(message), descriptors
