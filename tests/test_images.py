"""Pictures: loaded as values, shown to models, recorded once, bounded; what hostile ones do."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinds
from conftest import Bench
from recursor import LM, RLM, Limits
from recursor.context import prepare
from recursor.errors import ConfigError, UnreadableFile
from recursor.models.anthropic_messages import conversation
from recursor.models.http import Endpoint
from recursor.models.openai_chat import OpenAIChat
from recursor.routing import Routes
from recursor.sandboxes.guest import images, loading, values
from recursor.sandboxes.guest.images import Image
from recursor.sandboxes.process import ProcessSandbox
from recursor.server.asked import check_messages
from recursor.server.failures import ApiError
from recursor.testing import ModelServer, ScriptedModel
from recursor.trajectory import garbage, importing
from recursor.trajectory.jsonl import JsonlSink
from recursor.trajectory.view import open as opened
from recursor.types import LlmQuery, Message, ModelCalled
from serving import serving


def png(width: int = 3, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xff\xff\xdb\x00\x05abc\xff\xc2\x00\x11\x08\x01\x00\x02\x00\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01\xff\xd9"
)
GIF = b"GIF89a\x05\x00\x04\x00\x80\x00\x00"
WEBP = b"RIFF\x1a\x00\x00\x00WEBP"
FILES = {
    "a.png": (png(), "image/png", (3, 2)),
    "b.JPG": (JPEG, "image/jpeg", (512, 256)),
    "c.gif": (GIF, "image/gif", (5, 4)),
    "d.webp": (WEBP + b"VP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x0f\x00\x00\x07\x00\x00", "image/webp", (16, 8)),
    "e.webp": (
        WEBP + b"VP8 \x0a\x00\x00\x00\x00\x00\x00\x9d\x01\x2a\x20\x00\x10\x00",
        "image/webp",
        (32, 16),
    ),
    "f.webp": (WEBP + b"VP8L\x05\x00\x00\x00\x2f\x06\x40\x01\x00", "image/webp", (7, 6)),
}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(await ProcessSandbox().open())
    yield bench
    await bench.repl.close()


@pytest.mark.parametrize("name", FILES)
async def test_a_picture_is_a_value_that_says_what_it_is(tmp_path: Path, bench: Bench, name: str) -> None:
    data, kind, (width, height) = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    info = await bench.repl.load("context", prepare(path))
    assert (info.type, info.size) == ("Image", f"{len(data):,} bytes")
    assert "a picture: `llm_query(prompt, images=[context])` shows it to a model\n<Image: " in info.preview
    code = "FINAL([context.type, context.width, context.height, isinstance(context, bytes), context])"
    assert await bench.answered(code) == [kind, width, height, True, Image(data)]
    assert await bench.shown("print(context)") == (
        f"<Image: {kind}, {width} x {height} pixels, {len(data):,} bytes>\n"
    )


async def test_pictures_in_folders_and_archives_say_where_they_are_from(tmp_path: Path, bench: Bench) -> None:
    tmp_path.joinpath("a.png").write_bytes(png())
    tmp_path.joinpath("shot").write_bytes(JPEG)
    tmp_path.joinpath("b.gif").write_bytes(b"GIF89a")
    tmp_path.joinpath("in.zip").write_bytes(kinds.packed({"d/x.png": png(9, 9)}))
    info = await bench.repl.load("context", prepare(tmp_path))
    assert (
        "2 image (a picture: `llm_query(prompt, images=[context[name]])` shows it to a model)" in info.preview
    )
    shown = await bench.shown(
        "print([context[name].source for name in ('a.png', 'shot')], context['in.zip']['d/x.png'])"
    )
    assert "['a.png', 'shot'] <Image: image/png, 9 x 9 pixels," in shown
    assert "from 'd/x.png'>" in shown
    assert (await bench.shown("print(context['b.gif'])")).startswith(
        "[b.gif: it cannot be read as a picture: "
    )
    assert await bench.shown("print(grep('PNG', context))") == "[nothing found]\n"


async def test_a_damaged_picture_is_reported(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png()[:14])
    with pytest.raises(
        UnreadableFile, match=r"a\.png: it cannot be read as a picture: its header is damaged"
    ):
        await bench.repl.load("context", prepare(path))


async def test_a_picture_survives_each_way_out_and_in(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    await bench.repl.load("context", prepare(path))
    large = png(3000, 40)
    sent = await bench.answered(f"FINAL({{'x': [context], 'y': type(context)({large!r}, 'made')}})")
    assert (type(sent["x"][0]), sent["x"][0], sent["y"].source) == (Image, png(), "made")
    asked = await bench.answered("FINAL(rlm_query('what?', {'p': context})['context']['p'])")
    assert (type(asked), asked) == (Image, png())
    form, data = values.encode(Image(png(), "a\ud800 b.png"))
    assert values.decode(form, data).source == "a\ud800 b.png"
    with pytest.raises(ValueError, match="no picture"):
        values.decode("values", b'{"$": ["image", "AAAA "]}')


async def test_sub_calls_take_pictures_of_a_context_and_bytes(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    await bench.repl.load("context", prepare(path))
    await bench.run(
        "llm_query('one', images=context)\n"
        f"llm_query('two', images=[context, bytearray({GIF!r})])\n"
        "await allm_query('none', images=[])\n"
        "llm_query_batched(['p', 'q', 'r'], images=[context, None, [context, context]])\n"
        "await allm_query_batched(['s', 's', 's'], images=[context, [bytes(context)], []], dedupe=True)\n"
    )
    asked = [(each.prompt, each.images) for each in bench.host.calls if isinstance(each, LlmQuery)]
    a = png()
    assert asked == [
        ("one", (a,)), ("two", (a, GIF)), ("none", ()), ("p", (a,)), ("q", ()), ("r", (a, a)), ("s", (a,)), ("s", ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("llm_query('x', images=['a.png'])", "an image must be a picture of a context, or bytes, not str"),
        ("llm_query('x', images='a.png')", "images must be pictures"),
        ("llm_query('x', images=[b'<svg></svg>'])", "image 0 is no PNG, JPEG, GIF or WebP: its bytes begin with b'<svg>"),
        ("llm_query('x', images=[context] * 101)", "more than 100 images"),
        ("llm_query('x', images=[context + bytes(1 << 23)] * 2)", "prompt and images have 16,777,"),
        ("llm_query_batched(['x'], images=context)", "images take a list, one for each prompt, not one Image"),
        ("llm_query_batched(['x'], images=[context, context])", "need as many"),
    ],
)  # fmt: skip
async def test_what_is_no_picture_or_too_much_is_refused_before_it_is_sent(
    tmp_path: Path, bench: Bench, code: str, said: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    await bench.repl.load("context", prepare(path))
    execution = await bench.run(code)
    assert execution.error is not None
    assert said in execution.error
    assert not bench.host.calls


def run_over(path: Path, code: str, model: Any = None, **settings: Any) -> tuple[Any, ScriptedModel]:
    sub = ScriptedModel(lambda _: "a cat", name="sub")
    root = ScriptedModel([f"```repl\n{code}\n```"])
    made = RLM(model(root, sub), **settings) if model else RLM(root, sub_model=sub, **settings)
    return made.completion("what is it?", context=path).answer, sub


def test_a_model_sees_the_picture_and_the_record_holds_it_once(tmp_path: Path) -> None:
    path, store = tmp_path / "a.png", tmp_path / "runs.db"
    path.write_bytes(png(40, 40))
    code = "FINAL([llm_query(f'{n}?', images=context) for n in range(3)])"
    answer, sub = run_over(path, code, store=store)
    assert answer == ["a cat"] * 3
    assert [request[-1].images for request in sub.requests] == [(png(40, 40),)] * 3
    with opened(store) as recorded:
        run = recorded.runs()[0]
        called = [each for each in recorded.each_event(run.id) if isinstance(each, ModelCalled)]
        assert [each.messages[-1].images for each in called if each.purpose == "sub"] == [(png(40, 40),)] * 3
        assert len(recorded.rows("SELECT * FROM image")) == 1
        assert "[picture: image/png, " in loading_text(recorded.rows("SELECT content FROM node"))
    assert RLM(ScriptedModel([]), sub_model=sub, store=store).resume(run.id).answer == ["a cat"] * 3
    assert garbage.collect(store, -10).runs == 1
    with opened(store) as recorded:
        assert recorded.rows("SELECT * FROM image") == []


def loading_text(rows: list[Any]) -> str:
    from recursor.trajectory.packing import unpack

    return "\n".join(unpack(row["content"]) for row in rows)


def test_equal_prompts_with_other_pictures_are_other_requests(tmp_path: Path) -> None:
    path, store = tmp_path / "a.png", tmp_path / "runs.db"
    path.write_bytes(png())
    seen = ScriptedModel(lambda messages: f"{len(messages[-1].images[0]):,} bytes", name="sub")
    code = f"FINAL([llm_query('?', images=context), llm_query('?', images={GIF!r}), llm_query('?', images=context)])"
    for _ in range(2):
        root = ScriptedModel([f"```repl\n{code}\n```"])
        done = RLM(root, sub_model=seen, store=store, cache="workspace").completion("?", context=path)
        assert done.answer == [f"{len(png()):,} bytes", f"{len(GIF):,} bytes", f"{len(png()):,} bytes"]
    assert len(seen.requests) == 3


class Blind(ScriptedModel):
    vision = False


def test_a_model_that_is_known_to_be_blind_is_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    blind = Blind(lambda _: "never", name="blind")
    code = "try:\n    llm_query('?', images=context)\nexcept SubcallError as error:\n    FINAL(str(error))"
    done = RLM(ScriptedModel([f"```repl\n{code}\n```"]), sub_model=blind).completion("?", context=path)
    assert "the model blind takes no pictures" in done.answer
    assert not blind.requests


@pytest.mark.parametrize(
    ("spec", "vision", "expected"),
    [
        ("openai/gpt-5", None, None), ("openai/gpt-3.5-turbo", None, False), ("openai/gpt-4o", None, None),
        ("openai/gpt-3.5-turbo", True, True), ("anthropic/claude-sonnet-4-5", None, None), ("deepseek/deepseek-chat", None, False),
        ("groq/llama-3.3-70b-versatile", None, False), ("openrouter/meta-llama/llama-3.2-90b-vision", None, None),
        ("ollama/anything", False, False),
    ],
)  # fmt: skip
def test_a_model_says_whether_it_takes_pictures(
    spec: str, vision: bool | None, expected: bool | None
) -> None:
    assert LM(spec, api_key="none", vision=vision).vision is expected


def test_calls_with_pictures_go_to_the_route_for_vision(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    eyes = ScriptedModel(lambda _: "seen", name="eyes")
    code = (
        "FINAL([llm_query('?'), llm_query('?', images=context), llm_query('?', model='sub', images=context)])"
    )
    answer, sub = run_over(path, code, lambda root, sub: Routes.of(root, sub, vision=eyes))
    assert answer == ["a cat", "seen", "a cat"]
    assert (len(eyes.requests), len(sub.requests)) == (1, 2)


def test_pictures_are_sent_as_each_provider_has_them() -> None:
    asked = [
        Message("system", "Look."),
        Message("user", "what?", (png(), GIF)),
        Message("assistant", "A cat."),
    ]
    url = "https://example.com"
    sent = OpenAIChat("m", "m", Endpoint(url, "/chat"), schemas=False)._body([*asked[:2]], {"type": "string"})
    parts = sent["messages"][1]["content"]
    assert [each["type"] for each in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(png()).decode()
    assert parts[2]["text"].startswith("what?\n\n")
    assert sent["messages"][0]["content"] == "Look."
    _, turns = conversation(asked)
    source = {"type": "base64", "media_type": "image/gif", "data": base64.b64encode(GIF).decode()}
    assert turns[0]["content"][1] == {"type": "image", "source": source}
    assert turns[0]["content"][2]["text"] == "what?"


def test_a_picture_counts_in_what_is_reserved() -> None:
    assert Message("user", "x" * 10, (GIF, GIF)).size == 10 + 2 * 6_000


def test_a_log_names_pictures_and_does_not_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    lines = io.StringIO()
    run_over(path, "FINAL(llm_query('?', images=context))", sinks=[JsonlSink(lines)])
    called = [line for line in map(json.loads, lines.getvalue().splitlines()) if line.get("purpose") == "sub"]
    (picture,) = called[0]["new_messages"][0]["pictures"]
    assert (picture["type"], picture["bytes"]) == ("image/png", len(png()))
    assert base64.b64encode(png())[40:80].decode() not in lines.getvalue()
    assert importing.load(lines.getvalue().splitlines(), tmp_path / "again.db")


@settings(max_examples=400)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_whatever_is_in_a_picture_it_has_a_size_or_is_damaged(name: str, data: st.DataObject) -> None:
    whole = bytearray(FILES[name][0])
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))]) + data.draw(st.binary(max_size=40))
    try:
        value = loading.load("image", io.BytesIO(cut), len(cut)).value
    except loading.Unreadable as error:
        assert "cannot be read as a picture" in str(error)
    else:
        assert min(value.width, value.height) > 0


def test_a_picture_of_empty_segments_without_end_is_left_soon() -> None:
    for filling in (b"\xff\xe0\x00\x02", b"\xff", b"\xff\x01", b"\xff\xe0\x00\x00"):
        hostile = b"\xff\xd8" + filling * 5_000_000
        began = time.process_time()
        with pytest.raises(ValueError, match="damaged"):
            images.dimensions(hostile)
        assert time.process_time() - began < 5


def test_pictures_of_messages_are_values_and_of_other_addresses_are_refused() -> None:
    data = base64.b64encode(png()).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    inputs = {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}
    said = [{"role": "user", "content": [{"type": "text", "text": "what?"}, url, source, inputs]}]
    sub = ScriptedModel(lambda messages: str(len(messages[-1].images)), name="sub")
    code = (
        "FINAL(llm_query('?', images=[part['image'] for part in messages[0]['content'] if 'image' in part]))"
    )
    root = ScriptedModel([f"```repl\n{code}\n```"])
    assert RLM(root, sub_model=sub).completion(messages=said).answer == "3"
    assert (
        "3 of the values in it are pictures; `llm_query(prompt, images=[...])`"
        in root.requests[0][-1].content
    )
    for wrong in ("https://example.com/a.png", "data:image/png,abc", "data:image/svg+xml;base64,PHN2Zz4="):
        asked = [
            {
                "role": "user",
                "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": wrong}],
            }
        ]
        with pytest.raises(ConfigError, match=r"messages\[0\]: "):
            RLM(root).completion(messages=asked)


def test_a_plain_call_sees_the_pictures_of_its_input(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    model = ScriptedModel(lambda _: "a cat")
    assert RLM(model, strategy="direct").completion("what?", context=path).answer == "a cat"
    assert model.requests[0][-1].images == (png(),)
    assert f"[picture 1, {path}]" in model.requests[0][-1].content
    RLM(model, strategy="direct").completion("what?", context={"a": [Image(GIF)], "b": "text"})
    assert model.requests[1][-1].images == (GIF,)
    with pytest.raises(ConfigError, match="takes no pictures"):
        RLM(Blind(["never"]), strategy="direct").completion("what?", context=path)
    path.write_bytes(b"no picture")
    with pytest.raises(UnreadableFile, match=r"a\.png: it cannot be read as a picture"):
        RLM(model, strategy="direct").completion("what?", context=path)


def test_a_child_gets_pictures_and_at_the_depth_limit_its_one_call_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    child = ScriptedModel(["```repl\nFINAL([context.width, context.source])\n```"], name="child")
    root = ScriptedModel([f"```repl\nFINAL(rlm_query('how wide?', type(context)({GIF!r}, 'made')))\n```"])
    done = RLM(Routes.of(root, child), limits=Limits(max_depth=2)).completion("?", context=path)
    assert done.answer == [5, "made"]
    flat = ScriptedModel(lambda messages: str([len(each) for each in messages[-1].images]), name="flat")
    for code in ("context", "{'x': context}"):
        root = ScriptedModel([f"```repl\nFINAL(rlm_query('how wide?', {code}))\n```"])
        done = RLM(root, sub_model=flat, limits=Limits(max_depth=1)).completion("?", context=path)
        assert done.answer == str([len(png())])


def test_the_server_takes_pictures_as_data_and_refuses_addresses() -> None:
    data = base64.b64encode(png()).decode()

    def asked(url: str) -> list[dict[str, Any]]:
        parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
        return [{"role": "user", "content": parts}]

    check_messages(asked(f"data:image/png;base64,{data}"), "messages")
    for url in ("https://example.com/a.png", "file:///etc/passwd", f"data:image/png;base64,{data[:9]}!"):
        with pytest.raises(ApiError) as refused:
            check_messages(asked(url), "messages")
        assert (refused.value.status, refused.value.param) == (400, "messages[0].content")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_pictures_reach_a_server_over_each_wire(provider: str) -> None:
    small, large = png(), png(700, 700) + bytes(1 << 20)
    seen = ScriptedModel(lambda messages: str([len(image) for image in messages[-1].images]))
    with ModelServer(seen) as server:
        url = server.url if provider == "openai" else server.url.removesuffix("/v1")
        model = LM(f"{provider}/gpt-x", base_url=url, api_key="none")
        code = "FINAL([llm_query('?', images=context[0]), llm_query('?', images=context)])"
        root = ScriptedModel([f"```repl\n{code}\n```"])
        done = RLM(root, sub_model=model).completion("?", context=[Image(small), Image(large)])
    assert done.answer == [f"[{len(small)}]", f"[{len(small)}, {len(large)}]"]
    assert [request[-1].images for request in seen.requests] == [(small,), (small, large)]


async def test_pictures_in_requests_to_the_server_are_seen_by_models() -> None:
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    chat = {
        "role": "user",
        "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}],
    }
    item = {
        "role": "user",
        "content": [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": url}],
    }
    code = "FINAL(llm_query('look', images=messages[-1]['content'][1]['image']))"
    root = ScriptedModel(lambda _: f"```python\n{code}\n```")
    sub = ScriptedModel(lambda messages: f"{len(messages[-1].images[0])} bytes", name="sub")
    async with serving(root, sub_model=sub) as client:
        status, reply, _ = await client.post({"model": "recursor", "messages": [chat]})
        assert (status, reply["choices"][0]["message"]["content"]) == (200, f"{len(png())} bytes")
        status, reply, _ = await client.post({"model": "recursor", "input": [item]}, "/v1/responses")
        assert (status, reply["output"][-1]["content"][0]["text"]) == (200, f"{len(png())} bytes")
        chat["content"][1]["image_url"]["url"] = "http://169.254.169.254/a.png"  # type: ignore[index]
        status, reply, _ = await client.post({"model": "recursor", "messages": [chat]})
        assert (status, reply["error"]["param"]) == (400, "messages[0].content")
