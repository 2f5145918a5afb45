"""HTTP to models: one pooled session per event loop, and an endpoint that posts JSON.

Invariants: no request body and no header is logged or kept; a key that a server sends back is
taken out of its reply before anyone reads it; every failure is a `ModelError`, `retryable` only
when the connection failed or an error was received. A timeout while waiting is not: the reply may
be on its way and paid for.

Does not retry (`recursor.models.retry`) and does not bound concurrency (`recursor.models.gate`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import io
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from recursor.errors import ConfigError, ModelError
from recursor.models.failures import Request, clip, refused
from recursor.models.sse import EventParser, ServerEvent

if TYPE_CHECKING:
    import aiohttp

Key: TypeAlias = str | Callable[[], str | None] | None
"""A key, or something that returns it, asked before each request."""
Body: TypeAlias = Mapping[str, Any] | bytes
"""Of a request: its fields, or what `encode` made of them."""

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
MAX_REPLY = 2**28
"""Bytes, unpacked. No reply of a model comes near it, and an address may be anyone's."""
_LARGE = 2**20
_ECHO = 16
"""A key of this length is no word of a reply by chance; "ollama" could be."""
WHOLE = "whole"
"""Name of the one event of a reply that was not streamed."""
_PLAIN = re.compile(r"[\w.-]*", re.ASCII)
"""A key that JSON writes as it is."""

_sessions: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession, None]] = {}
_open: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


async def session() -> aiohttp.ClientSession:
    """Return the running loop's session. It closes with `close`, or when the loop or the process ends."""
    loop = asyncio.get_running_loop()
    found = _open.get(loop)
    if found is not None and not found.closed:
        return found
    for old in [known for known in _open if known.is_closed()]:
        _open.pop(old, None)
        _sessions.pop(old, None)
    # An async generator, since asyncio closes those before it closes the loop.
    holder = _hold()
    opened = await anext(holder)
    _register(os.getpid())
    _sessions[loop], _open[loop] = holder, opened
    return opened


async def _hold() -> AsyncGenerator[aiohttp.ClientSession, None]:
    import aiohttp  # noqa: PLC0415  # 0.2 s, and only who calls a model needs it

    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ttl_dns_cache=300)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


async def close() -> None:
    """Close the running loop's session, if it has one. A later request opens a new one."""
    loop = asyncio.get_running_loop()
    _open.pop(loop, None)
    holder = _sessions.pop(loop, None)
    if holder is not None:
        await holder.aclose()


@functools.cache
def _register(process: int) -> None:
    """Have a process close its sessions at its end. A fork registers anew."""
    atexit.register(_close_all, process)


def _close_all(process: int) -> None:
    """Close what loops of other threads hold, at the end of the process: aiohttp complains otherwise."""
    if os.getpid() != process:  # a fork has its parent's loops, but not the threads that run them
        return
    for loop in list(_open):
        if loop.is_running():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(close(), loop).result(1.0)


