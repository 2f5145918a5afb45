"""What the events of a run add up to, as a tree of runs. Pure: the clock is passed in.

Invariants: the tree holds the root run and those children that are out; what ended is folded into counts,
so its size does not grow with the number of calls. Nothing in it is cleaned: whoever shows it does that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from recursor import parse
from recursor.cli.costs import Costs
from recursor.cli.templates import Templates
from recursor.limits import Limits
from recursor.types import (
    BatchAnnounced,
    BlockExecuted,
    CallRetried,
    Event,
    ModelCalled,
    ReplyText,
    RunEnded,
    RunStarted,
    SubcallStarted,
    ToolCalled,
    Usage,
)

STREAMED = 20_000
"""Characters kept of a reply that is still coming."""
WINDOW = 10.0
"""Seconds over which a rate is taken."""
SAMPLES = 20


@dataclass(slots=True)
class Count:
    """Sub-calls or child runs of one kind."""

    expected: int = 0
    """Announced by batches; 0 when none was."""
    running: int = 0
    done: int = 0
    failed: int = 0

    @property
    def ended(self) -> int:
        return self.done + self.failed

    @property
    def total(self) -> int:
        """All that are known of."""
        return max(self.expected, self.running + self.ended)

    def started(self) -> None:
        self.running += 1

    def finished(self, *, failed: bool) -> None:
        self.running = max(0, self.running - 1)
        self.done += not failed
        self.failed += failed


class Rate:
    """How many ended in a second, over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def note(self, now: float, ended: int) -> None:
        """Remember how many have ended by now."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= WINDOW / SAMPLES:
            samples.append((now, ended))

    def per_second(self, now: float, ended: int) -> float | None:
        """None while that cannot be told."""
        recent = [(then, count) for then, count in self._samples if now - then <= WINDOW]
        if not recent or now - recent[0][0] < 0.2 or ended <= recent[0][1]:
            return None
        return (ended - recent[0][1]) / (now - recent[0][0])


@dataclass(slots=True)
class Work:
    """The sub-calls of one code block."""

    calls: Count = field(default_factory=Count)
    children: Count = field(default_factory=Count)
    models: dict[str, Count] = field(default_factory=dict)
    templates: Templates = field(default_factory=Templates)
    rate: Rate = field(default_factory=Rate)
    retried: int = 0
    """Attempts that failed and were made again."""
    tools: int = 0
    """Calls of tools."""

    @property
    def any(self) -> bool:
        return bool(self.calls.total or self.children.total or self.tools)

    def left(self, now: float) -> tuple[float | None, float | None]:
        """Plain sub-calls a second, and seconds until the announced ones are done; None where not known."""
        rate = self.rate.per_second(now, self.calls.ended)
        remaining = self.calls.expected - self.calls.ended
        return rate, remaining / rate if rate and remaining > 0 else None


@dataclass(slots=True)
class Node:
    """A run that is going on."""

    run_id: str
    parent: Node | None
    depth: int
    question: str
    model: str
    began: float
    turn: int = 0
    doing: str = "asking"
    """asking, replying, running."""
    block: int = 1
    reply: str = ""
    """The end of the reply that is coming, or that was got last."""
    work: Work = field(default_factory=Work)
    last_block: Work = field(default_factory=Work)
    """The work of the block that ended last."""
    children: dict[str, Node] = field(default_factory=dict)

    def next_turn(self, turn: int) -> None:
        """Go on to a reply of another turn."""
        if turn != self.turn:
            self.turn, self.block, self.reply, self.work = turn, 1, "", Work()

    def block_ended(self, block: int) -> None:
        """Go on behind a code block."""
        self.block, self.last_block, self.work = block + 1, self.work, Work()
        self.doing = "running" if self.code else "asking"

    @property
    def code(self) -> str:
        """The code block that runs or will run next, as far as the reply tells; "" when it has no more."""
        found = parse.blocks(self.reply)
        return found[self.block - 1].code if self.block <= len(found) else ""


class Tree:
    """All that is shown of a run while it goes.

    Attributes:
        root: None until the run has started.
        done, failed: plain sub-calls that ended, those of children included.
        children_ended: child runs that ended.
        cost: US dollars; None once a price was not known.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.began = now
        self.root: Node | None = None
        self.usage = Usage()
        self.cost: float | None = 0.0
        self.done = self.failed = self.children_ended = 0
        self.costs = Costs()
        self._nodes: dict[str, Node] = {}

    @property
    def run_id(self) -> str:
        """Of the root run; "" until it has started."""
        return self.root.run_id if self.root else ""

    def walk(self) -> Iterator[Node]:
        """The runs that are out."""
        yield from self._nodes.values()

    def take(self, event: Event, now: float) -> None:
        """Count one event."""
        if isinstance(event, RunStarted):
            self._start(event, now)
            return
        node = self._nodes.get(event.run_id)
        if isinstance(event, ModelCalled):
            self._called(event, node, now)
        elif isinstance(event, RunEnded):
            if node and node is not self.root:
                self._end(node, event)
        elif isinstance(event, BlockExecuted):
            if node:
                node.block_ended(event.block)
        elif node:
            self._in_work(event, node, now)

    def _in_work(self, event: Event, node: Node, now: float) -> None:
        work = node.work
        match event:
            case SubcallStarted():
                _model(work, event.model).started()
                work.calls.started()
                work.rate.note(now, work.calls.ended)
            case BatchAnnounced():
                counted = work.children if event.recursive else work.calls
                counted.expected = counted.total + event.count
            case CallRetried():
                work.retried += 1
                self.costs.retried(event.model, node.depth + (work.calls.running > 0))
            case ReplyText():
                node.next_turn(event.turn)
                node.doing, node.reply = "replying", (node.reply + event.text)[-STREAMED:]
            case ToolCalled():
                work.tools += 1
            case _:
                pass

    def _start(self, event: RunStarted, now: float) -> None:
        parent = self._nodes.get(event.parent_id or "")
        if event.run_id in self._nodes:
            return
        node = Node(event.run_id, parent, event.depth, event.question[:1_000], event.model, now)
        self._nodes[node.run_id] = node
        if self.root is None:
            self.root = node
        elif parent:
            parent.children[node.run_id] = node
            parent.work.children.started()
            parent.work.rate.note(now, parent.work.calls.ended)

    def _end(self, node: Node, event: RunEnded) -> None:
        self.children_ended += 1
        for each in _below(node):
            self._nodes.pop(each.run_id, None)
        if node.parent:
            node.parent.children.pop(node.run_id, None)
            node.parent.work.children.finished(failed=event.completion is None)

    def _called(self, event: ModelCalled, node: Node | None, now: float) -> None:
        cached = event.reply is not None and event.reply.cached
        if event.reply is not None and not cached:
            self.usage += event.reply.usage
            known = self.cost is not None and event.reply.cost is not None
            self.cost = (self.cost or 0.0) + (event.reply.cost or 0.0) if known else None
        self.costs.add(event, (node.depth if node else 0) + (event.purpose == "sub"))
        if event.purpose == "sub":
            failed = event.error is not None
            self.done += not failed
            self.failed += failed
            if node:
                _finish(node.work, event, cached=cached, now=now)
        elif event.purpose == "root" and node:
            node.next_turn(event.turn)
            if event.reply is not None:
                node.reply = event.reply.text[:STREAMED]
            node.doing = "running" if event.error is None else "asking"


def _finish(work: Work, event: ModelCalled, *, cached: bool, now: float) -> None:
    failed = event.error is not None
    for count in (work.calls, _model(work, event.model)):
        if cached:
            count.started()  # nothing was sent, so nothing said that it began
        count.finished(failed=failed)
    work.templates.add(event.messages[-1].content if event.messages else "", failed=failed)
    work.rate.note(now, work.calls.ended)


def _model(work: Work, name: str) -> Count:
    if name not in work.models and len(work.models) >= 16:
        name = "others"
    return work.models.setdefault(name, Count())


def _below(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from _below(child)
