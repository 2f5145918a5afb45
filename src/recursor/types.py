"""The values that a run is made of. Frozen, without behaviour beyond arithmetic and display.

Strings in them come from models, contexts and sandboxes: data, never to be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from recursor import display

if TYPE_CHECKING:
    from recursor.coverage import Coverage

Purpose: TypeAlias = Literal["root", "sub", "compaction"]
"""What a model call is for: the next reply of the root LM, a plain sub-call, a summary of old turns."""
CallStyle: TypeAlias = Literal["plain", "await", "reference"]
"""How the plain names of sub-calls are called in a REPL: as this engine's functions are; for `await`; or with the
arguments of the reference implementation, `rlm_query(prompt, model=None)`."""
Role: TypeAlias = Literal["system", "user", "assistant"]
IMAGE_SIZE = 6_000
"""Characters that a picture is taken to cost as much as, before a reply has said more."""
Schema: TypeAlias = Mapping[str, Any]
"""A JSON Schema (draft 2020-12) as Python values."""


class StopReason(StrEnum):
    """Why a run ended."""

    ANSWERED = "answered"
    MAX_TURNS = "max_turns"
    MAX_TIME = "max_time"
    MAX_TOKENS = "max_tokens"
    MAX_COST = "max_cost"
    MAX_CALLS = "max_calls"
    MAX_ERRORS = "max_errors"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. `message["content"]` reads like the OpenAI dictionary does."""

    role: Role
    content: str
    images: tuple[bytes, ...] = ()
    """Pictures that go with the text, as files of PNG, JPEG, GIF or WebP; of a user's message alone."""

    def __getitem__(self, key: str) -> str:
        if key not in ("role", "content"):
            raise KeyError(key)
        return str(getattr(self, key))

    @property
    def size(self) -> int:
        """Characters, and for each picture as many as it is taken to cost."""
        return len(self.content) + IMAGE_SIZE * len(self.images)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and calls. Input includes `cached_tokens`, output includes `reasoning_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Input tokens that the provider read from its prompt cache."""
    cache_write_tokens: int = 0
    """Input tokens that the provider wrote to its prompt cache (Anthropic bills them apart)."""
    reasoning_tokens: int = 0
    calls: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model returned to one prompt."""

    text: str
    """The content; empty when the model sent none (reasoning only, or a tool call)."""
    usage: Usage = Usage(calls=1)
    cost: float | None = None
    """US dollars; None when neither the provider nor the price list knows."""
    model: str = ""
    """The name that the provider gave, else the one that was asked for."""
    finish_reason: str | None = None
    """Normalised: "stop", "length", "tool_calls", "content_filter"; None when not said."""
    reasoning: str | None = None
    raw: Mapping[str, Any] | None = None
    """The provider's JSON, whole; for a streamed reply the last events of it."""
    cached: bool = False
    """Whether another run paid for it: its usage and cost are not counted again."""


@dataclass(frozen=True, slots=True)
class Output:
    """Text that was printed, its middle left out when it was long."""

    head: str = ""
    omitted: int = 0
    """Characters left out between head and tail."""
    tail: str = ""

    @property
    def total(self) -> int:
        """Characters printed."""
        return len(self.head) + self.omitted + len(self.tail)


@dataclass(frozen=True, slots=True)
class Submission:
    """An answer that was set in the REPL. A value of its own, since an answer may be None."""

    value: Any


@dataclass(frozen=True, slots=True)
class Variable:
    """What a block did to a variable of the REPL. A change deep inside of a value may go unseen."""

    name: str
    type: str
    """The name of its type; empty when it is gone, as are size and preview."""
    size: str
    """With its unit, as a person says it: "12 items"; empty for what has none."""
    preview: str
    """At most 200 characters."""
    change: Literal["new", "changed", "gone"]


@dataclass(frozen=True, slots=True)
class Execution:
    """One code block and what came of it."""

    code: str
    output: Output = Output()
    error: str | None = None
    """The traceback as the root LM reads it; None when the code ran to its end."""
    notes: tuple[str, ...] = ()
    """What the REPL has to say beside the output: a restored name, a lost state."""
    submission: Submission | None = None
    duration: float = 0.0
    """Seconds."""
    readings: tuple[float, ...] = ()
    """What its clocks showed, in order: a block that is executed again reads the same."""
    variables: tuple[Variable, ...] = ()
    """What it did to variables: 50 at most. Empty when the REPL died in it."""
    more_variables: int = 0
    """How many others it has changed."""
    started: float = 0.0
    """Seconds since the epoch; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply and its executions."""

    number: int
    """Counted from 1."""
    reply: Reply
    executions: tuple[Execution, ...] = ()
    notes: tuple[str, ...] = ()
    """What was wrong with the reply itself: no block, an unclosed one, one that was not run."""

    @property
    def submission(self) -> Submission | None:
        """The answer, when the turn set one."""
        return self.executions[-1].submission if self.executions else None


@dataclass(frozen=True, slots=True)
class ContextInfo:
    """What the root LM is told about a variable that was loaded: constant in size."""

    name: str
    type: str
    size: str
    """With its unit, as a person says it: "21,256,143 characters"."""
    preview: str
    source: str = ""
    """Where it came from: a path; empty when it was passed as a value."""


_OF_THE_HOST = re.compile(r"(?<![\w/.-])host")
"""The host as a word, and not in a path or the name of an image ("localhost/mine")."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What stands between the code in a REPL and the host. Says what is in force, not what was asked."""

    sandbox: str
    files: str
    """What it can open. Names the host where that is not confined, and is "partially" confined where it says so."""
    network: str
    """Begins with "none" where there is none."""
    processes: str
    """Begins with "none" where code can start none."""
    environment: str
    kernel: str
    """Begins with "its own" or "gVisor" where it is not that of the host."""
    memory: str
    """What bounds it."""
    mechanisms: tuple[str, ...] = ()
    weaknesses: tuple[str, ...] = ()
    """What it lacks of the full strength of its kind, on this machine."""

    @property
    def isolated(self) -> bool:
        """Whether code in the REPL is kept from the host's files, network and processes."""
        return "none" in self.network and self.confined

    @property
    def confined(self) -> bool:
        """Whether code in the REPL is kept from the host's files, by what `files` says."""
        return not _OF_THE_HOST.search(self.files)

    def __str__(self) -> str:
        rows = ("files", "network", "processes", "environment", "kernel", "memory")
        lines = [f"{row}: {getattr(self, row)}" for row in rows]
        weaker = [f"weaker: {weakness}" for weakness in self.weaknesses]
        return f"sandbox {self.sandbox}\n  " + "\n  ".join(
            [*lines, "by: " + ", ".join(self.mechanisms), *weaker]
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of a run."""

    answer: Any
    """What was submitted; after a limit the best there was, or None."""
    stop_reason: StopReason
    usage: Usage
    """Root and sub-calls together, failed ones included."""
    cost: float | None
    """US dollars; None when the price of any call is unknown."""
    run_id: str
    turns: int
    duration: float
    """Seconds."""
    model: str
    isolation: Isolation | None = None
    """None when it was answered without a REPL."""
    replayed: int = 0
    """Model calls, children's included, whose replies were recorded by an earlier attempt at this run."""
    diverged_at: int | None = None
    """The first turn, where it was resumed, that did not go as recorded; None when all did."""
    coverage: Coverage | None = None
    """What was read of its context, with `RLM(coverage=True)`; not in the events of a stream, nor recorded. None, too,
    when a file of the context was changed meanwhile."""

    def _repr_html_(self) -> str:
        usage = self.usage
        took = display.counts(self.turns, usage.calls, usage.total_tokens, self.cost, self.duration)
        rows = [
            ("answer", display.text(self.answer)),
            ("ended", str(self.stop_reason)),
            ("model", self.model),
        ]
        return display.table(f"run {self.run_id}", [*rows, *took])


# Sub-calls: what code in a REPL asks of the engine -------------------------------------------


@dataclass(frozen=True, slots=True)
class LlmQuery:
    """One plain call of a sub-LM."""

    prompt: str
    model: str | None = None
    schema: Schema | None = None
    images: tuple[bytes, ...] = ()
    """Pictures that the model is to see, as files."""


@dataclass(frozen=True, slots=True)
class RlmQuery:
    """A child run with a REPL of its own."""

    question: str
    context: Any = None
    """A plain value, or a `Source` that came from the REPL without being read."""
    model: str | None = None
    schema: Schema | None = None
    tools: tuple[str, ...] = ()
    """Names of the parent's tools that the child gets."""
    instruction: str | None = None
    """Added to what the child's root LM is told."""
    limits: Mapping[str, Any] | None = None
    """Fields of `Limits` for the child; it draws from its parent's in any case."""
    fork: Any = None
    """A copy of the REPL that asks, a `Repl` that the child starts from and that ends with the call."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function on the host."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Says that this many calls will follow, so that they can be refused as a whole."""

    count: int
    recursive: bool = False
    """Whether they are child runs."""
    model: str | None = None


Subcall: TypeAlias = LlmQuery | RlmQuery | ToolCall | Batch


# Events: what a sink sees, in order -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run has its REPL and its context, and will now ask the root LM."""

    run_id: str
    parent_id: str | None
    depth: int
    question: str
    contexts: tuple[ContextInfo, ...]
    model: str
    sub_model: str
    isolation: Isolation | None
    """None when it is answered without a REPL."""
    time: float
    """Seconds since the epoch."""
    strategy: Literal["rlm", "direct"] = "rlm"
    reason: str = ""
    """Why the strategy was chosen."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How the run was asked for, as JSON: what it takes to resume it."""
    resumed: bool = False
    """Whether an earlier attempt at this very run was recorded."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """The fields of its `Limits`."""
    turn: int = 0
    """The turn of its parent that asked for it; 0 where it has none."""
    block: int = 0
    """The block of that turn."""
    number: int = 0
    """Its place among the children that its parent asked for, from 1."""


@dataclass(frozen=True, slots=True)
class ModelCalled:
    """A model call ended, well or not. Emitted before its result is used."""

    run_id: str
    call_id: str
    turn: int
    purpose: Purpose
    model: str
    messages: tuple[Message, ...]
    reply: Reply | None
    error: str | None
    time: float
    """Seconds since the epoch, at the start of the call."""
    duration: float
    cut: bool = False
    """Whether it was cut off, so that it may have been paid for; False for one that failed by itself."""
    request: str = ""
    """Hexadecimal digest of all that the reply depends on: model, options, messages, schema."""
    block: int = 0
    """The block that made it, counted from 1 within the turn; 0 for what no code asked for."""


@dataclass(frozen=True, slots=True)
class CallRetried:
    """An attempt of a model call failed, and it will be made again."""

    run_id: str
    call_id: str
    turn: int
    model: str
    attempt: int
    """The one that failed, counted from 1."""
    error: str
    wait: float
    """Seconds until the next attempt."""
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class CallRefused:
    """A limit did not allow a sub-call, or a whole batch of them: nothing was sent."""

    run_id: str
    call_id: str
    turn: int
    error: str
    reason: str
    """The value of the `StopReason` that the limit stands for."""
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """Code in the REPL called a function of the host."""

    run_id: str
    call_id: str
    turn: int
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    """None when it failed."""
    error: str | None
    time: float
    """Seconds since the epoch, at the start of the call."""
    duration: float
    cut: bool = False
    """Whether it was cut off: what it did is not known."""
    block: int = 0
    """The block that called it, counted from 1 within the turn."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A policy was asked: whether code may call a tool or a model, or a run may use an endpoint or a mount."""

    run_id: str
    turn: int
    kind: Literal["tool", "model", "host", "mount"]
    name: str
    allowed: bool
    rule: str
    """The pattern that decided, "default" where none did; with ", approved" or ", refused" where one was asked."""
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """A resumed run does not go as recorded any more; from here on calls are made and paid for."""

    run_id: str
    turn: int
    reason: str


@dataclass(frozen=True, slots=True)
class Compacted:
    """Older turns of the root LM's history were replaced by a summary: a new branch begins."""

    run_id: str
    turn: int
    """The last turn that the summary stands for."""
    tokens: int
    """Of the prompt that was too long; 0 when the provider refused it and none is known."""
    summary: str


@dataclass(frozen=True, slots=True)
class ReplyText:
    """A piece of the root LM's reply, while it is streamed. Not recorded."""

    run_id: str
    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class SubcallStarted:
    """A plain sub-call was sent. Not recorded: its end is."""

    run_id: str
    call_id: str
    turn: int
    model: str


@dataclass(frozen=True, slots=True)
class BatchAnnounced:
    """Code will make this many sub-calls, and they are allowed. Not recorded."""

    run_id: str
    turn: int
    count: int
    recursive: bool
    """Whether they are child runs with a REPL."""
    model: str


@dataclass(frozen=True, slots=True)
class BlockExecuted:
    """A code block ran."""

    run_id: str
    turn: int
    block: int
    """Counted from 1 within the turn."""
    execution: Execution


@dataclass(frozen=True, slots=True)
class ContextHashed:
    """The digest of a context became known; contexts are recorded by digest, not by text."""

    run_id: str
    name: str
    digest: str
    """"sha256:" and the hexadecimal digest of the encoded context."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over. The last event of it. `error` is set when it ended in an exception."""

    run_id: str
    completion: Completion | None
    error: str | None
    time: float


Event: TypeAlias = (
    RunStarted
    | ModelCalled
    | CallRetried
    | CallRefused
    | ToolCalled
    | Decided
    | Diverged
    | Compacted
    | ReplyText
    | SubcallStarted
    | BatchAnnounced
    | BlockExecuted
    | ContextHashed
    | RunEnded
)