class Endpoint:
    """One address with its key."""

    def __init__(
        self,
        base_url: str,
        path: str,
        *,
        key: Key = None,
        key_header: str = "Authorization",
        headers: Mapping[str, str] | None = None,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        """Check the address and the key.

        Args:
            base_url: with or without a slash at its end; a query is kept.
            path: of the wire, "/chat/completions".
            key_header: "Authorization" sends it as a bearer token, any other name as it is.
            read_timeout: seconds that the server may be silent.

        Raises:
            ConfigError: the address is no HTTP URL, or the key cannot be sent in a header.
        """
        importlib.import_module("aiohttp")  # 0.1 s, better now than between a question and its first request
        shown = clip(base_url.rpartition("@")[2], 40)  # before it may stand a password
        try:
            parts = urlsplit(base_url.strip())
            (parts.hostname or "").encode("idna")
            _ = parts.port
        except ValueError as error:
            raise ConfigError(f'the base_url "{shown}" is no address: {error}') from error
        if parts.scheme not in ("http", "https") or not parts.hostname or " " in parts.netloc:
            raise ConfigError(f'the base_url must begin with http:// or https://, not "{shown}"')
        if "@" in parts.netloc:
            raise ConfigError(f"the base_url of {parts.hostname} holds a password; give it as api_key")
        root = parts.path.rstrip("/").removesuffix(path)
        self.host: str = parts.hostname.rstrip(".")
        self.url = f"{parts.scheme}://{parts.netloc}{root}{path}"
        self._target = f"{self.url}?{parts.query}" if parts.query else self.url
        self._key = key
        self._key_header = key_header
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._read_timeout = read_timeout
        self.key()

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    def key(self) -> str | None:
        """Return the key; None when there is none.

        Raises:
            ConfigError: the key holds characters that no header may hold.
        """
        key = self._key() if callable(self._key) else self._key
        key = key.strip() if key else None
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the key for {self.url} holds a line break or a character that is not ASCII")
        return key or None

    async def post(self, body: Body, request: Request) -> bytes:
        """Send a body and return the whole reply.

        Raises:
            ModelError: the connection failed, or the status is not 200.
        """
        async with self._exchange(body, request) as (response, key):
            return _without(_echo(key), await _read(response, request))

    async def stream(self, body: Body, request: Request) -> AsyncGenerator[ServerEvent, None]:
        """Send a body and yield the reply's events.

        A server that does not stream sends one JSON document: it comes as one event named `WHOLE`.

        Raises:
            ModelError: the connection failed, was cut, or the status is not 200.
        """
        async with self._exchange(body, request) as (response, key):
            secret = _echo(key)
            if response.content_type != "text/event-stream":
                whole = _without(secret, await _read(response, request))
                yield ServerEvent(WHOLE, whole.decode("utf-8", "replace"))
                return
            parser = EventParser()
            async for chunk in _chunks(response, request):
                for event in parser.feed(chunk):
                    yield _cleaned(event, secret)
            for event in parser.close():
                yield _cleaned(event, secret)

    @contextlib.asynccontextmanager
    async def _exchange(
        self, body: Body, request: Request
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str | None]]:
        """Post, and translate whatever fails, inside the block too."""
        import aiohttp  # noqa: PLC0415  # see _hold

        key = self.key()
        data = body if isinstance(body, bytes) else encode(body)
        failure: ModelError
        try:
            async with (await session()).post(
                self._target,
                # aiohttp warns of large bytes, and writes a file in pieces.
                data=io.BytesIO(data) if len(data) > _LARGE else data,
                headers=self._headers | self._authorization(key),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._read_timeout
                ),
                allow_redirects=False,  # another host must not get the key
            ) as response:
                if response.status != 200:
                    said = b""
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the status says enough
                        async for chunk in _chunks(response, request):
                            said += chunk
                    if key:  # a short one too: an error is no place for it
                        said = _without(key, said)
                    raise refused(response.status, response.headers, said, request, time.time())
                yield response, key
                return
        except aiohttp.ConnectionTimeoutError as error:
            raise ModelError(
                f"{request.url} did not accept a connection within {CONNECT_TIMEOUT:g} s", retryable=True
            ) from error
        except TimeoutError as error:
            raise ModelError(
                f"{request.model} at {request.url} was silent for {self._read_timeout:g} s; "
                "not asked again, since its reply may be paid for"
            ) from error
        except aiohttp.ClientSSLError as error:
            raise ModelError(f"no secure connection to {request.url}: {clip(str(error))}") from error
        except aiohttp.ClientConnectorError as error:
            raise ModelError(
                f"no connection to {request.url}: {clip(_reason(error.os_error))}", retryable=True
            ) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise ModelError(
                f"the connection to {request.url} was cut: {clip(str(error))}", retryable=True
            ) from error
        except aiohttp.ClientError as error:
            failure = ModelError(f"{request.url} did not answer in HTTP: {clip(type(error).__name__)}")
        # Outside of the handler: such an error holds the request's headers, the key among them.
        raise failure

    def _authorization(self, key: str | None) -> dict[str, str]:
        if not key:
            return {}
        return {self._key_header: f"Bearer {key}" if self._key_header == "Authorization" else key}


async def _chunks(response: aiohttp.ClientResponse, request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes in. Raises ModelError when it does not end."""
    read = 0
    async for chunk in response.content.iter_any():
        read += len(chunk)
        if read > MAX_REPLY:
            raise ModelError(f"{request.model} at {request.url} sent more than {MAX_REPLY:,} bytes", 200)
        yield chunk


async def _read(response: aiohttp.ClientResponse, request: Request) -> bytes:
    return b"".join([chunk async for chunk in _chunks(response, request)])


def _reason(error: OSError) -> str:
    """What the system says: "Connection refused"."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def require_key(endpoint: Endpoint, spec: str, names: tuple[str, ...]) -> None:
    """Check that there is a key.

    Raises:
        ConfigError: there is none; the text says where to put it.
    """
    if endpoint.key() is None:
        raise ConfigError(
            f'no key for "{spec}": set {" or ".join(names)}, keep it by '
            f"`recursor keys set {spec.partition('/')[0]}`, or pass api_key"
        )


def encode(body: Mapping[str, Any]) -> bytes:
    """Return JSON. Lone surrogates, which UTF-8 does not have, become question marks."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(body))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value


def _echo(key: str | None) -> str | None:
    return key if key and len(key) >= _ECHO else None


def _without(key: str | None, data: bytes) -> bytes:
    if key is None:
        return data
    data = data.replace(key.encode(), b"[key]")
    # As JSON may spell it. The search is slow, and nearly always there is nothing to find.
    if b"\\u00" in data or (b"\\" in data and not _PLAIN.fullmatch(key)):
        data = _escaped(key).sub(b"[key]", data)
    return data


@functools.lru_cache(maxsize=16)
def _escaped(key: str) -> re.Pattern[bytes]:
    """Return what finds a key that was escaped, in any of the ways that JSON has, or twice."""
    # Few backslashes each, not any number: a reply of nothing else must not take for ever.
    return re.compile(
        b"".join(
            rb"(?:\\{0,3}%b|\\{1,2}u00(?i:%02x))" % (re.escape(each.encode()), ord(each)) for each in key
        )
    )


def _cleaned(event: ServerEvent, key: str | None) -> ServerEvent:
    return ServerEvent(event.event, _without(key, event.data.encode()).decode()) if key else event
