"""The texts that the questions are about, unpacked and generated into a folder."""

from __future__ import annotations

import json
import lzma
import random
import tarfile
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

HAYSTACK_BYTES = 40_000_000
NEEDLE = "The safe of the harbour master of Lisbon opens with {combination}, said the letter."
BOOKS = ("Anna_Karenina.md", "Middlemarch.md", "Moby-Dick.md", "The_Federalist_Papers.md")


@dataclass(frozen=True, slots=True)
class Texts:
    """Where the texts lie, and what only their maker knows."""

    haystack: Path
    """One line of it holds the needle."""
    combination: str
    """What the needle says; drawn anew each time, so that no script can know it."""
    requests: Path
    """"intent<TAB>text" lines."""
    annotated: tuple[dict[str, Any], ...]
    """The same requests with "weather": the words that people marked as a weather condition."""
    books: Path
    """A folder: four books and countries.txt."""


def unpack(folder: Path) -> Texts:
    """Write the texts into a folder that exists."""
    members = _members()
    annotated = tuple(json.loads(line) for line in members.pop("requests.jsonl").splitlines())
    requests = folder / "requests.txt"  # a .tsv would be a table in the REPL, and the demo counts lines
    rows = (f"{row['intent']}\t{row['text']}\n" for row in annotated)
    requests.write_text("".join(rows), encoding="utf-8")
    books = folder / "books"
    books.mkdir()
    for name, data in members.items():
        (folder / name).write_bytes(data)
    haystack = folder / "haystack.txt"
    combination = _bury(haystack, b"".join(members[f"books/{name}"] for name in BOOKS))
    return Texts(haystack, combination, requests, annotated, books)


def _members() -> dict[str, bytes]:
    packed = resources.files(__package__).joinpath("texts.tar.xz").read_bytes()
    with tarfile.open(fileobj=BytesIO(lzma.decompress(packed))) as tar:
        files = ((each.name, tar.extractfile(each)) for each in tar)
        return {name: file.read() for name, file in files if file}


def _bury(path: Path, text: bytes) -> str:
    """Write the text again and again, and one needle between two lines of it."""
    chance = random.SystemRandom()
    combination = "-".join(f"{chance.randrange(10, 100)}" for _ in range(4))
    needle = NEEDLE.format(combination=combination).encode()
    hay = (text * (HAYSTACK_BYTES // len(text) + 1))[: HAYSTACK_BYTES - len(needle) - 1]
    cut = hay.index(b"\n", chance.randrange(len(hay) * 9 // 10)) + 1
    path.write_bytes(hay[:cut] + needle + b"\n" + hay[cut:])
    return combination
