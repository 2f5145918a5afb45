"""XML without what makes it dangerous: no document type, so no entities; bounded in depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.parsers import expat

from .loading import Unreadable

DEEPEST = 1_000


def parse(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Call back for each element, by its name and attributes without their namespaces, and for texts.

    An attribute with a namespace goes before one of the same name without.

    Raises:
        Unreadable: it is no XML, has a document type, or is nested too deeply.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    depth = 0

    def started(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise Unreadable(f"its XML is nested more than {DEEPEST:,} deep")
        plain = {key: value for key, value in attributes.items() if " " not in key}
        if len(plain) < len(attributes):
            plain.update((_local(key), value) for key, value in attributes.items() if " " in key)
        start(_local(name), plain)

    def ended(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(_local(name))

    def refused(*_: Any) -> None:
        raise Unreadable("its XML has a document type, which may hold entities")

    parser.buffer_text = True
    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refused
    parser.EntityDeclHandler = refused
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unreadable(f"its XML is damaged: {error}") from None


def _local(name: str) -> str:
    return name.rpartition(" ")[2]
