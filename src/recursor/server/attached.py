"""Files in messages: they become the context of the run, read in the sandbox as what they are."""

from __future__ import annotations

import base64
import binascii
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from recursor.files import Content
from recursor.server.failures import ApiError

MAX_NAME = 200


def taken_out(
    messages: Sequence[Mapping[str, Any]], param: str
) -> tuple[list[Mapping[str, Any]], Content | None]:
    """Messages that say where their files are, and the files: one as it is, several as an archive of them.

    Raises:
        ApiError: a file comes without its data.
    """
    found: dict[str, bytes] = {}
    made = [_without(message, f"{param}[{index}]", found) for index, message in enumerate(messages)]
    if len(found) < 2:
        return made, next((Content(data, name) for name, data in found.items()), None)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in found.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return made, Content(packed.getvalue(), "files.zip")


def _without(message: Mapping[str, Any], where: str, found: dict[str, bytes]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list) or not any(_is_file(part) for part in content):
        return message
    parts = []
    for part in content:
        if _is_file(part):
            name = _named(part.get("file"), where, found)
            part = {"type": "text", "text": f"[the file {name!r} is in the variable `context`]"}  # noqa: PLW2901
        parts.append(part)
    return {**message, "content": parts}


def _is_file(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "file"


def _named(file: Any, where: str, found: dict[str, bytes]) -> str:
    """Put a file among those that were found; return its name there."""
    file = file if isinstance(file, Mapping) else {}
    data, given = file.get("file_data"), file.get("filename")
    if not isinstance(data, str) or not data or not isinstance(given, str | None):
        raise ApiError(
            400, f"{where}: a file comes by its data, as file_data in base64", param=f"{where}.content"
        )
    try:
        decoded = base64.b64decode(
            data.partition(",")[2] if data.startswith("data:") else data, validate=True
        )
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{where}: the data of a file is no base64", param=f"{where}.content") from None
    name = _plain(given or "file")
    while name in found:
        name = f"{len(found)}-{name}"
    found[name] = decoded
    return name


def _plain(name: str) -> str:
    """A name without folders, line ends and the like, which keeps its suffix."""
    last = name.replace("\\", "/").rpartition("/")[2]
    said = "".join(letter if letter.isprintable() else "_" for letter in last)
    return said[-MAX_NAME:].lstrip(".") or "file"
