"""Build the archive that `recursor demo` unpacks: src/recursor/demo/texts.tar.xz.

Usage: python scripts/build_demo_data.py DATA, where DATA holds books/, snips/ and corpora_cc0/ as
src/recursor/demo/SOURCES.md describes them. The same inputs give the same bytes.
"""

from __future__ import annotations

import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

ARCHIVE = Path(__file__).parents[1] / "src/recursor/demo/texts.tar.xz"
BOOKS = ("Anna_Karenina", "Middlemarch", "Moby-Dick", "The_Federalist_Papers")


def members(data: Path) -> Iterator[tuple[str, str]]:
    for book in BOOKS:
        yield f"books/{book}.md", (data / f"books/{book}.md").read_text(encoding="utf-8")
    countries = json.loads((data / "corpora_cc0/countries.json").read_text(encoding="utf-8"))["countries"]
    yield "books/countries.txt", "\n".join(countries) + "\n"
    yield "requests.jsonl", "\n".join(requests(data / "snips")) + "\n"


def requests(folder: Path) -> Iterator[str]:
    """One JSON line for each request: intent, text, and what people annotated as weather."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for intent, utterances in content.items():
            rows += [(intent, utterance["data"]) for utterance in utterances]
    for index in sorted(range(len(rows)), key=lambda number: number * 7919 % len(rows)):
        intent, parts = rows[index]
        text = mended(" ".join("".join(part["text"] for part in parts).split()))
        weather = [part["text"] for part in parts if part.get("entity") == "condition_description"]
        yield json.dumps({"intent": intent, "text": text, "weather": weather}, ensure_ascii=False)


def mended(text: str) -> str:
    """Undo UTF-8 that was taken for Latin-1 on its way into these files."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def main() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in members(Path(sys.argv[1])):
            info = tarfile.TarInfo(name)
            info.size = len(text.encode("utf-8"))
            tar.addfile(info, io.BytesIO(text.encode("utf-8")))
    ARCHIVE.write_bytes(lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{ARCHIVE}: {len(plain.getvalue()):,} bytes in {ARCHIVE.stat().st_size:,}")


if __name__ == "__main__":
    main()
