"""Files behind addresses, fetched by the host before a run, into files that have no name.

The name of a server is resolved once for each request, and the connection goes to the very address that was
looked at: a name that means another address a moment later gains nothing. Redirections are requests like the first.
No proxy is used, whatever the environment says; no credentials, cookies or client certificates are sent. Time
is bounded as a whole, size before and after unpacking. What comes is not looked into here, but for its first bytes.
"""

from __future__ import annotations

import codecs
import http.client
import io
import ipaddress
import re
import socket
import ssl
import tempfile
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from recursor.errors import ConfigError, UnreadableFile
from recursor.files import Url

MOST_REDIRECTS = 5
MOST_ADDRESSES = 4
"""Addresses of one name that are tried."""
CONNECTING = 10.0
"""Seconds that one address may take to answer."""
_PIECE = 1 << 16
_AGENT = "recursor"
_OURS = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "3fff::/20")))
"""Addresses that some version of Python calls public, and that are of a machine's own cloud, or reserved."""
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that there is of the internet in IPv6."""
_PORTS = {"http": 80, "https": 443}
_OF_TEXTS = re.compile(
    r"(utf-|iso8859-|iso2022_|cp\d|koi8-|mac-|big5|gb|euc_|shift_jis|johab|hz|tis-|ptcp|kz|hp-)"
)
"""Begins the names of charsets, as Python has them: others unpack (bz2, zlib), or take the square of the time."""

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
"""From the name of a server and a port to addresses. Raises OSError."""
Permit: TypeAlias = Callable[[str], Any]
"""Raises ConfigError where a host may not be asked; returns what was decided, None where that was nothing."""


class Bounds(NamedTuple):
    """What a fetch may take."""

    size: int
    """Bytes, as they come and as they are unpacked."""
    seconds: float
    private: bool
    """Whether servers of this machine and of its networks may be asked."""


class Fetched(NamedTuple):
    """What came."""

    file: BinaryIO
    """Unnamed; the caller owns it."""
    size: int
    address: str
    """Where it was, after all redirections."""
    media_type: str
    """In small letters, without parameters; empty where the server said none."""
    charset: str
    """In small letters; empty where the server said none."""
    decisions: tuple[Any, ...]
    """What `permit` returned of the hosts that were asked."""


class _Target(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str
    url: str


def resolved(host: str, port: int) -> list[str]:
    """Addresses of a name, by the resolver of this machine."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def fetch(url: str, bounds: Bounds, permit: Permit, resolve: Resolve | None = None) -> Fetched:
    """Fetch a file. Blocks; call it in a thread.

    Args:
        permit: is asked about each host before it is.

    Raises:
        ConfigError: the address is none that may be fetched.
        UnreadableFile: it cannot be fetched, is too large, or breaks off.
    """
    deadline = time.monotonic() + bounds.seconds
    target, decisions = _target(url), list[Any]()
    for _ in range(MOST_REDIRECTS + 1):
        decisions.append(permit(target.host))
        try:
            with closing(_connected(target, bounds, deadline, resolve or resolved)) as connection:
                answer = _asked(target, connection, deadline)
                location = answer.getheader("Location")
                if answer.status in (301, 302, 303, 307, 308) and location:
                    target = _redirected(target, location)
                    continue
                if answer.status != 200:
                    raise UnreadableFile(
                        f"{shown(url)}: the server says {answer.status} {answer.reason[:100]}"
                    )
                file, size = _stored(answer, bounds, url)
        except TimeoutError:
            raise UnreadableFile(f"{shown(url)}: it was not there within {bounds.seconds:g} s") from None
        except (OSError, http.client.HTTPException, zlib.error, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            said = str(error) or type(error).__name__
            raise UnreadableFile(f"{shown(url)}: it cannot be fetched: {said[:300]}") from error
        kind, charset = answer.headers.get_content_type(), answer.headers.get_content_charset("")
        kind = kind if answer.getheader("Content-Type") else ""
        found = tuple(each for each in decisions if each is not None)
        return Fetched(file, size, target.url, kind, charset, found)
    raise UnreadableFile(f"{shown(url)}: more than {MOST_REDIRECTS} redirections")


def shown(url: str) -> str:
    """An address as it is told and recorded."""
    return Url(url).shown


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large: to no machine, network or cloud of one's own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found not in _UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in each for each in _OURS)


def _target(url: str) -> _Target:
    if any(ord(sign) <= 0x20 or ord(sign) == 0x7F for sign in url):
        raise ConfigError(f"{shown(url)!r}: there are blanks or control characters in this address")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii") if parts.hostname else ""
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + urllib.parse.quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|")
    except (ValueError, UnicodeError) as error:
        if "@" in url:  # what stands before that may be a password, and the reason quotes it
            raise ConfigError("what was given with an @ in it is no address") from None
        raise ConfigError(f"{shown(url)!r} is no address: {error}") from None
    if parts.scheme not in _PORTS:
        raise ConfigError(f"{shown(url)!r}: only http:// and https:// are fetched")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"the address at {host}: no user names and passwords are sent")
    if not host:
        raise ConfigError(f"{shown(url)!r}: there is no host in this address")
    return _Target(parts.scheme, host.rstrip(".").lower(), port or _PORTS[parts.scheme], path, url)


