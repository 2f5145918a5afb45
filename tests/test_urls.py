"""Addresses as contexts: what is fetched, and above all what is not."""

from __future__ import annotations

import bz2
import gzip
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinds
from recursor import RLM, Policy
from recursor.cli import contexts
from recursor.context import fetching, prepare
from recursor.context.fetching import Bounds, fetch, is_public
from recursor.errors import ConfigError, UnreadableFile
from recursor.files import Raw, Url
from recursor.policy import Request
from recursor.testing import ListSink, ScriptedModel
from recursor.trajectory.view import open as opened
from recursor.types import Decided

Answers = dict[str, tuple[int, Mapping[str, str], bytes]]


class Site:
    """A server on this machine that says what it is told to."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.headers.append({name.lower(): value for name, value in self.headers.items()})
                site.say(self)

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def secure(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def say(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        status, headers, body = self.answers[handler.path.partition("?")[0]]
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        if "X-Hold" in headers:
            handler.wfile.flush()
            self.release.wait(20)
        handler.close_connection = True

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def here(site: Site, path: str, **more: Any) -> Url:
    return Url(site.url + path, allow_private=True, **more)


def answer_to(context: Any, code: str = "FINAL(context)", **settings: Any) -> Any:
    return RLM(ScriptedModel([f"```repl\n{code}\n```"]), **settings).completion("?", context=context).answer


@pytest.mark.parametrize(
    ("path", "media_type", "body", "expected"),
    [
        ("/a.csv", "application/octet-stream", b"k,v\nx,1\n", [{"k": "x", "v": "1"}]),
        ("/export", "text/csv; charset=utf-8", b"k,v\nx,1\n", [{"k": "x", "v": "1"}]),
        ("/page", "text/html", b"<h1>Hi</h1>", "# Hi\n"),
        ("/a.pdf", "text/html", b"<p>log in", "log in\n"),
        ("/doc", "", kinds.word(), "# Results\nAll is well.\na | b\n"),
        ("/a.docx", "application/zip", kinds.word(), "# Results\nAll is well.\na | b\n"),
        ("/notes", "text/plain", b"plain", "plain"),
        ("/data.json?key=secret", "application/json", b"[1]", [1]),
        ("/empty", "text/plain", b"", ""),
        ("/old.txt", "text/plain; charset=iso-8859-1", b"caf\xe9 " * 50_000, "café " * 50_000),
        ("/jp.txt", "text/plain; charset=Shift_JIS", "日本".encode("shift_jis"), "日本"),
        ("/lies.txt", "text/plain; charset=shift_jis", b"\xff\xfe\xfd", b"\xff\xfe\xfd"),
        ("/none.txt", "text/plain; charset=nonsense", b"plain", "plain"),
        ("/hex.txt", "text/plain; charset=hex", b"6161", "6161"),
        ("/utf7.txt", "text/plain; charset=utf-7", b"a+AGI-c", "abc"),
    ],
)
def test_what_is_fetched_is_read_as_what_it_is(
    site: Site, path: str, media_type: str, body: bytes, expected: Any
) -> None:
    site.answers[path.partition("?")[0]] = 200, {"Content-Type": media_type}, body
    assert answer_to(here(site, path)) == expected
    assert site.asked == [path]
    assert site.headers[0].keys() == {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize("charset", ["bz2", "zlib", "punycode", "unicode_escape", "rot13"])
def test_a_charset_that_is_none_of_texts_unpacks_nothing_on_the_host(site: Site, charset: str) -> None:
    body = bz2.compress(bytes(256 << 20))  # some hundred bytes
    site.answers["/bomb.txt"] = 200, {"Content-Type": f"text/plain; charset={charset}"}, body
    tracemalloc.start()
    try:
        source = prepare(here(site, "/bomb.txt"))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(ConfigError, match="is read in a REPL and nowhere else"):  # packed, by its first bytes
        source.value()


def test_an_address_among_files_and_as_it_stands(site: Site, tmp_path: Path) -> None:
    tmp_path.joinpath("b.txt").write_text("here")
    site.answers["/a.csv"] = 200, {}, b"k,v\nx,1\n"
    found = answer_to([here(site, "/a.csv"), tmp_path / "b.txt"], "FINAL(dict(context))")
    assert found == {f"{site.url}/a.csv": [{"k": "x", "v": "1"}], str(tmp_path / "b.txt"): "here"}
    assert answer_to(here(site, "/a.csv", raw=True)) == "k,v\nx,1\n"


def test_the_root_lm_and_the_record_are_told_the_address_and_no_secret(site: Site, tmp_path: Path) -> None:
    site.answers["/a.txt"] = 200, {}, b"text"
    root = ScriptedModel(["```repl\nFINAL(1)\n```"])
    store = tmp_path / "runs.db"
    rlm = RLM(root, store=store)
    rlm.completion("?", context=here(site, "/a.txt?token=s3cret#x"))
    assert f"from {site.url}/a.txt?…" in root.requests[0][-1].content
    with opened(store) as recorded:
        assert recorded.runs()[0].contexts[0].info.source == f"{site.url}/a.txt?…"
    assert b"s3cret" not in store.read_bytes()


def test_a_list_and_a_session_keep_no_secret_of_an_address_either(site: Site, tmp_path: Path) -> None:
    site.answers["/a.txt"] = 200, {}, b"text"
    store, secret = tmp_path / "runs.db", here(site, "/a.txt?token=s3cret")
    (tmp_path / "b.txt").write_text("here")
    root = ScriptedModel(["```repl\nx = len(context)\nFINAL(x)\n```", *["```repl\nFINAL(x)\n```"] * 3])
    rlm = RLM(root, store=store)
    with rlm.session("one", idle=0.01) as chat:
        assert chat.completion("?", context=[tmp_path / "b.txt", secret]).answer == 2
        waited = threading.Event()
        while chat.open:
            waited.wait(0.01)
        assert chat.completion("?").answer == 2  # the REPL is made again with what this process knows
    with rlm.session("one") as chat, pytest.raises(ConfigError, match="pass it again"):
        chat.completion("?")
    with rlm.session("one", contexts={1: [tmp_path / "b.txt", secret]}) as chat:
        assert chat.completion("?").answer == 2
    assert not any("s3cret" in message.content for prompt in root.requests for message in prompt)
    assert not any(b"s3cret" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_run_is_resumed_with_what_the_address_gives_if_that_is_the_same(site: Site, tmp_path: Path) -> None:
    site.answers["/a.txt"] = 200, {}, b"text"
    rlm = RLM(ScriptedModel(["```repl\nx = 1\n```", "oh"]), store=tmp_path / "runs.db")
    with pytest.raises(Exception, match="the script has"):
        RLM(ScriptedModel(["```repl\nx = context\n```"]), store=tmp_path / "runs.db").completion(
            "?", context=here(site, "/a.txt")
        )
    with opened(tmp_path / "runs.db") as recorded:
        run_id = recorded.runs()[0].id
    with pytest.raises(ConfigError, match="is this machine"):
        rlm.resume(run_id)
    site.answers["/a.txt"] = 200, {}, b"other"
    with pytest.raises(ConfigError, match="is not what run"):
        rlm.resume(run_id, here(site, "/a.txt"))
    site.answers["/a.txt"] = 200, {}, b"text"
    again = ScriptedModel(["```repl\nFINAL(x)\n```"])
    assert RLM(again, store=tmp_path / "runs.db").resume(run_id, here(site, "/a.txt")).answer == "text"


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16", "::1", "::", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "::127.0.0.1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "192.0.0.192", "3fff::1", "5f00::1", "4000::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:db8::1", "nonsense",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:93.184.215.14", "8.8.8.8"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


BOUNDS = Bounds(1 << 20, 10.0, private=False)


def permit(_host: str) -> None:
    """Every host may be asked."""


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_is_not_asked_whatever_it_is_called(site: Site, host: str) -> None:
    with pytest.raises((ConfigError, UnreadableFile), match=r"is this machine|cannot be fetched"):
        fetch(f"http://{host}:{site.port}/", BOUNDS, permit)
    assert site.asked == []


def test_a_name_is_resolved_once_and_that_address_alone_is_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["93.184.215.14"], ["127.0.0.1"]]
    reached: list[Any] = []

    def connect(address: Any, timeout: float) -> NoReturn:
        reached.append((address, timeout > 0))
        raise ConnectionRefusedError("nobody is there")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UnreadableFile, match="nobody is there"):
        fetch(f"http://rebinding.example:{site.port}/a", BOUNDS, permit, lambda *_: answers.pop(0))
    assert reached == [(("93.184.215.14", site.port), True)]
    with pytest.raises(ConfigError, match=r"rebinding\.example \(127\.0\.0\.1\) is this machine"):
        fetch(f"http://rebinding.example:{site.port}/a", BOUNDS, permit, lambda *_: answers.pop(0))
    assert len(reached) == 1


def test_redirections_are_looked_at_like_the_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answers["/out"] = 302, {"Location": f"http://inner.example:{site.port}/in"}, b""
    site.answers["/in"] = 200, {}, b"secret"
    names = {"outer.example": "203.0.113.5", "inner.example": "127.0.0.1"}
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "203.0.113.5")
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, timeout: connect(("127.0.0.1", site.port), timeout)
    )
    with pytest.raises(ConfigError, match=r"inner\.example \(127\.0\.0\.1\) is this machine"):
        fetch(f"http://outer.example:{site.port}/out", BOUNDS, permit, lambda host, _: [names[host]])
    assert site.asked == ["/out"]


def test_redirections_are_followed_counted_and_kept_in_their_scheme(site: Site) -> None:
    site.answers["/a"] = 301, {"Location": "/b%20c"}, b""
    site.answers["/b%20c"] = 307, {"Location": "d.csv"}, b""
    site.answers["/d.csv"] = 200, {}, b"k,v\nx,1\n"
    site.answers["/loop"] = 302, {"Location": "/loop"}, b""
    site.answers["/ftp"] = 302, {"Location": "ftp://example.com/x"}, b""
    site.answers["/user"] = 302, {"Location": "http://me:secret@example.com/"}, b""
    assert answer_to(here(site, "/a")) == [{"k": "x", "v": "1"}]
    for path, said in (
        ("/loop", "more than 5 redirections"),
        ("/ftp", "only http"),
        ("/user", "no user names"),
    ):
        with pytest.raises(ConfigError, match=said):
            prepare(here(site, path))
    secure = fetching._target("https://example.com/")
    with pytest.raises(ConfigError, match="from https to http"):
        fetching._redirected(secure, "http://example.com/")


@pytest.mark.parametrize(
    "url",
    ["http://me:pw＠ℂ／@h/", "http://me:pw/x@h/", "http://h/\ud800", "http://me:pw@[::1/", "http://me:pw@a b/?pw", "file:///etc/passwd", "ftp://example.com/a", "example.com", "http://", "http:///x", "http://a b/", "http://a/\r\nX: y",
     "http://me@example.com/", "http://me:pw@example.com/", "http://example.com:99999/", "http://[::1/", "gopher://x/", ""],
)  # fmt: skip
def test_what_is_no_address_of_a_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepare(Url(url, allow_private=True))
    assert "pw" not in str(refused.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://example.com/{text}"):
        try:
            target = fetching._target(url)
        except ConfigError:
            continue
        head = f"GET {target.path} Host: {target.host}"
        assert head.isascii()
        assert not set(head) & set("\r\n\t")
        assert target.path.startswith("/")


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Content-Length": "10"}, b"short", "breaks off after 5 of 10 bytes"),
        ({"Content-Length": "99999999"}, b"", "more than 1,048,576 bytes"),
        (
            {"Content-Encoding": "gzip"},
            gzip.compress(bytes(50_000_000), mtime=0),
            "more than 1,048,576 bytes",
        ),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"x" * 1000, mtime=0)[:-9], "breaks off"),
        ({"Content-Encoding": "gzip"}, b"not gzip", "cannot be fetched"),
        ({"Content-Encoding": "br"}, b"?", "sends it as 'br'"),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n", "cannot be fetched"),
        ({"Transfer-Encoding": "chunked"}, b"ffffffff\r\nhello\r\n", "cannot be fetched"),
        ({"X-Long": "x" * 70_000}, b"", "cannot be fetched"),
        ({f"X-{n}": "x" for n in range(200)}, b"", "cannot be fetched"),
    ],
)
def test_what_is_too_large_or_breaks_off_is_an_error(
    site: Site, headers: Mapping[str, str], body: bytes, said: str
) -> None:
    site.answers["/a"] = 200, headers, body
    with pytest.raises(UnreadableFile, match=said):
        prepare(here(site, "/a", max_bytes=1 << 20))


def test_what_is_packed_all_the_same_is_unpacked(site: Site) -> None:
    site.answers["/a.txt"] = 200, {"Content-Encoding": "gzip"}, gzip.compress(b"text " * 100_000)
    assert answer_to(here(site, "/a.txt"), "FINAL(len(context))") == 500_000


def test_a_server_that_says_no_is_told_with_its_words(site: Site) -> None:
    site.answers["/a"] = 404, {}, b""
    with pytest.raises(UnreadableFile, match="the server says 404 Not Found"):
        prepare(here(site, "/a"))


def test_a_server_that_takes_its_time_is_left(site: Site) -> None:
    site.answers["/slow"] = 200, {"Content-Length": "100", "X-Hold": "1"}, b"a"
    began = time.monotonic()
    with pytest.raises(UnreadableFile, match=r"not there within 0\.3 s"):
        prepare(here(site, "/slow", max_time=0.3))
    assert time.monotonic() - began < 5


def test_certificates_are_checked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    site.secure(certificate, key)
    site.answers["/a.txt"] = 200, {}, b"text"
    url = f"https://localhost:{site.port}/a.txt"
    with pytest.raises(UnreadableFile, match="certificate"):
        prepare(Url(url, allow_private=True))
    assert site.asked == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert answer_to(Url(url, allow_private=True)) == "text"
    with pytest.raises(UnreadableFile, match="certificate"):
        prepare(Url(url.replace("localhost", "127.0.0.1"), allow_private=True))


def test_proxies_of_the_environment_are_not_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.answers["/a.txt"] = 200, {}, b"text"
    assert answer_to(here(site, "/a.txt")) == "text"


def test_a_policy_decides_about_the_hosts_of_addresses(site: Site) -> None:
    site.answers["/a.txt"] = 200, {}, b"text"
    sink, denied = ListSink(), Policy(deny=["host:127.*"])
    with pytest.raises(ConfigError, match=r"nothing may be fetched from 127\.0\.0\.1: the policy says no"):
        answer_to(here(site, "/a.txt"), policy=denied)
    assert site.asked == []
    allowed = Policy(allow=["host:127.*", "host:unknown"], default="deny")
    assert answer_to(here(site, "/a.txt"), policy=allowed, sinks=[sink]) == "text"
    decided = [(each.kind, each.name, each.rule) for each in sink.events if isinstance(each, Decided)]
    assert ("host", "127.0.0.1", "host:127.*") in decided
    asked: list[str] = []

    def approve(request: Request) -> bool:
        asked.append(request.name)
        return True

    asking = Policy(ask=["host:127.*"], approve=approve)
    assert answer_to(here(site, "/a.txt"), policy=asking) == "text"
    assert asked == ["127.0.0.1"]


def test_sessions_ask_the_policy_too(site: Site) -> None:
    site.answers["/a.txt"] = 200, {}, b"text"
    rlm = RLM(ScriptedModel(["```repl\nFINAL(context)\n```"]), policy=Policy(deny=["host:127.*"]))
    with rlm.session() as session, pytest.raises(ConfigError, match=r"nothing may be fetched from"):
        session.completion("?", context=here(site, "/a.txt"))
    assert site.asked == []


def test_a_text_is_never_an_address(site: Site) -> None:
    assert answer_to(f"{site.url}/a") == f"{site.url}/a"
    assert site.asked == []


def test_the_command_line_takes_addresses(tmp_path: Path) -> None:
    contexts.check(("https://example.com/a.csv",))
    assert contexts.read(("https://example.com/a.csv",)) == Url("https://example.com/a.csv")
    assert contexts.read(("HTTP://example.com/", "b.txt"), raw=True) == [
        Url("HTTP://example.com/", raw=True), Path("b.txt"),
    ]  # fmt: skip
    assert contexts.read(("b.txt",), raw=True) == Raw(Path("b.txt"))
