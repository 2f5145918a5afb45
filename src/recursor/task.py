"""What one run is asked; how a child's is made of what code said, and told from others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recursor import prompt
from recursor.calls import digest
from recursor.context import Source, prepare, same
from recursor.context.pictures import taken_out
from recursor.errors import ConfigError, SubcallError
from recursor.limits import Limits
from recursor.protocols import CopyableRepl
from recursor.schema import ANYTHING, Shape, shape
from recursor.types import ContextInfo, LlmQuery, Output, RlmQuery

MAX_FLATTENED = 1 << 24
"""Bytes of a context that fit into the prompt of a plain call."""
DIGEST_AHEAD = 1 << 24
"""Bytes of a context up to which a child's place in the tree goes by its digest; above, by its size."""


@dataclass(frozen=True, slots=True)
class Start:
    """A REPL with variables from before, for a run to begin in."""

    repl: CopyableRepl
    known: Mapping[str, ContextInfo]
    """Of the contexts that are in it already."""
    told: Callable[[Output], str] = prompt.copied
    """What is said of it, given what shows its variables."""
    stays: bool = False
    """Whether it goes on after the run: it is a session's, and no copy."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of those contexts, where they are known."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one run is asked."""

    question: str
    contexts: Mapping[str, Source] = field(default_factory=dict)
    """Values included."""
    expected: Shape = ANYTHING
    instruction: str = ""
    """Added to what the root LM is told."""
    wanted: str | None = None
    """The model or capability that code asked for; None takes the route's."""
    start: Start | None = None
    """None takes a new REPL."""
    values: Mapping[str, Source] = field(default_factory=dict)
    """Those of the contexts that every run of the tree has."""

    @property
    def own(self) -> dict[str, Source]:
        """The contexts that are not values of the whole tree."""
        return {name: source for name, source in self.contexts.items() if name not in self.values}

    @property
    def size(self) -> int:
        """Bytes of question and contexts, as encoded."""
        return len(self.question) + sum(source.size for source in self.contexts.values())

    @property
    def opaque(self) -> bool:
        """Whether there is a context that only a sandbox reads."""
        return any(getattr(source, "opaque", False) for source in self.contexts.values())

    @property
    def pictured(self) -> bool:
        """Whether there are pictures among what a prompt could hold."""
        return any(getattr(source, "pictured", False) for source in self.contexts.values())

    def asks_as(self, other: Task) -> bool:
        """Whether question and contexts are the same. Blocks; call it in a thread."""
        return (
            self.question == other.question
            and self.contexts.keys() == other.contexts.keys()
            and all(same(source, other.contexts[name]) for name, source in self.contexts.items())
        )

    def identity(self, tools: Iterable[str], limits: Mapping[str, Any] | None) -> bytes:
        """A digest of what a child is asked, and with what. Blocks; call it in a thread."""
        parts = [self.wanted or "", self.question, self.instruction, self.expected.text, ",".join(tools)]
        parts.append(json.dumps(limits, sort_keys=True, default=repr))
        parts += ["fork"] if self.start is not None else []
        for source in self.own.values():
            parts += [source.form, str(source.size), source.digest() if source.size <= DIGEST_AHEAD else ""]
        return digest("child", *parts)

    def beginning_as(self, start: CopyableRepl, asking: Task, infos: Mapping[str, ContextInfo]) -> Task:
        """This task, to be done in a copy of the REPL of the run that asks: with its contexts, but for their own.

        Args:
            infos: of the contexts that are there.
        """
        theirs = {name: asking.contexts[name] for name in infos if name not in (*self.own, "question")}
        known = {name: infos[name] for name in theirs}
        return replace(self, contexts={**theirs, **self.contexts}, start=Start(start, known))


def of_child(query: RlmQuery, values: Mapping[str, Source]) -> Task:
    """The task of a child. Blocks; call it in a thread.

    Args:
        values: which every run of the tree has.

    Raises:
        ConfigError: the schema or the context is none.
    """
    contexts = {} if query.context is None else {"context": _source(query.context)}
    if len(query.question) > prompt.MAX_QUESTION:
        contexts["question"] = prepare(query.question)
    expected = shape(query.schema, trusted=False)
    contexts = {**contexts, **values}
    return Task(query.question, contexts, expected, query.instruction or "", query.model, values=values)


def limits_of_child(query: RlmQuery, own: Limits, depth: int) -> Limits:
    """The limits of a child: those of the run that asks, or smaller ones that were asked for.

    Args:
        depth: of the run that asks.

    Raises:
        SubcallError: these are no limits.
    """
    changes = dict(query.limits or {})
    try:
        asked = own.with_changes(changes)
    except ConfigError as error:
        raise SubcallError(f"limits: {error}") from None
    if "max_depth" in changes and asked.max_depth is not None:  # it counts from the child
        asked = replace(asked, max_depth=depth + 1 + asked.max_depth)
    return asked.within(own)


def flattened(query: RlmQuery) -> LlmQuery:
    """A child at the depth limit: one prompt with the context in it. Blocks; call it in a thread.

    Raises:
        SubcallError: the context is too large for that, or variables were to go with it.
    """
    if query.fork is not None:
        raise SubcallError(
            "fork=True: at the depth limit this is a plain call, which has no variables: put what it needs "
            "into the question or the context"
        )
    parts, context = [query.instruction, query.question], query.context
    if isinstance(context, Source):
        if context.size > MAX_FLATTENED:
            raise SubcallError(
                f"the context has {context.size:,} bytes; at the depth limit this is a plain call, into "
                f"which at most {MAX_FLATTENED:,} fit: cut it up"
            )
        context = context.value()
    context, images = taken_out(context)
    if query.context is not None:
        parts.append(prompt.plain(context))
    return LlmQuery("\n\n".join(filter(None, parts)), query.model, query.schema, images)


def ordered(value: Any) -> str:
    """A text for a plain value that is the same in each process: a set has no order there."""
    match value:
        case set() | frozenset():
            return f"{type(value).__name__}({sorted(map(ordered, value))})"
        case dict():
            return f"{{{', '.join(f'{ordered(key)}: {ordered(item)}' for key, item in value.items())}}}"
        case list() | tuple():
            return f"{type(value).__name__}({', '.join(map(ordered, value))})"
        case _:
            return repr(value)


def _source(context: Any) -> Source:
    return context if isinstance(context, Source) else prepare(context)