def _redirected(target: _Target, location: str) -> _Target:
    found = _target(urllib.parse.urljoin(target.url, location.strip()))
    if target.scheme == "https" and found.scheme == "http":
        raise ConfigError(f"{shown(target.url)}: it redirects from https to http, {shown(found.url)}")
    return found


def _connected(target: _Target, bounds: Bounds, deadline: float, resolve: Resolve) -> socket.socket:
    """A connection to an address that was looked at."""
    found = list(resolve(target.host, target.port))
    allowed = [each for each in found if bounds.private or is_public(each)]
    if found and not allowed:
        raise ConfigError(
            f"{shown(target.url)}: {target.host}{'' if found[0] == target.host else f' ({found[0]})'} is this "
            "machine, or in a network of its own; Url(..., allow_private=True) fetches from there"
        )
    failure: OSError = OSError(f"{target.host} has no address")
    for address in allowed[:MOST_ADDRESSES]:
        try:
            connection = socket.create_connection(
                (address, target.port), timeout=min(CONNECTING, _left(deadline))
            )
        except OSError as error:
            failure = error
            continue
        if target.scheme == "http":
            return connection
        try:
            connection.settimeout(min(CONNECTING, _left(deadline)))
            return ssl.create_default_context().wrap_socket(connection, server_hostname=target.host)
        except BaseException:
            connection.close()
            raise
    raise failure


def _asked(target: _Target, connection: socket.socket, deadline: float) -> http.client.HTTPResponse:
    host = f"[{target.host}]" if ":" in target.host else target.host
    if target.port != _PORTS[target.scheme]:
        host += f":{target.port}"
    head = (
        f"GET {target.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {_AGENT}\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    connection.settimeout(_left(deadline))
    connection.sendall(head.encode("ascii"))
    answer = http.client.HTTPResponse(_Timed(connection, deadline))  # type: ignore[arg-type]  # it reads a file of it
    answer.begin()
    return answer


def _stored(answer: http.client.HTTPResponse, bounds: Bounds, url: str) -> tuple[BinaryIO, int]:
    """Put what comes into a file; return that, and how long it is."""
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it is returned
    size = 0
    try:
        for piece in _unpacked(answer, bounds, url):
            size += len(piece)
            if size > bounds.size:
                raise _too_large(url, bounds)
            file.write(piece)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, size


def _unpacked(answer: http.client.HTTPResponse, bounds: Bounds, url: str) -> Iterator[bytes]:
    encoding = (answer.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        yield from _received(answer, bounds, url)
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the server sends it as {encoding[:40]!r}, though it was asked for it as it is")
    decoder = zlib.decompressobj(47)
    for piece in _received(answer, bounds, url):
        rest = piece
        while rest and not decoder.eof:
            yield decoder.decompress(rest, _PIECE)
            rest = decoder.unconsumed_tail
    if not decoder.eof:
        raise ValueError("it breaks off")


def _received(answer: http.client.HTTPResponse, bounds: Bounds, url: str) -> Iterator[bytes]:
    expected, got = answer.length, 0
    if (expected or 0) > bounds.size:
        raise _too_large(url, bounds)
    while piece := answer.read(_PIECE):
        got += len(piece)
        if got > bounds.size:
            raise _too_large(url, bounds)
        yield piece
    if expected is not None and got != expected:
        raise ValueError(f"it breaks off after {got:,} of {expected:,} bytes")


def _too_large(url: str, bounds: Bounds) -> UnreadableFile:
    return UnreadableFile(f"{shown(url)}: it has more than {bounds.size:,} bytes (Url(..., max_bytes=))")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Timed(io.RawIOBase):
    """What is received, until a moment: however slowly it comes."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def makefile(self, _mode: str) -> BinaryIO:
        return io.BufferedReader(self, _PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._deadline))
        return self._connection.recv_into(buffer)


def path_of(file: BinaryIO) -> str:
    """A path at which a file without a name can be opened, as long as it is open here."""
    folder = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
    return f"{folder}/{file.fileno()}"


def as_utf8(fetched: Fetched) -> Fetched:
    """A text in UTF-8, whatever charset the server said it has; as it came where it has not that."""
    try:
        name = codecs.lookup(fetched.charset).name if fetched.charset else "utf-8"
        if name in ("utf-8", "ascii") or not _OF_TEXTS.match(name):
            return fetched
        decoder: Any = codecs.getincrementaldecoder(fetched.charset)()
    except LookupError:
        return fetched
    written: Any = tempfile.TemporaryFile()  # noqa: SIM115 - it is returned
    size = 0
    try:
        for piece in iter(lambda: fetched.file.read(_PIECE), b""):
            size += written.write(decoder.decode(piece).encode("utf-8", "surrogatepass"))
        size += written.write(decoder.decode(b"", final=True).encode("utf-8", "surrogatepass"))
        written.flush()
    except (
        OSError,
        UnicodeError,
        TypeError,
        AttributeError,
        ValueError,
    ):  # it has another; or this is none of texts
        written.close()
        fetched.file.seek(0)
        return fetched
    fetched.file.close()
    return fetched._replace(file=written, size=size)
