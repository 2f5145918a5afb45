"""The whole outside world, as the core sees it. Written for whoever implements one of these.

`recursor.testing.check_model` and `check_sandbox` try an implementation against its contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from recursor.errors import LimitExceeded, ModelError, RLMError
from recursor.types import (
    CallStyle,
    Completion,
    ContextInfo,
    Event,
    Execution,
    Isolation,
    Message,
    Reply,
    Schema,
    Subcall,
    Usage,
)


@runtime_checkable
class Model(Protocol):
    """Something that answers a prompt."""

    @property
    def name(self) -> str:
        """As a user would write it, "openai/gpt-5"."""

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer one prompt.

        Called many times at once, from one event loop. Cancelling it aborts the request.

        Args:
            messages: at least one; never changed afterwards by the caller.
            schema: JSON Schema that the text of the reply should follow; a hint that an
                implementation passes on where the provider takes it. The caller validates.
            on_text: called with each piece of text as it arrives. None asks for no streaming.
                The reply holds the whole text all the same.

        Raises:
            ModelError: the call failed. `retryable` says whether the same call may succeed later.
        """


class Subcalls(Protocol):
    """The engine, as seen from a REPL."""

    async def answer(self, subcall: Subcall) -> Any:
        """Return a plain value (see `recursor.sandboxes.guest.values`) for one sub-call; None for a batch.

        Raises:
            RLMError: the sub-call failed; its text is raised in the REPL as `SubcallError`.
        """


class Source(Protocol):
    """A context on its way into a REPL: bytes in a file descriptor, and how to read them."""

    @property
    def form(self) -> str:
        """ "text" (UTF-8, surrogates allowed), "ascii", "latin-1", "ucs-2" or "ucs-4" (text in characters
        of one width), "bytes", "file" (text if it is UTF-8, else bytes), "file:KIND" (what files of a
        kind are read as: see `guest.kinds`), "marshal", "values",
        "documents" or "folder" (a socket that gives out documents): see `recursor.context`."""

    @property
    def size(self) -> int:
        """Encoded length in bytes."""

    @property
    def origin(self) -> str:
        """A path to name to the root LM; empty for a value."""

    def open(self) -> int:
        """Return a new descriptor at offset 0 that the caller owns. Blocks; call it in a thread."""


class Snapshot(Protocol):
    """A state of a REPL, to go back to. It holds memory until it is closed, or the REPL is."""

    async def close(self) -> None:
        """Free it. May be called twice."""


class Repl(Protocol):
    """A persistent Python namespace in an isolated place. One execution at a time."""

    @property
    def isolation(self) -> Isolation:
        """What is in force."""

    async def load(self, name: str, source: Source) -> ContextInfo:
        """Bind a reserved name to the source's value.

        Raises:
            SandboxError: it cannot be brought there. UnreadableFile: it is a file that cannot be read.
        """

    async def execute(
        self,
        code: str,
        subcalls: Subcalls,
        *,
        max_time: float | None = None,
        max_wall: float | None = None,
        readings: Sequence[float] = (),
    ) -> Execution:
        """Run one code block to its end, answering its sub-calls meanwhile.

        Args:
            max_time: seconds that the block may run by itself; time spent waiting for
                sub-calls does not count. None is no bound. At the bound the block is
                interrupted (state kept), then killed (state lost, and a note says so).
            max_wall: seconds that it may take in all; the same happens then.
            readings: what clocks showed when the block was executed before (`Execution.readings`);
                they show it again, in order, and go on from there.

        Returns always, whatever the code does; cancelling it kills what runs.

        Raises:
            SandboxError: the sandbox failed and could not be started again.
        """

    async def draft(self) -> Any:
        """Return `answer["content"]` as it stands; None when it is unset or cannot be returned."""

    async def close(self) -> None:
        """Kill what runs and free everything. May be called twice."""


