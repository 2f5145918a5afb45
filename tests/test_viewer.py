"""The viewer's server and its file, from outside: who may ask, what they are told, and that none of it is markup."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recursor import RLM, Limits
from recursor.errors import ConfigError, RunStopped, TrajectoryError
from recursor.testing import ScriptedModel
from recursor.trajectory import view
from recursor.types import Message, Reply
from recursor.viewer import data, export
from recursor.viewer.server import Viewer

ROOT = Path(__file__).parent.parent
MARKUP = "</script><img src=x onerror=alert(1)>\x1b]0;pwned\x07\x1b[31m\u202e\ud800"
ROOT_SAYS: list[str] = [
    f"I look. {MARKUP}\n```python\nx = 1\nprint({MARKUP!r})\n```",
    "```python\nreplies = llm_query_batched(['Is 1 odd?', 'Is 2 odd?', 'Who is she?'])\nundefined\n```",
    "```python\nchild = rlm_query('Count.', 'a b c')\nFINAL({'said': child, 'markup': context})\n```",
]


def root(messages: Sequence[Message]) -> str:
    if any("Count." in message.content for message in messages[:2]):
        return "```python\nFINAL(len(context.split()))\n```"
    if messages[0].role == "user":
        return f"yes {MARKUP}"
    return ROOT_SAYS[sum(message.role == "assistant" for message in messages)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run: three turns, sub-calls, a child, an error, and markup everywhere."""
    path = tmp_path_factory.mktemp("store") / "runs.db"
    rlm = RLM(ScriptedModel(root), store=path, limits=Limits(max_depth=2))
    done = rlm.completion(f"What is it? {MARKUP[:-1]}", context=MARKUP)
    assert done.answer == {"said": 3, "markup": MARKUP}
    return path


@pytest.fixture
async def viewer(store: Path) -> AsyncIterator[Viewer]:
    made = Viewer(store)
    async with made.serving():
        yield made


@pytest.fixture
async def client(viewer: Viewer) -> AsyncIterator[aiohttp.ClientSession]:
    """A browser that has opened the address that it was told."""
    jar = aiohttp.CookieJar(unsafe=True)  # cookies of addresses in numbers
    async with aiohttp.ClientSession(viewer.address, cookie_jar=jar) as session:
        async with session.get(viewer.link().removeprefix(viewer.address)) as page:
            assert page.status == 200
        yield session


