"""The names that a REPL offers: sub-calls, the answer, tools; and how they are kept.

`Names.restore` rebinds what a block has overwritten. An answer is submitted by `FINAL(value)`,
by `FINAL_VAR("name")`, or by setting `answer["content"]` and `answer["ready"]` in any order, by
`update` or by rebinding `answer` to such a dict. Submitting stops the block; the first counts.
"""

from __future__ import annotations

import builtins
import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from .answer import Answer, Submitted
from .channel import PART, Channel, SubcallError
from .defining import defined
from .frames import header_start
from .handover import Handover
from .helpers import chunk, grep
from .queries import Queries
from .ranking import search
from .toolcalls import pack

_PLAIN = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
"""Names that may be for `await`, as their twins with an "a" always are."""
HELPERS: dict[str, Callable[..., Any]] = {"chunk": chunk, "grep": grep, "search": search}
"""Names that code may bind to values of its own, as it does in `for chunk in chunks`."""
_MISSING = object()
_PYTHONS = frozenset((
    "__name__", "__builtins__", "__doc__", "__loader__", "__package__", "__spec__", "__warningregistry__",
    "__annotations__", "__annotate__", "__conditional_annotations__",
))  # fmt: skip
"""What Python itself keeps in a module."""


class Names:
    """Binds and keeps the reserved names of one namespace.

    Args:
        namespace: the REPL's globals.
        channel: where sub-calls go.
        submit: called with a value that was submitted; raises `NotPlain` when it cannot leave.
        on_draft: called when the code has set a draft of the answer.
        branch: forks this REPL for a child; returns the number of the fork.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        channel: Channel,
        submit: Callable[[Any], None],
        on_draft: Callable[[], None],
        branch: Callable[[], int],
    ) -> None:
        self._namespace = namespace
        self._channel = channel
        self._submit = submit
        self._handover = Handover(channel)
        self._tools: dict[str, Callable[..., Any]] = {}
        self._queries = Queries(channel, self._handover, self._tools, branch)
        self.answer = Answer(submit, on_draft)
        self._reserved: dict[str, Any] = {"answer": self.answer, "SubcallError": SubcallError}
        queries = self._queries
        for function in (
            queries.llm_query, queries.llm_query_batched, queries.allm_query, queries.allm_query_batched,
            queries.rlm_query, queries.rlm_query_batched, queries.arlm_query, queries.arlm_query_batched,
            self.FINAL, self.FINAL_VAR, self.SHOW_VARS,
        ):  # fmt: skip
            self._reserved[function.__name__] = _plain_function(function, function.__name__)
        namespace.update(self._reserved)
        namespace.update(HELPERS)
        self._offered: dict[str, Any] = {}
        """What tools that are defined here have as builtins; empty where there are none."""
        self._hidden: set[str] = set()
        """Helpers that a note has told to be hidden by a variable."""

    def call_in_style(self, style: str) -> None:
        """Let the plain names of sub-calls be functions to `await`, or take the arguments that they have elsewhere."""
        if style == "await":
            for name in _PLAIN:
                self.reserve(name, _plain_function(getattr(self._queries, f"a{name}"), name))
        elif style == "reference":
            self.reserve("rlm_query", _plain_function(self._queries.reference_query, "rlm_query"))
            self.reserve(
                "rlm_query_batched", _plain_function(self._queries.reference_batch, "rlm_query_batched")
            )

    def loaded(self, name: str) -> Any:
        """The value that was loaded under a name. Raises KeyError."""
        return self._handover.loaded(name)

    def load(self, name: str, value: Any, *, alias: bool = False) -> None:
        """Bind a name to a value that came from the host; that of a tool to the function that its source defines.

        Args:
            alias: whether the value was loaded under another name, by which it is handed on.
        """
        if name in self._tools:
            self._offered = self._offered or {**vars(builtins), **HELPERS, **self._reserved}
            self._tools[name] = value = defined(name, value, self._offered)
        elif alias:
            self._handover.forget(name)
        else:
            self._handover.keep(name, value)
        self.reserve(name, value)

    def reserve(self, name: str, value: Any) -> None:
        """Bind a name that every block finds as it was."""
        self._reserved[name] = self._namespace[name] = value
        if self._offered:
            self._offered[name] = value

    def begin_anew(self, tools: Sequence[str]) -> None:
        """Be the names of another run, whose tools these are, and whose answer is not there yet."""
        self.restore()
        for name in self._tools.keys() - set(tools):
            del self._tools[name], self._reserved[name]
            self._namespace.pop(name, None)
            self._offered.pop(name, None)
        for name in set(tools) - self._tools.keys():
            self.reserve_tool(name)
        self.answer.clear()
        self.answer.keep(None)
        self.answer.begin_block()
        self.answer.drafted = False

    def reserve_tool(self, name: str) -> None:
        def tool(*args: Any, **kwargs: Any) -> Any:
            number, ahead = self._channel.next_number(), 0
            apart, data = pack(args, kwargs)
            if len(data) > PART:
                self._channel.send_parts(number, data)
                ahead, data = len(data), b""
            start = header_start({"op": "tool", "name": name, "apart": apart, "ahead": ahead})
            return self._channel.ask(start, data, number)

        tool.__name__ = tool.__qualname__ = name
        self._tools[name] = tool
        self.reserve(name, tool)

    def variables(self) -> dict[str, Any]:
        """What blocks have bound themselves."""
        hidden = {*self._reserved, "_", *_PYTHONS}
        hidden |= {name for name, helper in HELPERS.items() if self._namespace.get(name) is helper}
        return {name: value for name, value in self._namespace.items() if name not in hidden}

    def begin_block(self) -> None:
        self.answer.begin_block()

    def end_block(self) -> None:
        """Submit what the block has left complete: a rebound `answer`, or ready without new content."""
        self._adopt()
        if self.answer.get("ready") is not True:
            return
        if not self.answer.drafted:
            raise ValueError(
                'answer["ready"] is True, but answer["content"] was never set; nothing was submitted'
            )
        self._submit(self.answer.get("content"))

    def restore(self) -> list[str]:
        """Rebind reserved names; return what to tell about it."""
        self._adopt()
        notes = []
        for name, value in self._reserved.items():
            bound = self._namespace.get(name, _MISSING)
            if bound is value:
                continue
            self._namespace[name] = value
            if name == "answer" and bound is not _MISSING:
                self.answer.keep(bound)
                notes.append(
                    "`answer` is a reserved dict and was restored; the value you bound to it is now "
                    '`answer["content"]`. To submit it: answer["ready"] = True'
                )
            elif bound is not _MISSING:
                notes.append(f"`{name}` is reserved and was restored; use another name for your own value")
            else:
                notes.append(f"`{name}` is reserved and was restored")
        for name, helper in HELPERS.items():
            if self._namespace.setdefault(name, helper) is not helper and name not in self._hidden:
                self._hidden.add(name)
                notes.append(f"`{name}` is now your variable; `del {name}` brings the function back")
        return notes

    def _adopt(self) -> None:
        """A dict with the keys of an answer that was bound to `answer` is the answer."""
        bound = self._namespace.get("answer", _MISSING)
        if isinstance(bound, dict) and bound is not self.answer and bound.keys() & {"content", "ready"}:
            self.answer.adopt(bound)
            self._namespace["answer"] = self.answer

    # What the model calls. The first line of a docstring is what `help` is worth in a prompt. -----

    def FINAL(self, value: Any) -> None:  # noqa: N802 - the name that models are trained on
        """Submit the answer: any plain value, of any size. Ends the run."""
        self._submit(value)
        self.answer.keep(value)  # a draft, should it not be accepted
        raise Submitted

    def FINAL_VAR(self, name: str) -> None:  # noqa: N802 - the name that models are trained on
        """Submit the variable of this name as the answer."""
        if not isinstance(name, str):
            return self.FINAL(name)
        if name not in self._namespace:
            names = list(self.variables())
            near = difflib.get_close_matches(name, names, 1)
            hint = (
                f"; did you mean {near[0]!r}?"
                if near
                else f"; your variables are: {', '.join(names) or 'none'}"
            )
            raise NameError(f"FINAL_VAR: there is no variable {name!r}{hint}")
        value = self._namespace[name]
        return self.FINAL(value.get("content") if value is self.answer else value)

    def SHOW_VARS(self) -> str:  # noqa: N802 - the name that models are trained on
        """Return the names and types of your variables."""
        rows = [f"{name}: {type(value).__name__}" for name, value in self.variables().items()]
        return "\n".join(rows) or "no variables yet"


def _plain_function(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function of this name without a visible `self`, so that its repr and its signature are what they seem."""
    bound: Any = method
    if inspect.iscoroutinefunction(method):

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            return await bound(*args, **kwargs)

        function: Callable[..., Any] = asynchronous
    else:

        def synchronous(*args: Any, **kwargs: Any) -> Any:
            return bound(*args, **kwargs)

        function = synchronous
    function.__name__ = function.__qualname__ = name
    function.__doc__ = bound.__doc__
    function.__module__ = "__main__"
    function.__wrapped__ = bound  # type: ignore[attr-defined]  # inspect.signature reads it
    return function