@runtime_checkable
class CopyableRepl(Repl, Protocol):
    """A REPL whose state can be copied, or which says why it cannot: an ability that sandboxes need not have.

    A copy has every variable, and what else there is in the process, its randomness included; it does
    not have threads. Copying waits for no block: it is done between two of them.
    """

    @property
    def copyable(self) -> bool:
        """Whether it can be copied where it is."""

    async def fork(self) -> CopyableRepl:
        """Return a REPL of its own that begins as this one is now.

        Raises:
            SandboxError: it cannot be copied, or not now (threads are running); the text says what to do.
        """

    async def snapshot(self) -> Snapshot:
        """Keep the state as it is now. Raises SandboxError as `fork` does."""

    async def restore(self, snapshot: Snapshot) -> None:
        """Go back to a state, as often as wanted. Raises SandboxError when it is there no more."""

    def checkpoint(self) -> None:
        """Begin to keep the state as it is now, so that a block that has to be killed costs what it did, and
        not all. Returns at once; does nothing where it cannot."""

    async def become(self, *, tools: Sequence[str], seed: int, calls: CallStyle) -> None:
        """Be the REPL of another run: with an answer that is not set, these tools, randomness of its own."""


class Sandbox(Protocol):
    """Where REPLs come from. Holds what is worth sharing between them."""

    async def open(
        self,
        *,
        tools: Sequence[str] = (),
        context_size: int = 0,
        seed: int = 0,
        calls: CallStyle = "plain",
    ) -> Repl:
        """Start a REPL.

        Args:
            tools: names of host functions to bind.
            context_size: bytes that will be loaded, so that memory bounds leave room for them.
            seed: of all randomness in it: the same seed and the same code give the same values.
            calls: how `llm_query` and its like are called.

        Raises:
            IsolationUnavailable: the wanted isolation cannot be had; the text names the remedy.
        """


class Journal(Protocol):
    """What earlier attempts at a run recorded. Reads only, and fast, since an event loop waits for it.

    Calls, tools and children are found by an id that stands for a place in the tree of runs: see
    `recursor.calls`.
    """

    def reply(self, call_id: str) -> Reply | ModelError | None:
        """The reply to a model call, or the error that it ended in; None when neither is known."""

    def result(self, call_id: str) -> tuple[Any, str | None] | None:
        """Result and error of a tool call; None when it did not end."""

    def refusal(self, run_id: str, call_id: str) -> LimitExceeded | None:
        """Why a call or a batch was not sent; None when it was, or is not known."""

    def ended(self, run_id: str) -> Completion | RLMError | None:
        """What a run ended in; None when it did not end, or is not known."""

    def requests(self, run_id: str) -> Mapping[str, int]:
        """How many replies a run and its children were given to each request."""

    def turns(self, run_id: str) -> int:
        """The turn of the newest root reply of a run; 0 when there is none."""

    def prompt_end(self, run_id: str, turn: int) -> str | None:
        """The last message of the prompt of a turn; None when there was no such turn."""

    def readings(self, run_id: str, turn: int, block: int) -> tuple[float, ...]:
        """What the clocks of a block showed; empty when it did not end."""

    def spent(self, run_id: str) -> tuple[Usage, float | None]:
        """What the calls of a run and its children used and cost, failed sub-calls and attempts that were
        made again included; None when any price is unknown."""


class Cache(Protocol):
    """Replies that earlier runs paid for. Reads only, and fast, since an event loop waits for it."""

    def reply(self, request: str, number: int) -> Reply | None:
        """The reply that was recorded for a request as the `number`-th of all (from 0); None beyond the last."""


@runtime_checkable
class Sink(Protocol):
    """Something that sees what happens, in order."""

    def emit(self, event: Event) -> None:
        """Take one event. Must not block and must not raise. Called from the engine's thread."""

    async def flush(self) -> None:
        """Return when every event emitted before is as durable as this sink makes it."""
