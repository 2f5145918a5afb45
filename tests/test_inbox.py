"""What a package hands over in its own time: put together, bounded, and in order to the end."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor.sandboxes.inbox import PIECE, Inbox, Lines, relayed


async def test_an_inbox_makes_who_fills_it_wait_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    inbox.put(b"x" * (PIECE + 1))
    second = asyncio.ensure_future(inbox.put_in_turn(b"y"))
    await asyncio.sleep(0)
    assert not second.done()
    assert await inbox.read() == b"x" * (PIECE + 1)
    await second
    assert await inbox.read() == b"y"
    monkeypatch.setattr(Inbox, "MAX", 10)
    inbox.put(b"z" * 11)
    with pytest.raises(ConnectionError, match="more than can be read"):
        await inbox.read()


async def test_what_was_printed_before_the_end_is_read_before_it() -> None:
    inbox = Inbox()
    inbox.put(b"last")
    inbox.end(EOFError("over"))
    inbox.end(EOFError("again"))
    assert await inbox.read() == b"last"
    with pytest.raises(EOFError, match="over"):
        await inbox.read()


@given(cuts=st.lists(st.integers(0, 300)))
@settings(max_examples=50, deadline=None)
async def test_lines_are_the_bytes_however_they_are_cut(cuts: list[int]) -> None:
    data = bytes(range(256))
    text = f"0 {base64.b64encode(data[:100]).decode()}\n64 {base64.b64encode(data[100:]).decode()}\n"
    lines, edges = Lines(Inbox()), sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    assert b"".join(lines.take(text[a:b]) for a, b in pairwise(edges)) == data


async def test_who_has_been_heard_and_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbox, "SILENCE", 0.1)
    inbox = Inbox()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inbox.read(), 0.3)
    Lines(inbox).take("0 \n")
    with pytest.raises(ConnectionError, match=r"nothing came for 0\.1 s"):
        await inbox.read()


def test_a_relay_carries_any_bytes_as_lines() -> None:
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    words = [*relayed(sys.executable, "text"), sys.executable, "-c", program]
    text = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    assert Lines(Inbox()).take(text) == bytes(range(256)) * 1000


@pytest.mark.parametrize("text", ["0 YWI=\n3 YWI=\n", "welcome!\n", "0 !!\n", "x" * (Lines.MAX + 1)])
async def test_lines_with_a_gap_or_of_another_kind_end_the_line(text: str) -> None:
    inbox = Inbox()
    Lines(inbox).take(text)
    with pytest.raises(ConnectionError, match="not what its relay sent, or not all of it"):
        await inbox.read()
