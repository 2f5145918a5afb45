"""What a caller passes -> a question, and the sources of the REPL's variables. Checked before anything is paid."""

from __future__ import annotations

import keyword
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from recursor.context import Source, prepare
from recursor.context.pictures import with_pictures
from recursor.errors import ConfigError
from recursor.files import Content, Raw, Url
from recursor.prompt import MAX_QUESTION
from recursor.tools import RESERVED

if TYPE_CHECKING:
    from recursor.trajectory.view import RecordedRun


def inputs(
    question: Any, context: Any, messages: Any, values: Mapping[str, Any] = MappingProxyType({})
) -> tuple[str, dict[str, Source]]:
    """Check what a caller passed; return the question and the sources by variable name."""
    contexts: dict[str, Source] = {}
    if messages is not None:
        if question is not None:
            raise ConfigError("pass a question or messages, not both")
        question = _last_user_text(messages)
        contexts["messages"] = prepare(with_pictures(messages))
    if not isinstance(question, str) or not question.strip():
        raise ConfigError("the question must be a text that is not empty")
    if context is not None:
        contexts["context"] = prepare(context)
    if len(question) > MAX_QUESTION:
        contexts["question"] = prepare(question)
    for name, value in values.items():
        try:
            contexts[name] = prepare(value)
        except ConfigError as error:
            raise ConfigError(f"values: {name}: {str(error).removeprefix('context: ')}") from None
    return question, contexts


def checked_values(values: Any, tools: Container[str]) -> dict[str, Any]:
    """Values by name. Raises ConfigError on a name that cannot be bound or is taken."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"values must be a dict of names and data, not {type(values).__name__}")
    for name in values:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigError(f"values: {name!r} is no name for a variable")
        if name in RESERVED or name in tools or name.startswith("_"):
            raise ConfigError(f"values: the name {name!r} is taken; take another")
    return dict(values)


def _last_user_text(messages: Any) -> str:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise ConfigError("messages must be a list of {'role': ..., 'content': ...}, with at least one")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(f"messages[{index}] must be a mapping with a role and a content")
    for message in reversed(messages):
        if message["role"] == "user":
            return _text_of(message.get("content"))
    raise ConfigError("messages hold no user message to take the question from")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def recorded_inputs(
    run: RecordedRun, context: Any, messages: Any, values: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Source]]:
    """The same for a run that is resumed: what it was given must be given again, or still be where it was.

    Args:
        context: None takes the file or folder that the run recorded.
        values: None leaves out those that the run was given.

    Raises:
        ConfigError: something is missing, or is not what it was.
    """
    left_out = run.settings.get("values", ()) if values is None else ()
    recorded = {found.info.name: found for found in run.contexts if found.info.name not in left_out}
    if context is None and "context" in recorded:
        context = _where_it_was(run)
    if "context" in recorded:
        context = _as_recorded(context, recorded["context"].digest)
    if messages is None and "messages" in recorded:
        raise ConfigError(f"run {run.id} was given messages: pass the same again")
    question = run.question if messages is None else None
    given = inputs(question, context, messages, values or {})
    if set(given[1]) != set(recorded):
        raise ConfigError(
            f"run {run.id} was given {', '.join(sorted(recorded)) or 'no context'}, "
            f"and now {', '.join(sorted(given[1])) or 'none'}"
        )
    for name, source in given[1].items():
        digest = recorded[name].digest
        if digest is not None and source.digest() != digest:
            raise ConfigError(f"`{name}` is not what run {run.id} was given: it was {digest}")
    return run.question, given[1]


def _as_recorded(context: Any, digest: str | None) -> Any:
    """The context; or files as they stand, where that is what the run was given."""
    paths = isinstance(context, os.PathLike) or (
        isinstance(context, list | tuple)
        and context
        and all(isinstance(item, os.PathLike) for item in context)
    )
    raw = Raw(context) if paths else context.data if isinstance(context, Content) else None
    if raw is None or digest is None or prepare(context).digest() == digest:
        return context
    return raw if prepare(raw).digest() == digest else context


def _where_it_was(run: RecordedRun) -> Path | Url:
    origin = next(found.info.source for found in run.contexts if found.info.name == "context")
    if not origin:
        raise ConfigError(
            f"run {run.id} was given a context that is recorded by its digest alone: pass the same again"
        )
    if origin.startswith(("http://", "https://")) and "?" not in origin and ", " not in origin:
        return Url(origin)
    if not Path(origin).exists():
        raise ConfigError(f"the context of run {run.id} was {origin}, which is not there: pass it again")
    return Path(origin)
