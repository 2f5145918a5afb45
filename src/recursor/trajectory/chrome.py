"""A run as a Chrome trace: JSON that Perfetto and chrome://tracing show.

Each run is a process. Its first track has the run, in it the turns, in them replies and blocks, one after
another. What ran at once is on as many further tracks as it takes: sub-calls and calls of tools. An arrow leads from
the block that asked for a child to the child.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import IO, Any

from recursor.trajectory.packing import dumps
from recursor.trajectory.recorded import RecordedCall, RecordedRun
from recursor.trajectory.view import Trajectories
from recursor.types import ToolCalled, Usage

SHOWN = 2000
"""Characters of a text that a slice takes along."""


def export(trajectories: Trajectories, run_id: str, file: IO[str]) -> None:
    """Write a run and its children, as far as they have come.

    Raises:
        TrajectoryError: there is no such run.
    """
    with trajectories.snapshot():
        tree = trajectories.tree(run_id)
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        lines = itertools.chain.from_iterable(
            _Process(trajectories, run, number, tree[0].started).events()
            for number, run in enumerate(tree, 1)
        )
        flows = _flows(tree)
        for index, event in enumerate(itertools.chain(lines, flows)):
            file.write((",\n" if index else "") + dumps(event))
        file.write("\n]}\n")


class _Process:
    """One run. Times are whole microseconds since the start of the trace, and slices lie in one another."""

    def __init__(self, trajectories: Trajectories, run: RecordedRun, number: int, origin: float) -> None:
        self._trajectories = trajectories
        self._run = run
        self._number = number
        self._origin = origin

    def events(self) -> Iterator[dict[str, Any]]:
        run = self._run
        yield self._named("process_name", 0, f"{run.question[:80] or 'run'} ({run.id[:8]})")
        yield {
            "ph": "M",
            "name": "process_sort_index",
            "pid": self._number,
            "args": {"sort_index": self._number},
        }
        yield self._named("thread_name", 0, "run")
        start = self._time(run.started)
        slices, end = self._turns(start)
        if run.ended is not None:
            end = max(end, self._time(run.ended))
        usage = run.usage or Usage()
        about = {
            "id": run.id, "question": run.question[:SHOWN], "model": run.model, "outcome": run.outcome,
            "calls": usage.calls, "tokens": usage.total_tokens, "cost": run.cost,
        }  # fmt: skip
        yield self._slice("run", "run", 0, (start, end), about)
        yield from slices
        yield from self._at_once()

    def _turns(self, start: int) -> tuple[list[dict[str, Any]], int]:
        """The slices of the first track, and when the last ends."""
        found: list[dict[str, Any]] = []
        at = start
        root = [call for call in self._calls() if call.purpose != "sub"]
        turns = self._trajectories.turns(self._run.id)
        for turn in turns:
            inner: list[dict[str, Any]] = []
            first = None
            calls = [call for call in root if call.turn == turn.number]
            for call in sorted(calls, key=lambda call: call.started):
                name = "reply" if call.purpose == "root" else "compaction"
                span = self._span(call.started, call.duration, at)
                inner.append(self._slice(name, "model", 0, span, _about(call)))
                first, at = span[0] if first is None else first, span[1]
            for each in turn.executions:
                execution = each.execution
                began = execution.started or self._origin + at / 1e6
                span = self._span(began, execution.duration, at)
                about = {"code": execution.code[:SHOWN], "error": execution.error and execution.error[:SHOWN]}
                inner.append(self._slice(f"block {each.block}", "code", 0, span, about))
                first, at = span[0] if first is None else first, span[1]
            found += [
                self._slice(f"turn {turn.number}", "turn", 0, (at if first is None else first, at), {}),
                *inner,
            ]
        return found, at

    def _at_once(self) -> Iterator[dict[str, Any]]:
        """Sub-calls and calls of tools, each on the first track that is free."""
        calls = (call for call in self._calls() if call.purpose == "sub")
        subs = [
            (call.started, call.duration, f"llm_query {call.model}", "model", _about(call)) for call in calls
        ]
        tools = [
            (tool.time, tool.duration, tool.name, "tool", _about_tool(tool))
            for tool in self._trajectories.tools(self._run.id)
        ]
        free: list[int] = []
        busy: list[tuple[int, int]] = []
        tracks = 0
        for began, duration, name, kind, about in sorted([*subs, *tools], key=lambda each: each[0]):
            span = self._span(began, duration, 0)
            while busy and busy[0][0] <= span[0]:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if not free:
                tracks += 1
                yield self._named("thread_name", tracks, f"calls {tracks}")
                heapq.heappush(free, tracks)
            track = heapq.heappop(free)
            heapq.heappush(busy, (span[1], track))
            yield self._slice(name, kind, track, span, about)

    def _calls(self) -> Iterable[RecordedCall]:
        return self._trajectories.each_call(self._run.id)

    def _time(self, seconds: float) -> int:
        return max(0, round((seconds - self._origin) * 1e6))

    def _span(self, began: float, duration: float, earliest: int) -> tuple[int, int]:
        start = max(earliest, self._time(began))
        return start, max(start, self._time(began + duration))

    def _slice(
        self, name: str, kind: str, track: int, span: tuple[int, int], about: dict[str, Any]
    ) -> dict[str, Any]:  # fmt: skip
        start, end = span
        return {
            "ph": "X", "name": name, "cat": kind, "pid": self._number, "tid": track, "ts": start, "dur": end - start,
            "args": about,
        }  # fmt: skip

    def _named(self, what: str, track: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "name": what, "pid": self._number, "tid": track, "args": {"name": name}}


def _flows(tree: list[RecordedRun]) -> Iterator[dict[str, Any]]:
    """Arrows from parents to their children."""
    numbers = {run.id: number for number, run in enumerate(tree, 1)}
    for run in tree[1:]:
        at = max(0, round((run.started - tree[0].started) * 1e6))
        flow = {"cat": "child", "name": "child", "id": numbers[run.id], "tid": 0, "ts": at}
        yield {**flow, "ph": "s", "pid": numbers.get(run.parent_id or "", 1)}
        yield {**flow, "ph": "f", "bp": "e", "pid": numbers[run.id]}


def _about(call: RecordedCall) -> dict[str, Any]:
    usage = call.usage or Usage()
    return {
        "id": call.id, "model": call.model, "input_tokens": usage.input_tokens, "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens, "cost": call.cost, "error": call.error and call.error[:SHOWN],
    }  # fmt: skip


def _about_tool(tool: ToolCalled) -> dict[str, Any]:
    return {"id": tool.call_id, "error": tool.error and tool.error[:SHOWN]}
