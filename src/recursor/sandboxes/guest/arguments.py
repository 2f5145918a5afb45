"""What code passes to a sub-call, checked before anything is sent, and put into the words of the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from .channel import SubcallError
from .frames import MAX_BODY, header_start
from .images import media_type
from .shapes import json_schema

MAX_INSTRUCTION = 1 << 16
MOST_IMAGES = 100
"""Pictures of one call."""
_LARGEST = 1 << 53
_BYTES = (bytes, bytearray, memoryview)


def llm_call(prompt: Any, model: Any, schema: Any, images: Any = None) -> tuple[bytes, bytes]:
    """The start of the header of a plain call, and its body: the prompt, and after it the pictures."""
    body = text_of("prompt", prompt)
    pictures = pictures_of(images)
    room = MAX_BODY - sum(map(len, pictures))
    if len(body) > room:
        raise SubcallError(
            f"prompt and images have {len(body) + MAX_BODY - room:,} bytes; at most {MAX_BODY:,} can be sent: "
            "send fewer at once, or smaller ones"
        )
    return llm_header(model, schema, list(map(len, pictures))), b"".join((body, *pictures))


def llm_header(model: Any, schema: Any, images: Sequence[int] = ()) -> bytes:
    """The start of the header of a plain call.

    Args:
        images: bytes of each picture that goes with it.
    """
    fields = {"op": "llm_query", "model": _model(model), "schema": _schema(schema)}
    return header_start({**fields, "images": images} if images else fields)


def pictures_of(images: Any) -> list[bytes]:
    """The files of one picture or several. Raises TypeError or ValueError for what is none."""
    if images is None:
        return []
    several = [images] if isinstance(images, _BYTES) else images
    if isinstance(several, str | Mapping) or not isinstance(several, Iterable):
        raise TypeError(
            f"images must be pictures: values of a context, or bytes; not {type(images).__name__}"
        )
    found: list[bytes] = []
    for image in several:
        if not isinstance(image, _BYTES):
            raise TypeError(f"an image must be a picture of a context, or bytes, not {type(image).__name__}")
        if not media_type(bytes(image[:16])):
            raise ValueError(
                f"image {len(found)} is no PNG, JPEG, GIF or WebP: its bytes begin with {bytes(image[:16])!r}"
            )
        found.append(bytes(image))
        if len(found) > MOST_IMAGES:
            raise ValueError(f"there are more than {MOST_IMAGES} images for one call: send fewer at once")
    return found


def rlm_fields(model: Any, schema: Any, tools: list[str], instruction: Any, limits: Any) -> dict[str, Any]:
    """What the header of a call of a child says beside its question and context."""
    return {
        "op": "rlm_query", "model": _model(model), "schema": _schema(schema), "tools": tools,
        "instruction": _instruction(instruction), "limits": _limits(limits),
    }  # fmt: skip


def text_of(name: str, text: Any, most: int = MAX_BODY) -> bytes:
    """The bytes of a prompt or question."""
    check_text(name, text)
    data = str.encode(text, "utf-8", "replace")
    if len(data) > most:
        raise SubcallError(f"the {name} has {len(data):,} bytes; at most {most:,} can be sent: cut it up")
    return data


def check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f"the {name} must be a str, not {type(text).__name__}")


def tool_names(tools: Any, known: Mapping[str, Callable[..., Any]]) -> list[str]:
    """The names of tools that are given as functions or by name. Raises ValueError for one that is unknown."""
    if tools is None:
        return []
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        raise TypeError(f"tools must be a list of tools or their names, not {type(tools).__name__}")
    return list(dict.fromkeys(_tool_name(tool, known) for tool in tools))


def _tool_name(tool: Any, known: Mapping[str, Callable[..., Any]]) -> str:
    for name, function in known.items():
        if tool == name or tool is function:
            return name
    said = repr(tool) if isinstance(tool, str) else f"the function {getattr(tool, '__name__', tool)!r}"
    raise ValueError(
        f"tools: {said[:200]} is no tool of this REPL, so a child cannot get it; "
        f"the tools are: {', '.join(known) or 'none'}"
    )


def pairs_of(
    questions: Iterable[str], contexts: Iterable[Any] | None, words: tuple[str, str] = ("question", "context")
) -> Iterable[tuple[str, Any]]:
    """Questions with their contexts: a list where the number is known, else drawn as it goes.

    Args:
        words: what to call one of each.
    """
    one, other = words
    if isinstance(questions, str):
        raise TypeError(f"a batch takes a list of {one}s, not one str")
    if isinstance(contexts, str | bytes):
        raise TypeError(f"{other}s take a list, one for each {one}, not one {type(contexts).__name__}")
    if contexts is None:
        pairs: Iterator[tuple[str, Any]] = ((question, None) for question in questions)
        return list(pairs) if isinstance(questions, Sized) else pairs
    if isinstance(questions, Sized) and isinstance(contexts, Sized) and len(questions) != len(contexts):
        raise ValueError(f"{len(questions)} {one}s need as many {other}s, not {len(contexts)}")
    pairs = zip(questions, contexts, strict=True)
    return list(pairs) if isinstance(questions, Sized) and isinstance(contexts, Sized) else pairs


def _model(model: str | None) -> str | None:
    if model is not None and not isinstance(model, str):
        raise TypeError(f"model must be a str or None, not {type(model).__name__}")
    return model


def _schema(schema: Any) -> dict[str, Any] | None:
    """A JSON Schema, as it is or of a type; a text is taken for neither."""
    if schema is None:
        return None
    return dict(schema) if isinstance(schema, Mapping) else json_schema(schema)


def _instruction(instruction: Any) -> str | None:
    if instruction is None:
        return None
    check_text("instruction", instruction)
    if len(instruction) > MAX_INSTRUCTION:
        raise ValueError(
            f"the instruction has {len(instruction):,} characters; at most {MAX_INSTRUCTION:,} can be sent: "
            "put data into the context"
        )
    return str(instruction)


def _limits(limits: Any) -> dict[str, float | None] | None:
    if limits is None:
        return None
    if not isinstance(limits, Mapping):
        raise TypeError(
            f"limits must be a dict such as {{'max_cost': 0.5, 'max_turns': 5}}, not {type(limits).__name__}"
        )
    for name, bound in limits.items():
        check_text("name of a limit", name)
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if bound is not None and not (number and abs(bound) <= _LARGEST):
            raise ValueError(f"limits: {name} must be a number or None, not {bound!r}"[:200])
    return dict(limits)