async def told(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def the_run(client: aiohttp.ClientSession) -> str:
    return str((await told(client, "/api/runs"))["runs"][0]["id"])


# Who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/viewer.js", "/api/runs", "/api/runs/x/spans", "/?token=wrong"])
async def test_nothing_is_told_to_who_does_not_know_the_token(viewer: Viewer, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(viewer.address + path) as response:
        assert response.status == 401
        assert "runs.db" not in await response.text()


async def test_the_token_works_once(viewer: Viewer) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as first:
        async with first.get(viewer.link()) as page:
            assert page.status == 200
            assert "token" not in str(page.url)
        async with first.get(viewer.link()) as page:  # who has the cookie may follow the link again
            assert page.status == 200
    async with aiohttp.ClientSession() as second, second.get(viewer.link()) as page:
        assert page.status == 401


async def test_the_cookie_is_kept_from_scripts_and_other_sites(viewer: Viewer) -> None:
    async with aiohttp.ClientSession() as session, session.get(viewer.link(), allow_redirects=False) as page:
        cookie = page.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_other_pages_may_not_ask(client: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    async with client.get("/api/runs", headers=headers) as response:
        assert response.status == 403


async def test_it_listens_on_the_loopback_interface_alone(viewer: Viewer) -> None:
    outside = socket.gethostbyname(socket.gethostname())
    if outside.startswith("127."):
        return
    with pytest.raises(OSError):
        socket.create_connection((outside, viewer.port), timeout=1).close()


async def test_every_response_keeps_scripts_of_others_out(client: aiohttp.ClientSession) -> None:
    for path in ("/", "/viewer.js", "/api/runs", "/api/runs/none", "/nothing"):
        async with client.get(path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"


# What it looks like ---------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(theme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    style = (ROOT / "viewer/src/style.css").read_text()
    block = re.search(rf":root\[data-theme='{theme}'\] {{(.*?)}}", style, re.DOTALL)
    assert block is not None
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block.group(1)))
    grounds = ("ground", "sheet", "sunk", "hover", "chosen")
    pairs = [(ink, ground) for ink in ("ink", "soft", "faint", "link", "bad") for ground in grounds]
    pairs += [(kind, f"{kind}-ground") for kind in ("good", "bad", "warn", "live")]
    pairs += [("on-fill", fill) for fill in ("run", "root", "sub", "tool", "failed")] + [
        ("on-block", "block")
    ]
    assert {
        pair: ratio for pair in pairs if (ratio := contrast(*(colours[name] for name in pair))) < 4.5
    } == {}


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# What they are told ---------------------------------------------------------------------------


async def test_the_page_and_its_parts_are_there(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as page:
        text = await page.text()
    assert 'src="./viewer.js"' in text
    for name in ("viewer.js", "viewer.css"):
        async with client.get(f"/{name}") as part:
            assert part.status == 200
            assert len(await part.read()) > 1000


async def test_the_list_can_be_searched_and_narrowed(client: aiohttp.ClientSession) -> None:
    for query, count in [
        ("search=what", 1), ("search=WHAT+is", 1), ("search=nowhere", 0), ("state=answered", 1), ("state=failed", 0),
        ("model=scripted", 1), ("model=other", 0), ("limit=0", 0), ("offset=1", 0),
    ]:  # fmt: skip
        assert len((await told(client, f"/api/runs?{query}"))["runs"]) == count, query
    async with client.get("/api/runs?limit=many") as response:
        assert response.status == 400
        assert "many" in (await response.json())["error"]


async def test_a_run_is_told_with_its_shares_and_isolation(client: aiohttp.ClientSession) -> None:
    run = await told(client, f"/api/runs/{await the_run(client)}")
    assert run["state"] == "answered"
    assert run["isolation"]["network"] == "none"
    assert [(share["depth"], share["purpose"], share["calls"]) for share in run["shares"]] == [
        (0, "root", 3), (0, "sub", 3), (1, "root", 1),
    ]  # fmt: skip
    assert json.loads(run["answer"]["text"]) == {"said": 3, "markup": MARKUP}


async def test_spans_hold_all_calls_blocks_and_children_in_columns_of_one_length(
    client: aiohttp.ClientSession,
) -> None:
    spans = await told(client, f"/api/runs/{await the_run(client)}/spans")
    assert len({len(column) for column in spans["calls"].values()}) == 1
    assert len(spans["calls"]["id"]) == 7
    assert [(run["parent"], run["turn"], run["depth"]) for run in spans["runs"]] == [(-1, 0, 0), (0, 3, 1)]
    assert [(block["run"], block["turn"], block["failed"]) for block in spans["blocks"]] == [
        (0, 1, False), (0, 2, True), (0, 3, False), (1, 1, False),
    ]  # fmt: skip
    assert all(block["start"] >= 0 for block in spans["blocks"])


async def test_spans_since_the_last_ones_are_none(client: aiohttp.ClientSession) -> None:
    run_id = await the_run(client)
    spans = await told(client, f"/api/runs/{run_id}/spans")
    again = await told(client, f"/api/runs/{run_id}/spans?since={spans['next']}")
    assert again["calls"]["id"] == again["blocks"] == again["tools"] == []
    assert again["next"] == spans["next"]


async def test_a_turn_has_its_code_and_its_error(client: aiohttp.ClientSession) -> None:
    run_id = await the_run(client)
    turn = await told(client, f"/api/runs/{run_id}/turns/2")
    (execution,) = turn["executions"]
    assert "llm_query_batched" in execution["code"]
    assert "undefined" in execution["error"]
    first = await told(client, f"/api/runs/{run_id}/turns/1")
    assert first["executions"][0]["output"]["head"].startswith("</script>")


async def test_a_call_says_what_its_prompt_has_in_common_with_the_one_before(
    client: aiohttp.ClientSession,
) -> None:
    spans = await told(client, f"/api/runs/{await the_run(client)}/spans")
    roots = [
        call_id
        for call_id, purpose, run in zip(
            spans["calls"]["id"], spans["calls"]["purpose"], spans["calls"]["run"], strict=True
        )
        if purpose == "root" and run == 0
    ]
    second = await told(client, f"/api/calls/{roots[1]}")
    first = await told(client, f"/api/calls/{roots[0]}")
    assert first["previous"] is None
    assert second["previous"] == roots[0]
    assert second["messages"][: second["shared"]] == first["messages"]


def test_prompts_with_pictures_are_grouped_by_what_is_asked() -> None:
    prompts = [f"[picture: image/png, {size} bytes]\nWhat is in room {size}?" for size in (200, 3000)]
    assert {data.template(each) for each in prompts} == {"What is in room …?"}
    assert data.template("[picture: image/png, 200 bytes]") == "[picture: image/png, … bytes]"
    assert data.template("") == ""


async def test_sub_calls_are_grouped_by_template(client: aiohttp.ClientSession) -> None:
    prompts = await told(client, f"/api/runs/{await the_run(client)}/prompts")
    assert prompts["templates"] == ["Is … odd?", "Who is she?"]
    assert prompts["template"] == [0, 0, 1]


@pytest.mark.parametrize(
    "path", ["runs/none", "runs/none/spans", "runs/none/turns/1", "calls/none", "runs/none/live"]
)
async def test_what_is_not_there_is_named(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(f"/api/{path}") as response:
        assert response.status == 404
        assert "none" in (await response.json())["error"]


async def test_a_store_that_is_none_is_refused_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="there is no store"):
        async with Viewer(tmp_path / "none.db").serving():
            raise AssertionError


async def test_a_port_that_is_taken_is_named(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            async with Viewer(store, port).serving():
                raise AssertionError


# What it read of its context -------------------------------------------------------------------

PASSAGES = [
    f"Passage {number}: {number * 7919} boats came into the harbour of {number}. " for number in range(60)
]
READER = [
    "```python\nseen = llm_query(context[1000:1500])\nagain = llm_query('Again|' + context[1200:1300])\n"
    "print(context[2000:2200])\n```",
    "```python\nFINAL({'quoted': context[1210:1290], 'said': seen, 'count': len(context)})\n```",
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run that read some of a file."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "boats.txt").write_text("".join(PASSAGES))

    def say(messages: Sequence[Message]) -> str:
        if messages[0].role == "user":
            return "They came in by the tide, said the pilot."
        return READER[sum(message.role == "assistant" for message in messages)]

    RLM(ScriptedModel(say), store=folder / "runs.db").completion("How many?", context=folder / "boats.txt")
    return folder / "runs.db"


@pytest.fixture
async def told_of_reader(reader: Path) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    viewer, jar = Viewer(reader), aiohttp.CookieJar(unsafe=True)
    async with viewer.serving(), aiohttp.ClientSession(viewer.address, cookie_jar=jar) as client:
        await (await client.get(viewer.link().removeprefix(viewer.address))).read()
        run_id = await the_run(client)
        yield lambda path: told(client, f"/api/runs/{run_id}/{path}")


async def test_what_calls_read_of_the_context_is_told(
    told_of_reader: Callable[[str], Awaitable[Any]],
) -> None:
    found = await told_of_reader("coverage")
    (document,) = found["documents"]
    assert set(found) == declared("Coverage")
    assert set(document) == declared("DocumentCoverage")
    by_kind: dict[str, list[tuple[int, int]]] = {}
    for start, end, calls, _ in document["spans"]:
        by_kind.setdefault(found["calls"][calls[0]]["kind"], []).append((start, end))
    assert by_kind["sub-call"] == [(1000, 1500), (1200, 1300)]
    assert by_kind["output"] == [(2000, 2200)]


async def test_a_passage_is_cut_where_what_was_read_begins_and_ends(
    told_of_reader: Callable[[str], Awaitable[Any]],
) -> None:
    found = await told_of_reader("passage?document=0&start=900")
    assert set(found) == declared("Passage")
    text = "".join(PASSAGES)
    assert "".join(piece["text"] for piece in found["pieces"]) == text[900 : found["end"]]
    counts = [(len(piece["text"]), len(piece["calls"])) for piece in found["pieces"]]
    assert counts[:5] == [(100, 0), (200, 1), (100, 2), (200, 1), (500, 0)]
    beyond = await told_of_reader("passage?document=0&start=99999999")
    assert beyond["start"] == len(text) - 1


async def test_evidence_tells_where_the_answer_stands(
    told_of_reader: Callable[[str], Awaitable[Any]],
) -> None:
    found = await told_of_reader("evidence")
    assert set(found) == declared("Evidence")
    items = {item["path"]: item for item in found["items"]}
    quoted = [found for part in items["$['quoted']"]["parts"] for found in part["found"]]
    assert {"in": "context", "where": "context", "start": 1210, "end": 1290} in quoted
    said = items["$['said']"]["parts"][0]["found"]
    assert {each["in"] for each in said} == {"reply", "variable"}
    assert items["$['count']"]["parts"] == []
    assert any(spans[0]["start"] == 1000 for spans in found["reads"].values())


async def test_a_context_that_has_changed_is_said_to_be_unknown(reader: Path, tmp_path: Path) -> None:
    file = reader.parent / "boats.txt"
    text = file.read_text()
    file.write_text(text[::-1])
    try:
        viewer, jar = Viewer(reader), aiohttp.CookieJar(unsafe=True)
        async with viewer.serving(), aiohttp.ClientSession(viewer.address, cookie_jar=jar) as client:
            await (await client.get(viewer.link().removeprefix(viewer.address))).read()
            run_id = await the_run(client)
            covered = await told(client, f"/api/runs/{run_id}/coverage")
            assert "context" in covered["unknown"]
            assert covered["documents"] == []
            async with client.get(f"/api/runs/{run_id}/passage?document=0") as response:
                assert response.status == 404
            found = await told(client, f"/api/runs/{run_id}/evidence")
            assert found["unknown"]
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    ("interface", "path"),
    [
        ("RunList", "/api/runs"),
        ("RunSummary", "/api/runs#runs"),
        ("Run", "/api/runs/{run}"),
        ("Share", "/api/runs/{run}#shares"),
        ("Spans", "/api/runs/{run}/spans"),
        ("CallColumns", "/api/runs/{run}/spans#calls"),
        ("BlockRow", "/api/runs/{run}/spans#blocks"),
        ("RunRow", "/api/runs/{run}/spans#runs"),
        ("Turn", "/api/runs/{run}/turns/1"),
        ("Execution", "/api/runs/{run}/turns/1#executions"),
        ("Call", "/api/calls/{call}"),
        ("Prompts", "/api/runs/{run}/prompts"),
        ("Answer", "/api/runs/{run}#answer"),
    ],
)
async def test_fields_are_those_that_the_page_knows(
    client: aiohttp.ClientSession, interface: str, path: str
) -> None:
    run_id = await the_run(client)
    call_id = (await told(client, f"/api/runs/{run_id}/spans"))["calls"]["id"][0]
    path, _, part = path.partition("#")
    value = await told(client, path.format(run=run_id, call=call_id))
    if part:
        value = value[part][0] if isinstance(value[part], list) else value[part]
    assert set(value) == declared(interface)


def declared(interface: str) -> set[str]:
    text = (ROOT / "viewer/src/api.ts").read_text("utf-8")
    found = re.search(rf"export interface {interface}(?: extends (\w+))? {{\n(.*?)\n}}", text, re.DOTALL)
    assert found, interface
    own = set(re.findall(r"^  (\w+)\??:", found[2], re.MULTILINE))
    return own | (declared(found[1]) if found[1] else set())


# A run that goes ------------------------------------------------------------------------------


async def test_a_run_is_followed_while_it_goes_and_stopped(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    model = Waiting()
    going = asyncio.ensure_future(RLM(model, store=store).acompletion("Go on.", context="x"))
    await asyncio.wait_for(model.asked_twice.wait(), 20)
    viewer = Viewer(store)
    jar = aiohttp.CookieJar(unsafe=True)
    async with viewer.serving(), aiohttp.ClientSession(viewer.address, cookie_jar=jar) as client:
        await (await client.get(viewer.link().removeprefix(viewer.address))).read()
        run = (await told(client, "/api/runs"))["runs"][0]
        assert run["state"] == "live"
        assert run["turns"] == 1
        async with client.get(f"/api/runs/{run['id']}/live?since=0") as stream:
            events = followed(stream)
            kind, spans = await asyncio.wait_for(anext(events), 10)
            assert kind == "spans"
            assert len(spans["calls"]["id"]) == 1
            async with client.post(f"/api/runs/{run['id']}/stop") as stopped:
                assert stopped.status == 200
            with pytest.raises(RunStopped):
                await asyncio.wait_for(going, 10)
            kinds = [(kind, value) async for kind, value in events]
            kind, ended = kinds[-1]
            assert kind == "run"
            assert ended["state"] == "stopped"
        async with client.post(f"/api/runs/{run['id']}/stop") as stopped:
            assert stopped.status == 404
            assert "not at work" in (await stopped.json())["error"]


async def test_another_page_cannot_stop_a_run(viewer: Viewer, client: aiohttp.ClientSession) -> None:
    run_id = await the_run(client)
    async with client.post(
        f"/api/runs/{run_id}/stop", headers={"Origin": "https://evil.example"}
    ) as response:
        assert response.status == 403


class Waiting(ScriptedModel):
    """Replies once, and is silent then."""

    def __init__(self) -> None:
        super().__init__(["```python\nprint(1)\n```"])
        self.asked_twice = asyncio.Event()

    async def query(self, messages: Any, **options: Any) -> Reply:
        if any(isinstance(message, Message) and message.role == "assistant" for message in messages):
            self.asked_twice.set()
            await asyncio.Event().wait()
        return await super().query(messages, **options)


async def followed(stream: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    kind = ""
    async for line in stream.content:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            kind = value
        if name == "data":
            yield kind, json.loads(value)


# A file ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(store: Path) -> str:
    out = io.StringIO()
    with view.open(store) as recorded:
        export.write(recorded, store, recorded.runs()[0].id, out)
    return out.getvalue()


def responses(page: str) -> dict[str, Any]:
    found = re.search(r'id="recursor-data">([^<]*)<', page)
    assert found
    decoded: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return decoded


def test_a_file_holds_the_whole_run_and_asks_nobody(exported: str) -> None:
    held = responses(exported)
    (run,) = held["runs"]["runs"]
    assert len([path for path in held if path.startswith("calls/")]) == 7
    assert len([path for path in held if "/turns/" in path]) == 4
    call = held[next(path for path in held if path.startswith("calls/"))]
    assert "What is it?" in "".join(held["messages"][place]["content"] for place in call["messages"])
    assert run["state"] == "answered"
    assert not re.search(r'(?:src|href)="(?!data:,)', exported)


def test_no_text_of_a_run_is_markup_in_a_file(exported: str) -> None:
    assert "onerror" not in exported.replace("onerror=t", "")
    assert exported.count("</script") == 2
    assert "pwned" not in exported


def test_a_file_lets_its_own_code_run_and_no_other(exported: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', exported)
    assert policy
    assert "unsafe" not in policy[1]
    assert re.search(r"script-src 'sha256-[^']+'", policy[1])


def test_the_same_run_makes_the_same_file(store: Path, exported: str) -> None:
    out = io.StringIO()
    with view.open(store) as recorded:
        export.write(recorded, store, recorded.runs()[0].id, out)
    assert responses(out.getvalue()) == responses(exported)


def test_messages_that_prompts_share_are_kept_once(exported: str) -> None:
    messages: Callable[[dict[str, Any]], Any] = lambda message: (message["role"], message["content"])  # noqa: E731
    held = responses(exported)["messages"]
    assert len(set(map(messages, held))) == len(held)
