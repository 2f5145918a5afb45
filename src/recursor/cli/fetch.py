"""JSON from an address, without the HTTP client that calls models: what a command wants to know before a run.

Follows no redirect, since another host must not get a key; quotes nothing of what came with an error, since a
server may send the key back.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

MOST = 2**25
"""Bytes of a reply."""
NOT_THERE = 404


class Unreachable(Exception):
    """There is no such answer. The text says why, for a person.

    Attributes:
        status: of the HTTP reply; None when there was none.
    """

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    connect: float = 5.0,
    reply: float = 20.0,
) -> Any:
    """Return the JSON document at an address.

    Args:
        body: is posted; None gets.
        connect, reply: seconds until there is a connection, and that the server may be silent then.

    Raises:
        Unreachable: there is none.
    """
    try:
        return _fetched(url, dict(headers or {}), body, connect, reply)
    except TimeoutError as error:
        raise Unreachable("it does not answer in time") from error
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(f"no answer from it: {why}") from None


def _fetched(
    url: str, headers: dict[str, str], body: Mapping[str, Any] | None, connect: float, reply: float
) -> Any:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unreachable("its address does not begin with http:// or https://")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=connect)
    try:
        connection.connect()
        assert isinstance(connection.sock, socket.socket), "it is connected"
        connection.sock.settimeout(reply)
        data = None if body is None else json.dumps(body).encode()
        headers |= {"Accept": "application/json", "Content-Type": "application/json"}
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection.request("GET" if body is None else "POST", target, data, headers)
        answer = connection.getresponse()
        if answer.status in (401, 403):
            raise Unreachable(f"it does not accept the key (status {answer.status})", answer.status)
        if answer.status != 200:
            raise Unreachable(f"it answers with status {answer.status}", answer.status)
        received = answer.read(MOST + 1)
    finally:
        connection.close()
    if len(received) > MOST:
        raise Unreachable(f"it sends more than {MOST:,} bytes")
    try:
        return json.loads(received)
    except (ValueError, RecursionError):
        raise Unreachable("what it sends is no JSON") from None
