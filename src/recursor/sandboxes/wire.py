"""The host's end of the socket to a REPL: frames, typed and bounded.

Every byte that comes in is hostile. A frame is two little-endian u32 (header length, body
length), a JSON header of one of the types below, and a body of raw bytes. `Decoder.feed` either
returns frames or raises `ProtocolError`, whatever it is fed; the caller then kills the sandbox.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from recursor.sandboxes.guest import arguments, changes, previews, replay, toolcalls, values

MAX_HEADER = 1 << 20
MAX_BODY = 1 << 24
MAX_VALUE = values.MAX_BYTES
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
Bound: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)] | float
Reading: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]
MAX_READINGS = replay.MAX_READINGS
Form: TypeAlias = Literal["text", "bytes", "values"]
"""What a worker may say that bytes are: all that `values.decode` takes, and never marshal."""
_HEAD = struct.Struct("<II")


class ProtocolError(Exception):
    """The sandbox sent what no worker of ours sends."""


class Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that came ahead in parts."""

    form: str
    size: Size


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    pass


SECCOMP_FILTER = 2


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker finds itself in, before any code has run in it. None is not known."""

    uid: Size
    capabilities: Size | None
    """Those in effect, a bit each."""
    read_only: bool
    """Whether the root of its files is."""
    interfaces: list[str] | None
    no_new_privileges: bool | None
    seccomp: Size | None
    """Of the place. 2: a filter."""
    landlock: Size = 0
    """The version by which the worker has confined itself; 0 where it has not."""
    syscalls: Size = 0
    """How many system calls its own filter allows; 0 where it has none."""
    missing: list[str] = []
    """What it would have given up, and could not."""


class Ready(_Frame, frozen=True, tag="ready"):
    facts: Facts | None = None


class Part(_Frame, frozen=True, tag="part"):
    of: Number


class Loaded(_Frame, frozen=True, tag="loaded"):
    re: Number
    type: str
    size: str
    preview: str


class Failed(_Frame, frozen=True, tag="failed"):
    re: Number
    error: str
    unreadable: bool = False
    """Whether it is the file that is not as it should be."""


class Forked(_Frame, frozen=True, tag="forked"):
    """The worker is two now."""

    re: Number


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a block did to a variable."""

    name: Annotated[str, msgspec.Meta(max_length=changes.MAX_NAME)]
    type: Annotated[str, msgspec.Meta(max_length=previews.MAX_TYPE)]
    size: Annotated[str, msgspec.Meta(max_length=previews.MAX_SIZE)]
    preview: Annotated[str, msgspec.Meta(max_length=previews.MAX_PREVIEW)]
    change: Literal["new", "changed", "gone"]


class Done(_Frame, frozen=True, tag="done"):
    re: Number
    error: str | None
    notes: list[str]
    head: str
    omitted: Size
    tail: str
    answer: Carried | None
    readings: Annotated[list[Reading], msgspec.Meta(max_length=MAX_READINGS)] = []
    variables: Annotated[list[Changed], msgspec.Meta(max_length=changes.MOST)] = []
    more_variables: Size = 0


class Kept(_Frame, frozen=True, tag="kept"):
    """A small draft of the answer, its bytes in the body: should the worker die, it is not lost."""

    form: str


class Drafted(_Frame, frozen=True, tag="drafted"):
    re: Number
    answer: Carried | None


class CallLlm(_Frame, frozen=True, tag="llm_query"):
    id: Number
    model: str | None
    schema: dict[str, Any] | None
    images: Annotated[list[Size], msgspec.Meta(max_length=arguments.MOST_IMAGES)] = []
    """Bytes of each picture; they stand at the end of the body, after the prompt."""


class Inline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="inline"):
    """A context in the body of the frame, after the question."""

    form: Form


class InRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="room"):
    """A context in memory that was lent for it."""

    form: Form
    room: Number


class InParts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="parts"):
    """A context that came ahead in parts."""

    form: Form
    size: Size


class Same(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="same"):
    """A context that was loaded into the REPL under a name, as it was loaded."""

    name: str


class CallRlm(_Frame, frozen=True, tag="rlm_query"):
    id: Number
    model: str | None
    schema: dict[str, Any] | None
    tools: list[str]
    instruction: str | None
    limits: dict[str, Bound | None] | None
    question: Size
    """Bytes of the body that are the question."""
    context: Inline | InRoom | InParts | Same | None
    fork: Number | None = None
    """The copy of the REPL that the child starts from."""


class Branch(_Frame, frozen=True, tag="branch"):
    """Asks for what it takes to fork within a block."""

    id: Number


class CallTool(_Frame, frozen=True, tag="tool"):
    id: Number
    name: str
    apart: Annotated[list[tuple[Number | str, str, Size]], msgspec.Meta(max_length=toolcalls.MOST_APART)]
    """See `toolcalls.unpack`."""
    ahead: Size
    """Bytes that came ahead in parts; 0 where the body has them."""


class CallBatch(_Frame, frozen=True, tag="batch"):
    """Asks whether so many calls may follow."""

    id: Number
    count: Count
    recursive: bool
    model: str | None


class AskRoom(_Frame, frozen=True, tag="room"):
    """Asks for memory to put a context into."""

    id: Number
    size: Count


class Fill(_Frame, frozen=True, tag="fill"):
    """The next bytes of a context, for memory that was asked for and that the worker does not reach."""

    room: Number


class Cancel(_Frame, frozen=True, tag="cancel"):
    """Nobody waits for these calls any more."""

    ids: Annotated[list[Number], msgspec.Meta(max_length=1 << 14)]


Call: TypeAlias = CallLlm | CallRlm | CallTool | CallBatch
Answered: TypeAlias = Loaded | Failed | Forked | Done | Drafted
Asked: TypeAlias = Call | Branch | AskRoom | Fill | Cancel
Frame: TypeAlias = Ready | Part | Kept | Answered | Asked
_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)
_encode = msgspec.json.Encoder().encode


class Decoder:
    """Bytes in, frames out (sans I/O)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Generator[tuple[Frame, bytes], None, None]:
        """Yield the frames that are complete now, with their bodies; those that nobody took come next time.

        Raises:
            ProtocolError: too long, not JSON, an unknown type, a missing or unknown field.
        """
        self._buffer += data
        position = 0
        try:
            while len(self._buffer) - position >= _HEAD.size:
                head, body = _HEAD.unpack_from(self._buffer, position)
                if head > MAX_HEADER or body > MAX_BODY:
                    raise ProtocolError(f"a frame of {head} + {body} bytes")
                start = position + _HEAD.size
                if len(self._buffer) < start + head + body:
                    break
                with memoryview(self._buffer) as view:
                    frame, content = (
                        _frame(view[start : start + head]),
                        bytes(view[start + head : start + head + body]),
                    )
                position = start + head + body
                yield frame, content
        finally:
            del self._buffer[:position]


def _frame(header: memoryview) -> Frame:
    try:
        return _decoder.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a bad frame: {str(error)[:200]}") from None


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame for the worker."""
    head = _encode(header)
    return _HEAD.pack(len(head), len(body)) + head + body
